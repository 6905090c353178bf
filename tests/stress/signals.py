"""Whether a signal loses anything: sent at random function calls, to both tasks and to sweeps.

    python tests/stress/signals.py [--run 20] [--serial 20] [--parallel 20] [--seed 0]

A single run, or a serial sweep of two, gets SIGTERM, SIGINT or SIGHUP at a random one of its calls
of functions (the first calls of the command are as likely as those of a step); a parallel sweep
gets it from outside, at a random moment. The command must end with the signal's exit code, or
complete; no job may say that it runs; and a job that says that it was interrupted at a step must
have a checkpoint of that step. Given again, the command, or `resume=`, must come to its end.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[2])

from tests.stress.kill import SETTINGS, TASKS, child, finish, train  # noqa: E402
from training.run.checkpoint import step_files  # noqa: E402
from training.run.folder import CONFIG, read_status  # noqa: E402

NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
QUICK = ["trainer.epochs=2", "trainer.max_batches=3", "trainer.save_every=10000"]
QUICK += ["trainer.figures=0", "device=cpu", "threads=1"]
SMALLER = {
    "ngram": ["data.max_lines=120", "model.embedding_dim=8", "report.verse.lines=1"],
    "vision": ["model.width=4"],
}
SWEEP = ["-m", "loss=mse,nll", "hydra.sweep.dir=sweep"]


def signalled(task: str, words: list[str], number: int, call: int) -> int:
    """Send the signal at that call of a function in a command of its own; return its exit code."""

    def work() -> None:
        left = call

        def counting(*_: object) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                sys.setprofile(None)
                os.kill(os.getpid(), number)

        sys.setprofile(counting)
        try:
            train(task, *words)()
        except KeyboardInterrupt:  # before the command had begun to answer signals
            sys.exit(128 + number)

    return finish(child(work))


def from_outside(task: str, words: list[str], number: int, seconds: float) -> int:
    """Send the signal to a parallel sweep after so many seconds; return its exit code."""
    script = Path(sys.path[0]) / "scripts" / f"train_{task}.py"
    command = [sys.executable, script, *words, "launcher=parallel", "hydra.launcher.n_jobs=2"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([*map(str, command)], **quiet) as process:  # type: ignore[call-overload]
        time.sleep(seconds)
        process.send_signal(number)
        return process.wait()


def faults(folders: list[Path]) -> list[str]:
    """Say which jobs do not tell the truth."""
    found = []
    for folder in folders:
        status = read_status(folder)
        saved = [int(file.stem[5:]) for file in step_files(folder)]
        if status.get("status") == "running":
            found.append(f"{folder}: still says that it runs")
        if status.get("status") == "interrupted" and status["step"] not in saved:
            found.append(f"{folder}: interrupted at {status['step']}, saved {saved}")
    return found


def try_one(task: str, kind: str, number: int, moment: float) -> tuple[int, list[str]]:
    """Signal one command and go on with it; return its exit code, and what was wrong."""
    settings = [*SETTINGS, *TASKS[task], *SMALLER[task], *QUICK]
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        words = [*settings, "hydra.run.dir=run"] if kind == "run" else [*SWEEP, *settings]
        if kind == "parallel":
            code = from_outside(task, words, number, moment)
        else:
            code = signalled(task, words, number, int(moment))
        jobs = [Path("run")] if kind == "run" else sorted(Path("sweep").glob("*-seed*"))
        wrong = faults(jobs)
        if code not in (0, 128 + number, -number):  # -number: before the command had begun
            wrong.append(f"exit code {code}")
        if kind == "run" and (jobs[0] / CONFIG).exists():
            words = [f"resume={jobs[0]}"]
        again = finish(child(train(task, *words)))
        jobs = [Path("run")] if kind == "run" else sorted(Path("sweep").glob("*-seed*"))
        ends = [read_status(job).get("status") for job in jobs]
        if again or set(ends) != {"complete"}:
            wrong.append(f"given again: exit code {again}, {ends}")
        os.chdir("/")
    return code, wrong


def main() -> None:
    """Signal, go on, count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=int, default=20, help="signals to single runs")
    parser.add_argument("--serial", type=int, default=20, help="signals to serial sweeps")
    parser.add_argument("--parallel", type=int, default=20, help="signals to parallel sweeps")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    random.seed(options.seed)
    codes: Counter[tuple[str, int]] = Counter()
    bad = 0
    counts = {kind: getattr(options, kind) for kind in ("run", "serial", "parallel")}
    for kind in [kind for kind, count in counts.items() for _ in range(count)]:
        task, number = random.choice(list(TASKS)), random.choice(NUMBERS)
        moment = random.uniform(2, 30) if kind == "parallel" else 10 ** random.uniform(1, 5.8)
        code, wrong = try_one(task, kind, number, moment)
        codes[kind, code] += 1
        bad += bool(wrong)
        if wrong:
            print(f"{task} {kind} {number!r} at {moment:.1f}: {'; '.join(wrong)}", flush=True)
    print(f"{codes.total()} signals, {bad} faults; exit codes {dict(codes)}")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
