"""Say what is wrong with runs, from the settings and figures in their folders.

    python scripts/diagnose.py outputs/RUN...
    python scripts/diagnose.py outputs/RUN --try
    python scripts/diagnose.py outputs/RUN --try optimizer.lr=0.002 loss=focal

A finding is a symptom, its evidence, its likely cause, and the one setting to change next. --try
trains the run again, once with each change that was found (or given) and nothing else, in
outputs/RUN-try, and compares. Where nothing was found, it tries two steps, half the learning rate,
and label smoothing.
"""

import math
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from training.cli.resume import changed_settings, goes_on
from training.cli.runs import read_run
from training.cli.script import Parser, run_script
from training.cli.settings import parse
from training.errors import ConfigError, DataError, UserError
from training.run.diagnosis import diagnosis, usual_changes
from training.run.folder import STATUS, from_here, read_status, shell_line
from training.run.untrusted import printable


def main() -> None:
    """Diagnose what the command line names; exit with the right code."""
    run_script(diagnose_runs)


def diagnose_runs() -> None:
    """Parse, read, print; try changes where that is asked for."""
    parser = Parser(description="Say what is wrong with runs, and what to change next.")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folder, or a folder of runs")
    help_of_try = "train again with one change at a time: those that were found, or these"
    parser.add_argument("--try", nargs="*", dest="changes", metavar="CHANGE", help=help_of_try)
    parser.add_trust()
    arguments = parser.parse_args()
    folders = [folder for run in arguments.runs for folder in run_folders(Path(run))]
    if arguments.changes is not None and len(folders) > 1:
        raise ConfigError(f"--try: give one run, not {len(folders)}")
    # on a terminal sentences break between words, and commands nowhere
    console = Console(highlight=False, markup=False, soft_wrap=not sys.stdout.isatty())
    for folder in folders:
        found = diagnosis(folder)
        console.print(f"{folder}: {'' if found else HEALTHY}")
        for number, finding in enumerate(found, start=1):
            console.print(f"{number}. {printable(str(finding))}")
            if finding.change:
                script = [from_here(Path(sys.executable)), from_here(Path(sys.argv[0]))]
                again = shell_line([*script, str(folder), "--try", finding.change])
                console.print(f"   {printable(again)}", soft_wrap=True)
    console.print(UNSEEN)
    if arguments.changes is not None:
        changes = arguments.changes or [finding.change for finding in found if finding.change]
        try_changes(folders[0], changes or usual_changes(folders[0]), arguments.trust)


HEALTHY = (
    "nothing found; looked at inputs and targets, the learning rate, confidence, classes, the"
    " length of training, the loss, and the sizes of the splits"
)
UNSEEN = (
    "A run folder does not show labels that are wrong in all splits alike, examples that stand in"
    " two splits, or what the model looks at."
)


def run_folders(path: Path) -> list[Path]:
    """Return a run folder, or those in a folder of runs."""
    found = [path] if (path / STATUS).exists() else [f.parent for f in path.glob(f"*/{STATUS}")]
    if not found:
        raise DataError(f"{path}: holds no run; give folders from outputs/")
    return sorted(found)


def try_changes(folder: Path, changes: Iterable[str], trusted: Sequence[str]) -> None:
    """Train the run again with each change alone, and compare with it.

    The settings are those of the run's folder, which may name only what a run folder may name.
    """
    from training.cli.comparison import compare
    from training.cli.tables import print_comparisons
    from training.run.start import start  # torch, which a diagnosis does without

    old = read_run(folder)
    runs = [old]
    again = [from_here(Path(sys.executable)), "-m", "training", old.task]
    again += [word for package in trusted for word in ("--trust", package)]
    settings = {change: changed_settings(folder, [change], old.task) for change in changes}
    for change, cfg in settings.items():
        key = parse(change).key_or_group
        new = folder.with_name(f"{folder.name}-try") / change.replace("/", "_")
        loss = change.partition("=")[2] if key == "loss" else old.loss
        try:
            if read_status(new).get("status") != "complete":
                go_on = partial(start, cfg, new, resumed=goes_on(new, cfg), quiet=True)
                go_on(loss=loss, trusted=trusted, guarded=True, own=[key], command=again)
            runs.append(read_run(new))
            before, after = (run.figures.get("val_nll", math.nan) for run in (old, runs[-1]))
            print(f"{change}: the best val nll is {after:.4f}, {before:.4f} before")
        except UserError as error:
            print(f"{change}: {error}")
    print_comparisons(compare(runs))
