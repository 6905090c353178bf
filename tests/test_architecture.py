"""The folders are the architecture: imports run one way, the core knows no task and no loss."""

import ast
import re
import runpy
import subprocess
import sys
import warnings

import pytest
from conftest import ROOT

# room: the rooms that it may import, itself apart
MAY_IMPORT = {
    "losses": set(),
    "metrics": set(),
    "training": {"losses", "metrics"},
    "training.run": {"losses", "metrics", "training"},
    "training.cli": {"losses", "metrics", "training", "training.run"},
    "ngram": {"losses", "metrics", "training", "training.run"},
    "vision": {"losses", "metrics", "training", "training.run"},
}
TASK_MAY_USE = {"training.data", "training.errors", "training.evaluation", "training.run.report"}
NOT_IN = {  # libraries that a room does without
    "losses": {"numpy", "hydra", "omegaconf", "tensorboard", "matplotlib", "rich"},
    "metrics": {"hydra", "omegaconf", "tensorboard", "rich", "pathlib", "os", "json"},
    "training": {"hydra", "omegaconf", "tensorboard", "rich", "pathlib", "json", "matplotlib"},
}
OURS = {"losses", "metrics", "training", "ngram", "vision", "scripts", "tests", "benchmarks"}


def files_of(room):
    """Return the files of a room; its `__main__.py` is what a person starts, as in scripts/."""
    files = sorted((ROOT / room.replace(".", "/")).glob("*.py"))
    return [file for file in files if file.name != "__main__.py"]


def imports(file):
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


def room_of(module):
    parts = module.split(".")
    if parts[0] == "training" and parts[1:2] in (["run"], ["cli"]):
        return ".".join(parts[:2])
    return parts[0]


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_run_one_way(room):
    files = files_of(room)

    assert files
    for file in files:
        used = {room_of(module) for module in imports(file) if module.split(".")[0] in OURS}
        assert used <= MAY_IMPORT[room] | {room}, file


@pytest.mark.parametrize("task", ["ngram", "vision"])
def test_a_task_uses_the_contracts_of_data_and_reports_only(task):
    for file in files_of(task):
        used = {module for module in imports(file) if module.startswith("training")}
        assert used <= TASK_MAY_USE, file


@pytest.mark.parametrize("room", NOT_IN)
def test_a_room_does_without_what_is_not_its_business(room):
    for file in files_of(room):
        used = {module.split(".")[0] for module in imports(file)}
        allowed = {"numpy"} if file.name == "reference.py" else set()
        if room == "training" and file.name == "distributed.py":
            allowed = {"os"}
        if file.name == "reliability.py":
            allowed = {"matplotlib"}
        assert not used & (NOT_IN[room] - allowed), file


@pytest.mark.slow
def test_losses_and_metrics_can_be_copied_into_other_projects(tmp_path):
    program = "import sys\n"
    for room in ("losses", "metrics"):
        (tmp_path / room).mkdir()
        (tmp_path / room / room).symlink_to(ROOT / room)
        program += (
            f"sys.path[0] = {str(tmp_path / room)!r}\n"
            f"import {room}\n"
            f"assert not {{'hydra', 'training', 'matplotlib'}} & set(sys.modules)\n"
            f"for name in [name for name in sys.modules if name.split('.')[0] == {room!r}]:\n"
            "    del sys.modules[name]\n"
        )

    subprocess.run(
        [sys.executable, "-I", "-c", "import sys; sys.path.insert(0, '')\n" + program],
        cwd=tmp_path,
        check=True,
    )


def test_the_shared_core_names_no_task_and_no_loss():
    losses = {f.stem for f in (ROOT / "configs" / "loss").glob("*.yaml")} - {"nll"}  # also a metric
    names = re.compile(rf"\b(sonnets?|shakespeare|{'|'.join(losses)})\b")
    advice = {ROOT / "training" / "run" / f"{name}.py" for name in ("diagnosis", "evidence")}
    files = {f for room in ("training", "metrics") for f in (ROOT / room).rglob("*.py")}
    for file in sorted(files - advice):  # what to change next has to have its name
        code = ast.unparse(_without_docstrings(ast.parse(file.read_text(encoding="utf-8"))))
        assert not names.search(code.lower()), file


def _without_docstrings(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node
        ):
            node.body[0].value.value = ""
    return tree


def test_no_file_of_the_product_is_longer_than_a_reader_likes():
    rooms = ("losses", "metrics", "training", "ngram", "vision", "scripts")
    for file in (f for room in rooms for f in (ROOT / room).rglob("*.py")):
        assert len(file.read_text(encoding="utf-8").splitlines()) <= 250, file


@pytest.mark.parametrize(
    ("module", "is_error"),
    [
        *((name, True) for name in ("losses", "training.run.log", "scripts.compare", __name__)),
        *((name, False) for name in ("torch.nn", "lossesome", "pyparsing", "importlib")),
    ],
)
def test_a_warning_that_our_code_causes_is_an_error_and_anothers_is_not(module, is_error):
    with warnings.catch_warnings(record=True) as seen:
        try:
            warnings.warn_explicit("goes away", DeprecationWarning, "file.py", 1, module)
            raised = False
        except DeprecationWarning:
            raised = True

    assert (raised, len(seen)) == ((True, 0) if is_error else (False, 1))


def test_every_file_that_opens_a_text_names_its_encoding():
    """Windows has another one by default."""
    for file in (f for room in OURS for f in (ROOT / room).rglob("*.py")):
        for call in (
            n
            for n in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
            if isinstance(n, ast.Call)
        ):
            if not any(k.arg in ("encoding", None) for k in call.keywords):
                assert not opens_text(call), f"{file}:{call.lineno}: {ast.unparse(call)}"


def opens_text(call):
    """Say whether a call without an encoding is open, Path.open, read_text or write_text."""
    modes = [a.value for a in (*call.args, *(k.value for k in call.keywords)) if is_mode(a)]
    binary = any("b" in mode for mode in modes)
    match call.func:
        case ast.Name("open"):
            return not binary
        case ast.Attribute(attr="open"):
            return not binary and (bool(modes) or not call.args)
        case ast.Attribute(attr="read_text" | "write_text"):
            return True
    return False


def is_mode(argument):
    return isinstance(argument, ast.Constant) and re.fullmatch("[rwaxbt+]+", str(argument.value))


def test_the_product_has_no_module_level_state():
    """No name at module level is bound to something that is made to be changed."""
    for room in MAY_IMPORT:
        for file in files_of(room):
            for node in ast.parse(file.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.Assign | ast.AnnAssign) and node.value:
                    empty = isinstance(node.value, ast.List | ast.Dict | ast.Set) and not ast.dump(
                        node.value
                    ).count("Constant")
                    assert not empty or "__all__" in ast.unparse(node), file


def test_each_fault_of_the_mutants_has_its_place_in_the_code():
    mutants = runpy.run_path(str(ROOT / "tests/stress/mutants.py"))["MUTANTS"]

    sources = {m.file: (ROOT / m.file).read_text(encoding="utf-8") for m in mutants}

    assert [m.name for m in mutants if m.old not in sources[m.file]] == []
