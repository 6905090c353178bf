"""Whether a damaged checkpoint is ever believed: random flips, truncations and zeroed pages.

    python tests/stress/corrupt.py [--count 10000] [--seed 0]

Each trial damages a copy of a checkpoint of this project's own kind. It must be refused with the
one kind of error there is, or give back exactly what was saved (the damage hit padding).
"""

import argparse
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[2])

import torch  # noqa: E402

from training.errors import CheckpointError  # noqa: E402
from training.run.checkpoint import load_checkpoint, save_checkpoint  # noqa: E402


def example(rows: int) -> dict[str, Any]:
    """Return a state with tensors of several types and sizes, numbers, texts and lists."""
    model = torch.nn.Sequential(torch.nn.Embedding(rows, 16), torch.nn.Linear(16, rows))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.arange(3)).sum().backward()
    optimizer.step()
    return {
        "model": model.state_dict(),
        "class_names": [f"word{i}" for i in range(rows)],
        "class_counts": torch.arange(rows),
        "step": 12,
        "epoch": 1,
        "best": 1.25,
        "optimizer": optimizer.state_dict(),
        "random": {"cpu": torch.get_rng_state()},
    }


def damage(content: bytes) -> tuple[str, bytes]:
    """Return what was done, and what is left of the content."""
    changed, kind = bytearray(content), random.choice(["flip", "flip", "truncation", "zeroed page"])
    position = random.randrange(len(content))
    if kind == "flip":
        changed[position] ^= 1 << random.randrange(8)
    elif kind == "truncation":
        del changed[position:]
    else:
        start = position // 4096 * 4096
        end = min(start + 4096, len(content))
        changed[start:end] = bytes(end - start)
    return kind, bytes(changed)


def same(a: Any, b: Any) -> bool:
    """Say whether two states are equal to the bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and bool(a == b)


def main() -> None:
    """Damage, load, count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    found: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "step-00000012.pt"
        save_checkpoint(example(100), path)
        content, state = path.read_bytes(), load_checkpoint(path)
        for _ in range(arguments.count):
            kind, changed = damage(content)
            path.write_bytes(changed)
            try:
                result = "harmless" if same(load_checkpoint(path), state) else "SILENTLY WRONG"
            except CheckpointError:
                result = "refused"
            found[f"{kind} {result}"] += 1
        print(f"{len(content):,} bytes, {arguments.count} trials: {dict(sorted(found.items()))}")
    sys.exit(any("WRONG" in result for result in found))


if __name__ == "__main__":
    main()
