"""The vision script: a smoke run, one-line answers to mistakes, and its help."""

import re
import sys
from pathlib import Path

import pytest
import torch
from conftest import compose

from training.errors import ConfigError
from training.run.targets import instantiate, with_facts


@pytest.fixture
def broken_torchvision(monkeypatch):
    """Let torchvision fail as one made for another torch does."""

    class Finder:
        @staticmethod
        def find_spec(name, *_):
            if name.split(".")[0] == "torchvision":
                raise RuntimeError("operator torchvision::nms does not exist")

    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])


@pytest.mark.slow
def test_smoke_runs_every_stage_where_torchvision_is_broken(command_line, broken_torchvision):
    code, out, err = command_line("debug=smoke", task="vision")

    assert (code, err) == (0, "")
    (folder,) = Path("outputs").iterdir()
    assert folder.name.startswith("vision-cross_entropy-seed1-")
    assert "10 classes, 8x8x1, 1,078 / 180 / 180 / 359" in out
    assert re.search(r"least accurate: \d, .*%; most frequent mistake: \d taken for", out)
    for name in ("test_confusion.png", "test_mistakes.png", "test_reliability.png"):
        assert (folder / name).stat().st_size > 1000


@pytest.mark.parametrize(
    ("task", "arguments", "message"),
    [
        (
            "vision",
            ["data=sonnets"],
            r"data=sonnets: no such option \(data: cifar10, digits, fashion_mnist,"
            r" image_folder, mnist\)",
        ),
        ("vision", ["model=ngram_mlp"], r"model=ngram_mlp: no such option \(model: linear, .*\)"),
        ("vision", ["data=digit"], r"data=digit: .*; did you mean data=digits\? .*"),
        ("vision", ["data.context_size=3"], r"data\.context_size: no .*; did you mean data\..*"),
        ("ngram", ["data=digits"], r"data=digits: no such option \(data: sonnets, .*\)"),
        ("vision", ["data.image_size=9"], r"digits: images are 1 x 8 x 8; set data\.channels .*"),
    ],
)
def test_a_mistake_is_one_line(task, arguments, message, command_line):
    code, out, err = command_line(*arguments, task=task)

    assert re.fullmatch(f"error: {message}\n", err), err
    assert (code, out) == (4 if "image_size=9" in arguments[0] else 2, "")


@pytest.mark.parametrize(
    ("group", "arguments", "message"),
    [
        ("data", ["data.imbalance=0"], r"data\.imbalance must be in \(0, 1\], got 0"),
        ("data", ["data.label_noise=1.0"], r"data\.label_noise must be in \[0, 1\), got 1\.0"),
        ("data", ["data.noise_kind=any"], r"data\.noise_kind must be symmetric or next, got any"),
        ("data", ["data.augment.crop=0"], r"data\.augment\.crop must be in \(0, 1\], got 0"),
        ("data", ["data.augment.shift=8"], r"data\.augment\.shift must be less than .*, got 8"),
        ("data", ["data=image_folder"], r"data\.root is required: data\.root=FOLDER, .*"),
        ("data", ["data=mnist", "data.split=[.6,.1,.1,.2]"], r"data\.split must be 0 for test, .*"),
        ("model", ["model=mlp", "model.dropout=1"], r"model\.dropout must be in .*, got 1"),
        ("report", ["report.images.mistakes=-1"], r"report\.images\.mistakes must be .*, got -1"),
    ],
)
def test_a_value_out_of_range_is_named_by_its_setting(group, arguments, message):
    cfg = with_facts(compose(*arguments, task="vision"), 10, torch.ones(10).long())
    node = cfg.report.images if group == "report" else cfg[group]

    with pytest.raises(ConfigError, match=f"^{message}$"):
        instantiate(node)


@pytest.mark.parametrize("option", ["data=mnist", "model=resnet18"])
def test_a_broken_torchvision_says_how_to_fix_it(option, command_line, broken_torchvision):
    code, out, err = command_line(option, task="vision")

    assert (code, out) == (4, "")
    assert re.fullmatch(
        r"error: torchvision cannot be imported \(operator torchvision::nms does not exist\);"
        r" install the pair .*pip install .*data=digits.*\n",
        err,
    )


def test_help_names_the_options_of_this_task_only(command_line):
    _, out, _ = command_line("--help", task="vision")

    assert "data: cifar10, digits, fashion_mnist, image_folder, mnist" in out
    assert "sonnets" not in out
    (losses,) = re.findall("^loss: (.*)$", out, re.MULTILINE)
    assert {"cross_entropy", "distillation", "distillation_t4"} <= set(losses.split(", "))
