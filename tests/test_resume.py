"""A run that is stopped, however it is stopped, ends as if it had never been."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from small_runs import RUN, no_drawing, settings  # noqa: F401
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event

from training import optimizers
from training.cli.main import words_to_repeat
from training.cli.resume import resumed_settings
from training.errors import CheckpointError, ConfigError, DivergedError
from training.finite_check import FiniteCheck
from training.run import checkpoint, fit
from training.run import folder as folder_module
from training.run.checkpoint import load_checkpoint, load_newest, step_files
from training.run.examples import EXAMPLES
from training.run.finished import load_run
from training.run.folder import locked, read_metrics, read_status
from training.run.log import RunLog
from training.run.signals import Interrupted
from training.run.start import start as run


def start(folder, *overrides, resume=False):
    if resume:
        cfg = resumed_settings(folder, overrides, "ngram")
        return run(cfg, folder, resumed=True, guarded=True)
    return run(settings(*RUN, *overrides), folder)


class Killed(BaseException):
    pass


def stop_after(monkeypatch, step, error=Killed):
    """Stop training as a kill would: right after a step, before anything is written."""
    check = FiniteCheck.__call__

    def counted(finite_check, *tensors):
        if finite_check.training.step == step:
            monkeypatch.setattr(FiniteCheck, "__call__", check)
            raise error
        check(finite_check, *tensors)

    monkeypatch.setattr(FiniteCheck, "__call__", counted)


def events(folder):
    """Return every raw event of a run, in the order of the file: times left out."""
    found = []
    for file in sorted(folder.glob("events.out.tfevents.*")):
        for raw in RawEventFileLoader(str(file)).Load():
            event = Event.FromString(raw)
            for value in event.summary.value:
                if value.tag.startswith("_hparams_/"):
                    value.ClearField("metadata")  # which says when the run began and ended
                if not value.tag.startswith("~time/"):
                    found.append((value.tag, event.step, value.SerializeToString()))
    return found


def figures(folder):
    lines = map(json.loads, (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line["split"] != "time"]


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def states(folder):
    """Return all checkpoints; the sizes of the log files depend on the digits of times, too."""
    times = ("log", "seconds")
    paths = [folder / "checkpoints/best.pt", *step_files(folder)]
    return {p.name: {k: v for k, v in load_checkpoint(p).items() if k not in times} for p in paths}


def assert_same_run(a, b):
    assert figures(a) == figures(b)
    assert same(states(a), states(b))
    assert (a / EXAMPLES).read_bytes() == (b / EXAMPLES).read_bytes()
    logged = events(a)
    assert logged == events(b)
    assert len({(tag, step) for tag, step, _ in logged}) == len(logged)


@pytest.fixture(scope="module")
def never_stopped(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    start(folder)
    return folder


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run that was killed at step 15, with two checkpoints and the best weights of an epoch."""
    folder = tmp_path_factory.mktemp("runs") / "stopped"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        stop_after(patch, 15)
        start(folder)
    return folder


@pytest.fixture
def copied(stopped, tmp_path):
    """A copy of that run, to go on with."""
    return Path(shutil.copytree(stopped, tmp_path / "run"))


def last_step(folder):
    return read_status(folder)["step"]


def test_the_reference_run_saves_within_epochs_and_keeps_two(never_stopped):
    steps = [int(path.stem[5:]) for path in step_files(never_stopped)]
    per_epoch = last_step(never_stopped) // 3

    assert per_epoch > 4 and per_epoch % 4  # save_every falls inside epochs
    assert len(steps) == 2 and steps[0] == last_step(never_stopped)
    assert read_status(never_stopped)["status"] == "complete"


# before the first checkpoint of step 4, and after it; twice before the next; within each epoch
@pytest.mark.parametrize("stops", [(0, 3, 5, 6), (1, 9, 14)])
def test_a_stopped_run_ends_bit_identical(stops, never_stopped, tmp_path, monkeypatch):
    for i, step in enumerate(stops):
        stop_after(monkeypatch, step)
        with pytest.raises(Killed):
            start(tmp_path / "run", resume=i > 0)

    start(tmp_path / "run", resume=True)

    assert_same_run(tmp_path / "run", never_stopped)


