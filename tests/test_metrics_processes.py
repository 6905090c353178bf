"""Metrics over several processes: each holds the figures of all rows."""

import pytest
import torch.distributed as dist
from processes import server
from test_metrics import assert_same, measure, sample

from metrics import Calibration, Metrics


def measure_share(rank, folder, results):
    """Measure every second row in one of two processes, and send the figures of all of them."""
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    log_probs, targets = (tensor[rank::2] for tensor in sample(1001))  # in unequal shares
    metrics, alone = Metrics(10), Calibration()
    metrics.update(log_probs, targets, loss_sums=(1.0, 2.0))
    if rank:  # the first process sees none
        alone.update_rows(log_probs, targets)
    for accumulator in (metrics, alone):
        accumulator.all_reduce()
    results.send([metrics.compute(), alone.compute()])
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gloo")
    pipes = [server.Pipe(duplex=False) for _ in range(2)]
    for rank, (_, sender) in enumerate(pipes):
        server.Process(target=measure_share, args=(rank, folder, sender), daemon=True).start()
    assert all(receiver.poll(100) for receiver, _ in pipes)
    return [receiver.recv() for receiver, _ in pipes]


@pytest.mark.slow
def test_every_process_has_the_figures_of_all_rows(results):
    whole = measure(*sample(1001))

    for figures, _ in results:
        assert figures.pop("loss") == 0.5
        assert_same(figures, whole)


def test_calibration_alone_has_the_figures_of_all_rows(results):
    log_probs, targets = sample(1001)
    tracker = Calibration()
    tracker.update_rows(log_probs[1::2], targets[1::2])

    for _, figures in results:
        assert_same(figures, tracker.compute())
