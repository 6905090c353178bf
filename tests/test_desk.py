"""What happens at a desk: a terminal is closed, a screen is lost, a folder is moved, two sweeps."""

import io
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from small_runs import RUN, TINY, no_drawing, run_in, settings  # noqa: F401

from training.cli import screen, sweep
from training.cli.calibrate_run import calibrate_run
from training.cli.settings import parse
from training.errors import CheckpointError, ConfigError
from training.run import fit
from training.run.folder import read_status, write_file, write_status
from training.run.signals import handling, in_a_job
from training.run.start import start

ROOT = Path(__file__).parent.parent
PRINTING = """
import sys
from training.cli.screen import keep_printing
keep_printing()
for _ in range(3):
    print("x" * 100_000, flush=True)
    print("y", file=sys.stderr)
open({name!r}, "w", encoding="utf-8").write("went on")
"""


@pytest.mark.parametrize("screen", [">/dev/full 2>&1", ">&- 2>&-", "| head -c 1", "0>&- 1>&- 2>&-"])
def test_a_screen_that_is_lost_stops_nothing_and_no_file_takes_its_place(screen, tmp_path):
    file = tmp_path / "file"
    words = f"set -o pipefail; {sys.executable} -c '{PRINTING.format(name=str(file))}' {screen}"
    script = words.replace("'" + str(file) + "'", '"' + str(file) + '"')

    done = subprocess.run(["bash", "-c", script], cwd=ROOT, check=False)

    assert done.returncode == 0
    assert file.read_text(encoding="utf-8") == "went on"


def test_a_screen_that_works_shows_everything_in_its_order():
    program = "from training.cli.screen import keep_printing; keep_printing(); print('a\u00fc\\nb')"

    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=True
    )

    assert done.stdout.decode() == "a\u00fc\nb\n"


@pytest.mark.skipif(sys.platform == "win32", reason="has no such terminals")
def test_what_a_job_beside_others_prints_is_not_mixed_with_the_bar_of_their_sweep(monkeypatch):
    ours, its = os.openpty()
    monkeypatch.setattr(screen.multiprocessing, "parent_process", lambda: "the sweep")
    binary = io.BufferedWriter(screen.Screen(its, "w", closefd=False))
    with io.TextIOWrapper(binary, "utf-8", line_buffering=True) as stream:
        for text in ("a line", "two\nlines"):
            os.write(its, b"[0/2 done]")  # the bar
            print(text, file=stream)
            stream.flush()

    os.close(its)
    seen = ""
    with suppress(OSError):  # at the end
        while part := os.read(ours, 1000):
            seen += part.decode().replace("\r\n", "\n")
    os.close(ours)

    assert seen == "[0/2 done]\r\x1b[Ka line\n[0/2 done]\r\x1b[Ktwo\nlines\n"


def test_a_signal_that_was_ignored_at_the_start_stays_ignored():
    came, before = [], signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with handling(came.append):
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGHUP, before)

    assert came == [signal.SIGTERM]


@pytest.mark.parametrize("fate", ["moved", "deleted", "replaced"])
def test_a_run_whose_folder_is_gone_stops_and_makes_no_other(fate, tmp_path, monkeypatch):
    folder, real, saved = tmp_path / "run", fit.save, []

    def save(run):
        real(run)
        saved.append(run.training.step)
        if fate == "deleted":
            shutil.rmtree(folder)
        else:
            folder.rename(tmp_path / "elsewhere")
        if fate == "replaced":
            folder.mkdir()

    with monkeypatch.context() as patch, pytest.raises(CheckpointError, match="no longer there"):
        patch.setattr(fit, "save", save)
        run_in(folder, *RUN)

    assert saved == [4]
    if fate == "replaced":
        assert not list(folder.iterdir())
    else:
        assert not folder.exists()
    if fate != "deleted":
        start(settings(*RUN), tmp_path / "elsewhere", resumed=True, quiet=True)
        assert read_status(tmp_path / "elsewhere")["status"] == "complete"


def test_a_job_that_another_sweep_has_finished_meanwhile_stays_complete(tmp_path, monkeypatch):
    def finished_by_another(cfg, folder, **_):
        run_in(folder, *TINY)
        write_status(folder, pid_of_the_other=1)
        start(cfg, folder, quiet=True)  # which claims the folder under its lock

    sweep.run_job("ngram", list(TINY), tmp_path / "job", finished_by_another)

    assert read_status(tmp_path / "job")["status"] == "complete"


def test_a_run_that_is_worse_than_guessing_says_so_in_one_line(tmp_path, capsys):
    options = ("optimizer=sgd", "optimizer.lr=300", "trainer.clip_norm=0")

    run_in(tmp_path / "bad", *TINY, *options)
    run_in(tmp_path / "good", *TINY)

    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: bad: a model that knows nothing would be better: val nll ")
    assert "ln C is" in line and "the learning rate is too high" in line


