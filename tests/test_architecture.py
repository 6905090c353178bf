"""The folders are the architecture: imports run one way, the core knows no task and no loss."""

import ast
import re

import pytest
from conftest import ROOT

MAY_IMPORT = {
    "losses": {"losses"},
    "training": {"training", "losses"},
    "ngram": {"ngram", "training", "losses"},
    "vision": {"vision", "training", "losses"},
}


def imports(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_run_one_way(package):
    ours = {*MAY_IMPORT, "scripts", "tests", "benchmarks"}
    for file in (ROOT / package).rglob("*.py"):
        used = {module.split(".")[0] for module in imports(file)} & ours
        assert used <= MAY_IMPORT[package], file


def test_the_shared_core_names_no_task_and_no_loss():
    losses = {f.stem for f in (ROOT / "configs" / "loss").glob("*.yaml")} - {"nll"}  # also a metric
    names = re.compile(rf"\b(sonnets?|shakespeare|{'|'.join(losses)})\b")
    for file in (ROOT / "training").rglob("*.py"):
        code = ast.unparse(_without_docstrings(ast.parse(file.read_text())))
        assert not names.search(code.lower()), file


def _without_docstrings(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node
        ):
            node.body[0].value.value = ""
    return tree


def test_the_core_is_importable_without_a_task():
    for file in (ROOT / "training").rglob("*.py"):
        assert not {m for m in imports(file) if m.startswith(("ngram", "vision"))}
