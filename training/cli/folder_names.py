"""Names of run folders: what `configs/shared.yaml` calls `unique` and `slug`."""

import re
import secrets
import time

from training.run.identity import digest


def unique_stamp() -> str:
    """Return the time and four random letters: two runs started in one second get two folders."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def slug(*parts: str) -> str:
    """Return a folder name made of the parts: letters, digits, dots, dashes and underscores."""
    name = "-".join(part for part in parts if part)
    plain = re.sub(r"[^\w.-]+", "-", name).strip(".-")[:110]
    return plain if plain == name else f"{plain}-{digest(name)}"  # two names stay two