def test_a_file_system_without_inodes_is_not_called_a_full_disk(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    blocks = {"f_frsize": 1, "f_blocks": 9, "f_bfree": 9, "f_bavail": 9}
    system = SimpleNamespace(**blocks, f_files=10, f_favail=0)
    monkeypatch.setattr(os, "statvfs", lambda _: system)

    with pytest.raises(CheckpointError, match="as many files as it can") as refusal:
        write_file(tmp_path / "x", b"content")

    assert "disk full" not in str(refusal.value)


def test_data_and_teacher_may_be_moved_and_their_content_decides(command_line, tmp_path, capsys):
    text = "".join(f"{letters}\n{letters[::-1]}\n" for letters in ["abcdefgh"] * 60)
    (tmp_path / "one").write_text(text, encoding="utf-8")
    light = ("trainer.figures=0", "model.hidden_dim=8", "report=null", "trainer.epochs=1")
    words = (*light, "data=text_file", "data.level=char", "data.path=one")
    assert command_line(*words, "hydra.run.dir=teacher")[0] == 0
    student = (*words, "loss=distillation", "teacher=teacher", "hydra.run.dir=student")
    assert command_line(*student)[0] == 0
    assert command_line(*words, "seed=2", "hydra.run.dir=another")[0] == 0

    (tmp_path / "one").rename("two")
    (tmp_path / "teacher").rename("moved")

    calibrate_run("student", [], "two")  # without its teacher
    more = ("resume=student", "trainer.epochs=2")
    assert command_line(*more)[0] in (4, 5)
    code, _, err = command_line(*more, "data.path=two")
    assert code == 5 and err.startswith("error: teacher=teacher: teacher: not a run folder")
    code, _, err = command_line(*more, "data.path=two", "teacher=another")
    assert code == 2 and err.startswith("error: teacher: its content is no longer")
    assert command_line(*more, "data.path=two", "teacher=moved")[0] == 0
    calibrate_run("student", [], "two")
    (tmp_path / "two").write_text(text.replace("abcd", "bacd"), encoding="utf-8")
    code, _, err = command_line("resume=student", "trainer.epochs=3", "teacher=moved")
    assert code == 2 and err.startswith("error: data: its content is no longer")
    with pytest.raises(CheckpointError, match="no longer what it was trained on"):
        calibrate_run("student", [], "two")


@pytest.mark.parametrize(
    ("word", "right"),
    [
        ("data.path=a(1).txt", "\"data.path='a(1).txt'\""),
        ("data.path=a=[b]#~.txt", "\"data.path='a=[b]#~.txt'\""),
        ("data.path=\u00fc.txt", "\"data.path='\u00fc.txt'\""),
        ("teacher=run(1)", "\"teacher='run(1)'\""),
        ("data.path=it's", "'data.path=\"it'\"'\"'s\"'"),
        ("optimizer.lr=0,001", "optimizer.lr=0.001"),
        ("seed=1,2", "add -m"),
    ],
)
def test_a_value_that_hydra_reads_otherwise_is_shown_written_right(word, right):
    with pytest.raises(ConfigError) as refusal:
        parse(word)

    assert str(refusal.value).startswith(f"{word}: ") and right in str(refusal.value)
    if "quote a text" in str(refusal.value):  # what is shown is what was meant, through a shell
        (written,) = shlex.split(right)
        assert parse(written).value() == word.partition("=")[2]


NO_NOISE = ("model.input_dropout=0", "model.dropout=0", "model.output_dropout=0", "model.noise=0")


def test_the_test_row_says_which_epochs_weights_it_is_of(tmp_path, capsys):
    # without noise the text is soon learnt by heart, and the last epoch is far from the best
    words = [*RUN, *NO_NOISE, "optimizer.lr=0.02", "trainer.epochs=8"]
    start(settings(*words), tmp_path / "run")

    out = capsys.readouterr().out
    found = re.findall(r"^epoch (\d+)/8 .*val nll ([\d.]+) ", out, re.MULTILINE)
    nll, epoch = min((float(nll), epoch) for epoch, nll in found)
    assert len(found) == 8 and epoch != "8"
    assert f"test: the weights of epoch {epoch}, which has the lowest val nll {nll:.4f}\n" in out


@pytest.mark.parametrize("more", [("model.dropout=0.5",), ()])
def test_a_train_loss_above_val_nll_is_explained_by_dropout_where_there_is_some(
    more, tmp_path, capsys
):
    start(settings(*TINY, *NO_NOISE, *more), tmp_path / "run")

    out = capsys.readouterr().out
    train_loss, nll = re.search(r"train loss ([\d.]+)  val nll ([\d.]+)", out).groups()
    assert float(train_loss) > float(nll)  # of two steps, the first before anything was learnt
    why = "train loss above val nll: only training has dropout or other noise"
    assert (why in out) == ("train loss above" in out) == bool(more)


def test_an_error_that_an_interruption_caused_ends_a_job_as_quietly_as_the_interruption():
    def work():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            raise AttributeError("of a library that was interrupted")

    with handling(lambda number: None):  # so that pytest has its own handlers again
        in_a_job(work)


def test_an_error_of_its_own_leaves_a_job():
    def work():
        raise AttributeError("a bug")

    with handling(lambda number: None), pytest.raises(AttributeError, match="a bug"):
        in_a_job(work)
