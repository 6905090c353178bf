"""The benchmarks are run by hand, and rarely: that their settings still fit what they measure."""

import subprocess
import sys

import pytest
from conftest import ROOT

pytestmark = pytest.mark.slow


def benchmark(*words):
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=ROOT / "benchmarks", capture_output=True, text=True)


@pytest.mark.parametrize("ours", [[], ["--ours"]])
def test_the_memory_of_a_step_with_a_wide_output_layer_can_be_measured(ours):
    sizes = ["--classes=2000", "--rows=1024", *ours]
    done = benchmark("training.py", "memory", "--peak-of=loss=focal", *sizes)

    assert done.returncode == 0, done.stderr
    # MiB; 0 below the peak of this process, with which the other starts
    assert 0 <= float(done.stdout) < 1000


def test_a_benchmark_refuses_a_single_round_in_one_line():
    done = benchmark("training.py", "start", "--rounds=1")

    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith(
        "error: --rounds must be at least 2, for quartiles"
    )
