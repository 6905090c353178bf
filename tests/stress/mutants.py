"""Whether the tests would notice: faults put in on purpose, one at a time, each to be caught.

    python tests/stress/mutants.py [--only WORD]

Each mutant is one textual edit of a copy of the repository, with the tests that must fail then. A
mutant that they let live is printed, and the exit code is 1.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Mutant:
    """An edit of `file`, and a pytest expression for tests of which one must fail."""

    name: str
    file: str
    old: str
    new: str
    tests: str


STATE, LOOP, LOG = "training/state.py", "training/loop.py", "training/log.py"
CHECKPOINT, SESSION, RUN = "training/checkpoint.py", "training/session.py", "training/run.py"
SAME = "stopped_run_ends or outside_of_a_step"
MUTANTS = [
    Mutant("random state is not restored", STATE, "set_random_state(random)", "pass", SAME),
    Mutant("the step is not restored", STATE, 'state["step"], state', "0, state", SAME),
    Mutant("the position is not restored", STATE, 'trainer.visited = state["visited"]', "", SAME),
    Mutant("the window is not restored", STATE, 'trainer.window.add(*state["window"])', "", SAME),
    Mutant(
        "the epoch's loss is not restored",
        STATE,
        'trainer.epoch_loss.add(*state["epoch_loss"])',
        "",
        SAME,
    ),
    Mutant(
        "optimizer state is not restored",
        STATE,
        'optimizer.load_state_dict(state["optimizer"])',
        "",
        SAME,
    ),
    Mutant("weights are not restored", STATE, "load_weights(trainer.model, state, path)", "", SAME),
    Mutant(
        "the stored learning rate wins",
        STATE,
        "group.update(values)",
        'group.update(values); trainer.base_lrs = [group["lr"]]',
        "learning_rate",
    ),
    Mutant(
        "finished epochs are forgotten",
        SESSION,
        'self.finished, self.logged_config = state["finished"]',
        "self.finished, self.logged_config = 0",
        SAME,
    ),
    Mutant(
        "the best is forgotten",
        SESSION,
        'self.best, self.best_step = state["best"], state["best_step"]',
        "pass",
        SAME,
    ),
    Mutant(
        "log files are not cut back",
        LOG,
        "self.file.truncate(min(size, self.file.tell()))",
        "",
        SAME,
    ),
    Mutant(
        "foreign event files stay",
        LOG,
        "                file.unlink()",
        "                pass",
        "no_checkpoint_knows",
    ),
    Mutant(
        "the order ignores the epoch", "training/data.py", '"order", epoch', '"order", 1', "order"
    ),
    Mutant(
        "checksums are not compared",
        CHECKPOINT,
        "            _check_archive(file)\n",
        "",
        "checksum or damaged",
    ),
    Mutant(
        "the schema is not checked",
        CHECKPOINT,
        "    _check_schema(path, state, schema)\n",
        "",
        "without_a_field",
    ),
    Mutant(
        "the format is not checked",
        CHECKPOINT,
        "    if found != FORMAT:",
        "    if False:",
        "newer_format",
    ),
    Mutant(
        "pickles are run", CHECKPOINT, "weights_only=True", "weights_only=False", "carries_code"
    ),
    Mutant("one checkpoint is kept", CHECKPOINT, "KEPT = 2", "KEPT = 1", "keeps_two or damaged"),
    Mutant("no fsync of the file", CHECKPOINT, "os.fsync(file.fileno())", "pass", "synced"),
    Mutant("no fsync of the folder", CHECKPOINT, "os.fsync(folder)", "pass", "synced"),
    Mutant(
        "written in place",
        CHECKPOINT,
        'path.with_name(f"{path.name}.{os.getpid()}.tmp")',
        "path",
        "synced or file_operation",
    ),
    Mutant(
        "temporary files stay", CHECKPOINT, "temporary.unlink(missing_ok=True)", "pass", "full_disk"
    ),
    Mutant(
        "damaged files are not set aside",
        RUN,
        "set_aside(folder, damaged)",
        "pass",
        "damaged_newest",
    ),
    Mutant(
        "all damaged starts anew",
        CHECKPOINT,
        "    if refused:\n        causes",
        "    if False:\n        causes",
        "all_checkpoints_damaged",
    ),
    Mutant(
        "gradients are not checked",
        LOOP,
        "for number in (total, *norms))",
        "for number in (total,))",
        "not_finite_stops",
    ),
    Mutant(
        "NaN weights are written",
        SESSION,
        "    bad = first_bad(trainer.model)",
        "    bad = None",
        "never_written",
    ),
    Mutant(
        "NaN weights are loaded",
        CHECKPOINT,
        "    bad = first_bad(model)",
        "    bad = None",
        "nan_are_refused",
    ),
    Mutant(
        "structural changes are taken",
        "training/resume.py",
        "    if structural:",
        "    if False:",
        "structural",
    ),
    Mutant(
        "changed data is taken",
        SESSION,
        'if state["data"] != self.data:',
        "if False:",
        "another_content",
    ),
    Mutant(
        "no lock",
        "training/run_folder.py",
        "fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)",
        "pass",
        "second_process",
    ),
    Mutant(
        "a signal is not obeyed",
        LOOP,
        "if agreed(trainer.signals) or trainer.step",
        "if trainer.step",
        "signal",
    ),
    Mutant(
        "a full disk is forgotten",
        RUN,
        "        if log.failures:",
        "        if False:",
        "some_full_disk",
    ),
    Mutant(
        "a run folder may name Hydra's own",
        "training/resume.py",
        'or "hydra" in key[0]',
        "",
        "hydra_settings",
    ),
    Mutant(
        "a run folder is trusted",
        "training/run_folder.py",
        "model = instantiate(nodes[0], trusted)",
        "model = instantiate(nodes[0], cfg.trusted_targets)",
        "trust_on_its_own",
    ),
    Mutant(
        "targets in lists are not seen",
        "training/config.py",
        "    if isinstance(value, list):",
        "    if False:",
        "name_code",
    ),
    Mutant(
        "a target's module is not looked at",
        "training/config.py",
        "or not inside(found.__module__)",
        "",
        "name_code",
    ),
    Mutant(
        "downloads are not locked",
        "ngram/corpus.py",
        "fcntl.flock(lock, fcntl.LOCK_EX)",
        "pass",
        "one_downloads",
    ),
]


def main() -> None:
    """Mutate, test, count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="mutants with this in their name")
    word = parser.parse_args().only
    chosen = [mutant for mutant in MUTANTS if word in mutant.name]
    if caught(Mutant("no change", STATE, "", "", " or ".join(m.tests for m in chosen))):
        raise SystemExit("the tests fail without a mutant; mend them first")
    alive = [mutant.name for mutant in chosen if not caught(mutant)]
    print(f"{len(chosen)} mutants, {len(alive)} alive{': ' if alive else ''}{'; '.join(alive)}")
    sys.exit(bool(alive))


def caught(mutant: Mutant) -> bool:
    """Say whether a test fails on a copy of the repository with the edit in it."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "repository"
        listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, check=True)
        for name in listed.stdout.decode().splitlines():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name)
        file = copy / mutant.file
        text = file.read_text()
        if text.count(mutant.old) < 1:
            raise SystemExit(f"{mutant.name}: {mutant.old!r} is not in {mutant.file}")
        file.write_text(text.replace(mutant.old, mutant.new) if mutant.old else text)
        tests = [f"tests/test_{name}.py" for name in ("resume", "hostile", "training")]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-qx", "-n0", "-k", mutant.tests, *tests],
            cwd=copy,
            env=os.environ | {"PYTHONPATH": str(copy)},
            capture_output=True,
            text=True,
            check=False,
        )
    verdict = {0: "passes", 1: "caught"}.get(done.returncode, f"no answer ({done.returncode})")
    print(
        f"{verdict:8} {mutant.name}: {done.stdout.strip().splitlines()[-1].strip('!= ')}",
        flush=True,
    )
    return done.returncode == 1


if __name__ == "__main__":
    main()
