"""What a training step costs, beside loops written out plainly.

    python benchmarks/training.py small       # Sonnet 2, the default run; Lightning if installed
    python benchmarks/training.py parts       # where the seconds of a default run go
    python benchmarks/training.py wide        # large vocabularies: --text FILE, the complete works
    python benchmarks/training.py precision   # nll after as many steps in bfloat16: --text FILE
    python benchmarks/training.py memory      # peak memory of every loss, 2,048 x 68,500 logits
    python benchmarks/training.py scaling     # by vocabulary, batch, text: --text FILE --plot FILE
    python benchmarks/training.py start       # from the command to the first step

A table's times are medians. Each round runs every row once, in an order of its own; `ratio` is the
median, and `quartiles` those, of the ratio to the first row in the same round, so that another
program on the machine slows both sides alike. Memory is measured in a fresh process a row: how far
its peak resident set (ru_maxrss) rises above what it was with model and optimizer there.
"""

import argparse
import copy
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

import hydra  # noqa: E402
import torch  # noqa: E402
import training.run.session  # noqa: E402
from omegaconf import DictConfig  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from training.run.session import Session  # noqa: E402

import training.evaluation  # noqa: E402
import training.run.start  # noqa: E402
from training.cli.main import CONFIGS, use_task_options  # noqa: E402
from training.data import Split, Splits, epoch_order  # noqa: E402
from training.evaluation import evaluate  # noqa: E402
from training.loop import Trainer, train_epoch  # noqa: E402
from training.optimizers import Constant, adamw  # noqa: E402
from training.run.folder import with_facts  # noqa: E402
from training.run.log import RunLog  # noqa: E402
from training.run.targets import instantiate  # noqa: E402

Case = Callable[[], float]  # does some work, and returns the seconds of one unit of it
WIDE = ["experiment=tiny_shakespeare", "data=text_file", "trainer.precision=float32"]
ALL_TYPES = ["data.protocol=null", "data.level=whitespace", "data.line_ends=drop"]
ALL_TYPES += ["data.lowercase=false", "data.min_count=1", "data.unk=false"]
ALL_TYPES += ["data.split=[1.0,0.0,0.0,0.0]"]


class NoLog:
    """A log that keeps nothing."""

    def scalars(self, *_: object) -> None:
        """Keep nothing."""


def compose(*overrides: str) -> DictConfig:
    """Return the settings that the command line would give."""
    use_task_options("ngram")
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return hydra.compose("ngram", list(overrides))


def prepare(cfg: DictConfig, num_classes: int, class_counts: Tensor) -> Trainer:
    """Return what trains by these settings."""
    filled = with_facts(cfg, num_classes, class_counts)
    torch.manual_seed(1)
    model = instantiate(filled.model)
    optimizer = instantiate(filled.optimizer, call_with=[model.parameters()])
    loss_fn, schedule = instantiate(filled.loss), instantiate(filled.scheduler)
    settings, log = instantiate(filled.trainer), NoLog()
    return Trainer(model, loss_fn, optimizer, schedule, settings, 1, log)  # type: ignore[arg-type]


def for_splits(cfg: DictConfig, splits: Splits) -> Trainer:
    """Return what trains by these settings on this data."""
    return prepare(cfg, splits.num_classes, splits.class_counts)


def timed(work: Callable[[], object], units: int = 1) -> Case:
    """Return a case that times `work`."""

    def case() -> float:
        start = time.perf_counter()
        work()
        return (time.perf_counter() - start) / units

    return case


