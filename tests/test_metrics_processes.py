"""Metrics over several processes: each holds the figures of all rows."""

import json
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from test_metrics import assert_same, measure, sample

from metrics import Calibration

PROCESS = """
import json, sys
import torch
import torch.distributed as dist
sys.path.insert(0, sys.argv[1])
from metrics import Calibration, Metrics

rank, world, folder = int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
log_probs, targets = (tensor[rank::world] for tensor in torch.load(f"{folder}/rows.pt"))
metrics = Metrics(10)
other = (0.4 * log_probs).log_softmax(1) if rank else None  # the first process sees none
metrics.update(log_probs, targets, loss_sums=(1.0, 2.0), other_log_probs=other)
metrics.all_reduce()
alone = Calibration()
alone.update_rows(log_probs, targets)
alone.all_reduce()
print(json.dumps([metrics.compute(), alone.compute()]))
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gloo")
    torch.save(sample(1001), folder / "rows.pt")  # in unequal shares
    command = [sys.executable, "-W", "ignore", "-c", PROCESS, str(ROOT)]
    processes = [
        subprocess.Popen([*command, str(rank), "2", str(folder)], stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    return [json.loads(process.communicate(timeout=100)[0]) for process in processes]


def test_every_process_has_the_figures_of_all_rows(results):
    log_probs, targets = sample(1001)
    whole, other = measure(log_probs, targets), Calibration()
    other.update_rows((0.4 * log_probs[1::2]).log_softmax(1), targets[1::2])

    for figures, _ in results:
        assert figures.pop("loss") == 0.5
        assert figures.pop("ece_other") == pytest.approx(other.compute()["ece"], abs=1e-13)
        assert_same(figures, whole)


def test_calibration_alone_has_the_figures_of_all_rows(results):
    tracker = Calibration()
    tracker.update_rows(*sample(1001))

    for _, figures in results:
        assert_same(figures, tracker.compute())
