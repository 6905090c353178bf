"""Fit a temperature, and print error and ECE before and after, as papers do.

python scripts/calibrate.py outputs/RUN... (--help says more)
"""

from training.cli.calibrate_run import main

if __name__ == "__main__":
    main()
