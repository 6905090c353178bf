"""Sweeps: their folder, what runs again and what does not, failures, and what a job's name says."""

import io
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import compose
from hydra.core.hydra_config import HydraConfig
from rich.console import Console

from training.cli import tables
from training.cli.runs import find_runs
from training.cli.sweep import SweepBar, sweep_folder
from training.cli.tables import write_files
from training.run import fit
from training.run.checkpoint import load_checkpoint, step_files
from training.run.folder import locked, read_status, write_status
from training.run.identity import leaves
from training.run.log import RunLog
from training.run.signals import Interrupted

LIGHT = (
    *("debug=smoke", "data.max_lines=300", "model.embedding_dim=8", "model.hidden_dim=8"),
    *("report.embedding.words=0", "report.kneser_ney.max_order=0", "report.verse.lines=0"),
)
LOSSES = sorted(f.stem for f in (Path(__file__).parent.parent / "configs" / "loss").glob("*.yaml"))


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    """Draw nothing, which takes longer than these jobs."""
    monkeypatch.setattr(RunLog, "figure", lambda *_: None)
    monkeypatch.setattr(tables, "write_files", lambda comparisons, folder, command: [folder])


def seen(out):
    """Return the lines that a terminal shows once it has got `out`."""
    lines, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[[\d;?]*[A-Za-z]|[\r\n]|[^\x1b\r\n]+", out):
        if part == "\n":
            row += 1
            lines += [""] * (row == len(lines))
        elif part == "\r":
            column = 0
        elif part in ("\x1b[2K", "\x1b[K"):
            lines[row] = lines[row][:column] if part == "\x1b[K" else ""
        elif part.endswith("A"):
            row -= int(part[2:-1])
        elif not part.startswith("\x1b"):
            line, column = lines[row], column + len(part)
            lines[row] = line[: column - len(part)] + part + line[column:]
    return lines


def contents(folder):
    return {f: (f.stat().st_mtime_ns, f.read_bytes()) for f in folder.rglob("*") if f.is_file()}


def test_a_sweep_runs_what_is_missing_or_failed_and_compares(command_line, monkeypatch):
    words = ("-m", *LIGHT, "loss=distillation,mse", "seed=1,2")
    with monkeypatch.context() as patch:
        patch.setattr(tables, "write_files", write_files)
        code, out, err = command_line(*words)
    (folder,) = Path("outputs").iterdir()
    jobs = {f"{loss}-seed{seed}" for loss in ("distillation", "mse") for seed in (1, 2)}

    assert code == 2
    told = "distillation-seed1 failed: teacher: is required"
    assert err.startswith(told) and err.count("failed") == 2
    assert {f.name for f in folder.iterdir() if f.is_dir()} == jobs
    assert {"compare.md", "compare.csv", "compare.html"} <= {f.name for f in folder.iterdir()}
    html = (folder / "compare.html").read_text(encoding="utf-8")
    assert re.search(r"train_ngram.py -m .* loss=distillation,mse seed=1,2</code>", html)
    assert re.search(r"^mse-seed2: nll .*, accuracy .*, ECE .* s$", out, re.MULTILINE)
    assert "distillation-seed1: failed: teacher: is required" in out and "± " in out
    assert read_status(folder / "distillation-seed1")["exit_code"] == 2

    (folder / "mse-seed2").rename("gone")
    kept = contents(folder / "mse-seed1")
    code, out, err = command_line(*words)

    assert code == 2 and err.startswith(told)  # tried again, and told again
    assert out.count("complete already") == 1
    assert contents(folder / "mse-seed1") == kept
    runs = {run.folder.name: run for run in find_runs([folder])}
    (gone,) = find_runs(["gone"])
    for name, value in gone.figures.items():
        if f"time/{name}" not in gone.curves:
            assert runs["mse-seed2"].figures[name] == value, name


def test_a_job_that_diverged_or_broke_does_not_end_the_others(command_line, monkeypatch):
    words = ("-m", *LIGHT, "optimizer=sgd", "hydra.sweep.dir=sweep")
    code, _, err = command_line(*words, "optimizer.lr=1e38,0.1")

    assert code == 3 and "stopped" in err
    (complete,) = (run for run in find_runs(["sweep"]) if run.status == "complete")
    assert complete.folder.name == "cross_entropy-seed1-optimizer.lr_0.1"

    def broken(*_, **__):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(RunLog, "figure", broken)
    code, out, err = command_line(*words[:-1], "hydra.sweep.dir=other", "seed=1,2")
    assert code == 1 and err.count("Traceback") == 2 and out.count("failed: a bug") == 2


@pytest.mark.slow
def test_a_job_that_was_interrupted_goes_on_in_its_folder(command_line, monkeypatch):
    words = ("-m", *LIGHT, "loss=mse,cross_entropy", "trainer.save_every=1")
    real = fit.save

    def interrupted(run):
        real(run)
        if run.training.step == 2:
            raise Interrupted(15)

    with monkeypatch.context() as patch:
        patch.setattr(fit, "save", interrupted)
        assert command_line(*words)[0] == 143
    (folder,) = Path("outputs").iterdir()
    events = list((folder / "mse-seed1").glob("events*"))
    assert read_status(folder / "mse-seed1")["status"] == "interrupted"
    assert not (folder / "cross_entropy-seed1").exists()  # a signal ends the sweep

    assert command_line(*words)[0] == 0
    assert list((folder / "mse-seed1").glob("events*")) == events
    assert all(run.status == "complete" for run in find_runs([folder]))


def test_a_job_whose_folder_has_other_settings_is_refused(command_line, monkeypatch):
    words = ("-m", *LIGHT, "loss=focal", "hydra.sweep.dir=sweep", "trainer.save_every=1")
    with monkeypatch.context() as patch:
        patch.setattr("training.run.start.finish", lambda *_: 1 / 0)
        assert command_line(*words)[0] == 1

    code, out, err = command_line(*words, "loss.gamma=3")
    assert code == 2 and "loss.gamma=3.0: cannot change on resume" in err
    assert out.count("refused") == out.count(" -> ") == 1  # no other setting differs

    assert command_line(*words)[0] == 0


@pytest.mark.slow
def test_an_interrupted_job_of_a_package_of_ones_own_goes_on(command_line, monkeypatch, tmp_path):
    (tmp_path / "mine_to_sweep.py").write_text(
        "from losses import FocalLoss\nclass Mine(FocalLoss): pass\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(tmp_path)
    own = ("loss=focal", "loss._target_=mine_to_sweep.Mine", "hydra.sweep.dir=sweep")
    with monkeypatch.context() as patch:
        patch.setattr("training.run.start.finish", lambda *_: 1 / 0)
        assert command_line("-m", *LIGHT, *own)[0] == 1

    code, _, err = command_line("-m", *LIGHT, *own)  # what is typed here needs no --trust
    assert code == 0, err

    (job,) = (f for f in Path("sweep").iterdir() if f.is_dir())
    more = ("trainer.epochs=2", f"resume={job}")
    code, _, err = command_line(*more)
    assert code == 2 and "--trust my_package" in err
    assert command_line("--trust", "mine_to_sweep", *more)[0] == 0


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [[], ["launcher=parallel"]])
def test_each_job_of_a_sweep_trusts_whom_its_command_line_trusts(launcher, tmp_path, monkeypatch):
    """The teacher of each student has a model of a package of one's own, which workers build."""
    (tmp_path / "mine_to_teach.py").write_text(
        "from ngram.models import NGramMLP\nclass Mine(NGramMLP): pass\n", encoding="utf-8"
    )
    monkeypatch.chdir(tmp_path)
    script = Path(__file__).parent.parent / "scripts/train_ngram.py"

    def run(*words):
        command = [sys.executable, script, *LIGHT, *words]
        path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
        environment = os.environ | {"PYTHONPATH": path}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        return done.returncode, done.stderr

    assert run("model._target_=mine_to_teach.Mine", "hydra.run.dir=teacher")[0] == 0
    students = ["-m", "loss=distillation", "teacher=teacher", "seed=1,2", *launcher]

    code, err = run(*students)
    assert code == 2 and "--trust my_package" in err
    assert run("--trust", "mine_to_teach", *students) == (0, "")


def test_the_folder_is_named_by_experiment_and_settings_and_not_by_what_is_swept():
    def folder(*words):
        return sweep_folder("ngram", list(words))[0]

    plain = folder("loss=mse,nll")

    assert plain == folder("seed=1,2,3") == folder("loss=glob(*)", "threads=2", "device=cpu")
    assert plain.name.startswith("ngram-sweep-")
    assert folder("experiment=tune_lr").name.startswith("ngram-tune_lr-")
    both = folder("experiment=[tiny_shakespeare_fast,tune_lr]")
    assert both.name.startswith("ngram-tiny_shakespeare_fast-tune_lr-")
    others = [
        folder("trainer.epochs=3"),
        folder("loss.gamma=3", "loss=focal"),
        folder("data=sonnets"),
    ]
    assert len({plain, *others[:2]}) == 3 and others[2] == plain
    assert folder("hydra.sweep.dir=mine") == Path("mine")


@pytest.mark.parametrize(("words", "number"), [
    (["loss=mse,nll", "seed=range(1,4)", "trainer.epochs=2"], 2 * 3),
    (["loss=glob(*,exclude=distillation*)"], len(LOSSES) - 1),
    (["experiment=compare_losses"], 3 * (len(LOSSES) - 1)),  # its own seeds and losses
    (["experiment=compare_losses", "seed=7"], len(LOSSES) - 1),
    (["experiment=compare_losses", "loss=mse", "optimizer.lr=choice(0.1,0.2)"], 2 * 3),
])  # fmt: skip
def test_a_sweep_knows_how_many_jobs_it_has(words, number):
    assert sweep_folder("vision", words)[2] == number


def shown(bar, width=80):
    file = io.StringIO()
    Console(file=file, width=width).print(bar.get_renderable())
    return file.getvalue()


def test_the_bar_of_a_sweep_shows_what_its_jobs_folders_say(tmp_path):
    def job(name, status, **more):
        (tmp_path / name).mkdir(exist_ok=True)
        write_status(tmp_path / name, status=status, **more)

    job("of-before", "complete")
    job("to-do-again", "failed", message="no memory")
    job("killed", "running", step=5, steps=10)  # and not begun again yet
    bar = SweepBar(tmp_path, 6)
    bar.screen.width = 80
    assert "[1/6 done]" in shown(bar) and "killed" not in shown(bar)

    job("killed", "running", step=6)
    (tmp_path / "killed" / "metrics.jsonl").write_text(
        '{"step": 6, "split": "train"}\n{"step": 8, "split": "train", "loss": 2.0}\n{"step": 9',
        encoding="utf-8",
    )
    job("focal-seed1", "running", step=0, steps=4)  # has logged nothing
    job("to-do-again", "diverged")
    (line,) = shown(bar).splitlines()

    assert line.startswith("[2/6 done] focal-seed1 0%, killed 80% ")
    assert "47%" in line  # (1 + 1 + .8 + 0) / 6

    job("killed", "complete")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "status.json").touch()  # a job that could leave no word
    assert shown(bar).startswith("[4/6 done] focal-seed1 0% ")


