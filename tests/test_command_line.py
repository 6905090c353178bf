"""What a person types: mistakes answered in one line, and whole runs of every option."""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, compose
from omegaconf import OmegaConf

from training.cli.main import read_command
from training.cli.settings import settings_of
from training.run.log import RunLog

CONFIGS = ROOT / "configs"
OPTIONS = [
    f
    for f in sorted(CONFIGS.glob("**/*.yaml"))
    if not (CONFIGS / f"{f.parent.name}.yaml").exists() and f.parent != CONFIGS
]
LIGHT = (
    *("debug=smoke", "data.max_lines=300", "model.embedding_dim=8", "model.hidden_dim=8"),
    *("report.embedding.words=0", "report.kneser_ney.max_order=0", "report.verse.lines=0"),
)
LOSSES = sorted(f.stem for f in (CONFIGS / "loss").glob("*.yaml"))


SWEEP = r"give one value, or add -m for a sweep \(\[a,b\] is a list\)"
WRONG = {  # what is typed: what is answered
    "los=mse": r"los: no such setting; did you mean loss\?",
    "loss=mes": r"loss=mes: no such option; did you mean loss=mse\? \(loss: .*\)",
    "optimizer.lrr=1": r"optimizer\.lrr: no such setting; did you mean optimizer\.lr\?",
    "+trainer.epocs=3": r"trainer\.epocs: no such setting; did you mean trainer\.epochs\?",
    "+new=1": r"new: no such setting",
    "epochs=3": r"epochs: no such setting; did you mean trainer\.epochs\?",
    "trainer.device=cuda": r"trainer\.device: no such setting; did you mean device\?",
    "loss.gama=2": r"loss\.gama: no such setting; did you mean loss\.gamma\?",
    "loss=focal loss.gama=2": r"loss\.gama: no such setting; did you mean loss\.gamma\?",
    "loss.gamma=2": r"loss\.gamma: no such setting; loss=focal has it",
    "data=sonets": r"data=sonets: no such option; did you mean data=sonnets\? .*",
    "experiment=sonet2": r".*did you mean experiment=sonnet2\?.*",
    "~optimizer.lr": r"~optimizer\.lr: give settings only, as in SETTING=VALUE",
    "--config-dir=conf": r"--config-dir=conf: give settings only, as in SETTING=VALUE",
    "seed": r"seed: give settings only, as in SETTING=VALUE",
    "trainer.epochs=abc": r"trainer\.epochs=abc: must be a whole number",
    "trainer.epochs=2.5": r"trainer\.epochs=2\.5: must be a whole number",
    "trainer.shuffle=2": r"trainer\.shuffle=2: must be true or false",
    "trainer.shuffle=null": r"trainer\.shuffle=null: must be true or false",
    "seed=null": r"seed=null: must be a whole number",
    "optimizer.lr=nan": r"optimizer\.lr=nan: must be a finite number",
    "data.max_lines=inf": r"data\.max_lines=inf: must be a finite number",
    "data.split=1": r"data\.split=1: must be a list, as in \[a,b\]",
    "data.split=[a,b]": r"data\.split=\[a,b\]: must be a list of which each is a number",
    "optimizer.lr=${nothing}": r"optimizer\.lr=\${nothing}: must be a value of its own",
    "device={}": r"device={}: must be a text",
    "model.context_size=3": r"model\.context_size=3: follows data\.context_size; set that instead",
    "facts.num_classes=3": r"facts\.num_classes=3: cannot be set; it follows from .*",
    "task=vision": r"task=vision: cannot be set; it follows from the script and its data",
    "task=" + "a" * 300: r"task=a{300}: cannot be set; it follows from the script and its data",
    "loss=[mse]": r"loss=\[mse\]: choose one option",
    "loss=3": r"loss=3: Config group override must be a string or a list\. Got int",
    "seed=1,2": rf"seed=1,2: {SWEEP}",
    "loss=mse,focal": rf"loss=mse,focal: {SWEEP}",
    "experiment=compare_losses": r"experiment=compare_losses: is a sweep; add -m",
    "--epochs 3": r"--epochs: no such flag; did you mean trainer\.epochs=3\?",
    "--lr=3e-3 seed=2": r"--lr=3e-3: no such flag; did you mean optimizer\.lr=3e-3\?",
    "--batch-size 64": r"--batch-size: no such flag; did you mean trainer\.batch_size=64\?",
    "--loss focal": r"--loss: no such flag; did you mean loss=focal\?",
    "--epoch seed=2": r"--epoch: no such flag; did you mean trainer\.epochs=VALUE\?",
    "-m --seed 1,2": r"--seed: no such flag; did you mean seed=1,2\?",
    "--gpu": r"--gpu: give settings only, as in SETTING=VALUE",
    "--cfg nojob": r"argument --cfg/-c: invalid choice: 'nojob' .*",
    "--hydra-help=3": r"argument --hydra-help: ignored explicit argument '3'",
    "-m optimizer.lrr=1,2": r"optimizer\.lrr: no such setting; did you mean optimizer\.lr\?",
    "-m loss=mse,mes": r"loss=mes: no such option; did you mean loss=mse\? \(loss: .*\)",
    "-m hydra/launcher=nothing seed=1,2": r'.*pip install -e "\.\[sweep\]".*',
    "--trust": r"argument --trust: expected one argument",
    "--trust seed=2": r"--trust seed=2: must be the name of a package",
    "--trust=a:b": r"--trust a:b: must be the name of a package",
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Return what each wrong command line is answered, all of one process: (code, out, err)."""
    program = (
        "import io, json, sys\n"
        "from contextlib import redirect_stderr, redirect_stdout\n"
        "from training.cli.main import main\n"
        "answers = {}\n"
        "for words in json.load(sys.stdin):\n"
        "    out, err = io.StringIO(), io.StringIO()\n"
        "    sys.argv[1:] = words.split()\n"
        "    with redirect_stdout(out), redirect_stderr(err):\n"
        "        try: main('ngram')\n"
        "        except SystemExit as stop: answers[words] = [stop.code]\n"
        "    answers[words] += [out.getvalue(), err.getvalue(), 'torch' in sys.modules]\n"
        "print(json.dumps(answers))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps(list(WRONG)),
        cwd=tmp_path_factory.mktemp("wrong"),
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize("words", WRONG)
def test_a_wrong_name_or_kind_is_one_line_without_importing_torch(words, answers):
    code, out, err, torch_too = answers[words]

    assert re.fullmatch(f"error: {WRONG[words]}\n", err), err
    assert (code, out, torch_too) == (2, "", False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["loss.label_smoothing=2"], r"loss\.label_smoothing must be in \[0, 1\), got 2.0"),
        (["optimizer.lr=-1"], r"optimizer\.lr must be a number above 0, got -1.0"),
        (["optimizer.lr=1e38"], r"optimizer\.lr must be a number that fits .*, got 1e\+38"),
        (["optimizer=sgd", "optimizer.momentum=5"], r"optimizer\.momentum must be .*, got 5.0"),
        (["optimizer=muon", "optimizer.lr=1e38"], r"optimizer\.lr must be .* 100, got 1e\+38"),
        (["optimizer=muon", "optimizer.momentum=1"], r"optimizer\.momentum must be .*, got 1.0"),
        (["optimizer=muon", "optimizer.adamw_lr=0"], r"optimizer\.adamw_lr must be .*, got 0.0"),
        (["scheduler.final=3"], r"scheduler\.final must be a number in \[0, 1\], got 3.0"),
        (["model.dropout=1.5"], r"model\.dropout must be in \[0, 1\), got 1\.5"),
        (["data.context_size=0"], r"data\.context_size must be from 1 to 16384, got 0"),
        (["data.level=word2"], r"data\.level must be one of word, char, whitespace, got word2"),
        (["data.split=[.5,.5]"], r"data\.split must be four shares .*"),
        (["data.protocol=p9"], r"data\.protocol must be null or p1, got p9"),
        (
            ["trainer.batch_size=0"],
            r"trainer\.batch_size must be a whole number from 1 to 10\*\*9, got 0",
        ),
        (["seed=-1"], r"seed=-1: must be from 0 to 4294967295"),
        (["device=tpu"], r"device=tpu: not available here; use auto or .*cpu"),
        (["threads=0"], r"threads=0: must be null or from 1 to 4096"),
        (["loss.reduction=none"], r"loss\.reduction=none: must be mean or sum, .*"),
        (["loss._target_=torch.nn.NLLLoss"], r".*takes log-probabilities .*: use loss=nll"),
        (
            ["loss._target_=torch.nn.MSELoss"],
            r".*must give a losses\.base\.ClassificationLoss, not MSELoss.*",
        ),
        (["model.near=0"], r"model\.near must be .*, got 0"),
        (["data.numbers=[0]"], r"data\.numbers must be sonnets from 1 to 154, got \[0\]"),
        (["data.context_size=null"], r"data\.context_size=null: must be a whole number"),
        (["data.min_count=null"], r"data: .*NoneType.* \(data\.min_count=null debug=smoke\)"),
        (["model.hidden_dim=null"], r"model\.hidden_dim=null: must be a whole number"),
        (
            ["loss._target_=losses.Nothing"],
            r"loss\._target_=losses\.Nothing: cannot be imported .*",
        ),
        (["trainer._target_="], r"trainer\._target_=: cannot be imported .*"),
        (["loss._target_=null"], r"loss\._target_=null: must be a text"),
        (
            ["hydra.searchpath=[file:///none]"],
            r"hydra\.searchpath=file:///none: no such folder; .*",
        ),
        (["data=text_file"], r"data\.path is required: data\.path=FILE, a UTF-8 text"),
    ],
)
def test_a_value_out_of_range_is_one_line_and_no_run_folder(arguments, message, command_line):
    code, out, err = command_line(*arguments, "debug=smoke")

    assert re.fullmatch(f"error: {message}\n", err), err
    assert (code, out) == (2, "")
    assert not list(Path("outputs").rglob("config.yaml"))


def test_bare_log_probabilities_are_refused_with_the_reason(command_line):
    code, _, err = command_line("loss=nll", "loss._target_=losses.NLLLoss", "debug=smoke")

    assert code == 2
    assert re.fullmatch(r"error: loss: log_probs must be normalised, .*\n", err)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["data=text_file", "data.path=nowhere.txt"],
            r"data\.path=nowhere\.txt: cannot be read .*",
        ),
        (["data=text_file", "data.path=bad.txt"], r"bad\.txt: not UTF-8 \(byte 0\); .*"),
        (["data=text_file", "data.path=empty.txt"], r"empty\.txt: is empty; give a text.*"),
        (["data=tiny_shakespeare", "data.path=bad.txt"], r"bad\.txt: not UTF-8 .*"),
    ],
)
def test_unusable_data_is_one_line_and_exit_code_4(arguments, message, command_line, tmp_path):
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "empty.txt").write_bytes(b"")

    code, _, err = command_line(*arguments)

    assert re.fullmatch(f"error: {message}\n", err), err
    assert code == 4


def test_no_network_and_no_file_say_what_to_do(command_line, monkeypatch):
    def unreachable(*_, **__):
        raise OSError("no route")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)

    code, _, err = command_line("data=tiny_shakespeare")

    assert code == 4
    assert re.fullmatch(r"error: data/tinyshakespeare.txt is missing .*data\.path=FILE.*\n", err)


def test_divergence_exits_3_and_keeps_no_bad_weights(command_line):
    code, _, err = command_line(
        "debug=smoke", "optimizer=sgd", "optimizer.lr=1e38", "trainer.clip_norm=0"
    )

    assert code == 3
    assert re.fullmatch(r"error: stopped before step \d+: .* at learning rate .*; try .*\n", err)
    assert not list(Path("outputs").rglob("*.pt"))


@pytest.fixture
def no_figures(monkeypatch):
    """Draw nothing, which takes longer than all else that a small run does."""
    monkeypatch.setattr(RunLog, "figure", lambda *_: None)


@pytest.mark.slow
@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("loss", [name for name in LOSSES if name != "distillation"])
def test_smoke_runs_every_stage_under_each_loss(loss, command_line):
    code, out, err = command_line("debug=smoke", "data.max_lines=300", f"loss={loss}")

    assert code == 0, err
    (folder,) = Path("outputs").iterdir()
    assert folder.name.startswith(f"ngram-{loss}-seed1-")
    assert len(list(folder.glob("events.out.tfevents.*"))) == 1
    files = {f.name for f in folder.rglob("*") if f.is_file()}
    assert {"config.yaml", "metrics.jsonl", "best.pt"} <= files
    assert re.search(r"epoch 1/1  train loss \d", out)
    for shown in ("nll", "perplexity", "accuracy", "Brier", "ECE", "Kneser-Ney"):
        assert shown in out
    assert f"run folder: outputs/{folder.name}" in out
    assert re.search(r"tensorboard --logdir outputs$", out, re.MULTILINE)


@pytest.mark.usefixtures("no_figures")
def test_distillation_learns_from_a_finished_run_of_the_same_words(command_line, tmp_path):
    for name, letters in (("one", "abcdefgh"), ("two", "stuvwxyz"), ("three", "abcdefghi")):
        lines = f"{letters}\n{letters[::-1]}\n" * 60
        (tmp_path / name).write_text(lines, encoding="utf-8")
    text = [*LIGHT, "data=text_file", "data.level=char"]
    assert command_line(*text, "data.path=one", "hydra.run.dir=teacher")[0] == 0
    student = [*text, "loss=distillation", "teacher=teacher"]

    assert command_line(*student, "data.path=one")[0] == 0

    for other in ("two", "three"):  # as many words as the teacher has, and more
        code, _, err = command_line(*student, f"data.path={other}")
        expected = "error: teacher=teacher: was trained on other data, with other classes"
        assert code == 2 and err.startswith(expected)
    code, _, err = command_line("loss=distillation")
    told = "error: teacher: is required; set it with teacher=RUN, a finished run's folder"
    assert code == 2 and err.startswith(told)
    code, _, err = command_line("loss=distillation", "teacher=nowhere")
    assert code == 5 and err.startswith("error: teacher=nowhere: nowhere: not a run folder")


def test_null_is_taken_where_an_option_has_it():
    words = "threads=null", "data.max_lines=null", "trainer.max_batches=null", "model.near=null"

    cfg, _ = settings_of("ngram", ["debug=smoke", *words])

    for word in words:
        assert OmegaConf.select(cfg, word.removesuffix("=null")) is None


@pytest.mark.usefixtures("no_figures")
def test_a_folder_that_holds_a_run_is_neither_used_again_nor_resumed_by_the_other_task(
    command_line,
):
    assert command_line(*LIGHT, "resume=", "hydra.run.dir=mine")[0] == 0  # no name: a new run
    before = {f: f.read_bytes() for f in Path("mine").rglob("*") if f.is_file()}

    code, _, err = command_line(*LIGHT, "hydra.run.dir=mine")

    assert code == 2 and "mine: holds another run already" in err
    code, _, err = command_line("resume=mine", task="vision")
    expected = "error: resume=mine: is a run of the task ngram; go on with its script\n"
    assert (code, err) == (2, expected)
    assert {f: f.read_bytes() for f in Path("mine").rglob("*") if f.is_file()} == before


def test_two_runs_of_one_second_get_two_folders(command_line, monkeypatch):
    folders = []
    monkeypatch.setattr("training.run.start.start", lambda cfg, folder, **_: folders.append(folder))

    for _ in range(2):
        assert command_line()[0] == 0

    assert len({str(folder) for folder in folders}) == 2
    assert all(str(folder).startswith("outputs/ngram-cross_entropy-seed1-") for folder in folders)


def test_several_processes_are_told_to_go_on_as_several(monkeypatch):
    words = ["--trust", "mine", "hydra.searchpath=[x]"]
    again = read_command("ngram", ["train.py", "ngram"], [*words, "seed=2"]).again
    assert again[1:] == ["train.py", "ngram", *words]

    for name, value in {"RANK": "0", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)

    again = read_command("ngram", ["train.py"], []).again
    assert again[0].endswith("bin/torchrun")
    assert again[1:] == ["--nnodes=2", "--nproc-per-node=2", "train.py"]


@pytest.mark.parametrize("task", ["shared", "loss", "nosuch", "elsewhere/ngram.yaml", "--help"])
def test_what_is_no_task_is_one_line(task, command_line):
    code, out, err = command_line(task, task="")

    assert (code, out) == (2, "")
    assert err == f"error: {task}: no such task; give ngram, vision or the path of NAME.yaml\n"


def test_help_names_every_group_and_option(command_line):
    code, out, _ = command_line("--help")

    assert code == 0
    for folder in (CONFIGS, CONFIGS / "ngram"):
        for file in folder.glob("*/*.yaml"):
            if file.parent.name not in ("ngram", "vision"):
                assert re.search(rf"{file.parent.name}: .*\b{file.stem}\b", out), file


@pytest.mark.parametrize("task", ["ngram", "vision"])
def test_help_lists_what_people_change_with_default_and_meaning(task, command_line, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    out = command_line("--help", task=task)[1]
    cfg = compose(task=task)

    for name in ("optimizer.lr", "trainer.epochs", "trainer.batch_size", "seed", "device"):
        default = re.escape(str(OmegaConf.select(cfg, name)))
        assert re.search(rf"^    {re.escape(name)}={default} {{2,}}\w.*", out, re.MULTILINE), name
    assert re.search(r"^    trainer\.max_batches=null {2,}cut epochs", out, re.MULTILINE)
    assert re.search(r"^    data\.split=\[0\.\d,[\d.,]+\] {2,}train, val", out, re.MULTILINE)


def test_the_columns_of_help_never_run_together(command_line, tmp_path):
    name = "an_option_with_a_name_that_is_as_long_as_a_name_can_be"
    (tmp_path / "mine" / "model").mkdir(parents=True)
    (tmp_path / "mine" / "mine.yaml").write_text(
        (CONFIGS / "vision.yaml").read_text(encoding="utf-8"), encoding="utf-8"
    )
    (tmp_path / "mine" / "model" / f"{name}.yaml").write_text(
        "# The model of my own\n", encoding="utf-8"
    )
    for group in ("data", "model"):
        folder = tmp_path / "mine" / group
        folder.mkdir(exist_ok=True)
        for file in (CONFIGS / "vision" / group).glob("*.yaml"):
            (folder / file.name).write_text(file.read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "mine" / "images.yaml").write_text(
        (CONFIGS / "vision/images.yaml").read_text(encoding="utf-8"), encoding="utf-8"
    )

    code, out, err = command_line(str(tmp_path / "mine" / "mine.yaml"), "--help", task="")

    assert code == 0, err
    assert re.search(rf"^    {name}  The model of my own *$", out, re.MULTILINE)


def test_the_settings_of_a_job_can_be_shown_resolved(command_line):
    code, out, _ = command_line("--cfg", "job", "--resolve", "loss=mse")

    settings = yaml.safe_load(out)
    assert code == 0
    assert settings["loss"]["_target_"] == "losses.SoftmaxMSELoss"
    assert settings["model"]["context_size"] == settings["data"]["context_size"]


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("--hydra-help", "Install or Uninstall shell completion"),
        ("-sc install=bash", "hydra_bash_completion"),
        ("--cfg job", "optimizer:"),
    ],
)
def test_hydra_prints_where_argparse_looks_into_each_help(words, shown, command_line, monkeypatch):
    """As the argparse of Python 3.14 does, when an argument is added."""
    add = argparse.ArgumentParser.add_argument

    def add_and_look(parser, *names, **options):
        action = add(parser, *names, **options)
        assert "%" not in (parser._get_formatter()._get_help_string(action) or "")
        return action

    monkeypatch.setattr(argparse.ArgumentParser, "add_argument", add_and_look)
    formatter = dict(vars(argparse.HelpFormatter))

    code, out, err = command_line(*words.split())

    assert (code, shown in out, err) == (0, True, "")
    assert vars(argparse.HelpFormatter) == formatter  # as it was


@pytest.mark.parametrize("file", OPTIONS, ids=lambda f: f.stem)
def test_every_option_says_what_it_selects_and_composes(file):
    lines = file.read_text(encoding="utf-8").splitlines()
    first = next(line for line in lines if not line.startswith("# @package"))
    assert re.match(r"# \S.{20,}", first)

    group, option = file.parent.name, file.stem
    cfg = compose(f"{group}={option}", task="vision" if "vision" in file.parts else "ngram")
    assert group in cfg or group in ("experiment", "debug", "launcher")
