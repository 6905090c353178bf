"""What a run made of every test example: one small file beside its figures; no torch here."""

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.errors import DataError, first_line
from training.run.folder import write_file

EXAMPLES = "examples.npy"
MAX_ROWS = 1_000_000  # of a split whose examples are kept: 12 MB


def write_examples(folder: Path, table: NDArray[np.float32]) -> None:
    """Write nll, correctness and confidence of each test row, (N, 3) in the order of the split."""
    buffer = io.BytesIO()
    np.save(buffer, table)
    write_file(folder / EXAMPLES, buffer.getbuffer())


def read_examples(folder: Path) -> NDArray[np.float32] | None:
    """Return the table that `write_examples` wrote, (N, 3); None where the run has none.

    A row whose target is ignored is NaN. The file may come from anyone: it is read as numbers, and
    no more of it than it holds.

    Raises:
        DataError: it is no such table.
    """
    path = folder / EXAMPLES
    if not path.is_file():
        return None
    try:
        table = np.lib.format.open_memmap(path, mode="r")  # refuses pickles and missing bytes
        if table.dtype != np.float32 or table.ndim != 2 or table.shape[1] != 3:
            raise ValueError(f"holds {table.dtype} {table.shape}, not float32 (N, 3)")
        if len(table) > MAX_ROWS:
            raise ValueError(f"holds {len(table):,} rows, {MAX_ROWS:,} at most are kept")
        shares = (table[:, 1:] >= 0) & (table[:, 1:] <= 1)
        if not (shares.all(1) | np.isnan(table).all(1)).all():
            raise ValueError("a correctness or confidence is not from 0 to 1")
    except Exception as error:  # a damaged file raises a dozen different types
        raise DataError(
            f"{path}: cannot be read ({first_line(error)}); leave the run out"
        ) from error
    return table
