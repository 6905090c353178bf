"""The command line, and many runs: settings, messages, sweeps, comparisons."""