def test_a_stop_outside_of_a_step_loses_nothing_either(never_stopped, tmp_path, monkeypatch):
    def killed(*_, **__):
        raise Killed

    stages = [(fit, name) for name in ("save", "save", "evaluate_split", "evaluate_split")]
    for place, name in [*stages, (RunLog, "figure"), (fit, "recalibrate")]:
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(place, name, killed)
            start(tmp_path / "run", resume=(tmp_path / "run").exists())
    for _ in range(2):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(fit, "report", killed)
            start(tmp_path / "run", resume=True)

    start(tmp_path / "run", resume=True)

    assert_same_run(tmp_path / "run", never_stopped)


def test_the_bar_of_a_resumed_run_begins_where_it_goes_on(copied, monkeypatch):
    begun = []

    class Bar(fit.Progress):
        def add_task(self, *words, **how):
            begun.append(how)
            raise Killed

    monkeypatch.setattr(fit, "Progress", Bar)
    with pytest.raises(Killed):
        start(copied, resume=True)

    steps = [int(path.stem[5:]) for path in step_files(copied)]
    assert begun == [{"total": read_status(copied)["steps"], "completed": max(steps)}]
    assert 0 < max(steps) < read_status(copied)["steps"]


def test_a_finished_run_is_left_as_it_is(never_stopped, capsys):
    before = {f: f.read_bytes() for f in never_stopped.rglob("*") if f.is_file()}

    start(never_stopped, resume=True)

    assert f"already complete at step {last_step(never_stopped)}" in capsys.readouterr().out
    assert {f: f.read_bytes() for f in never_stopped.rglob("*") if f.is_file()} == before


def test_a_signal_is_obeyed_at_the_end_of_the_step(never_stopped, tmp_path, monkeypatch, capsys):
    check, folder = FiniteCheck.__call__, tmp_path / "run"
    last = last_step(never_stopped) // 3 - 1  # of the first epoch; its loss is still to be logged
    assert (last + 1) % 3

    signals = (signal.SIGTERM, 143, 5), (signal.SIGHUP, 129, 7), (signal.SIGINT, 130, last)
    for number, code, step in signals:

        def signalled(finite_check, *tensors, number=number, step=step):
            if finite_check.training.step == step:
                os.kill(os.getpid(), number)
                os.kill(os.getpid(), number)
            check(finite_check, *tensors)

        with monkeypatch.context() as patch, pytest.raises(Interrupted) as stopped:
            patch.setattr(FiniteCheck, "__call__", signalled)
            start(folder, resume=step > 5)
        status = read_status(folder)

        assert stopped.value.exit_code == code
        assert (status["status"], status["step"]) == ("interrupted", step + 1)
        assert status["resume"] in capsys.readouterr().out
        assert load_checkpoint(step_files(folder)[0])["step"] == step + 1
    start(folder, resume=True)
    assert figures(folder) == figures(never_stopped)
    assert events(folder) == events(never_stopped)


def test_a_signal_after_the_last_step_of_an_epoch_waits_for_its_evaluation(
    never_stopped, tmp_path, monkeypatch
):
    folder, evaluate_epoch = tmp_path / "run", fit.evaluate_epoch

    def signalled(run):
        os.kill(os.getpid(), signal.SIGINT)
        evaluate_epoch(run)

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(fit, "evaluate_epoch", signalled)
        start(folder)

    assert load_checkpoint(step_files(folder)[0])["step"] == last_step(folder)
    assert [line["step"] for line in figures(folder) if line["split"] == "val"]
    start(folder, resume=True)
    assert_same_run(folder, never_stopped)


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_signal_before_training_says_that_nothing_was_lost(wrapped, command_line, monkeypatch):
    def stopped(*_):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except Interrupted:
            if wrapped:  # as what it breaks inside of a library may do
                raise TypeError from None
            raise

    monkeypatch.setattr("training.cli.main.settings_of", stopped)

    code, out, err = command_line()

    assert (code, out) == (143, "")
    assert err.endswith("no training under way: nothing was cut off, nothing is lost\n")


