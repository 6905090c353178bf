"""Say what is wrong with runs: `training/cli/diagnose_run.py`."""

from training.cli.diagnose_run import main

if __name__ == "__main__":
    main()
