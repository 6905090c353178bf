"""Compare finished runs: one row per configuration, mean and spread over its seeds.

    python scripts/compare.py outputs/ngram-compare_losses-1a2b3c4d
    python scripts/compare.py outputs/RUN outputs/RUN ... --out FOLDER

Prints the table and writes it to FOLDER (by default the folder that holds the runs) as compare.md,
compare.csv and compare.html, a page with the curves and reliability diagrams that opens without a
server. Runs on other data or of other code are marked, and never averaged with the rest.
"""

import argparse
import os
import sys
from pathlib import Path

from rich.console import Console

from training.cli.comparison import compare
from training.cli.runs import find_runs
from training.cli.tables import print_comparison, write_files
from training.errors import UserError


def main() -> None:
    """Parse, read, print, write."""
    parser = argparse.ArgumentParser(description="Compare finished runs, one row per loss.")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folder, or a folder of runs")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where compare.* are written")
    arguments = parser.parse_args()
    try:
        runs = find_runs(arguments.runs)
        parents = [os.path.abspath(run.folder.parent) for run in runs]
        folder = arguments.out or Path(os.path.relpath(os.path.commonpath(parents)))
        comparisons = compare(runs)
        folder.mkdir(parents=True, exist_ok=True)
        console = Console(width=None if sys.stdout.isatty() else 240, highlight=False)
        for comparison in comparisons:
            print_comparison(console, comparison)
        for file in write_files(comparisons, folder):
            print(file)
    except OSError as error:
        print(f"error: --out: cannot be written ({error}); give another folder", file=sys.stderr)
        sys.exit(2)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
