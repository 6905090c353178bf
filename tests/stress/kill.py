"""Whether a run survives: kill -9 at random moments, and a stop at each file operation of a save.

    python tests/stress/kill.py [--task ngram] [--kills 200] [OVERRIDE ...]

A run that is never stopped is the reference. Then runs are started, killed, resumed, killed again,
several times within an epoch, until `--kills` processes have died; each run is resumed to its end
and compared with the reference: every checkpoint, the metrics file, every raw TensorBoard event.
At last one process for each file operation of the saves is made to die right before it, and, where
it writes, half-way through it. Processes are forks of this one, which has all it needs imported.
"""

import argparse
import builtins
import contextlib
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[2])

import torch  # noqa: E402
from hydra.core.global_hydra import GlobalHydra  # noqa: E402
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader  # noqa: E402
from tensorboard.compat.proto.event_pb2 import Event  # noqa: E402

from training.cli.main import main  # noqa: E402
from training.errors import CheckpointError  # noqa: E402
from training.run import fit  # noqa: E402
from training.run.checkpoint import load_checkpoint, step_files  # noqa: E402
from training.run.folder import read_status  # noqa: E402

SETTINGS = ["trainer.epochs=4", "trainer.log_every=3", "trainer.save_every=5", "trainer.figures=1"]
TASKS = {
    "ngram": [
        "data.max_lines=400",
        "trainer.batch_size=32",
        "model.hidden_dim=32",
        "report.kneser_ney.max_order=0",
    ],
    "vision": [],
}
COMPARED = (
    "model",
    "optimizer",
    "random",
    "step",
    "epoch",
    "visited",
    "finished",
    "best",
    "best_step",
    "best_epoch",
    "epoch_loss",
    "window",
)


def child(work: Callable[[], None]) -> int:
    """Do the work in a fork of this process; return its id."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        work()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def train(task: str, *arguments: str) -> Callable[[], None]:
    """Return the command line of the task as work for a child."""

    def work() -> None:
        sys.argv[:] = [f"scripts/train_{task}.py", *arguments]
        GlobalHydra.instance().clear()
        try:
            main(task)
        except SystemExit as stop:
            if stop.code:
                raise

    return work


def finish(process: int) -> int:
    """Wait for a child; return its exit code, negative for the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def events(folder: Path) -> Counter[tuple[str, int, bytes]]:
    """Return every raw event of a run, with how often it is there; times left out."""
    found: Counter[tuple[str, int, bytes]] = Counter()
    for file in folder.glob("events.out.tfevents.*"):
        for raw in RawEventFileLoader(str(file)).Load():
            event = Event.FromString(raw)
            for value in event.summary.value:
                if value.tag.startswith("_hparams_/"):
                    value.ClearField("metadata")  # which says when the run began and ended
                if not value.tag.startswith("~time/"):
                    found[value.tag, event.step, value.SerializeToString()] += 1
    return found


