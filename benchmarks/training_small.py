"""Small models beside the tutorial's loop, a bare loop, and Lightning where it is installed."""

import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.training_common import Case, compare, compose, epochs_of, for_splits, timed
from training.data import Split, epoch_order
from training.run.targets import instantiate


class TutorialModel(nn.Module):
    """Embedding, two linear layers, a window at a time."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(vocab_size, 10)
        self.linear1 = nn.Linear(20, 128)
        self.linear2 = nn.Linear(128, vocab_size)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits (1, V) of one window, or (N, V) of (N, 2)."""
        return self.linear2(F.relu(self.linear1(self.embeddings(inputs).view(-1, 20))))


def tutorial(
    model: TutorialModel, words: list[str], vocabulary: tuple[str, ...]
) -> Callable[[], None]:
    """Return an epoch of the tutorial's loop."""
    ids = {word: i for i, word in enumerate(vocabulary)}
    loss_function = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
    windows = [([words[i - 1], words[i - 2]], words[i]) for i in range(2, len(words))]

    def epoch() -> None:
        total = 0.0
        for context, target in windows:
            inputs = torch.tensor([ids[word] for word in context], dtype=torch.long)
            model.zero_grad()
            logits = model(inputs)
            loss = loss_function(logits, torch.tensor([ids[target]], dtype=torch.long))
            loss.backward()
            optimizer.step()
            total += loss.item()

    return epoch


def bare(model: nn.Module, split: Split, batch_size: int, optimizer: Any, clip: float) -> float:
    """Train an epoch in as few lines as there are; return the loss of the last batch."""
    model.train()
    order = epoch_order(len(split), 1, 1)
    for rows in order.split(batch_size):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(split.inputs[rows]), split.targets[rows])
        loss.backward()
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
    return loss.item()


def lightning(
    model: nn.Module, split: Split, batch_size: int, epochs: int, make: Any, clip: float
) -> Case | None:
    """Return epochs of Lightning's Trainer with its TensorBoard log, start and end left out."""
    try:
        import lightning as L
        from lightning.pytorch.loggers import TensorBoardLogger
    except ImportError:
        return None
    import logging
    import warnings

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    times: list[float] = []

    class Module(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def training_step(self, batch: Any, _: int) -> Tensor:
            loss = F.cross_entropy(self.model(batch[0]), batch[1])
            self.log("train/loss", loss)
            return loss

        def configure_optimizers(self) -> Any:
            return make(self.model.parameters())

        def on_train_start(self) -> None:
            times.append(time.perf_counter())

        def on_train_end(self) -> None:
            times.append(time.perf_counter())

    data = torch.utils.data.TensorDataset(split.inputs, split.targets)
    loader = torch.utils.data.DataLoader(data, batch_size, shuffle=True)

    def case() -> float:
        with tempfile.TemporaryDirectory() as folder:
            trainer = L.Trainer(
                max_epochs=epochs,
                accelerator="cpu",
                logger=TensorBoardLogger(folder),
                log_every_n_steps=50,
                gradient_clip_val=clip or None,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
            trainer.fit(Module(), loader)
        return (times[-1] - times[-2]) / epochs

    return case


def sonnet2_cases() -> dict[str, Case]:
    """Return an epoch of Sonnet 2 each: the tutorial's loop first."""
    from ngram.corpus import read_sonnets

    cfg = {name: compose(f"experiment={name}") for name in ("sonnet2", "sonnet2_fast")}
    splits = instantiate(cfg["sonnet2"].data)
    words, names = read_sonnets([2]).split(), splits.class_names
    plain = tutorial(TutorialModel(len(names)), words, names)
    one, fast = (epochs_of(for_splits(c, splits), splits.train) for c in cfg.values())
    cases: dict[str, Case] = {
        "the tutorial's loop": timed(plain),
        "experiment=sonnet2": timed(lambda: one(1)),
        "experiment=sonnet2_fast": timed(lambda: fast(50), 50),
    }
    rival = lightning(
        TutorialModel(len(names)), splits.train, 1, 2, lambda p: torch.optim.SGD(p, lr=0.001), 0.0
    )
    if rival:
        cases["Lightning, batch size 1"] = rival
    return cases


def thousand_epochs() -> None:
    """Print what 1,000 epochs take and reach from the same weights, the tutorial's way and ours."""
    from ngram.corpus import read_sonnets

    cfg = compose("experiment=sonnet2_fast")
    splits = instantiate(cfg.data)
    words, names = read_sonnets([2]).split(), splits.class_names
    training, model = for_splits(cfg, splits), TutorialModel(len(names))
    start_from = zip(model.state_dict(), training.model.state_dict().values(), strict=True)
    model.load_state_dict(dict(start_from))
    plain, fast = tutorial(model, words, names), epochs_of(training, splits.train)
    seconds = []
    for name, network, train in (
        ("the tutorial's loop", model, lambda: [plain() for _ in range(1000)]),
        ("experiment=sonnet2_fast", training.model, lambda: fast(1000)),
    ):
        seconds.append(timed(train)())
        logits, targets = network(splits.train.inputs), splits.train.targets
        nll, right = F.cross_entropy(logits, targets), (logits.argmax(1) == targets).sum()
        print(f"1000 epochs, {name}: {seconds[-1]:.2f} s, nll {nll:.4f}, {right}/{len(targets)}")
    print(f"{seconds[0] / seconds[1]:.0f} times faster")


def default_cases() -> dict[str, Case]:
    """Return an epoch of the default run each: a bare loop first."""
    cfg = compose()
    splits = instantiate(cfg.data)
    ours = [for_splits(cfg, splits) for _ in range(4)]
    clip = ours[0].settings.clip_norm
    batch_size, lr = ours[0].settings.batch_size, cfg.optimizer.lr
    with_plain = torch.optim.AdamW(ours[1].model.parameters(), lr=lr)
    with_fused = torch.optim.AdamW(ours[2].model.parameters(), lr=lr, fused=True)
    shared = epochs_of(ours[0], splits.train)
    args = (splits.train, batch_size)
    cases = {
        "a bare loop": timed(lambda: bare(ours[1].model, *args, with_plain, clip)),
        "a bare loop, AdamW fused": timed(lambda: bare(ours[2].model, *args, with_fused, clip)),
        "this loop": timed(lambda: shared(1)),
    }
    rival = lightning(ours[3].model, *args, 1, lambda p: torch.optim.AdamW(p, lr=lr), clip)
    if rival:
        cases["Lightning"] = rival
    return cases


def small(rounds: int) -> None:
    """Sonnet 2 beside the tutorial's loop; the default run beside a bare loop and Lightning."""
    torch.set_num_threads(1)
    compare("an epoch of Sonnet 2", sonnet2_cases(), 5 * rounds)
    thousand_epochs()
    title = "an epoch of the default run (Sonnets, batch size 128)"
    cases = default_cases()
    compare(title, cases, rounds)
    if "Lightning" not in cases:
        print("Lightning is left out: it is not installed")
