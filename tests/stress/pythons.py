"""Whether the project installs and trains on every other Python that is found here.

    python tests/stress/pythons.py [PYTHON ...] [--lowest] [--hydra VERSION] [--tests]

Each Python gets an environment of its own, into which a copy of this clone is installed as a wheel.
In it every package is imported, and each task shows its help and trains with debug=smoke. Without
PYTHON, those of 3.11 or newer on PATH and in pyenv's folder are tried, but not the one that runs
this. An environment takes minutes and 5 GB, and is removed before the next is made.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PYENV = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
IMPORTS = "import losses, metrics, training.cli, training.run.start, ngram.reports, vision.reports"


def version_of(python: Path) -> tuple[int, ...]:
    """Return the version of a Python as three numbers; nothing if it does not start."""
    ask = [python, "-c", "import sys; print(*sys.version_info[:3])"]
    try:
        done = subprocess.run(ask, capture_output=True, text=True, timeout=60, check=False)
    except OSError:
        return ()
    return tuple(map(int, done.stdout.split())) if done.returncode == 0 else ()


def find_pythons() -> dict[tuple[int, ...], Path]:
    """Return a Python of each version from 3.11 on, other than this one's, oldest first."""
    folders = [*(Path(p) for p in os.get_exec_path()), *PYENV.glob("versions/*/bin")]
    found: dict[tuple[int, ...], Path] = {}
    for folder in folders:
        for file in sorted(folder.glob("python3*")):
            if re.fullmatch(r"python3(\.\d+)?(\.exe)?", file.name):
                found.setdefault(version_of(file), file)
    return {v: found[v] for v in sorted(found) if v >= (3, 11) and v != sys.version_info[:3]}


def lowest_versions() -> str:
    """Return pip's constraints for the lowest version of each library that is allowed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pairs = (re.match(r"([\w-]+)>=([\d.]+)", line) for line in project["dependencies"])
    return "".join(f"{pair[1]}=={pair[2]}\n" for pair in pairs if pair)


def try_python(python: Path, folder: Path, constraints: str, tests: bool) -> bool:
    """Install and run all of it in `folder`; print a line for each step, until one fails."""
    shutil.copytree(
        ROOT,
        folder / "source",
        ignore=shutil.ignore_patterns(
            ".git", ".venv", "outputs", "build", "*.egg-info", ".*_cache"
        ),
    )
    (folder / "constraints.txt").write_text(constraints, encoding="utf-8")
    bin_folder = Path(sysconfig.get_path("scripts", "venv", {"base": str(folder / "venv")}))
    inside = str(bin_folder / "python")
    install = [inside, "-m", "pip", "install", "--quiet", "-c", str(folder / "constraints.txt")]
    source = str(folder / "source")
    named = "['torch', 'hydra-core', 'numpy']"
    versions = f"import importlib.metadata as m; print({{n: m.version(n) for n in {named}}})"
    steps = {
        "environment": [str(python), "-m", "venv", str(folder / "venv")],
        "install": [*install, f"{source}[dev]" if tests else source],
        "versions": [inside, "-c", versions],
        "import": [inside, "-c", IMPORTS],
    }
    for task in ("ngram", "vision"):
        command = str(bin_folder / f"train-{task}")
        steps[f"train-{task} --help"] = [command, "--help"]
        steps[f"train-{task} --hydra-help"] = [command, "--hydra-help"]
        steps[f"train-{task} debug=smoke"] = [command, "debug=smoke"]
    if tests:
        steps["pytest"] = [inside, "-m", "pytest", "--rootdir", source, source]
    for name, step in steps.items():
        started = time.monotonic()
        done = subprocess.run(step, cwd=folder, capture_output=True, text=True, check=False)
        lines = (done.stdout if name in ("versions", "pytest") else "").strip().splitlines()
        print(
            f"  {name}: {time.monotonic() - started:.0f} s  {lines[-1] if lines else ''}",
            flush=True,
        )
        if done.returncode:
            print(f"FAILED\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}", flush=True)
            return False
    return True


def main() -> None:
    """Try each Python; exit with 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("pythons", nargs="*", type=Path, metavar="PYTHON")
    parser.add_argument("--lowest", action="store_true", help="the lowest versions allowed")
    parser.add_argument("--hydra", metavar="VERSION", help="of hydra-core, as in 1.4.0rc3")
    parser.add_argument("--tests", action="store_true", help="run the tests, too")
    arguments = parser.parse_args()
    pythons = {version_of(python): python for python in arguments.pythons} or find_pythons()
    constraints = lowest_versions() if arguments.lowest else ""
    if arguments.hydra:
        constraints += f"hydra-core=={arguments.hydra}\n"
    all_passed = bool(pythons)
    for version, python in pythons.items():
        print(f"{'.'.join(map(str, version))} ({python})", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            all_passed &= try_python(python, Path(folder), constraints, arguments.tests)
    sys.exit(0 if all_passed else 1)


if __name__ == "__main__":
    main()
