"""Names of run folders: resolvers that `configs/shared.yaml` uses."""

import re
import secrets
import time

from omegaconf import OmegaConf

from training.run.identity import digest


def unique_stamp() -> str:
    """Return the time and four random letters: two runs started in one second get two folders."""
    letters = "".join(secrets.choice("abcdefghijkmnpqrstuvwxyz23456789") for _ in range(4))
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{letters}"


def slug(*parts: str) -> str:
    """Return a folder name made of the parts: letters, digits, dots, dashes and underscores."""
    name = "-".join(part for part in parts if part)
    plain = re.sub(r"[^\w.-]+", "-", name).strip(".-")[:110]
    return plain if plain == name else f"{plain}-{digest(name)}"  # two names stay two


# of configs/shared.yaml; where this module is imported, a worker of a parallel sweep included
OmegaConf.register_new_resolver("unique", unique_stamp, use_cache=True, replace=True)
OmegaConf.register_new_resolver("slug", slug, replace=True)