def test_the_bar_of_a_sweep_stays_one_line_and_takes_names_as_they_are(tmp_path):
    bar = SweepBar(tmp_path, 3)
    bar.screen.width = 80
    for name in ("[bold]a", "c" * 70):
        (tmp_path / name).mkdir()
        write_status(tmp_path / name, status="running", steps=0)

    (line,) = shown(bar).splitlines()

    assert line.startswith("[0/3 done] [bold]a 0%, ccccc") and re.search(r"c… +0% -:--:--$", line)
    assert len(line) <= 77  # so that the ^C that a terminal shows stands in it


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["launcher=parallel"]], ids=["serial", "parallel"])
@pytest.mark.skipif(sys.platform == "win32", reason="has no such terminals")
def test_a_sweep_on_a_terminal_leaves_its_lines_and_no_bar(more, tmp_path):
    script = Path(__file__).parent.parent / "scripts/train_ngram.py"
    words = [*LIGHT, "loss=mse,nll", f"hydra.sweep.dir={tmp_path}", *more]
    ours, its = os.openpty()
    with subprocess.Popen(
        [sys.executable, script, "-m", *words], stdout=its, stderr=its
    ) as process:
        os.close(its)
        content = b""
        with suppress(OSError):  # which ends the reading where nobody has the terminal open
            while part := os.read(ours, 10_000):
                content += part
    os.close(ours)
    out = content.decode()
    lines = seen(out)

    assert process.returncode == 0
    assert "[0/2 done]" in out
    for loss in ("mse", "nll"):
        assert sum(line.startswith(f"{loss}-seed1: nll ") for line in lines) == 1
    assert not any("done]" in line for line in lines)
    assert out.rindex("\x1b[?25h") > out.rindex("\x1b[?25l")  # the cursor is shown again


