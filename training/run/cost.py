"""What a run costs: seconds by the clock, seconds of CPU, and the most memory it held."""

import re
import resource
import sys
import time
from contextlib import suppress
from pathlib import Path


class Cost:
    """Count from now on; `before` are the seconds of the run's earlier processes."""

    def __init__(self) -> None:
        self.before = [0.0, 0.0]
        self.start = [time.perf_counter(), time.process_time()]
        with suppress(OSError):  # Linux: begin a new peak, for the jobs of a sweep share a process
            Path("/proc/self/clear_refs").write_text("5")

    def seconds(self) -> list[float]:
        """Return seconds by the clock, and of CPU."""
        now = [time.perf_counter(), time.process_time()]
        return [b + n - s for b, n, s in zip(self.before, now, self.start, strict=True)]

    def scalars(self) -> dict[str, float]:
        """Return the figures that are logged, under `time/`: they differ from run to run."""
        seconds, cpu_seconds = self.seconds()
        return {"seconds": seconds, "cpu_seconds": cpu_seconds, "memory_mib": peak_mib()}


def peak_mib() -> float:
    """Return the most memory that this process has held, in MiB."""
    with suppress(OSError):
        if found := re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text()):
            return int(found[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 1024)
