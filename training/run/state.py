"""All that training depends on, as plain types: taken from a run under way, and given back."""

from pathlib import Path
from typing import Any

import torch

from training.data import stream_seed
from training.distributed import from_all, rank, world_size
from training.errors import CheckpointError
from training.loop import RunningLoss, Trainer
from training.run.checkpoint import load_weights


def trainer_state(trainer: Trainer) -> dict[str, Any]:
    """Return what the loop needs to go on as if never stopped."""
    random, *others = from_all(random_state())
    return {
        "model": trainer.model.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "optimizer_class": type(trainer.optimizer).__name__,
        "step": trainer.step,
        "epoch": trainer.epoch,
        "visited": trainer.visited,
        "epoch_loss": trainer.epoch_loss.state(),
        "window": trainer.window.state(),
        "random": random | {str(n): states for n, states in enumerate(others, 1)},
        "machine": machine(trainer),
    }


def restore_trainer(trainer: Trainer, state: dict[str, Any], path: Path) -> None:
    """Give back what `trainer_state` took; settings stay those of now.

    `load_state_dict` would bring the old learning rate back. Only the rate of the last step is
    kept, which may still have to be logged; the next step sets its own.
    """
    load_weights(trainer.model, state, path)
    optimizer = trainer.optimizer
    if state["optimizer_class"] != type(optimizer).__name__:
        raise CheckpointError(
            f"{path}: optimizer_class is {state['optimizer_class']},"
            f" this run's is {type(optimizer).__name__}"
        )
    settings = [
        {name: value for name, value in group.items() if name not in ("params", "lr")}
        for group in optimizer.param_groups
    ]
    try:
        optimizer.load_state_dict(state["optimizer"])
        for group, values in zip(optimizer.param_groups, settings, strict=True):
            group.update(values)
        trainer.epoch_loss, trainer.window = RunningLoss(), RunningLoss()
        trainer.epoch_loss.add(*state["epoch_loss"])
        trainer.window.add(*state["window"])
        random = state["random"].get(str(rank())) if rank() else state["random"]
        if random:
            set_random_state(random)
        else:  # there were fewer processes
            torch.manual_seed(stream_seed(trainer.seed, "noise", rank(), state["step"]))
    except (ValueError, TypeError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"{path}: does not fit this run ({error})") from error
    trainer.step, trainer.epoch = state["step"], state["epoch"]
    trainer.visited = state["visited"]
    if state["machine"] != machine(trainer):
        print(
            f"warning: went on {state['machine']} before, now on {machine(trainer)}:"
            " the last bits of the figures may differ (with another number of processes, dropout"
            " and noise do)"
        )


def random_state() -> dict[str, torch.Tensor]:
    """Return the state of torch's generators."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state()
    if torch.backends.mps.is_available():
        states["mps"] = torch.mps.get_rng_state()
    return states


def set_random_state(states: dict[str, torch.Tensor]) -> None:
    """Give back what `random_state` took, as far as the devices are here."""
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
    if "mps" in states and torch.backends.mps.is_available():
        torch.mps.set_rng_state(states["mps"])


def machine(trainer: Trainer) -> str:
    """Say what the last bits of a sum depend on."""
    device = next(trainer.model.parameters()).device.type
    processes = f"{world_size()} processes, " if world_size() > 1 else ""
    threads = torch.get_num_threads()
    return f"{device}, {processes}{threads} threads, torch {torch.__version__}"
