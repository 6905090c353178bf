"""Go on with a run: its settings from its folder, what was changed, and where it stood."""

import json
import os
import re
import shlex
import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from training.errors import CheckpointError, ConfigError
from training.run.targets import leaves

CONFIG, OVERRIDES, STATUS = "config.yaml", "overrides.yaml", "status.json"
UNFINISHED = ("running", "interrupted", "failed")  # a diverged run would diverge again
# What the state of a run belongs to; everything else may change on the way.
STRUCTURAL = re.compile(r"(task|seed|(data|model|loss)\..*|optimizer\._target_)$")
# What would let a run folder name code or places: only the command line says these.
OWN = re.compile(r"[+~]*(resume|trusted_targets)=")
# How a user's own package was made known; it must be given again.
GIVEN_AGAIN = ("trusted_targets=", "hydra.searchpath=")


def continued(arguments: list[str], task: str) -> list[str]:
    """Return the command line of the run that `resume=` names, with what is given here on top."""
    given = [a.removeprefix("resume=") for a in arguments if a.startswith("resume=")]
    if not given or given[-1] in ("", "null"):
        return arguments
    if {"-m", "--multirun"} & set(arguments):
        raise ConfigError(f"resume={given[-1]}: goes on with one run; leave -m out")
    if any(re.match(r"\+*hydra\.(run|sweep)\.", a) for a in arguments):
        raise ConfigError(f"resume={given[-1]}: the run stays in its folder; leave hydra.run out")
    folder = newest_unfinished(task) if given[-1] == "auto" else Path(given[-1].strip("'\""))
    if (other := read_status(folder).get("task", task)) != task:
        raise ConfigError(f"resume={folder}: is a run of scripts/train_{other}.py; go on with that")
    new = [a for a in arguments if not a.startswith("resume=")]
    stored = [o for o in read_overrides(folder) if not _replaced(o, new)]
    quoted = re.sub(r"(\\*)(['$])", r"\1\1\\\2", str(folder))
    return [*stored, *new, f"hydra.run.dir='{quoted}'", f"resume='{quoted}'"]


def newest_unfinished(task: str) -> Path:
    """Return the run below outputs/ that was last at work and did not end."""
    found = []
    for file in Path("outputs").glob("**/" + STATUS):
        status = read_status(file.parent)
        if status.get("task") == task and status.get("status") in UNFINISHED:
            found.append((file.stat().st_mtime_ns, file.parent))
    if not found:
        raise ConfigError("resume=auto: there is no unfinished run in outputs/; leave resume out")
    return max(found)[1]


def read_status(folder: Path) -> dict[str, Any]:
    """Return a run's status.json; nothing where it has none that can be read."""
    try:
        status = json.loads((folder / STATUS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return status if isinstance(status, dict) else {}


def read_overrides(folder: Path) -> list[str]:
    """Return the settings that a run was started with: data, of which only settings are taken."""
    try:
        overrides = list(map(str, OmegaConf.load(folder / OVERRIDES)))
    except FileNotFoundError:
        raise CheckpointError(f"{folder}: not a run folder (no {OVERRIDES})") from None
    except Exception as error:
        raise CheckpointError(f"{folder / OVERRIDES}: cannot be read ({error})") from error
    for override in overrides:
        key = re.match(r"\+{0,2}[a-z][\w./@]*(?==)", override)
        if not key or "hydra" in key[0]:
            raise CheckpointError(f"{folder / OVERRIDES}: {override!r} is not a setting of a run")
    return [o for o in overrides if not OWN.match(o)]


def _replaced(stored: str, new: list[str]) -> bool:
    """Say whether a setting, or the group that it is in, is given anew."""
    keys = [re.split("[=@]", word.lstrip("+"))[0] for word in (stored, *new)]
    return any(keys[0] == key or keys[0].startswith(f"{key}.") for key in keys[1:])


def command(folder: Path) -> str:
    """Return what to type to go on with a run."""
    again = [word for word in sys.argv[1:] if word.startswith(GIVEN_AGAIN)]
    program = [from_here(Path(sys.executable))]
    if "RANK" in os.environ:  # as many processes as before: each draws its own dropout
        here, whole = (int(os.environ.get(n, 1)) for n in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
        program = [from_here(Path(sys.executable).with_name("torchrun"))]
        program += [f"--nnodes={whole // here}"] * (whole > here) + [f"--nproc-per-node={here}"]
    script = from_here(Path(sys.argv[0]))
    return shlex.join([*program, script, f"resume={from_here(folder)}", *again])


def from_here(path: Path) -> str:
    """Return a path as short as it can be typed."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def check_changes(folder: Path, cfg: DictConfig, console: Console) -> bool:
    """Show what differs from the run's own settings, and refuse what its state belongs to."""
    try:
        old = OmegaConf.load(folder / CONFIG)
        assert isinstance(old, DictConfig)
    except Exception as error:
        raise CheckpointError(f"{folder / CONFIG}: cannot be read ({error})") from error
    before, now = dict(leaves(old)), dict(leaves(cfg))
    changed = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    if changed:
        table = Table("setting", "of the run", "now", "")
        for key in changed:
            refused = "refused" if STRUCTURAL.match(key) else "taken"
            table.add_row(key, str(before.get(key, "-")), str(now.get(key, "-")), refused)
        console.print(table, markup=False)
    structural = [f"{key}={now.get(key)}" for key in changed if STRUCTURAL.match(key)]
    if structural:
        raise ConfigError(
            f"{', '.join(structural)}: cannot change on resume, the run's weights were trained with"
            " another; leave it out, or start a new run"
        )
    return bool(changed)
