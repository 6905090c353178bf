"""What `--help` prints."""

import json
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
    bases = CONFIGS / "shared.yaml", CONFIGS / f"{name}.yaml", folder / f"{name}.yaml"
    files = {"": [file for file in bases if file.is_file()]}
    for group, option_files in options(task).items():
        chosen = [
            file for file in option_files if file.stem == cfg.hydra.runtime.choices.get(group)
        ]
        files[f"{group}."] = [*sorted(folder.glob("*.yaml")), *chosen]  # the first: included there
    texts: dict[str, str] = {}
    for prefix, some in files.items():
        for file in some:
            texts |= {f"{prefix}{key}": text for key, text in _comments(file)}
    for key, value in leaves(cfg).items():
        if key in texts and not key.startswith("hydra.") and "${" not in str(value):
            plain = json.dumps(value, separators=(",", ":"), default=list).strip('"')
            yield key, plain, texts[key]


def _comments(file: Path) -> Iterator[tuple[str, str]]:
    text = file.read_text(encoding="utf-8")
    lines = text.split("\n")

    def walk(node: yaml.Node, prefix: str) -> Iterator[tuple[str, str]]:
        for key, value in node.value:
            name = f"{prefix}{key.value}"
            comment = lines[key.start_mark.line].partition(" # ")[2]
            if isinstance(value, yaml.MappingNode):
                yield from walk(value, f"{name}.")
            elif comment:
                yield name, comment

    return walk(yaml.compose(text), "")  # type: ignore[arg-type]
