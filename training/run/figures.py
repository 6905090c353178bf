"""The figures of a run that tables show: headings, formats, which way is better; no torch here."""

# name: (heading, format, whether more is better; None: neither is)
COLUMNS: dict[str, tuple[str, str, bool | None]] = {
    "nll": ("nll", "{:.4f}", False),
    "perplexity": ("perplexity", "{:.2f}", False),
    "accuracy": ("accuracy", "{:.2%}", True),
    "balanced_accuracy": ("balanced accuracy", "{:.2%}", True),
    "worst_class_accuracy": ("worst class", "{:.2%}", True),
    "error": ("error", "{:.2%}", False),
    "brier": ("Brier", "{:.4f}", False),
    "ece": ("ECE", "{:.4f}", False),
    "ece_softmax": ("ECE softmax", "{:.4f}", None),
    "ece_own": ("ECE own link", "{:.4f}", None),
    "ece_temperature": ("ECE at T", "{:.4f}", False),
    "nll_temperature": ("nll at T", "{:.4f}", False),
    "refinement": ("refinement", "{:.4f}", False),
    "calibration": ("calibration", "{:z.4f}", None),
    "temperature": ("T", "{:.3f}", None),
    "val_nll": ("val nll", "{:.4f}", False),
    "seconds": ("seconds", "{:.1f}", None),
}


def markdown_rows(cells: list[list[str]]) -> str:
    """Return headings and rows as a table of Markdown, all but the first column to the right."""
    rule = ["---"] + ["---:"] * (len(cells[0]) - 1)
    return "\n".join(f"| {' | '.join(line)} |" for line in (cells[0], rule, *cells[1:]))