def measure(cases: dict[str, Case], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each case, a round each; one round before them only warms up."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    order = list(cases)
    for number in range(rounds + 1):
        random.Random(number).shuffle(order)
        for name in order:
            elapsed = cases[name]()
            if number:
                times[name].append(elapsed)
    return times


def ratio(own: list[float], baseline: list[float]) -> str:
    """Return the quotient round by round: its median, and its quartiles."""
    ratios = [a / b for a, b in zip(own, baseline, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:7.3f} {low:7.3f}-{high:.3f}"


def compare(title: str, cases: dict[str, Case], rounds: int) -> None:
    """Measure and print."""
    times = measure(cases, rounds)
    print(f"\n{title}; {rounds} rounds, {torch.get_num_threads()} threads")
    print(f"{'':44} {'ms':>9} {'ratio':>7} {'quartiles':>15}")
    for name, own in times.items():
        ms = 1e3 * statistics.median(own)
        print(f"{name:44} {ms:9.2f} {ratio(own, next(iter(times.values())))}", flush=True)


# --- small models ---------------------------------------------------------------------------------


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


def epochs_of(trainer: Trainer, split: Split) -> Callable[[int], float]:
    """Return a function that trains some more epochs of the shared loop."""

    def train(count: int) -> float:
        for _ in range(count):
            loss = train_epoch(trainer, split, trainer.epoch + 1)
        return loss

    return train


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
        print("Lightning is left out: it is not installed")
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


def small(rounds: int) -> None:
    """Sonnet 2 beside the tutorial's loop; the default run beside a bare loop and Lightning."""
    from ngram.corpus import read_sonnets

    torch.set_num_threads(1)
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
    compare("an epoch of Sonnet 2", cases, 5 * rounds)

    trainer, model = for_splits(cfg["sonnet2_fast"], splits), TutorialModel(len(names))
    start_from = zip(model.state_dict(), trainer.model.state_dict().values(), strict=True)
    model.load_state_dict(dict(start_from))
    plain, fast = tutorial(model, words, names), epochs_of(trainer, splits.train)
    seconds = []
    for name, network, train in (
        ("the tutorial's loop", model, lambda: [plain() for _ in range(1000)]),
        ("experiment=sonnet2_fast", trainer.model, lambda: fast(1000)),
    ):
        seconds.append(timed(train)())
        logits, targets = network(splits.train.inputs), splits.train.targets
        nll, right = F.cross_entropy(logits, targets), (logits.argmax(1) == targets).sum()
        print(f"1000 epochs, {name}: {seconds[-1]:.2f} s, nll {nll:.4f}, {right}/{len(targets)}")
    print(f"{seconds[0] / seconds[1]:.0f} times faster")

    cfg_default = compose()
    splits = instantiate(cfg_default.data)
    trainers = [for_splits(cfg_default, splits) for _ in range(4)]
    clip = trainers[0].settings.clip_norm
    batch_size, lr = trainers[0].settings.batch_size, cfg_default.optimizer.lr
    with_plain = torch.optim.AdamW(trainers[1].model.parameters(), lr=lr)
    with_fused = torch.optim.AdamW(trainers[2].model.parameters(), lr=lr, fused=True)
    shared = epochs_of(trainers[0], splits.train)
    args = (splits.train, batch_size)
    cases = {
        "a bare loop": timed(lambda: bare(trainers[1].model, *args, with_plain, clip)),
        "a bare loop, AdamW fused": timed(lambda: bare(trainers[2].model, *args, with_fused, clip)),
        "this loop": timed(lambda: shared(1)),
    }
    rival = lightning(trainers[3].model, *args, 1, lambda p: torch.optim.AdamW(p, lr=lr), clip)
    if rival:
        cases["Lightning"] = rival
    compare("an epoch of the default run (Sonnets, batch size 128)", cases, rounds)


def parts(rounds: int) -> None:
    """Say where the seconds of a default run go, each counted once, as a share of training's."""
    shares: dict[str, list[float]] = {}
    for _ in range(rounds):
        clock = Clock()
        default_run(clock)
        for label, seconds in clock.seconds.items():
            shares.setdefault(label, []).append(seconds / clock.seconds["training"])
    asked = [shares[label] for label in ("logs", "evaluation: metrics", "checkpoints")]
    shares["logs, metrics and checkpoints"] = [sum(three) for three in zip(*asked, strict=True)]
    print(f"share of a default run's seconds of training, median of {rounds} runs")
    for label, own in shares.items():
        print(f"{label:44} {statistics.median(own):7.2%}  ({min(own):.2%} to {max(own):.2%})")


def default_run(clock: "Clock") -> None:
    """Train and test by the default settings, with the parts of the run counted."""
    rows_of = training.evaluation.logits_of
    forward = clock.part(lambda rows: next(rows, None), "evaluation: forward pass")
    places: list[tuple[Any, str, str]] = [
        (training.run.session, "train_epoch", "training"),
        (training.evaluation, "_evaluate", "evaluation: metrics"),
        (RunLog, "scalars", "logs"),
        (RunLog, "text", "logs"),
        (training.run.start, "log_start", "logs"),
        (Session, "save", "checkpoints"),
        (Session, "keep", "checkpoints"),
        (Session, "draw", "figures"),
        (Session, "report", "what the task reports"),
        (training.run.start, "run", "all else: start, data, temperature, end"),
    ]
    changed = [(o, name, clock.part(getattr(o, name), label)) for o, name, label in places]
    logits_of = lambda *args, **options: iter(  # noqa: E731
        partial(forward, rows_of(*args, **options)), None
    )
    changed.append((training.evaluation, "logits_of", logits_of))
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        for owner, name, function in changed:
            stack.enter_context(patch.object(owner, name, function))
        training.run.start.run(compose(), Path(folder) / "run", quiet=True)


class Clock:
    """Seconds by part; what a part called within another takes is its own."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.within = 0.0

    def part(self, function: Callable[..., Any], label: str) -> Callable[..., Any]:
        """Return the function, counted as that part."""

        def counted(*args: Any, **kwargs: Any) -> Any:
            outside, self.within = self.within, 0.0
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                elapsed = time.perf_counter() - start
                self.seconds[label] = self.seconds.get(label, 0.0) + elapsed - self.within
                self.within = outside + elapsed

        return counted


# --- large vocabularies ---------------------------------------------------------------------------


def plain_step(model: nn.Module, loss: Callable[..., Tensor], optimizer: Any, bf16: bool) -> Any:
    """Return a training step as it is usually written: all logits of the batch at once."""

    def step(inputs: Tensor, targets: Tensor) -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = model(inputs)
        loss(logits, targets).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def linear_cross_entropy_step(model: Any, optimizer: Any) -> Any:
    """Return a step with torch's own chunks."""
    options = torch.nn.LinearCrossEntropyOptions()

    def step(inputs: Tensor, targets: Tensor) -> None:
        optimizer.zero_grad()
        head = model.head
        F.linear_cross_entropy(
            model.features(inputs), head.weight, targets, linear_bias=head.bias, options=options
        ).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def step_cases(trainer: Trainer, batch: tuple[Tensor, Tensor], num_classes: int) -> dict[str, Case]:
    """Return a step each: three products, plain loops, torch's chunks, and this loop."""
    inputs, targets = batch
    copies = [copy.deepcopy(trainer.model).train() for _ in range(3)]
    made = [torch.optim.AdamW(model.parameters(), lr=1e-3) for model in copies]
    split = Split(inputs, targets)
    h = torch.randn(len(inputs), trainer.model.head.in_features)  # type: ignore[union-attr, arg-type]
    weight, g = trainer.model.head.weight.detach(), torch.randn(len(inputs), num_classes)  # type: ignore[union-attr, operator]

    def products() -> None:
        _ = h @ weight.T, g @ weight, g.T @ h  # type: ignore[union-attr, operator]

    def ours(precision: str) -> Case:
        model = copy.deepcopy(trainer.model)
        settings = replace(
            trainer.settings, batch_size=len(inputs), precision=precision, shuffle=False
        )
        optimizer = adamw(model.parameters(), lr=1e-3)
        run = Trainer(model, trainer.loss_fn, optimizer, Constant(), settings, 1, NoLog())  # type: ignore[arg-type]
        train = epochs_of(run, split)
        return timed(lambda: train(1))

    plain, bf16 = (
        plain_step(m, F.cross_entropy, o, b)
        for m, o, b in zip(copies, made, (False, True), strict=False)
    )
    torchs = linear_cross_entropy_step(copies[2], made[2])
    return {
        "three products alone": timed(products),
        "plain loop, float32": timed(lambda: plain(inputs, targets)),
        "this loop, float32": ours("float32"),
        "torch linear_cross_entropy, float32": timed(lambda: torchs(inputs, targets)),
        "plain loop, bf16 autocast": timed(lambda: bf16(inputs, targets)),
        "this loop, bf16": ours("bf16"),
    }


def wide(text: str, rounds: int) -> None:
    """Steps on the complete works with both vocabularies."""
    for extra in ([], ALL_TYPES):
        cfg = compose(*WIDE, f"data.path={text}", *extra)
        splits = instantiate(cfg.data)
        trainer = for_splits(cfg, splits)
        batch = splits.train.batch(epoch_order(len(splits.train), 1, 1)[:1024], 1)
        cases = step_cases(trainer, batch, splits.num_classes)
        compare(f"a step of 1,024 rows, {splits.num_classes:,} words", cases, rounds)


def precision(text: str, steps: int) -> None:
    """Train as many steps in each way, and compare the validation nll."""
    cfg = compose(*WIDE, f"data.path={text}", f"trainer.max_batches={steps}", "trainer.epochs=1")
    splits = instantiate(cfg.data)
    found = {}
    for name in ("float32", "bf16"):
        cfg.trainer.precision = name
        trainer = for_splits(cfg, splits)
        train_epoch(trainer, splits.train, 1)
        result = evaluate(trainer.model, trainer.loss_fn, splits.val, splits.num_classes, 30_000)
        found[name] = result.metrics["nll"]
        print(f"{name}: validation nll {found[name]:.4f} after {steps} steps", flush=True)
    print(f"bf16 / float32: {found['bf16'] / found['float32']:.5f}")


def synthetic(
    num_classes: int, batch_size: int, *overrides: str
) -> tuple[Trainer, tuple[Tensor, Tensor]]:
    """Return a trainer of tiny Shakespeare's model, and a batch of random words."""
    cfg = compose(*WIDE, f"trainer.batch_size={batch_size}", *overrides)
    trainer = prepare(cfg, num_classes, torch.ones(num_classes, dtype=torch.int64))
    contexts = torch.randint(num_classes, (batch_size, cfg.data.context_size))
    return trainer, (contexts, torch.randint(num_classes, (batch_size,)))


def peak(loss: str, ours: bool, num_classes: int, batch_size: int) -> float:
    """Return by how many MiB a step raises this process's peak memory."""
    trainer, (inputs, targets) = synthetic(num_classes, batch_size, *loss.split(","))
    plain = plain_step(trainer.model.train(), trainer.loss_fn, trainer.optimizer, False)

    def step(n: int) -> None:
        if ours:
            train_epoch(trainer, Split(inputs[:n], targets[:n]), trainer.epoch + 1)
        else:
            plain(inputs[:n], targets[:n])

    step(2)  # moments, and what is loaded on first use
    trainer.optimizer.zero_grad()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step(batch_size)
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / unit


def memory(num_classes: int, batch_size: int) -> None:
    """Print a row for every loss of `configs/loss` that needs no other run."""
    names = sorted(file.stem for file in (CONFIGS / "loss").glob("*.yaml"))
    names.remove("distillation")
    print(f"peak memory of a step, {num_classes:,} classes x {batch_size:,} rows, MiB")
    print(f"{'':40} {'plain loop':>10} {'this loop':>10} {'ratio':>6}")
    for name in [*names, "hinge,loss.variant=weston_watkins"]:
        both = []
        for ours in ([], ["--ours"]):
            sizes = [f"--classes={num_classes}", f"--rows={batch_size}"]
            command = [sys.executable, __file__, "memory", f"--peak-of=loss={name}", *sizes, *ours]
            out = subprocess.run(command, capture_output=True, check=True, text=True)
            both.append(float(out.stdout))
        print(f"{name:40} {both[0]:10.0f} {both[1]:10.0f} {both[1] / both[0]:6.2f}", flush=True)


SCALED = ["plain loop, float32", "this loop, float32", "this loop, bf16"]


def scaling(text: str, rounds: int, plot: str | None) -> None:
    """Print how examples a second change with vocabulary, batch and text."""
    panels = []
    for title, sizes in (
        ("classes, 1,024 rows a batch", [(v, v, 1024) for v in (1000, 4000, 15630, 68500)]),
        ("rows a batch, 15,630 classes", [(b, 15630, b) for b in (32, 128, 512, 2048)]),
    ):
        heading(title)
        panels.append((title, [scaled(n, rounds, *synthetic(v, b)) for n, v, b in sizes]))
    title = "training tokens of the complete works, 1,024 rows a batch"
    heading(title)
    rows = []
    for lines in (5000, 15000, 45000, 10**6):
        cfg = compose(*WIDE, f"data.path={text}", f"data.max_lines={lines}")
        begun = time.perf_counter()
        splits = instantiate(cfg.data)
        note = (
            f"{splits.num_classes:8,} classes, read and cut in {time.perf_counter() - begun:.1f} s"
        )
        batch = splits.train.batch(epoch_order(len(splits.train), 1, 1)[:1024], 1)
        rows.append(scaled(len(splits.train), rounds, for_splits(cfg, splits), batch, note))
    panels.append((title.replace(" of the complete works", ""), rows))
    if plot:
        draw(panels, plot)


def heading(title: str) -> None:
    """Print the head of a table."""
    print(f"\nexamples a second, and time beside the plain loop's, by {title}")
    print(f"{'':9} {SCALED[0]:>20} " + " ".join(f"{name:>31}" for name in SCALED[1:]))


def scaled(
    size: int, rounds: int, trainer: Trainer, batch: tuple[Tensor, Tensor], note: str = ""
) -> tuple[int, list[float]]:
    """Measure and print a row; return its size and rates."""
    cases = step_cases(trainer, batch, len(trainer.model.head.weight))  # type: ignore[union-attr, arg-type]
    times = measure({name: cases[name] for name in SCALED}, rounds)
    rates = [len(batch[1]) / statistics.median(own) for own in times.values()]
    texts = ["", *(ratio(times[name], times[SCALED[0]]) for name in SCALED[1:])]
    widths = (20, 31, 31)
    cells = (
        f"{f'{rate:,.0f} {text}':>{w}}" for rate, text, w in zip(rates, texts, widths, strict=True)
    )
    print(f"{size:9,} " + " ".join(cells) + note, flush=True)
    return size, rates


def draw(panels: list[tuple[str, list[tuple[int, list[float]]]]], path: str) -> None:
    """Draw examples a second, a panel a size."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.4), layout="constrained")
    for axes, (title, rows) in zip(figure.subplots(1, 3, sharey=True), panels, strict=True):
        for i, name in enumerate(SCALED):
            axes.loglog([r[0] for r in rows], [r[1][i] for r in rows], marker="o", label=name)
        axes.set_xlabel(title, fontsize=8)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("examples a second")
    figure.axes[0].legend(frameon=False)
    figure.savefig(path, dpi=80)


def start(rounds: int) -> None:
    """Time the command up to its first step, beside torch's import and its first optimizer."""
    first = (
        "import sys, os, runpy; from training import loop;"
        "loop.Guard.check = lambda *a: os._exit(0);"
        "sys.argv = ['train_ngram.py', 'hydra.run.dir=' + sys.argv[1]];"
        "runpy.run_path('scripts/train_ngram.py', run_name='__main__')"
    )
    optimizer = "import torch; p = torch.zeros(1, requires_grad=True); p.grad = torch.zeros(1);"

    def process(code: str) -> Case:
        def work() -> None:
            with tempfile.TemporaryDirectory() as folder:
                subprocess.run(
                    [sys.executable, "-c", code, f"{folder}/run"],
                    cwd=ROOT,
                    env=os.environ | {"PYTHONPATH": str(ROOT)},
                    check=True,
                    capture_output=True,
                )

        return timed(work)

    cases = {
        "import torch": process("import torch"),
        "and a step of torch.optim.AdamW": process(optimizer + "torch.optim.AdamW([p]).step()"),
        "train_ngram.py up to its first step": process(first),
    }
    compare("start-up", cases, rounds)


def main() -> None:
    """Read the command line and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "what", choices=["small", "parts", "wide", "precision", "memory", "scaling", "start"]
    )
    parser.add_argument("--text", help="the complete works, as UTF-8")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=200, help="of precision")
    parser.add_argument("--classes", type=int, default=68_500)
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--plot")
    parser.add_argument("--peak-of", help="print only the peak memory with these settings, in MiB")
    parser.add_argument("--ours", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.peak_of:
        print(json.dumps(peak(args.peak_of, args.ours, args.classes, args.rows)))
        return
    if args.what in ("wide", "precision", "scaling") and not args.text:
        parser.error("--text is needed: a file with the complete works")
    {
        "small": lambda: small(args.rounds),
        "parts": lambda: parts(args.rounds),
        "wide": lambda: wide(args.text, args.rounds),
        "precision": lambda: precision(args.text, args.steps),
        "memory": lambda: memory(args.classes, args.rows),
        "scaling": lambda: scaling(args.text, args.rounds, args.plot),
        "start": lambda: start(args.rounds),
    }[args.what]()


if __name__ == "__main__":
    main()
