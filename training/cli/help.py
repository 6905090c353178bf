"""What `--help` prints."""

import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table

from training.cli.settings import compose, options, place_of
from training.run.identity import leaves
from training.run.targets import CONFIGS

ENDING = {
    "--cfg job --resolve": "show every setting of a choice; set any with SETTING=VALUE",
    "-m GROUP=A,B seed=1,2": "run every combination; 'GROUP=glob(*)' is every option",
    "resume=FOLDER|auto": "go on with a run that was stopped (auto: the newest)",
    "debug=smoke": "every stage of the script on a sliver of the data",
    "--hydra-help": "what Hydra itself can do, tab completion among it",
    "--trust PACKAGE": "a package of your own that a run folder may name (resume=)",
}


def print_help(task: str) -> None:
    """Print what can be chosen, each option with the first line of its file, and what can be set.

    A setting of the default options is listed where its line in the YAML says what it means.
    """
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False, markup=False)
    script = f"train.py {task}" if task.endswith(".yaml") else f"train_{task}.py"
    installed = Path(sys.argv[0]).name  # a command has no .py
    command = f"python scripts/{script}" if installed.endswith(".py") else installed
    console.print(f"usage: {command} [GROUP=OPTION ...] [SETTING=VALUE ...]\n", soft_wrap=True)
    for group, files in options(task).items():
        console.print(f"{group}: {', '.join(file.stem for file in files)}", soft_wrap=True)
        _print_columns(console, ((f"    {file.stem}", _first_comment(file)) for file in files))
    console.print("\nSETTING=VALUE, by default:")
    _print_columns(console, ((f"    {key}={value}", text) for key, value, text in meanings(task)))
    console.print()
    _print_columns(console, ENDING.items())


def _print_columns(console: Console, rows: Iterable[tuple[str, str]]) -> None:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _first_comment(file: Path) -> str:
    lines = file.read_text(encoding="utf-8").split("\n")
    return next(line for line in lines if "@package" not in line).removeprefix("# ")


def meanings(task: str) -> Iterator[tuple[str, str, str]]:
    """Yield each setting whose line in the YAML has a comment: its key, default and comment."""
    cfg = compose(task, hydra_too=True)
    folder, name = place_of(task)
    texts: dict[str, str] = {}
    for file in (CONFIGS / "shared.yaml", CONFIGS / f"{name}.yaml", folder / f"{name}.yaml"):
        texts |= _comments(file) if file.is_file() else {}
    for group, files in options(task).items():
        chosen = [file for file in files if file.stem == cfg.hydra.runtime.choices.get(group)]
        for file in (*sorted(folder.glob("*.yaml")), *chosen):  # the first: included there
            texts |= {f"{group}.{key}": text for key, text in _comments(file).items()}
    for key, value in leaves(cfg).items():
        if key in texts and not key.startswith("hydra.") and "${" not in str(value):
            plain = json.dumps(value, separators=(",", ":"), default=list).strip('"')
            yield key, plain, texts[key]


def _comments(file: Path) -> dict[str, str]:
    """Return the comment behind each setting of a file, by key: it is read as if the value."""
    text = file.read_text(encoding="utf-8")
    text = re.sub(r"(?m)^( *\w+: ).*?( # [^$\n]*)$", lambda m: m[1] + json.dumps(m[2]), text)
    found = leaves(yaml.safe_load(text) or {})
    return {key: str(value)[3:] for key, value in found.items() if str(value).startswith(" # ")}
