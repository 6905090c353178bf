"""A wheel, and an editable install, in environments of their own."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from conftest import ROOT

PACKAGES = ("losses", "metrics", "training", "ngram", "vision")
LIGHT = ("debug=smoke", "trainer.figures=0")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Return a copy of the clone, because a build writes into its source."""
    folder = tmp_path_factory.mktemp("source")
    for name in (*PACKAGES, "configs", "scripts", "tests"):
        skipped = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, folder / name, ignore=skipped)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder]
    subprocess.run([*build, source], check=True)
    (file,) = folder.glob("*.whl")
    return file


def environment(folder, *install):
    """Return a function that runs a command of a new environment, in `folder / "elsewhere"`.

    The libraries are those of this environment; its own install of the project is out of reach.
    """
    where = {"base": str(folder / "venv")}
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    bin_folder = Path(sysconfig.get_path("scripts", "venv", where))
    pip = ["-m", "pip", "install", "--quiet", "--no-deps", *install]
    subprocess.run([bin_folder / "python", *pip], check=True)
    libraries = Path(sysconfig.get_path("purelib", "venv", where), "libraries.pth")
    libraries.write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    (folder / "elsewhere").mkdir()
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(command, *words):
        return subprocess.run(
            [bin_folder / command, *words],
            cwd=folder / "elsewhere",
            env=variables,
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
        )

    return run


@pytest.mark.slow
def test_a_wheel_has_all_that_the_packages_read_and_nothing_else(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())

    expected = {f"{package}/py.typed" for package in PACKAGES}
    for package in PACKAGES:
        files = [f for end in ("py", "html", "txt") for f in (ROOT / package).rglob(f"*.{end}")]
        expected |= {f.relative_to(ROOT).as_posix() for f in files}
    configs = (ROOT / "configs").rglob("*.yaml")
    expected |= {"training/" + f.relative_to(ROOT).as_posix() for f in configs}
    assert {name for name in names if ".dist-info/" not in name} == expected
    assert any(name.endswith("licenses/LICENSE") for name in names)


@pytest.mark.slow
def test_the_commands_of_a_wheel_train_compare_and_calibrate_from_anywhere(wheel, tmp_path):
    run = environment(tmp_path, "--no-index", wheel)
    here = tmp_path / "elsewhere"
    found = run("python", "-c", "import training; print(training.__file__)")
    assert str(tmp_path / "venv") in found.stdout, found

    for task in ("ngram", "vision"):
        shown = run(f"train-{task}", "--help")
        assert shown.stdout.startswith(f"usage: train-{task} [GROUP=OPTION"), shown
        done = run(f"train-{task}", *LIGHT, f"hydra.run.dir={task}")
        assert done.returncode == 0, done.stderr
        again = json.loads((here / task / "status.json").read_text(encoding="utf-8"))["resume"]
        assert f"train-{task} resume={task}" in again
    resumed = run("train-ngram", "resume=ngram")
    assert (resumed.returncode, "complete" in resumed.stdout) == (0, True), resumed
    compared = run("compare-runs", "ngram", "--out", "compared")
    assert compared.returncode == 0 and (here / "compared" / "compare.html").exists()
    calibrated = run("calibrate-run", "ngram", "vision")
    assert calibrated.returncode == 0 and "ECE after (T)" in calibrated.stdout
    mistake = run("train-ngram", "loss=mes")
    assert (mistake.returncode, mistake.stderr.count("\n")) == (2, 1)


@pytest.mark.slow
def test_an_editable_install_reads_the_clone_and_no_file_of_ones_own_hides_it(source, tmp_path):
    run = environment(tmp_path, "--editable", source)
    (tmp_path / "elsewhere" / "losses.py").touch()  # as a task of one's own has it beside its YAML
    program = (
        "import sys; sys.path.append('.'); import losses, training.cli.settings as settings;"
        "print(losses.__file__, settings.CONFIGS)"
    )

    found = run("python", "-I", "-c", program)

    assert found.stdout.split() == [str(source / "losses/__init__.py"), str(source / "configs")]


def test_every_console_command_is_a_function_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    commands = [EntryPoint(name, value, "") for name, value in project["scripts"].items()]

    names = {"train-ngram", "train-vision", "compare-runs", "calibrate-run"}
    assert {command.name for command in commands} == names
    assert all(callable(command.load()) for command in commands)
