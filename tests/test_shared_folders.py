"""A run folder that a stranger sent can do nothing but be read; tests/stress has more of them."""

import json
import os
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from conftest import compose
from omegaconf import OmegaConf
from small_runs import TINY, no_drawing, run_in  # noqa: F401

from training.cli.main import Command, _run
from training.cli.runs import read_run
from training.cli.tables import write_files
from training.errors import CheckpointError, ConfigError, UserError
from training.run.finished import load_run
from training.run.folder import locked, read_metrics, read_status, write_file
from training.run.kept_settings import kept_settings, read_config
from training.run.log import RunLog
from training.run.start import start
from training.run.targets import find_target, instantiate
from training.run.untrusted import printable, read_json, refuse_links

GROUPS = ("data", "model", "loss", "optimizer", "scheduler", "trainer", "report")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return run_in(tmp_path_factory.mktemp("runs") / "tiny", *TINY)


@pytest.fixture
def copied(tiny, tmp_path):
    return Path(shutil.copytree(tiny, tmp_path / "copied"))


def change(folder: Path, key: str, value: object) -> None:
    """Set a setting in a folder's config.yaml."""
    cfg = OmegaConf.load(folder / "config.yaml")
    OmegaConf.update(cfg, key, value, merge=False)
    OmegaConf.save(cfg, folder / "config.yaml")


# --- code


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize(
    "name",
    [
        "ngram.corpus.read_text",  # a function of the project's, but no builder
        "losses.checks.number",
        "training.cli.main.main",
        "training.run.finished.load_run",
        "torch.nn.init.zeros_",
        "torch.nn.modules.module.register_module_forward_hook",
        "torch.optim.lr_scheduler.StepLR",
        "torch.load",
    ],
)
def test_no_group_of_a_run_folder_may_name_any_function(group, name):
    with pytest.raises(ConfigError, match="not allowed"):
        find_target(f"{group}.x._target_", name)


@pytest.mark.parametrize(
    ("name", "groups"),
    [
        ("torch.nn.Linear", {"model"}),
        ("ngram.models.NGramTable", {"model"}),
        ("vision.models.mlp", {"model"}),
        ("torch.optim.RMSprop", {"optimizer"}),
        ("losses.FocalLoss", {"loss", "model"}),  # a loss is a module, which is built and no more
        ("losses.class_weights", {"loss"}),
        ("ngram.data.sonnets", {"data"}),
        ("vision.augment.Augment", {"data"}),
        ("training.optimizers.adamw", {"optimizer"}),
        ("training.optimizers.WarmupCosine", {"scheduler"}),
        ("training.settings.TrainerSettings", {"trainer"}),
        ("ngram.reports.Verse", {"report"}),
    ],
)
def test_each_group_of_a_run_folder_may_name_what_belongs_there(name, groups):
    allowed = set()
    for group in GROUPS:
        try:
            find_target(f"{group}._target_", name)
            allowed.add(group)
        except ConfigError:
            pass

    assert allowed == groups