@pytest.mark.parametrize("task", ["ngram", "vision"])
def test_compare_losses_gives_each_loss_its_own_learning_rate_and_all_the_same_seeds(task):
    cfg = compose("experiment=compare_losses", task=task, hydra_too=True)
    params = cfg.hydra.sweeper.params
    rates = cfg.best_lr.adamw.sonnets if task == "ngram" else cfg.best_lr.adamw.digits
    listed = [r for of in cfg.best_lr.values() for name, r in of.items() if name != "default"]

    assert params == {"loss": "glob(*,exclude=distillation*)", "seed": "1,2,3"}
    assert all(set(r) == set(LOSSES) - {"distillation"} for r in listed)
    for loss in list(rates)[::4]:
        cfg = compose("experiment=compare_losses", f"loss={loss}", task=task, hydra_too=True)
        HydraConfig.instance().set_config(cfg)
        assert cfg.optimizer.lr == rates[loss]


@pytest.mark.parametrize("task", ["ngram", "vision"])
def test_rates_are_tried_on_a_seed_of_their_own_whatever_comes_before(task):
    cfg = compose("experiment=[compare_losses,tune_lr]", task=task, hydra_too=True)

    assert cfg.hydra.sweeper.params.seed == "4"


STUDIES = ["long_tail", "label_noise", "label_noise_next", "distill", "overconfidence"]