def same(a: Any, b: Any) -> bool:
    """Say whether two states are equal to the bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def metrics(folder: Path) -> list[Any]:
    """Return the lines of metrics.jsonl, times left out."""
    lines = map(json.loads, (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line["split"] != "time"]


def differences(folder: Path, reference: Path) -> list[str]:
    """Say in what a run is not the reference."""
    found = []
    for name in ("checkpoints/best.pt", step_files(reference)[0].relative_to(reference)):
        states = [load_checkpoint(run / name) for run in (folder, reference)]
        for field in COMPARED:
            if not same(*(state.get(field) for state in states)):
                found.append(f"{name}: {field}")
    if metrics(folder) != metrics(reference):
        found.append("metrics.jsonl")
    logged = events(folder)
    if logged != events(reference):
        found.append("events")
    if len({key[:2] for key in logged}) != logged.total():
        found.append("a tag twice at a step")
    if read_status(folder)["status"] != "complete":
        found.append("status.json")
    return found


def random_kills(task: str, settings: list[str], count: int, seconds: float) -> int:
    """Kill `count` processes at random moments; return how many runs ended otherwise."""
    wrong = done = runs = 0
    moments: list[int] = []
    while done < count:
        folder, runs = Path(f"run{runs}"), runs + 1
        code = -1
        while code:
            resume = [f"resume={folder}"] if (folder / "config.yaml").exists() else []
            process = child(train(task, *(resume or [*settings, f"hydra.run.dir={folder}"])))
            if done < count and random.random() < 0.85:  # the others come to their end
                if random.random() < 0.9:  # the others may die before they have begun
                    wait_for_training(folder, process)
                time.sleep(random.random() ** 2 * seconds)  # most of them while it trains
                os.kill(process, signal.SIGKILL)
            code = finish(process)
            if code == -signal.SIGKILL:
                done += 1
                moments.append(len(_lines(folder)))
            elif code:
                break
        found = [f"exit code {code}"] if code else differences(folder, Path("reference"))
        wrong += bool(found)
        if found:
            print(f"{folder}: {', '.join(found)}")
        else:
            shutil.rmtree(folder)
    spread = f"at {len(set(moments))} different lengths of metrics.jsonl"
    print(f"{done} kills in {runs} runs ({spread}): {wrong} differences", flush=True)
    return wrong


def wait_for_training(folder: Path, process: int) -> float:
    """Wait until the process has said that it is running, or ended; return the time then."""
    while read_status(folder).get("pid") != process:
        if os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            break
        time.sleep(0.005)
    return time.perf_counter()


def _lines(folder: Path) -> list[str]:
    file = folder / "metrics.jsonl"
    return file.read_text(encoding="utf-8").splitlines() if file.exists() else []


@contextmanager
def dying_at(point: int, half: bool) -> Iterator[list[str]]:
    """Die right before the file operation of that number, or after half of it if it writes."""
    made: list[str] = []

    def wrapped(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*arguments: Any, **options: Any) -> Any:
            if saving:
                made.append(name)
                if len(made) == point:
                    os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)

        return operation

    saving: list[bool] = []

    class File(io.FileIO):
        def write(self, content: Any) -> int:
            if saving:
                made.append("write")
                if len(made) == point:
                    if half:
                        super().write(memoryview(content)[: len(content) // 2])
                    os.kill(os.getpid(), signal.SIGKILL)
            return super().write(content)

    def opened(path: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if saving and mode == "wb":
            made.append("open")
            if len(made) == point:
                os.kill(os.getpid(), signal.SIGKILL)
            return File(path, mode)
        return builtins.open(path, mode, *arguments, **options)

    def inside(real: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*arguments: Any, **options: Any) -> Any:
            saving.append(True)
            try:
                return real(*arguments, **options)
            finally:
                saving.pop()

        return operation

    for saves in ("save", "save_checkpoint"):  # to resume from, with the status; the best weights
        setattr(fit, saves, inside(getattr(fit, saves)))
    for module, name in ((os, "fsync"), (os, "replace"), (os, "open"), (os, "unlink")):
        setattr(module, name, wrapped(name, getattr(module, name)))
    Path.open = opened  # type: ignore[assignment, method-assign]
    yield made


def file_operations(task: str, settings: list[str], most: int) -> int:
    """Die at each file operation of the saves; return how many runs ended otherwise."""
    folder, wrong, points = Path("operations"), 0, 0
    Path("count").write_text("0", encoding="utf-8")

    def counting() -> None:
        with dying_at(-1, False) as made:
            train(task, *settings, "hydra.run.dir=counted")()
        Path("count").write_text(str(len(made)), encoding="utf-8")

    assert finish(child(counting)) == 0
    total = int(Path("count").read_text(encoding="utf-8"))
    numbers = range(1, total + 1) if total <= most else sorted(random.sample(range(1, total), most))
    for point in numbers:
        for half in (False, True):

            def dying(point: int = point, half: bool = half) -> None:
                with dying_at(point, half):
                    train(task, *settings, f"hydra.run.dir={folder}")()

            died = finish(child(dying)) == -signal.SIGKILL
            files = step_files(folder)
            lost = bool(files) and all(map(_damaged, files))
            points += 1
            code = finish(child(train(task, f"resume={folder}")))
            found = [f"exit code {code}"] if code else differences(folder, Path("reference"))
            if not died:
                found.append("did not die")
            if lost:
                found.append("no good checkpoint was left")
            wrong += bool(found)
            if found:
                print(f"operation {point}{' half' if half else ''}: {', '.join(found)}")
            shutil.rmtree(folder)
    print(f"{points} stops at {len(numbers)} of {total} file operations: {wrong} differences")
    return wrong


def _damaged(path: Path) -> bool:
    try:
        load_checkpoint(path)
    except CheckpointError:
        return True
    return False


def main_of_benchmark() -> None:
    """Parse, kill, count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", default="ngram", help="of scripts/train_TASK.py")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--operations", type=int, default=60, help="at most so many, at random")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("overrides", nargs="*", help="settings that make the run a short one")
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    torch.set_num_threads(1)
    settings = [*SETTINGS, *TASKS.get(arguments.task, []), *arguments.overrides]
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        with contextlib.redirect_stdout(io.StringIO()):
            train(arguments.task, *settings, "hydra.run.dir=warm")()  # what a fork would import
        process = child(train(arguments.task, *settings, "hydra.run.dir=reference"))
        start = wait_for_training(Path("reference"), process)
        assert finish(process) == 0
        seconds = time.perf_counter() - start
        print(f"training takes {seconds:.1f} s", flush=True)
        wrong = random_kills(arguments.task, settings, arguments.kills, seconds)
        wrong += file_operations(arguments.task, settings, arguments.operations)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main_of_benchmark()
