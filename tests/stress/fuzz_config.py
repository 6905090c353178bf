"""Whether a wrong setting is always one line: random overrides, everything built, nothing trained.

    python tests/stress/fuzz_config.py [--task ngram] [--count 1000] [--seed 0]

Each trial gives one to three settings random values (out of range, of another type, misspelt,
unresolvable, absurd) and goes as far as the first step would be. It must end with exit code 0, or
with 2 and one line on stderr that names one of the settings given; never with a traceback. Settings
that ask for data that is not there may end with 4.
"""

import argparse
import contextlib
import io
import os
import random
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[2])

import torch  # noqa: E402
from hydra.core.global_hydra import GlobalHydra  # noqa: E402

import training.run.build  # noqa: E402
import training.run.start  # noqa: E402
from training.cli.main import main  # noqa: E402
from training.cli.settings import CONFIGS, compose  # noqa: E402
from training.run.identity import leaves  # noqa: E402

NUMBERS = ["-1", "0", "1", "2", "0.5", "-0.5", "1.5", "1e-300", "1e300", "1e38", "99999999999", "7"]
NUMBERS += ["-9223372036854775809", "99999999999999999999999", "nan", "inf", "-inf", "1e3", "0x10"]
WORDS = ["abc", "null", "true", "false", "''", "'a b'", "é", "../..", "/proc/x", "a" * 300, "'\\n'"]
LISTS = ["[]", "[1]", "[1,2]", "[a,b]", "[0.1,0.9]", "[null]", "[1,[2]]", "[2,18]", "[.7,.1,.1,.1]"]
OTHERS = [
    "{a:1}",
    "{}",
    "${nothing}",
    "${seed}",
    "${optimizer.lr}",
    "${data}",
    "???",
    "",
    "os.system",
]
VALUES = NUMBERS * 2 + WORDS + LISTS + OTHERS


def random_override(defaults: dict[str, Any], groups: dict[str, list[str]]) -> str:
    """Return one override; every third has a chance to be good: a known option, or a near value."""
    key = random.choice([*defaults, *groups])
    plausible = random.random() < 0.35
    if key in groups:
        return f"{key}={random.choice(groups[key] if plausible else VALUES)}"
    if plausible and isinstance(defaults[key], bool):
        return f"{key}={random.choice(['true', 'false'])}"
    if plausible and isinstance(defaults[key], int | float):
        factor = random.choice([0.25, 0.5, 1, 2, 3])
        return f"{key}={type(defaults[key])(defaults[key] * factor)}"
    if random.random() < 0.1:
        position = random.randrange(len(key))
        key = key[:position] + random.choice("aez._") + key[position + 1 :]
    return f"{random.choice(['', '', '', '', '', '+', '++', '~'])}{key}={random.choice(VALUES)}"


def options(task: str) -> dict[str, list[str]]:
    """Return the options of every group of the task."""
    found: dict[str, list[str]] = {}
    for file in (*CONFIGS.glob("*/*.yaml"), *(CONFIGS / task).glob("*/*.yaml")):
        if not (CONFIGS / f"{file.parent.name}.yaml").exists():
            found.setdefault(file.parent.name, []).append(file.stem)
    return found


def attempt(task: str, overrides: list[str]) -> tuple[int | str, str]:
    """Return the exit code, or "traceback", and what was said."""
    sys.argv[:] = [f"train_{task}.py", *overrides]
    GlobalHydra.instance().clear()
    errors = io.StringIO()
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
            main(task)
        return 0, errors.getvalue()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1, errors.getvalue()
    except BaseException:
        return "traceback", traceback.format_exc()


def named(overrides: list[str], message: str) -> bool:
    """Say whether the message names a setting that was given."""
    return any(o.lstrip("+~").split("=")[0] in message for o in overrides)


def main_of_benchmark() -> None:
    """Parse, try, count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", default="ngram")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    torch.set_num_threads(1)
    training.run.start.train = lambda *_: 0.0
    training.run.build.set_threads = lambda *_: None
    defaults = leaves(compose(arguments.task))
    del defaults["resume"]  # names a folder
    groups = options(arguments.task)
    codes: Counter[int | str] = Counter()
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for trial in range(arguments.count):
            overrides = [
                random_override(defaults, groups) for _ in range(random.choice([1, 1, 2, 3]))
            ]
            code, message = attempt(arguments.task, overrides)
            codes[code] += 1
            one_line = message.count("\n") == 1 and named(overrides, message)
            if code not in (0, 2, 4) or (code and not one_line):
                bad += 1
                print(f"{trial}: {overrides} -> {code}: {message[-600:]}", flush=True)
    print(f"{arguments.count} trials, exit codes {dict(codes)}, {bad} bad")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main_of_benchmark()