def damage(path, kind):
    """Damage a file in place."""
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    if kind == "flip":
        content[middle] ^= 1
    elif kind == "zero page":
        content[middle : middle + 4096] = bytes(4096)
    elif kind == "truncate":
        del content[middle:]
    else:
        content = b"" if kind == "empty" else b"<html>not found</html>"
    path.write_bytes(content)


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(copied, never_stopped, capsys):
    path, before = step_files(copied)
    damage(path, "flip")

    start(copied, resume=True)

    warning = capsys.readouterr().err
    assert f"warning: {path}: " in warning and f"{before.name} is used" in warning
    assert path.with_name(f"{path.name}.damaged").exists()
    assert_same_run(copied, never_stopped)


@pytest.mark.parametrize("kind", ["flip", "truncate", "empty", "zero page", "text"])
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_used(kind, copied, capsys):
    path, before = step_files(copied)
    damage(path, kind)

    state = load_newest(copied, {})

    assert state["step"] == int(before.stem.removeprefix("step-"))
    assert re.fullmatch(rf"warning: {path}: .*; {before.name} is used\n", capsys.readouterr().err)
    assert step_files(copied) == [before]


def test_with_all_checkpoints_damaged_each_is_listed_and_nothing_touched(copied):
    for path in step_files(copied):
        damage(path, "truncate")
    before = {f: f.read_bytes() for f in copied.rglob("*") if f.is_file()}

    with pytest.raises(CheckpointError) as error:
        start(copied, resume=True)

    assert len(step_files(copied)) == 2
    assert all(str(path) in str(error.value) for path in step_files(copied))
    assert "\n" not in str(error.value)
    assert {f: f.read_bytes() for f in copied.rglob("*") if f.is_file()} == before


def test_a_checksum_is_compared_before_torch_reads_anything(copied, monkeypatch):
    path = step_files(copied)[0]
    content = bytearray(path.read_bytes())
    weight = load_checkpoint(path)["model"]["input.weight"].numpy().tobytes()
    content[content.index(weight) + 100] ^= 4
    path.write_bytes(content)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("read before it was checked"))

    with pytest.raises(CheckpointError, match=r"checksum of .*data/.* is wrong"):
        load_checkpoint(path)


def test_a_checkpoint_without_a_field_is_refused_by_its_name(copied):
    newest, before = step_files(copied)
    before.unlink()
    state = load_checkpoint(newest)
    assert list(state)[-1] == "log"

    for field in state:
        torch.save({name: value for name, value in state.items() if name != field}, newest)
        with pytest.raises(CheckpointError, match=field):
            load_checkpoint(newest, {name: type(value) for name, value in state.items()})
    with pytest.raises(CheckpointError, match=r"no checkpoint can be used.*field log"):
        start(copied, resume=True)


def test_a_checkpoint_of_another_optimizer_is_refused_with_both_names(copied):
    path = step_files(copied)[0]
    checkpoint.save_checkpoint(load_checkpoint(path) | {"optimizer_class": "SGD"}, path)

    with pytest.raises(CheckpointError, match=rf"{path}: the optimizer was SGD, .* is AdamW"):
        start(copied, resume=True)


def test_a_newer_format_and_weights_that_are_nan_are_refused(never_stopped, tmp_path):
    state = load_checkpoint(step_files(never_stopped)[0])
    torch.save(state | {"format": 2}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"format is 2, expected 1"):
        load_checkpoint(tmp_path / "x.pt")

    model = load_run(never_stopped).model
    state["model"]["head.bias"][3] = torch.nan
    with pytest.raises(CheckpointError, match=r"head\.bias is not finite"):
        checkpoint.load_weights(model, state, tmp_path / "x.pt")


