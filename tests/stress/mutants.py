"""Whether the tests would notice: faults put in on purpose, one at a time, each to be caught.

    python tests/stress/mutants.py [--only WORD] [--processes 2]

Each mutant is one textual edit of a copy of the repository, with the tests that must fail then. A
mutant that they let live is printed, and the exit code is 1.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
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


RUN = "training/run/"
STATE, FIT, START = f"{RUN}state.py", f"{RUN}fit.py", f"{RUN}start.py"
CHECKPOINT, LOG = f"{RUN}checkpoint.py", f"{RUN}log.py"
FOLDER, TARGETS, FINISHED = f"{RUN}folder.py", f"{RUN}targets.py", f"{RUN}finished.py"
LOOP, FINITE, WIDE = "training/loop.py", "training/finite_check.py", "training/wide_output.py"
RESUME = "training/cli/resume.py"
SAME = "stopped_run_ends or outside_of_a_step"
MUTANTS = [
    # what a checkpoint gives back
    Mutant(
        "random state is not restored", STATE, "source.set_rng_state(random[kind])", "pass", SAME
    ),
    Mutant("the step is not restored", STATE, '("step", "epoch", "vis', '("epoch", "vis', SAME),
    Mutant("the epoch is not restored", STATE, '("step", "epoch", "vis', '("step", "vis', SAME),
    Mutant("the position is not restored", STATE, '"epoch", "visited")', '"epoch")', SAME),
    Mutant(
        "the window is not restored",
        STATE,
        'RunningLoss(*state["epoch_loss"]), RunningLoss(*state["window"])',
        'RunningLoss(*state["epoch_loss"]), run.window',
        SAME,
    ),
    Mutant(
        "the epoch's loss is not restored",
        STATE,
        'RunningLoss(*state["epoch_loss"]), RunningLoss(*state["window"])',
        'run.epoch_loss, RunningLoss(*state["window"])',
        SAME,
    ),
    Mutant(
        "optimizer state is not restored",
        STATE,
        'optimizer.load_state_dict(state["optimizer"] | {"param_groups": groups})',
        "pass",
        SAME,
    ),
    Mutant(
        "weights are not restored",
        STATE,
        "checkpoint.load_weights(training.model, state, path)",
        "pass",
        SAME,
    ),
    Mutant(
        "the stored learning rate wins",
        STATE,
        'group["lr"] = stored["lr"]',
        'training.base_lrs = [stored["lr"]] * len(groups)',
        "given_on_resume",
    ),
    Mutant(
        "the stored optimizer settings win",
        STATE,
        ' | {"param_groups": groups}',
        "",
        "given_on_resume",
    ),
    Mutant(
        "finished epochs are forgotten",
        STATE,
        '("finished", "best", "best_step", "best_epoch")',
        '("best", "best_step", "best_epoch")',
        SAME,
    ),
    Mutant(
        "the best is forgotten",
        STATE,
        '("finished", "best", "best_step", "best_epoch")',
        '("finished",)',
        SAME,
    ),
    Mutant(
        "the learning rate of the last step is forgotten",
        STATE,
        'group["lr"] = stored["lr"]',
        "pass",
        "signal_is_obeyed",
    ),
    Mutant(
        "a lost best.pt is not noticed",
        STATE,
        "        check_best(run)",
        "        pass",
        "lost_best",
    ),
    Mutant(
        "another optimizer's state is taken",
        STATE,
        "    if before != now:",
        "    if False:",
        "another_optimizer",
    ),
    Mutant(
        "the schedule starts anew",
        LOOP,
        "self.schedule(self.step, num_steps)",
        "self.schedule(start // settings.batch_size, num_steps)",
        SAME,
    ),
    Mutant("the order ignores the epoch", "training/data.py", '"order", epoch', '"order"', "order"),
    Mutant(
        "each process goes on with the first's random numbers",
        STATE,
        'random = state["random"][rank()]',
        'random = state["random"][0]',
        "any_number_goes_on",
    ),
    Mutant(
        "the seconds start anew",
        STATE,
        'run.started = {name: now - state["seconds"][name] for name, now in clock().items()}',
        "pass",
        "seconds_of_a_run",
    ),
    # checkpoints
    Mutant(
        "checksums are not compared",
        CHECKPOINT,
        "        check_archive(path)\n",
        "",
        "checksum or damaged",
    ),
    Mutant(
        "the schema is not checked",
        CHECKPOINT,
        "in schema.items():",
        "in ():",
        "without_a_field",
    ),
    Mutant(
        "the format is not checked",
        CHECKPOINT,
        '(found := state.get("format")) != FORMAT',
        "False",
        "newer_format",
    ),
    Mutant(
        "pickles are run", CHECKPOINT, "weights_only=True", "weights_only=False", "carries_code"
    ),
    Mutant("one checkpoint is kept", CHECKPOINT, "KEPT = 2", "KEPT = 1", "keeps_two or damaged"),
    Mutant("no fsync of the file", FOLDER, "os.fsync(file.fileno())", "pass", "synced"),
    Mutant("no fsync of the folder", FOLDER, "os.fsync(folder)", "pass", "synced"),
    Mutant(
        "written in place",
        FOLDER,
        'path.parent / f"{path.name}.{os.getpid()}.tmp"',
        "path",
        "synced or file_operation or no_temporary_file",
    ),
    Mutant(
        "temporary files stay",
        FOLDER,
        "temporary.unlink(missing_ok=True)",
        "pass",
        "no_temporary_file",
    ),
    Mutant(
        "damaged files are not set aside",
        CHECKPOINT,
        'other.replace(f"{other}.damaged")',
        "pass",
        "damaged",
    ),
    Mutant(
        "what was never finished stays",
        START,
        "                file.unlink()",
        "                pass",
        "file_operation",
    ),
    Mutant(
        "all damaged starts anew",
        CHECKPOINT,
        "    if damaged:\n        causes",
        "    if False:\n        causes",
        "all_checkpoints_damaged",
    ),
    Mutant(
        "NaN weights are written",
        STATE,
        "if bad := checkpoint.first_bad(training.model):",
        "if bad := None:",
        "never_written",
    ),
    Mutant(
        "NaN weights are loaded",
        CHECKPOINT,
        "if bad := first_bad(model):",
        "if bad := None:",
        "nan_are_refused",
    ),
    # the log
    Mutant(
        "log files are not cut back",
        FOLDER,
        "self.file.truncate(min(size, self.file.tell()))",
        "pass",
        SAME,
    ),
    Mutant(
        "a log that was changed is not noticed",
        FOLDER,
        "if (self.size, self.checksum) != (size, checksum):",
        "if self.size != size:",
        "damaged_logs",
    ),
    Mutant(
        "changed settings are not logged",
        LOG,
        'elif path.read_text(encoding="utf-8") != config:',
        "elif False:",
        "given_on_resume",
    ),
    Mutant(
        "a checkpoint names a log that is not on disk",
        STATE,
        "run.log.flush(durable=True)",
        "run.log.flush()",
        "log_is_on_disk",
    ),
    Mutant(
        "a log that cannot be written is passed over",
        FOLDER,
        "with writing(self.path, len(data)):",
        "with suppress(OSError):",
        "log_that_cannot_be_written",
    ),
    Mutant(
        "a log that cannot be flushed is passed over",
        FOLDER,
        "with writing(self.path, self.size):",
        "with suppress(OSError):",
        "log_that_cannot_be_written",
    ),
    Mutant(
        "each logged loss is the mean since the start",
        FIT,
        "    run.window = RunningLoss()",
        "    pass",
        "logged_loss",
    ),
    # the run folder
    Mutant(
        "no lock",
        FOLDER,
        "lock.acquire(blocking=False)",
        "pass",
        "second_process",
    ),
    Mutant(
        "the settings are written before the status",
        START,
        "            write_status(folder, **status)\n",
        "            RunLog(folder, positions).start(run.identity, run.config, 0)\n"
        "            write_status(folder, **status)\n",
        "between_status_and_settings",
    ),
    Mutant(
        "a folder with a run is taken", FOLDER, "if (folder / CONFIG).exists():", "if 0:", "claimed"
    ),
    Mutant(
        "a complete run is trained again",
        START,
        "if trained and from_main(",
        "if False and from_main(",
        "finished_run_is_left",
    ),
    Mutant("structural changes are taken", RESUME, "    if structural:", "    if 0:", "structural"),
    Mutant(
        "changed data is taken",
        STATE,
        'if state["data"] != (now := examples_and_teacher(run)):',
        "if False:",
        "another_content",
    ),
    Mutant(
        "resume ignores the settings given",
        RESUME,
        "put_on_top(cfg, values, task)",
        "pass",
        "given_on_resume",
    ),
    Mutant(
        "resume ignores the options given",
        RESUME,
        "        cfg[group] = ",
        "        _ = ",
        "given_on_resume",
    ),
    Mutant(
        "resume takes settings of Hydra's own",
        RESUME,
        "if group not in cfg:",
        "if False:",
        "takes_settings_only",
    ),
    # what happens at a desk
    Mutant(
        "a closed terminal is not obeyed",
        "training/run/signals.py",
        'hangup = getattr(signal, "SIGHUP", None)',
        "hangup = None",
        "signal_is_obeyed",
    ),
    Mutant(
        "nohup is not obeyed",
        "training/run/signals.py",
        " and signal.getsignal(hangup) != signal.SIG_IGN",
        "",
        "ignored_at_the_start",
    ),
    Mutant(
        "a screen that is lost is an error",
        "training/cli/screen.py",
        "except OSError:",
        "except ZeroDivisionError:",
        "screen_that_is_lost",
    ),
    Mutant(
        "a moved folder is not noticed", FOLDER, "if not self.is_in_place():", "if 0:", "is_gone"
    ),
    Mutant(
        "what a job prints is mixed with the bar of its sweep",
        "training/cli/screen.py",
        'content != b"\\n" and ',
        "",
        "not_mixed_with_the_bar",
    ),
    Mutant(
        "a job that waits to be done again counts as done",
        "training/cli/sweep.py",
        "if s not in self.before}",
        "}",
        "jobs_folders_say",
    ),
    Mutant(
        "another's job is called failed",
        "training/cli/sweep.py",
        "if read_status(folder) == before:",
        "if True:",
        "stays_complete",
    ),
    Mutant(
        "any teacher will do",
        STATE,
        """f"{run.identity['data']}+{teacher}" if teacher""",
        """str(run.identity["data"]) if teacher""",
        "content_decides",
    ),
    # whose code is run
    Mutant(
        "a run folder is trusted",
        FINISHED,
        "model = instantiate(cfg.model, trusted, ",
        "model = instantiate(cfg.model, trusted, guarded=False, ",
        "trust_on_its_own",
    ),
    Mutant(
        "a run that goes on is trusted",
        RESUME,
        '"guarded": True',
        '"guarded": False',
        "goes_on_names_code",
    ),
    Mutant(
        "the loss of a folder trusts the folder's own list",
        FINISHED,
        "instantiate(cfg.loss, trusted,",
        'instantiate(cfg.loss, cfg.get("trusted", trusted),',
        "loss_cannot_trust",
    ),
    Mutant(
        "a stored setting `trusted` is let through",
        TARGETS,
        'if strict and "trusted" in value:',
        "if False:",
        "trust_is_no_setting",
    ),
    Mutant(
        "a target's module is not looked at",
        TARGETS,
        "_is_in(home, trusted)",
        "True",
        "any_function",
    ),
    Mutant(
        "any class may stand in any group",
        TARGETS,
        "issubclass(found, kinds_of(group))",
        "True",
        "each_group",
    ),
    Mutant(
        "what is not allowed is imported",
        TARGETS,
        "if not is_open and not _is_in(target, (*LIBRARIES, *trusted)):",
        "if False:",
        "not_even_imported",
    ),
    Mutant(
        "a folder may look up the environment",
        FINISHED,
        "as_written(read_config(folder), is_call)",
        "read_config(folder)",
        "look_anything_up",
    ),
    Mutant(
        "what is from the environment is logged",
        f"{RUN}build.py",
        "written = as_written(cfg, is_secret)",
        "written = cfg",
        "neither_kept_nor_logged",
    ),
    Mutant(
        "an error shows what is from the environment",
        "training/cli/main.py",
        "without_secrets(str(error), cfg)",
        "str(error)",
        "from_the_environment_as_it_was_written",
    ),
    Mutant(
        "a folder has its data fetched",
        TARGETS,
        'value["download"] = False',
        "pass",
        "read_and_not_fetched",
    ),
    Mutant(
        "a state smaller than its parameters is taken",
        STATE,
        "    checkpoint.check_optimizer(optimizer, path)\n",
        "",
        "smaller_than_its_parameters",
    ),
    Mutant(
        "where a state lies in its storage is not looked at",
        CHECKPOINT,
        "(value.shape, value.dtype, value.stride())",
        "(value.shape, value.dtype)",
        "smaller_than_its_parameters",
    ),
    Mutant(
        "a state that lacks a name is taken",
        CHECKPOINT,
        "for name, made in fresh.state[zeros].items():",
        "for name, made in [*fresh.state[zeros].items()][:2]:",
        "lacks_a_name",
    ),
    Mutant(
        "links are followed",
        FOLDER,
        "        refuse_links(folder, to_write=True)\n",
        "",
        "holds_a_link",
    ),
    Mutant(
        "hard links are written to",
        FOLDER,
        "        refuse_links(folder, to_write=True)\n",
        "        refuse_links(folder)\n",
        "second_name",
    ),
    Mutant(
        "texts of a folder are printed as they are",
        f"{RUN}untrusted.py",
        "return printable(value) if isinstance(value, str) else value",
        "return value",
        "printed_escaped or odd_names",
    ),
    Mutant(
        "a tensor may be larger than its file",
        CHECKPOINT,
        "        check_tensors(state)\n",
        "",
        "facts_of_another_kind",
    ),
    Mutant(
        "compressed records are accepted in checkpoints",
        CHECKPOINT,
        "archive.infolist()):",
        "()):",
        "compressed_record",
    ),
    Mutant(
        "changed or missing log files are not told",
        FOLDER,
        "if (self.size, self.checksum) != (size, checksum):",
        "if False:",
        "damaged_logs",
    ),
    Mutant(
        "no fsync of metrics and events",
        FOLDER,
        "os.fsync(self.file.fileno())",
        "pass",
        "log_is_on_disk",
    ),
    Mutant(
        "config.yaml is written first",
        LOG,
        "        if not step:\n",
        "        write_file(path, config.encode())\n        if not step:\n",
        "settings_are_written_last",
    ),
    # steps
    Mutant(
        "gradients are not checked",
        FINITE,
        "for number in (loss, *norms)",
        "for number in (loss,)",
        "not_finite_stops",
    ),
    Mutant(
        "the check comes after clipping",
        LOOP,
        "        training.finite_check(loss, norms, inputs, outputs)",
        "        norm = torch.linalg.vector_norm(torch.stack(norms))\n"
        "        clip_grads_with_norm_(parameters, settings.clip_norm or 1e9, norm)\n"
        "        training.finite_check(loss, norms, inputs, outputs)",
        "named_before_clipping",
    ),
    Mutant(
        "a step after a skipped one is taken",
        FINITE,
        "torch.minimum(self.first_bad_step, step)",
        "step",
        "mask_skips",
    ),
    Mutant(
        "a skipped step at the end of an epoch is not noticed",
        LOOP,
        "    training.finite_check.raise_if_skipped()",
        "    pass",
        "end_of_the_epoch",
    ),
    Mutant(
        "evaluation mode stays on", LOOP, "    training.model.train()\n", "", "with_dropout_again"
    ),
    Mutant(
        "a signal is not obeyed",
        FIT,
        "if agreed_signal(run.signals) or training.step",
        "if training.step",
        "signal_is_obeyed",
    ),
    Mutant(
        "many classes ignore bf16",
        WIDE,
        'training.settings.precision == "bf16"',
        "False",
        "blocks_are_computed_in_bf16",
    ),
    Mutant(
        "gradients of processes are averaged, not summed",
        "training/parallel.py",
        "gradient * dist.get_world_size(), None",
        "gradient, None",
        "steps_of_one",
    ),
    Mutant(
        "each process takes the whole batch",
        LOOP,
        "slice(*own_share(start, end))",
        "slice(start, end)",
        "steps_of_one",
    ),
]
PYTEST = (sys.executable, "-m", "pytest", "-qx", "-n0", "--tb=line")
FILES = (
    "resume",
    "hostile",
    "shared_folders",
    "training",
    "stress_gaps",
    "wide_output",
    "distributed",
    "desk",
)


def main() -> None:
    """Mutate, test, count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="mutants with this in their name")
    parser.add_argument("--processes", type=int, default=2, help="mutants tested side by side")
    options = parser.parse_args()
    chosen = [mutant for mutant in MUTANTS if options.only in mutant.name]
    if caught(Mutant("no change", STATE, "", "", " or ".join(m.tests for m in chosen))):
        raise SystemExit("the tests fail without a mutant; repair them first")
    with ThreadPoolExecutor(options.processes) as pool:  # each waits for a process of its own
        verdicts = list(pool.map(caught, chosen))
    alive = [mutant.name for mutant, dead in zip(chosen, verdicts, strict=True) if not dead]
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
        text = file.read_text(encoding="utf-8")
        if text.count(mutant.old) < 1:
            raise SystemExit(f"{mutant.name}: {mutant.old!r} is not in {mutant.file}")
        file.write_text(
            text.replace(mutant.old, mutant.new) if mutant.old else text, encoding="utf-8"
        )
        tests = [f"tests/test_{name}.py" for name in FILES]
        done = subprocess.run(
            [*PYTEST, "-m", "not browser and not gpu", "-k", mutant.tests, *tests],
            cwd=copy,
            env=os.environ | {"PYTHONPATH": str(copy)},
            capture_output=True,
            text=True,
            check=False,
        )
    code = done.returncode
    is_caught = code == 1 or code < 0  # by a test, or by a signal such as SIGSEGV
    verdict = "caught" if is_caught else "passes" if code == 0 else f"no answer ({code})"
    reason = done.stdout.partition("FAILURES ===")[2] or done.stdout
    shown = " ".join(reason.replace(str(copy), "").split()).strip("= ")[:300]
    print(f"{verdict:8} {mutant.name}: {shown}", flush=True)
    return is_caught


if __name__ == "__main__":
    main()
