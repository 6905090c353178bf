"""What a training step costs, beside loops written out plainly.

    python benchmarks/training.py small       # Sonnet 2, the default run; Lightning if installed
    python benchmarks/training.py parts       # where the seconds of a default run go
    python benchmarks/training.py wide        # large vocabularies: --text FILE, the complete works
    python benchmarks/training.py precision   # nll after as many steps in bfloat16: --text FILE
    python benchmarks/training.py memory      # peak memory of every loss, 2,048 x 68,500 logits
    python benchmarks/training.py scaling     # by vocabulary, batch, text: --text FILE --plot FILE
    python benchmarks/training.py start       # from the command to the first step

A table's times are medians. Each round runs every row once, in an order of its own; `ratio` is the
median, and `quartiles` those, of the ratio to the first row in the same round, so that another
program on the machine slows both sides alike. Memory is measured in a fresh process per row: how
far its peak resident set (ru_maxrss) rises above what it was with model and optimizer there.
"""

import argparse
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Python looks beside a script first, and this one has the name of a package
sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch  # noqa: E402

from benchmarks.training_parts import parts, start  # noqa: E402
from benchmarks.training_scaling import scaling  # noqa: E402
from benchmarks.training_small import small  # noqa: E402
from benchmarks.training_wide import memory, peak, precision, wide  # noqa: E402


def main() -> None:
    """Read the command line and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "what", choices=["small", "parts", "wide", "precision", "memory", "scaling", "start"]
    )
    parser.add_argument("--text", help="the complete works, as UTF-8")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=200, help="of precision")
    parser.add_argument("--classes", type=int, default=68_500)
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--plot")
    parser.add_argument("--peak-of", help="print only the peak memory with these settings, in MiB")
    parser.add_argument("--ours", action="store_true")
    args = parser.parse_args()
    if args.rounds < 2:
        parser.error("--rounds must be at least 2, for quartiles")
    torch.set_num_threads(args.threads)
    if args.peak_of:
        print(json.dumps(peak(args.peak_of, args.ours, args.classes, args.rows)))
        return
    if args.what in ("wide", "precision", "scaling") and not args.text:
        parser.error("--text is needed: a file with the complete works")
    {
        "small": lambda: small(args.rounds),
        "parts": lambda: parts(args.rounds),
        "wide": lambda: wide(args.text, args.rounds),
        "precision": lambda: precision(args.text, args.steps),
        "memory": lambda: memory(args.classes, args.rows),
        "scaling": lambda: scaling(args.text, args.rounds, args.plot),
        "start": lambda: start(args.rounds),
    }[args.what]()


if __name__ == "__main__":
    main()