def test_a_lost_best_checkpoint_and_damaged_logs_are_told(copied, capsys):
    (copied / "checkpoints/best.pt").unlink()
    (log,) = copied.glob("events.out.tfevents.*")
    damage(log, "flip")
    damage(copied / "metrics.jsonl", "truncate")

    start(copied, resume=True)

    warnings = capsys.readouterr().err
    assert "best.pt is not of step " in warnings
    assert f"warning: {log}: was changed" in warnings
    assert re.search(r"metrics\.jsonl: [\d,]+ bytes are missing", warnings)
    assert load_run(copied).step > 15


def test_settings_given_on_resume_take_effect(copied, capsys):
    folder, changes = copied, ("optimizer.lr=0.03", "optimizer.weight_decay=0.5")

    start(folder, *changes, "scheduler=constant", "trainer.batch_size=32", resume=True)

    out = capsys.readouterr().out
    assert "optimizer.lr" in out and "0.004" in out and "0.03" in out and "taken" in out
    rates = {f["step"]: f["lr"] for f in figures(folder) if f["split"] == "train"}
    assert rates[max(rates)] == 0.03 > rates[3]
    assert "lr: 0.03" in (folder / "config.yaml").read_text(encoding="utf-8")
    texts = [step for tag, step, _ in events(folder) if tag == "config/text_summary"]
    assert texts == [0, 12]
    groups = load_checkpoint(step_files(folder)[0])["optimizer"]["param_groups"]
    assert {group["weight_decay"] for group in groups} == {0.5}


def test_an_option_of_ones_own_is_found_on_resume_by_the_words_that_the_run_printed(
    copied, tmp_path
):
    file = tmp_path / "own/scheduler/mine.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(
        "# Mine\n_target_: training.optimizers.WarmupCosine\nwarmup_steps: 3\nfinal: 1.0",
        encoding="utf-8",
    )
    words = words_to_repeat([f"hydra.searchpath=[file://{tmp_path}/own]", "loss=mse"], ["mine"])
    assert words[:2] == ["--trust", "mine"]

    cfg = resumed_settings(copied, ["scheduler.final=0.5", "scheduler=mine", *words[2:]], "ngram")

    assert (cfg.scheduler.warmup_steps, cfg.scheduler.final) == (3, 0.5)
    with pytest.raises(ConfigError, match="scheduler=mine: no such option"):
        resumed_settings(copied, ["scheduler=mine"], "ngram")


def test_the_seconds_of_a_run_are_those_of_all_its_parts(copied):
    path = step_files(copied)[0]
    state = load_checkpoint(path)
    seconds = {name: value + 1000 for name, value in state["seconds"].items()}
    checkpoint.save_checkpoint(state | {"seconds": seconds}, path)

    start(copied, "trainer.epochs=2", resume=True)

    last = read_metrics(copied)[-1]
    assert all(seconds[name] < last[name] < seconds[name] + 100 for name in seconds)


@pytest.mark.parametrize(
    "change", ["model.hidden_dim=8", "loss=mse", "data.min_count=3", "seed=2", "optimizer=sgd"]
)
def test_structural_settings_are_refused(change, never_stopped, capsys):
    before = {f: f.read_bytes() for f in never_stopped.rglob("*") if f.is_file()}

    with pytest.raises(ConfigError, match="cannot change on resume"):
        start(never_stopped, change, resume=True)

    assert "refused" in capsys.readouterr().out
    assert {f: f.read_bytes() for f in never_stopped.rglob("*") if f.is_file()} == before


def test_data_with_another_content_is_refused(tmp_path, monkeypatch):
    text = tmp_path / "text.txt"
    text.write_text("to be or not to be that is the question\n" * 30, encoding="utf-8")
    own = ["data=text_file", f"data.path={text}", "trainer.batch_size=16"]
    stop_after(monkeypatch, 10)
    with pytest.raises(Killed):
        run(settings(*RUN, *own), tmp_path / "run")
    text.write_text("to be or not to be that is the answer\n" * 30, encoding="utf-8")

    with pytest.raises(ConfigError, match=r"data: its content is no longer"):
        start(tmp_path / "run", resume=True)


