"""Sweeps: their folder, what runs again and what does not, failures, and what a job's name says."""

from pathlib import Path

import pytest
from conftest import compose
from hydra.core.hydra_config import HydraConfig

from training.cli import sweep
from training.cli.runs import find_runs
from training.cli.sweep import sweep_folder
from training.run import fit
from training.run.folder import locked, write_status
from training.run.signals import Interrupted
from training.run.status import read_status

LIGHT = ("debug=smoke", "report.embedding.words=0", "report.kneser_ney.max_order=0")
LOSSES = sorted(f.stem for f in (Path(__file__).parent.parent / "configs" / "loss").glob("*.yaml"))


def contents(folder):
    return {f: (f.stat().st_mtime_ns, f.read_bytes()) for f in folder.rglob("*") if f.is_file()}


def test_a_sweep_started_again_runs_only_what_is_missing(command_line):
    words = (
        "-m",
        *LIGHT,
        "data.max_lines=300",
        "loss=cross_entropy,mse",
        "seed=1,2",
        "report.verse.lines=0",
    )
    code, out, _ = command_line(*words)
    (folder,) = Path("outputs").iterdir()
    jobs = {f"{loss}-seed{seed}" for loss in ("mse", "cross_entropy") for seed in (1, 2)}

    assert code == 0
    assert {f.name for f in folder.iterdir() if f.is_dir()} == jobs
    assert {"compare.md", "compare.csv", "compare.html"} <= {f.name for f in folder.iterdir()}
    assert "cross_entropy" in out and "± " in out

    (folder / "mse-seed2").rename(folder.parent.parent / "gone")
    kept = contents(folder / "mse-seed1")
    code, out, _ = command_line(*words)

    assert code == 0 and out.count("complete already") == 3
    assert contents(folder / "mse-seed1") == kept
    runs = {run.folder.name: run for run in find_runs([folder])}
    (gone,) = find_runs(["gone"])
    for name, value in gone.figures.items():
        if f"time/{name}" not in gone.curves:
            assert runs["mse-seed2"].figures[name] == value, name


@pytest.fixture
def no_page(monkeypatch):
    """Leave the page of curves out, which takes longer than these jobs."""
    monkeypatch.setattr(sweep, "write_files", lambda comparisons, folder: [folder])


@pytest.mark.usefixtures("no_page")
def test_a_failing_job_says_so_at_once_and_the_sweep_tells_all_and_its_code(command_line):
    code, out, err = command_line("-m", *LIGHT, "loss=distillation,mse", "data.max_lines=300")

    assert code == 2
    assert err.splitlines()[0].startswith(
        "distillation-seed1 failed: loss.teacher.run: is required"
    )
    (folder,) = Path("outputs").iterdir()
    assert read_status(folder / "distillation-seed1")["exit_code"] == 2
    assert read_status(folder / "mse-seed1")["status"] == "complete"
    assert "failed" in out and "mse-seed1" in out

    code, _, err = command_line("-m", *LIGHT, "loss=distillation,mse", "data.max_lines=300")
    assert code == 2 and "distillation-seed1 failed" in err  # tried again, and told again


@pytest.mark.usefixtures("no_page")
def test_a_job_that_diverged_or_broke_does_not_end_the_others(command_line, monkeypatch):
    words = ("-m", *LIGHT, "data.max_lines=300", "optimizer=sgd")
    code, _, err = command_line(*words, "optimizer.lr=1e38,0.1")

    assert code == 3 and "stopped" in err
    (folder,) = Path("outputs").iterdir()
    name = "cross_entropy-seed1-optimizer.lr"
    assert [run.folder.name for run in find_runs([folder]) if run.status == "complete"] == [
        f"{name}_0.1"
    ]

    def broken(*_):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(fit, "draw_reliability", broken)
    code, out, err = command_line(*words, "optimizer.lr=0.2,0.3")
    assert code == 1 and "Traceback" in err and out.count("a bug") == 2


@pytest.mark.usefixtures("no_page")
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


@pytest.mark.usefixtures("no_page")
def test_a_job_whose_folder_has_other_settings_is_refused(command_line, monkeypatch):
    words = ("-m", *LIGHT, "loss=focal", "hydra.sweep.dir=sweep", "trainer.save_every=1")
    with monkeypatch.context() as patch:
        patch.setattr("training.run.start.finish", lambda *_: 1 / 0)
        assert command_line(*words)[0] == 1

    code, _, err = command_line(*words, "loss.gamma=3")
    assert code == 2 and "loss.gamma=3: cannot change on resume" in err

    assert command_line(*words)[0] == 0


@pytest.mark.usefixtures("no_page")
def test_an_interrupted_job_of_a_package_of_ones_own_goes_on(command_line, monkeypatch, tmp_path):
    (tmp_path / "mine_to_sweep.py").write_text(
        "from losses import FocalLoss\nclass Mine(FocalLoss): pass\n"
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


@pytest.mark.parametrize("task", ["ngram", "vision"])
def test_compare_losses_gives_each_loss_its_own_learning_rate_and_all_the_same_seeds(task):
    cfg = compose("experiment=compare_losses", task=task, hydra_too=True)
    params = cfg.hydra.sweeper.params
    rates = next(iter(cfg.best_lr.values()))

    assert params == {"loss": "glob(*,exclude=distillation)", "seed": "1,2,3"}
    assert all(set(r) == set(LOSSES) - {"distillation"} for r in cfg.best_lr.values())
    for loss in rates:
        cfg = compose("experiment=compare_losses", f"loss={loss}", task=task, hydra_too=True)
        HydraConfig.instance().set_config(cfg)
        assert cfg.optimizer.lr == rates[loss]


def test_a_sweep_without_m_says_that_it_is_one(command_line):
    code, _, err = command_line("experiment=compare_losses")

    assert (code, err) == (2, "error: experiment=compare_losses: is a sweep; add -m\n")
    assert not any(Path("outputs").iterdir())


@pytest.mark.usefixtures("no_page")
def test_a_job_that_another_process_is_at_keeps_its_status(command_line):
    words = ("-m", *LIGHT, "data.max_lines=300", "hydra.sweep.dir=sweep")
    job = Path("sweep/cross_entropy-seed1")
    assert command_line(*words)[0] == 0
    write_status(job, status="running", step=3)

    with locked(job):
        code, _, err = command_line(*words)

    assert code != 0 and "in use by process" in err
    assert read_status(job)["status"] == "running"


def test_a_launcher_that_is_not_installed_is_answered_with_its_extra(command_line):
    code, _, err = command_line("-m", "hydra/launcher=nothing", "seed=1,2")

    assert code == 2 and "pip install '.[sweep]'" in err and len(err.splitlines()) == 1


@pytest.mark.slow
def test_jobs_run_side_by_side_with_joblib(command_line):
    words = ("-m", *LIGHT, "loss=mse,cross_entropy,distillation", "data.max_lines=300")
    code, _, _ = command_line(*words, "launcher=parallel")

    assert code == 2  # distillation has no teacher
    (folder,) = Path("outputs").iterdir()
    done = [run.folder.name for run in find_runs([folder]) if run.status == "complete"]
    assert done == ["cross_entropy-seed1", "mse-seed1"]