@pytest.mark.parametrize(
    "node",
    [
        {"x": {"y": [{"_target_": "os.mkdir", "path": "mark"}]}},
        {"x": [[{"_target_": "os.mkdir", "path": "mark", "_partial_": True}]]},
        {"x": "${other}"},
        {"x": {"_target_": "${name}.mkdir", "path": "mark"}},
    ],
)
def test_code_that_is_nested_or_referred_to_does_not_run(node, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    other = {"other": {"_target_": "os.mkdir", "path": "mark"}, "name": "os"}
    cfg = OmegaConf.create({"model": {"_target_": "torch.nn.Linear", **node}, **other})

    with pytest.raises(ConfigError, match=r"os\.mkdir: not allowed"):
        instantiate(cfg.model)
    assert not (tmp_path / "mark").exists()


def test_trust_is_no_setting_of_a_target_nor_what_a_folder_says():
    node = {"_target_": "losses.CrossEntropyLoss", "trusted": ["os"]}

    with pytest.raises(ConfigError, match=r"loss\.trusted: is no setting; .* by --trust PACKAGE"):
        instantiate(OmegaConf.create({"loss": node}).loss)


def test_the_loss_cannot_trust_what_its_folder_lists(copied, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    change(copied, "trusted", ["os", "posix"])
    change(copied, "loss", {"_target_": "os.makedirs", "name": "mark"})

    with pytest.raises(ConfigError, match=r"loss\._target_=os\.makedirs: not allowed"):
        load_run(copied)
    assert not (tmp_path / "mark").exists()


def test_a_target_that_is_typed_needs_no_flag_but_what_it_stands_beside_does(
    command_line, copied, tmp_path, monkeypatch
):
    (tmp_path / "typed_here.py").write_text(
        "from training.optimizers import WarmupCosine\nclass Mine(WarmupCosine): pass\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(tmp_path)
    change(copied, "scheduler._target_", "typed_here.Mine")
    words = (f"resume={copied}", "trainer.epochs=2", "trainer.max_batches=1")

    code, _, err = command_line(*words)
    assert code == 2 and "scheduler._target_=typed_here.Mine: not allowed" in err
    code, _, err = command_line(*words, "scheduler._target_=typed_here.Mine")
    assert code == 0, err

    change(copied, "report.mine", {"_target_": "typed_here.Mine"})
    code, _, err = command_line(*words, "scheduler._target_=typed_here.Mine")
    assert code == 2 and "report.mine._target_=typed_here.Mine: not allowed" in err


# --- links

FILES = ("lock", "metrics.jsonl", "events.out.tfevents.run", "checkpoints/step-00000002.pt")


@pytest.mark.parametrize("name", [*FILES, "checkpoints", "00002", "status.json.1.tmp"])
@pytest.mark.parametrize("to", ["thesis.txt", "nowhere"])
def test_a_run_whose_folder_holds_a_link_is_not_touched(name, to, copied, tmp_path):
    (tmp_path / "thesis.txt").write_text("thesis", encoding="utf-8")
    shutil.rmtree(copied / name) if (copied / name).is_dir() else None
    (copied / name).unlink(missing_ok=True)
    (copied / name).symlink_to(tmp_path / to)

    with pytest.raises(CheckpointError, match=f"{name}: is a link"), locked(copied):
        pass
    with pytest.raises(CheckpointError, match="is a link"):
        load_run(copied)
    with pytest.raises(CheckpointError, match="is a link"):
        read_run(copied)
    assert (tmp_path / "thesis.txt").read_text(encoding="utf-8") == "thesis"
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("name", FILES)
def test_a_second_name_of_a_file_outside_is_not_written_to(name, copied, tmp_path):
    (tmp_path / "thesis.txt").write_text("thesis", encoding="utf-8")
    (copied / name).unlink(missing_ok=True)
    (copied / name).hardlink_to(tmp_path / "thesis.txt")

    with pytest.raises(CheckpointError, match=f"{name}: is a link"), locked(copied):
        pass
    assert (tmp_path / "thesis.txt").read_text(encoding="utf-8") == "thesis"


def test_the_path_of_a_run_may_lead_over_a_link(copied, tmp_path):
    (tmp_path / "short").symlink_to(copied)

    assert load_run(tmp_path / "short").step == 2


@pytest.mark.parametrize("name", ["status.json", "metrics.jsonl", "checkpoints/best.pt"])
def test_a_pipe_in_a_folder_keeps_nobody_waiting(name, copied):
    (copied / name).unlink()
    os.mkfifo(copied / name)

    assert name != "status.json" or read_status(copied) == {}
    with pytest.raises(CheckpointError, match=r"is a link, or no file"):
        refuse_links(copied)


def test_a_comparison_takes_the_place_of_a_link_and_embeds_no_other_file(copied, tmp_path):
    (tmp_path / "victim").write_text("secret of a victim", encoding="utf-8")
    for kind in ("md", "csv", "html"):
        (tmp_path / f"compare.{kind}").symlink_to(tmp_path / "victim")
    (copied / "test_reliability.png").write_text("secret of a victim", encoding="utf-8")  # no PNG

    from training.cli.comparison import compare

    files = write_files(compare([read_run(copied)]), tmp_path, [])

    assert not any(file.is_symlink() for file in files)
    assert (tmp_path / "victim").read_text(encoding="utf-8") == "secret of a victim"
    assert "image/png" not in files[2].read_text(encoding="utf-8")


def test_a_temporary_file_that_is_a_link_is_not_written_through(tmp_path):
    (tmp_path / "victim").write_text("before", encoding="utf-8")
    (tmp_path / f"x.{os.getpid()}.tmp").symlink_to(tmp_path / "victim")

    write_file(tmp_path / "x", b"content")

    assert (tmp_path / "victim").read_text(encoding="utf-8") == "before"
    assert (tmp_path / "x").read_bytes() == b"content"


@pytest.mark.parametrize("name", ["x.tmp", "checkpoints/step-00000001.pt"])
def test_folders_where_files_would_be_stop_no_run(name, copied):
    (copied / name).mkdir()

    run = start(compose(*TINY, "trainer.epochs=2"), copied, resumed=True, quiet=True)

    assert run.training.step == 4


# --- secrets


SECRET = "0.0123454321"


def test_what_is_in_the_environment_is_neither_kept_nor_logged_nor_read_for_a_folder(
    command_line, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("MYSECRET", SECRET)
    cfg = compose(*TINY)
    OmegaConf.set_struct(cfg, False)
    cfg.mine = "${oc.env:MYSECRET}"
    cfg.baseline = "${oc.select:mine}"
    cfg.optimizer.weight_decay = "${oc.decode:${oc.env:MYSECRET}}"

    run = start(cfg, tmp_path / "run")

    assert run.training.optimizer.param_groups[0]["weight_decay"] == float(SECRET)
    printed = "".join(capsys.readouterr())
    files = [file for file in (tmp_path / "run").rglob("*") if file.suffix != ".pt"]
    contents = [file.read_bytes() for file in files if file.is_file()]
    assert len(contents) > 4
    assert SECRET not in printed and not any(SECRET.encode() in content for content in contents)
    kept = read_config(tmp_path / "run")
    assert kept._get_node("mine")._value() == "${oc.env:MYSECRET}"
    assert kept._get_node("baseline")._value() == "${oc.env:MYSECRET}"

    code, out, err = command_line("resume=run", "trainer.epochs=2")
    assert code == 2 and err.count("\n") == 1 and "give optimizer.weight_decay=VALUE" in err
    assert SECRET not in out + err
    code, out, err = command_line("resume=run", "trainer.epochs=2", "optimizer.weight_decay=0.5")
    assert code == 0 and SECRET not in out + err


@pytest.mark.parametrize(
    "text",
    [
        "${oc.env:MYSECRET}",
        "${oc.decode:'${oc.env:MYSECRET}'}",
        "${oc.${name}:MYSECRET}",
        r"\\${oc.env:MYSECRET}",
        "${oc.create:{_target_: os.getcwd}}",
        "${hydra:run.dir}",
    ],
)
@pytest.mark.parametrize("key", ["model.hidden_dim", "data.level", "loss.reduction"])
def test_a_folder_cannot_look_anything_up(key, text, copied, monkeypatch):
    monkeypatch.setenv("MYSECRET", SECRET)
    change(copied, key, text)
    change(copied, "name", "env")

    try:
        load_run(copied).splits()
    except UserError as error:
        assert SECRET not in str(error) and not error.__cause__
    else:
        pytest.fail("was taken")


def test_what_a_setting_calls_is_kept_as_its_value_and_a_reference_as_it_is():
    cfg = compose(*TINY)
    cfg.trainer.log_every = "${oc.select:trainer.epochs}"

    kept = kept_settings(cfg)

    assert kept.trainer._get_node("log_every")._value() == 1
    assert kept.model._get_node("vocab_size")._value() == "${facts.num_classes}"


@pytest.mark.parametrize("key", ["optimizer.lr", "seed"])  # of a constructor, and of a check
def test_an_error_shows_what_is_from_the_environment_as_it_was_written(key, tmp_path, monkeypatch):
    monkeypatch.setenv("MYSECRET", "-12345671")
    cfg = compose(*TINY)
    OmegaConf.update(cfg, key, "${oc.decode:${oc.env:MYSECRET}}")

    with pytest.raises(ConfigError, match=r"\$\{oc\.env:MYSECRET\}") as error:
        _run(Command("ngram", [], (), False, []), cfg, tmp_path / "run")
    assert "12345671" not in str(error.value)


# --- texts

ODD = "\x1b[2J\x1b]0;title\x07|[/bold]\n\t\u202e\ud800"


def test_a_text_of_a_folder_is_printed_escaped():
    assert printable(ODD) == r"\x1b[2J\x1b]0;title\x07|[/bold]\n\t\u202e\ud800"
    assert printable("schöne \U0001f600\n", keep="\n") == "schöne \U0001f600\n"
    assert read_json(json.dumps({ODD: [ODD, 1]})) == {printable(ODD): [printable(ODD), 1]}


def test_a_comparison_of_odd_names_steers_no_terminal_and_breaks_no_table(copied, tmp_path, capsys):
    status = json.loads((copied / "status.json").read_text(encoding="utf-8"))
    status["run"] |= {"loss": ODD, "protocol": ODD, "task": ODD}
    (copied / "status.json").write_text(json.dumps(status), encoding="utf-8")
    odd = Path(shutil.copytree(copied, tmp_path / "a\x1b[31m\n|b"))
    (odd / "metrics.jsonl").unlink()

    from training.cli.comparison import compare
    from training.cli.tables import print_comparisons

    comparisons = compare([read_run(copied), read_run(odd)])
    print_comparisons(comparisons)
    shown = [capsys.readouterr().out]
    shown += [file.read_text(encoding="utf-8") for file in write_files(comparisons, tmp_path, [])]

    assert all(c.isprintable() or c in "\n\r\xa0" for text in shown for c in text)
    assert "\\x1b[31m" in shown[0]
    rows = [line for line in shown[1].split("\n") if line.startswith("|")]
    assert len(rows) == 3 and len({line.replace(r"\|", "").count("|") for line in rows}) == 1


def test_metadata_of_the_projector_has_a_line_per_point(tmp_path):
    log, columns = RunLog(tmp_path), {"a": ["x\ty", "u\nv"], "b": ["1", "2"]}
    log.embedding("x", torch.eye(2), columns, 1, torch.zeros(2, 3, 8, 8))
    log.close()

    (file,) = tmp_path.rglob("metadata.tsv")
    assert file.read_text(encoding="utf-8") == "a\tb\nx\\ty\t1\nu\\nv\t2\n"


# --- types


@pytest.mark.parametrize(
    "text", ["[]", "null", '"x"', "1" * 400, "1" * 5000, "[" * 10**5, '{"run": 3}', "{", "NaN"]
)
def test_a_status_of_any_shape_is_one_line(text, copied):
    (copied / "status.json").write_text(text, encoding="utf-8")

    with pytest.raises(UserError, match="cannot be read as a run"):
        read_run(copied)


@pytest.mark.parametrize("value", [None, [], {}, 10**400, True])
@pytest.mark.parametrize("field", ["nll", "step", "split"])
def test_a_figure_of_any_type_is_one_line(field, value, copied):
    line = {"step": 1, "split": "test", "nll": 1.0} | {field: value}
    (copied / "metrics.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")

    with pytest.raises(ValueError, match=r"kind|64 bits"):
        read_metrics(copied)
    with pytest.raises(UserError, match="cannot be read as a run"):
        read_run(copied)


@pytest.mark.parametrize("value", ["x", None, 3, [[1]], 10**400, {}])
@pytest.mark.parametrize("field", ["seed", "loss", "settings", "table"])
def test_a_run_whose_status_has_another_type_is_one_line(field, value, copied):
    if (field, value) in (("seed", 3), ("settings", {}), ("loss", "x")):
        return
    status = json.loads((copied / "status.json").read_text(encoding="utf-8"))
    status["run"][field] = value
    (copied / "status.json").write_text(json.dumps(status), encoding="utf-8")

    with pytest.raises(UserError, match="cannot be read as a run"):
        read_run(copied)


BOMB = "x0: &x0 [1]\n" + "".join(
    f"x{i}: &x{i} [{', '.join([f'*x{i - 1}'] * 9)}]\n" for i in range(1, 12)
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (BOMB, "has an alias"),
        ("x: " + "y" * 10**6, "is longer"),
        ("1: x", r"must be of the kind|no name"),
        ("[" * 10**6, "without end"),
        ("model: ngram", "must be of the kind"),
    ],
)
def test_settings_that_are_no_settings_are_one_line(text, reason, copied):
    (copied / "config.yaml").write_text(text, encoding="utf-8")

    with pytest.raises(CheckpointError, match=reason):
        read_config(copied)


@pytest.mark.parametrize(
    "form", ["${{x{0}}}${{x{0}}}", ["${{x{0}}}"] * 2, {"a": "${{x{0}}}", "b": "${{x{0}}}"}]
)
def test_references_that_grow_without_end_are_refused(form, copied):
    def filled(value, number):
        if isinstance(value, str):
            return value.format(number)
        if isinstance(value, list):
            return [filled(each, number) for each in value]
        return {key: filled(each, number) for key, each in value.items()}

    cfg = OmegaConf.load(copied / "config.yaml")
    cfg.x0 = "x"
    for number in range(60):
        cfg[f"x{number + 1}"] = filled(form, number)
    OmegaConf.save(cfg, copied / "config.yaml")

    with pytest.raises(CheckpointError, match="too large once its references are followed"):
        read_config(copied)


@pytest.mark.parametrize(
    ("field", "make", "reason"),
    [
        ("class_names", lambda state: list(range(len(state["class_names"]))), "must be texts"),
        ("class_names", lambda state: [["x"]] * len(state["class_names"]), "must be texts"),
        ("class_names", lambda state: ["x"], "a count each"),
        ("class_counts", lambda state: torch.ones(1).expand(10**12), "not in the file"),
        ("class_counts", lambda state: state["class_counts"][:, None], "a count each"),
        ("class_counts", lambda state: state["class_counts"].float().to_sparse(), "sparse"),
        ("class_counts", lambda state: state["class_counts"].to("meta"), "meta"),
        ("step", lambda state: 10**30, "out of range"),
    ],
)
def test_weights_with_facts_of_another_kind_are_one_line(field, make, reason, copied):
    file = copied / "checkpoints" / "best.pt"
    state = torch.load(file, weights_only=True)
    torch.save(state | {field: make(state)}, file)

    with pytest.raises(CheckpointError, match=reason):
        load_run(copied)


def test_lists_of_a_checkpoint_that_hold_each_other_without_end_are_refused(copied, monkeypatch):
    file = copied / "checkpoints" / "best.pt"
    monkeypatch.setattr("training.run.checkpoint.MOST_VALUES", 10**4)
    load_run(copied)
    bomb = [1.0]
    for _ in range(60):
        bomb = [bomb, bomb]
    torch.save(torch.load(file, weights_only=True) | {"more": bomb}, file)

    with pytest.raises(CheckpointError, match="holds more than 10,000 values"):
        load_run(copied)


@pytest.mark.parametrize("script", ["generate", "calibrate"])
def test_a_model_that_gives_nan_is_one_line(script, copied, monkeypatch):
    import sys

    from scripts import generate
    from training.cli import calibrate_run

    file = copied / "checkpoints" / "best.pt"
    state = torch.load(file, weights_only=True)
    model = {name: torch.full_like(value, 1e38) for name, value in state["model"].items()}
    torch.save(state | {"model": model}, file)
    main = {"generate": generate.main, "calibrate": calibrate_run.calibrate}[script]
    monkeypatch.setattr(sys, "argv", ["x.py", str(copied)])

    with pytest.raises(CheckpointError):
        main()


@pytest.mark.parametrize("key", ["epochs", "batch_size", "save_every", "log_every"])
def test_a_count_that_a_folder_has_as_a_fraction_is_one_line(key, copied, command_line):
    """A value given on top would take the kind of the one in the folder."""
    change(copied, f"trainer.{key}", 1e308)

    for given in (["trainer.epochs=2"], [f"trainer.{key}=2", "trainer.epochs=2"]):
        code, _, err = command_line(f"resume={copied}", *given)

        assert code == 2 and f"trainer.{key} must be a whole number" in err and err.count("\n") == 1


@pytest.mark.parametrize("value", ["x", {}, [1.0], ["x", 1.0, 1]])
@pytest.mark.parametrize("field", ["epoch_loss", "random", "log", "seconds", "optimizer"])
def test_a_checkpoint_to_resume_from_with_another_type_is_one_line(field, value, copied):
    for file in copied.glob("checkpoints/step-*.pt"):
        torch.save(torch.load(file, weights_only=True) | {field: value}, file)

    try:
        start(compose(*TINY, "trainer.epochs=2"), copied, resumed=True, quiet=True)
    except CheckpointError as error:
        assert "\n" not in str(error)
    else:
        # as if the log, or the random numbers of this kind of device, had been lost
        assert (field, value) in (("log", {}), ("random", ["x", 1.0, 1]))


@pytest.mark.parametrize(
    "make",
    [
        lambda right: torch.zeros(1),
        lambda right: torch.zeros(right.numel() + 1),
        lambda right: torch.zeros(1).expand(right.shape),
        lambda right: torch.zeros(right.numel()).as_strided(right.shape, right.stride(), 0)[:-1],
    ],
)
def test_a_state_of_the_optimizer_that_is_smaller_than_its_parameters_is_one_line(make, copied):
    for file in copied.glob("checkpoints/step-*.pt"):
        state = torch.load(file, weights_only=True)
        for each in state["optimizer"]["state"].values():
            each["exp_avg"] = make(each["exp_avg"])
        torch.save(state, file)

    with pytest.raises(CheckpointError, match="exp_avg of the optimizer does not fit"):
        start(compose(*TINY, "trainer.epochs=2"), copied, resumed=True, quiet=True)


@pytest.mark.parametrize("name", ["step", "exp_avg", "exp_avg_sq"])
@pytest.mark.parametrize("value", [None, torch.tensor([1])])
def test_a_state_of_the_optimizer_that_lacks_a_name_is_one_line(name, value, copied):
    for file in copied.glob("checkpoints/step-*.pt"):
        state = torch.load(file, weights_only=True)
        for each in state["optimizer"]["state"].values():
            each.pop(name) if value is None else each.update({name: value})
        torch.save(state, file)

    # torch itself looks for the step as it loads the state
    with pytest.raises(CheckpointError, match=rf"{name} of the optimizer does not fit|'step'\)$"):
        start(compose(*TINY, "trainer.epochs=2"), copied, resumed=True, quiet=True)


@pytest.mark.parametrize(
    ("task", "option"), [("ngram", "tiny_shakespeare"), ("vision", "fashion_mnist")]
)
def test_the_data_of_a_folder_is_read_and_not_fetched(task, option, tmp_path):
    root = f"data.root={tmp_path / 'new'}"
    cfg = compose(f"data={option}", root, "data.download=true", task=task)

    with pytest.raises(UserError, match=r"data\.download=true downloads it"):
        instantiate(cfg.data)
    assert not (tmp_path / "new").exists()


def test_a_compressed_record_is_refused_before_it_is_unpacked(copied, tmp_path):
    file = copied / "checkpoints" / "best.pt"
    with (
        zipfile.ZipFile(file) as whole,
        zipfile.ZipFile(tmp_path / "x", "w", zipfile.ZIP_DEFLATED) as small,
    ):
        for name in whole.namelist():
            small.writestr(name, whole.read(name))
    (tmp_path / "x").replace(file)

    with pytest.raises(CheckpointError, match="compressed records"):
        load_run(copied)


def test_the_settings_are_written_last_so_a_run_that_died_before_is_none(tmp_path, monkeypatch):
    def dying(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(RunLog, "text", dying)
        run_in(tmp_path / "run", *TINY)

    assert not (tmp_path / "run" / "config.yaml").exists()