def test_a_second_process_is_refused_and_a_dead_one_is_not_waited_for(tmp_path):
    program = (
        "from training.run.folder import locked, write_status; from pathlib import Path\n"
        f"folder = Path({str(tmp_path / 'run')!r})\n"
        "with locked(folder):\n"
        "    print('in', flush=True); input()\n"
        "    write_status(folder, status='running'); print('running', flush=True); input()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    other = subprocess.Popen([sys.executable, "-c", program], **pipes)
    try:
        assert other.stdout.readline() == b"in\n"
        with pytest.raises(CheckpointError, match="in use by another process"):
            start(tmp_path / "run")
        other.stdin.write(b"\n")
        other.stdin.flush()
        assert other.stdout.readline() == b"running\n"
        with pytest.raises(CheckpointError, match=f"in use by process {other.pid} on "):
            start(tmp_path / "run")
    finally:  # a failure leaves no process behind
        other.kill()
        other.communicate()
    with locked(tmp_path / "run"):
        pass


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_lock_that_leads_to_another_file_leaves_that_file_as_it_was(link, tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("mine", encoding="utf-8")
    (tmp_path / "run").mkdir()
    link(precious, tmp_path / "run" / "lock")

    with suppress(CheckpointError), locked(tmp_path / "run"):
        assert link is os.link  # a symbolic one is refused

    assert precious.read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(("code", "locks"), [(errno.ENOLCK, False), (errno.EIO, True)])
def test_a_file_system_without_locks_is_a_warning_and_one_that_fails_an_error(
    code, locks, tmp_path, monkeypatch, capsys
):
    def fails(*_, **__):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(FileLock, "acquire", fails)
    with pytest.raises(CheckpointError) if locks else nullcontext(), locked(tmp_path):
        pass

    assert ("cannot be locked" in capsys.readouterr().err) is not locks


def test_a_file_that_another_program_has_open_is_replaced_once_it_is_closed(tmp_path, monkeypatch):
    replace, waits = os.replace, []

    def refused(source, target):  # as Windows does
        if len(waits) < 2:
            raise PermissionError(errno.EACCES, "in use")
        replace(source, target)

    (tmp_path / "x").write_bytes(b"before")
    monkeypatch.setattr(os, "replace", refused)
    monkeypatch.setattr(folder_module.time, "sleep", waits.append)

    checkpoint.write_file(tmp_path / "x", b"content")

    assert (tmp_path / "x").read_bytes() == b"content"
    assert len(waits) == 2
    waits.clear()
    monkeypatch.setattr(folder_module.time, "sleep", lambda _: None)
    with pytest.raises(CheckpointError, match="cannot be written"):
        checkpoint.write_file(tmp_path / "x", b"more")
    assert [f.read_bytes() for f in tmp_path.iterdir()] == [b"content"]


def test_weights_that_an_update_made_infinite_are_never_written(tmp_path, monkeypatch):
    step = optimizers.AdamW.step

    def overflows(optimizer):
        step(optimizer)
        optimizer.param_groups[0]["params"][1].data[0] = torch.inf

    monkeypatch.setattr(optimizers.AdamW, "step", overflows)
    with pytest.raises(DivergedError):
        start(tmp_path / "run", "trainer.save_every=1")

    assert not list((tmp_path / "run").rglob("*.pt"))
    assert read_status(tmp_path / "run")["status"] == "diverged"


def test_the_command_line_goes_on_with_a_run_by_name_and_the_newest_by_auto(
    command_line, monkeypatch
):
    monkeypatch.setattr("training.run.start.finish", lambda *_: None)
    stop_after(monkeypatch, 10, Interrupted(signal.SIGTERM))
    code, out, err = command_line(*RUN, "hydra.run.dir=outputs/a b")
    assert code == 143 and (out.count("interrupted at step"), err) == (1, "")
    assert "'resume=outputs/a b'" in out

    code, out, err = command_line("resume=auto", "-m")
    assert (code, out) == (2, "") and "leave -m out" in err
    code, out, err = command_line("resume=nowhere")
    assert code == 5 and "nowhere: not a run folder" in err
    code, out, err = command_line("resume=auto", "trainer.epochs=0")
    assert code == 2 and "trainer.epochs must be" in err
    code, out, err = command_line("resume=auto")
    assert code == 0, err
    assert "resuming at step 8" in out
    assert [f.name for f in Path("outputs").iterdir()] == ["a b"]
    code, out, err = command_line("resume=outputs/a b")
    assert code == 0 and "already complete" in out
    code, out, err = command_line("resume=auto")
    assert code == 2 and "no unfinished run" in err


@pytest.mark.parametrize(
    ("word", "answer"),
    [
        ("hydra.callbacks.x._target_=os.system", "give settings only"),
        ("--config-dir=/x", "give settings only"),
        ("~seed", "give settings only"),
        ("trainer.epocs=4", "did you mean trainer.epochs"),
        ("trainer.epochs=3,4", "give one value"),
        ("trainer.epochs=many", "must be a whole number"),
        ("experiment=sonnet2", "many settings at once"),
    ],
)
def test_resume_takes_settings_only(word, answer, never_stopped):
    with pytest.raises(ConfigError, match=answer):
        start(never_stopped, word, resume=True)


@contextmanager
def small_disk(size):
    """Let no file grow beyond `size` bytes."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_ends_the_run_and_says_what_goes_on(copied, never_stopped):
    good = {path: path.read_bytes() for path in copied.rglob("*.pt")}
    with small_disk(5000), pytest.raises(CheckpointError) as error:  # neither log nor checkpoint
        start(copied, resume=True)

    assert error.value.exit_code == 5
    assert re.search(r"disk full: [\d,]+ bytes needed.*resume=", str(error.value))
    assert {path: path.read_bytes() for path in copied.rglob("*.pt")} == good
    assert not list(copied.rglob("*.tmp"))
    start(copied, resume=True)
    assert_same_run(copied, never_stopped)


def test_a_checkpoint_that_cannot_be_written_ends_the_run(never_stopped, tmp_path, monkeypatch):
    save, folder = checkpoint.save_checkpoint, tmp_path / "run"

    for number in (1, 2, 3):  # of the saves of each process
        calls = []

        def full(state, path, calls=calls, number=number):
            calls.append(path)
            if len(calls) == number:
                raise CheckpointError(f"{path}: No space left on device")
            save(state, path)

        with monkeypatch.context() as patch, pytest.raises(CheckpointError, match="No space left"):
            patch.setattr(fit, "save_checkpoint", full)
            patch.setattr(checkpoint, "save_checkpoint", full)
            start(folder, resume=number > 1)
        assert read_status(folder)["status"] == "failed"
        assert read_status(folder)["exit_code"] == 5

    start(folder, resume=True)

    assert_same_run(folder, never_stopped)


def test_a_save_is_written_synced_renamed_and_the_folder_synced(tmp_path, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda *a, real=real, name=name: (calls.append(name), real(*a))[1]
        )

    checkpoint.write_file(tmp_path / "x", b"content")

    assert calls == ["fsync", "replace", "fsync"]
    assert [f.name for f in tmp_path.iterdir()] == ["x"]


def test_a_stop_at_any_file_operation_of_a_save_loses_nothing(copied, never_stopped):
    for name in ("config.yaml.1.tmp", "checkpoints/step-00000016.pt.1.tmp"):  # of a dead process
        (copied / name).write_text("half of", encoding="utf-8")
    operations = ((checkpoint.io, "BytesIO"), (Path, "open"), (os, "fsync"), (os, "replace"))

    def killed(*arguments, **_):
        raise Killed

    for module, name in (*operations, (Path, "unlink")):  # the next save is of step 16
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
            save = fit.save

            def dies(run, save=save, patch=patch, module=module, name=name):
                patch.setattr(module, name, killed)
                save(run)

            patch.setattr(fit, "save", dies)
            start(copied, resume=True)
        assert load_newest(copied, {})["step"] >= 8
    start(copied, resume=True)

    assert_same_run(copied, never_stopped)
    assert not list(copied.rglob("*.tmp"))
