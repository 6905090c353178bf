"""What `--help` prints."""

import sys
from pathlib import Path

from training.cli.settings import options

ENDING = """
--cfg job --resolve    show every setting of a choice; set any with SETTING=VALUE
-m GROUP=A,B seed=1,2  run every combination; 'GROUP=glob(*)' is every option
resume=FOLDER|auto     go on with a run that was stopped (auto: the newest)
debug=smoke            every stage of the script on a sliver of the data
--hydra-help           what Hydra itself can do, tab completion among it
--trust PACKAGE        a package of your own that a run folder may name (resume=)"""


def help_text(task: str) -> str:
    """Return what can be chosen and set, each option with the first line of its file."""
    script = f"train.py {task}" if task.endswith(".yaml") else f"train_{task}.py"
    installed = Path(sys.argv[0]).name  # a command has no .py
    command = f"python scripts/{script}" if installed.endswith(".py") else installed
    lines = [f"usage: {command} [GROUP=OPTION ...] [SETTING=VALUE ...]", ""]
    for group, files in options(task).items():
        lines.append(f"{group}: {', '.join(file.stem for file in files)}")
        for file in files:
            text = file.read_text(encoding="utf-8")
            comments = [line for line in text.split("\n") if "@package" not in line]
            lines.append(f"    {file.stem:<24}{comments[0].removeprefix('# ')}")
    return "\n".join(lines) + "\n" + ENDING
