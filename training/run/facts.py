"""Numbers about what a run learns from: its folder keeps them, for who reads it without torch."""

import torch
from torch import Tensor

from training.data import NAMES, Split
from training.run.state import TrainingRun

SOME = 1000  # training examples whose inputs are looked at
COMMON = 15  # validation targets of a class: chance alone rarely gives a rare one so many


def facts(run: TrainingRun) -> dict[str, float]:
    """Return what the data and the model are like, by name.

    - `classes`; `rarest` and `commonest`, how many training targets these classes have
    - `train_targets` and the like, how many targets of each split count; `block_rows`, how many of
      them are one draw of chance; `ignored`, the share of the training targets that do not count
    - `guess_nll` and `val_guess_nll`, what training and validation targets cost a model that always
      answers with the classes' shares of training, each counted once more
    - `scarcer`, how many times rarer in training than in validation any class is, of those that
      are common in validation
    - `input_spread`, the largest standard deviation over training examples of any input;
      `input_size`, the root mean square of the inputs, if they are no indices
    - `trained`, the share of the model's parameters that are trained
    - `numbers` of the splits
    """
    splits, ignore_index = run.splits, run.loss_fn.ignore_index

    def counts(split: Split) -> Tensor:
        targets = split.targets[split.targets != ignore_index]
        return torch.bincount(targets.flatten().cpu(), minlength=splits.num_classes).double()

    by_split = {name: counts(getattr(splits, name)) for name in NAMES}
    train, val = by_split["train"], by_split["val"] if len(splits.val) else by_split["train"]
    shares = (train + 1) / (train + 1).sum()
    is_common = val >= max(COMMON, float(val.sum()) / 200)
    inputs = splits.train.batch(slice(0, SOME))[0]
    sizes = [(p.numel(), p.requires_grad) for p in run.model.parameters()]
    found = {
        "classes": splits.num_classes,
        "rarest": int(train.min()),
        "commonest": int(train.max()),
        **{f"{name}_targets": int(each.sum()) for name, each in by_split.items()},
        "block_rows": run.identity["block_rows"],
        "ignored": 1 - float(train.sum()) / splits.train.targets.numel(),
        "guess_nll": -float((train * shares.log()).sum() / train.sum()),
        "val_guess_nll": -float((val * shares.log()).sum() / val.sum()),
        "scarcer": max((val / val.sum() / shares)[is_common].tolist(), default=1.0),
        "input_spread": float(inputs.float().std(0, correction=0).max()),
        "trained": sum(n for n, is_trained in sizes if is_trained) / sum(n for n, _ in sizes),
    }
    if inputs.is_floating_point():
        found["input_size"] = float(inputs.square().mean().sqrt())
    return found | splits.numbers