@pytest.mark.parametrize("name", STUDIES)
def test_each_study_sweeps_losses_and_seeds_by_itself_and_rates_with_tune_lr(name):
    cfg = compose(f"experiment={name}", "loss=focal", task="vision", hydra_too=True)
    tuning = compose(f"experiment=[{name},tune_lr]", task="vision", hydra_too=True)
    HydraConfig.instance().set_config(cfg)

    params, tried = cfg.hydra.sweeper.params, tuning.hydra.sweeper.params
    assert set(params) == {"loss", "seed"} and params.seed == "1,2,3"
    assert cfg.optimizer.lr == cfg.best_lr.adamw.digits.focal
    assert set(tried) == {"loss", "seed", "optimizer.lr"} and tried.seed == "4"
    assert tuning.data.keys() == cfg.data.keys() and leaves(tuning.data) == leaves(cfg.data)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lock", "status.json"])
def test_a_job_whose_folder_cannot_be_written_has_its_exit_code(name, command_line):
    words = ("-m", *LIGHT, "seed=1", "hydra.sweep.dir=sweep")
    assert command_line(*words)[0] == 0
    (job,) = (file.parent for file in Path("sweep").glob("*/status.json"))
    (job / "status.json").unlink()
    (job / name).unlink(missing_ok=True)
    (job / name).mkdir()

    code, out, err = command_line(*words)

    assert code == 5 and f"{job.name}: failed" in out
    assert err.startswith(f"{job.name} failed: ") and "Traceback" not in err


def test_a_job_that_another_process_is_at_keeps_its_status(command_line):
    job = Path("sweep/cross_entropy-seed1")
    words = ("-m", *LIGHT, "hydra.sweep.dir=sweep", "data=text_file")  # whose path is required
    assert command_line(*words)[0] == 2
    write_status(job, status="running", step=3)

    with locked(job):
        code, _, err = command_line(*words)

    assert code != 0 and "data.path is required" in err
    assert read_status(job)["status"] == "running"


@pytest.mark.slow
def test_jobs_run_side_by_side_with_joblib(command_line):
    words = ("-m", *LIGHT, "loss=mse,cross_entropy,distillation", "data.max_lines=300")
    code, _, _ = command_line(*words, "launcher=parallel")

    assert code == 2  # distillation has no teacher
    (folder,) = Path("outputs").iterdir()
    done = [run.folder.name for run in find_runs([folder]) if run.status == "complete"]
    assert done == ["cross_entropy-seed1", "mse-seed1"]


def _stopped(folder, stop):
    """Return exit code and stderr of a parallel sweep, after `stop(process, running jobs)`."""
    words = [*LIGHT, "trainer.max_batches=null", "trainer.epochs=900"]
    script = Path(__file__).parent.parent / "scripts/train_ngram.py"
    jobs = ["loss=mse,nll,focal", "launcher=parallel", "hydra.launcher.n_jobs=2"]
    words += ["trainer.save_every=100000", "trainer.evaluate_every=900"]
    command = [sys.executable, script, "-m", *words, *jobs, f"hydra.sweep.dir={folder}"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        running = [folder / f"{loss}-seed1" for loss in ("mse", "nll")]
        while any(read_status(job).get("status") != "running" for job in running):
            assert process.poll() is None
            time.sleep(0.1)
        time.sleep(1)
        stop(process, running)
        err = process.communicate()[1]
    return process.returncode, err, running


@pytest.mark.slow
def test_a_job_that_is_killed_ends_a_parallel_sweep_in_one_line(tmp_path):
    def kill(_, running):
        os.kill(read_status(running[0])["pid"], signal.SIGKILL)

    code, err, _ = _stopped(tmp_path / "sweep", kill)

    assert code == 1
    assert err.startswith("error: a job was killed") and err.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_parallel_sweep_that_is_stopped_saves_every_job_before_it_ends(number, tmp_path):
    def send(process, _):
        process.send_signal(number)

    code, err, running = _stopped(tmp_path / "sweep", send)

    assert code == 128 + number
    assert err == "interrupted; of the jobs that began: 2 interrupted; the same command goes on\n"
    for job in running:
        step = read_status(job)["step"]
        assert read_status(job)["status"] == "interrupted" and step > 0
        assert load_checkpoint(step_files(job)[0])["step"] == step
