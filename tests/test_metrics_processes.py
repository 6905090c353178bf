"""Metrics over several processes: each holds the figures of all rows, adaptive ECE among them."""

import json
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from test_metrics import assert_same, measure, sample

from metrics.calibration import Calibration

PROCESS = """
import json, sys
import torch
import torch.distributed as dist
sys.path.insert(0, sys.argv[1])
from metrics.calibration import Calibration
from metrics.tracker import Metrics

rank, world, folder = int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
log_probs, targets = (tensor[rank::world] for tensor in torch.load(f"{folder}/rows.pt"))
metrics = Metrics(10)
metrics.update(log_probs, targets, loss_sums=(1.0, 2.0))
metrics.all_reduce()
small = Calibration(limit=600)  # enough for each, not for all
small.update_rows(log_probs, targets)
small.all_reduce()
print(json.dumps([metrics.compute(), small.compute()]))
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
    whole = measure(*sample(1001))

    for figures, _ in results:
        assert figures.pop("loss") == 0.5
        assert_same(figures, whole)


def test_what_no_process_can_keep_alone_overflows_in_all(results):
    tracker = Calibration(limit=600)
    tracker.update_rows(*sample(1001))

    for _, figures in results:
        assert_same(figures, tracker.compute())
