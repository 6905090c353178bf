"""Compare finished runs: one row per configuration, mean and spread over its seeds.

python scripts/compare.py outputs/RUN outputs/SWEEP ... (--help says more)
"""

from training.cli.compare_runs import main

if __name__ == "__main__":
    main()
