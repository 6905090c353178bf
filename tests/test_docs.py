"""What README and docs show is true: recipes, quoted code, tables, links."""

import re
import textwrap

import pytest
from conftest import ROOT


def test_every_selectable_loss_is_in_the_table():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    table = readme.split("## The losses")[1].split("\n## ")[0]

    listed = re.findall(r"^\| `(\w+)` \|.*`(losses/\w+\.py)` \|$", table, re.MULTILINE)

    assert {name for name, _ in listed} == {
        f.stem for f in (ROOT / "configs" / "loss").glob("*.yaml")
    }
    assert all((ROOT / file).exists() for _, file in listed)


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_readme_is_read_in_one_sitting():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 250


def test_the_quoted_step_is_that_of_the_loop():
    readme, loop = (
        (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "training/loop.py")
    )
    quoted = re.search(r"```python\n(for lr_factor.*?)```", readme, re.DOTALL)[1]

    assert textwrap.indent(quoted, "    ") in loop


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_and_every_named_file_is_there(page):
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text)
    named = re.findall(r"\b((?:losses|metrics|training|tests|scripts|benchmarks)/[\w/]+\.py)", text)

    assert not [link for link in links if ":" not in link and not (page.parent / link).exists()]
    assert not [name for name in named if not (ROOT / name).exists() and "NAME" not in name]


@pytest.mark.parametrize("name", ["losses", "metrics"])
def test_a_piece_taken_prints_what_the_readme_says(name, capsys):
    readme = (ROOT / "README.md").read_text(encoding="utf-8").split("## Take a piece")[1]
    code = next(b for b in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if name in b)
    expected = re.findall(r"# (\d[\d.]*)\.\.\.", code)

    exec(code, {})

    printed = capsys.readouterr().out.split()
    assert len(printed) == len(expected) > 0
    assert all(a.startswith(b) for a, b in zip(printed, expected, strict=True)), printed
