"""Compare finished runs: one row per configuration, mean and spread over its seeds.

    python scripts/compare.py outputs/ngram-compare_losses-1a2b3c4d
    python scripts/compare.py outputs/RUN outputs/RUN ... --out FOLDER

Prints the table and writes it to FOLDER (by default the folder that holds the runs, or the current
one for runs on different drives) as compare.md, compare.csv and compare.html, a page with the
curves and reliability diagrams that opens without a server. Runs on other data or of other code are
marked, and never averaged with the rest.
"""

import os
import sys
from pathlib import Path

from training.cli.comparison import compare
from training.cli.runs import find_runs
from training.cli.script import Parser, run_script
from training.cli.tables import print_comparisons, write_files
from training.errors import CheckpointError, ConfigError
from training.run.folder import from_here


def main() -> None:
    """Compare what the command line names; exit with the right code."""
    run_script(compare_and_write)


def compare_and_write() -> None:
    """Parse, read, write, print."""
    parser = Parser(description="Compare finished runs, one row per loss.")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folder, or a folder of runs")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where compare.* are written")
    arguments = parser.parse_args()
    runs = find_runs(arguments.runs)
    try:
        shared = os.path.commonpath([os.path.abspath(run.folder.parent) for run in runs])
    except ValueError:  # the runs are on different drives of Windows
        shared = os.curdir
    folder = arguments.out or Path(from_here(Path(shared)))
    comparisons = compare(runs)
    command = [from_here(Path(sys.executable)), from_here(Path(sys.argv[0])), *sys.argv[1:]]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files = write_files(comparisons, folder, command)
    except (OSError, CheckpointError) as error:
        raise ConfigError(f"--out: cannot be written ({error}); give another folder") from error
    finally:
        print_comparisons(comparisons)
    print(*files, sep="\n")
