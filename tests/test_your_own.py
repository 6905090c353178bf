"""The recipes of docs/your_own.md, followed word by word, and the mistakes that it answers."""

import re
import shlex
import sys

import pytest
import torch
from conftest import ROOT
from small_runs import no_drawing  # noqa: F401

from training.errors import UserError

PAGE = (ROOT / "docs" / "your_own.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^`(mine/[\w/.]+)`\n\n```\w+\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE))
COMMANDS = re.findall(r"^\.venv/bin/python scripts/(\w+)\.py (.*)$", PAGE, re.MULTILINE)
ANSWERS = re.findall(r"^\| .* \| (`[^|]*) \|$", PAGE, re.MULTILINE)
OPTIONS = "hydra.searchpath=[file://mine/configs]"


@pytest.fixture
def mine(tmp_path, monkeypatch, command_line):
    """Return a function that follows all recipes, with one change, and runs a command of them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").touch()

    def run(script, words, *changes):
        for name in [n for n in sys.modules if n.split(".")[0] == "mine"]:
            del sys.modules[name]
        for file, text in FILES.items():
            for old, new in changes:
                text = text.replace(old, new)
            path = tmp_path / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        words = shlex.split(words.replace('"$OPTIONS"', f"'{OPTIONS}'"))
        task = script.partition("_")[2]
        if not task:
            task, *words = words
        return command_line(
            *words, "trainer.epochs=1", "trainer.figures=0", "report=null", task=task
        )

    return run


def test_there_is_a_recipe_for_each():
    assert {file.split("/")[1].split(".")[0] for file in FILES} == {
        *("losses", "models", "data", "points", "configs"),
    }
    assert len(COMMANDS) == 5 and len(ANSWERS) == 10
    assert all(text.count("\n") <= 25 for text in FILES.values())


@pytest.mark.parametrize("alpha", [1.5, 2.0, 4.0])
def test_the_loss_of_the_recipe_is_minimised_by_softmax_as_it_says(alpha):
    names, eta = {}, torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    exec(FILES["mine/losses.py"], names)
    loss_fn = names["PseudosphericalLoss"](alpha, reduction="none")

    def expected(z):
        return eta @ loss_fn(z.expand(3, 3), torch.arange(3))

    slope = torch.autograd.functional.jacobian(expected, eta.log())
    curvature = torch.autograd.functional.hessian(expected, eta.log())

    assert slope.abs().max() < 1e-12
    assert torch.linalg.eigvalsh(curvature)[1] > 1e-3  # but for adding the same to every logit
    p = eta.log().softmax(0)
    by_its_formula = 1 - (p / p.pow(alpha).sum() ** (1 / alpha)) ** (alpha - 1)
    found = loss_fn(eta.log().expand(3, 3), torch.arange(3))
    torch.testing.assert_close(found, by_its_formula, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("script", "words"), COMMANDS)
def test_each_command_trains(script, words, mine, tmp_path):
    code, out, err = mine(script, words)

    assert (code, err) == (0, "")
    assert re.search(r"│ test +│", out)
    (folder,) = (tmp_path / "outputs").iterdir()
    config = (folder / "config.yaml").read_text(encoding="utf-8")
    for setting, value in re.findall(r"(?:loss|model|data|optimizer)\.(\w+)=([\d.]+)", words):
        assert f"{setting}: {value}" in config


LOSS, MODEL, DATA, _, OPTIMIZER = COMMANDS
MISTAKES = [
    (LOSS, (".exp()\n", ".exp()).mean()\n"), ("return 1", "return (1")),
    (LOSS, ("(ClassificationLoss):", "(Module):"), ("from losses import ClassificationLoss",
     "from torch.nn import Module")),
    (MODEL, ("self.hidden(images))", "self.hidden(images)).softmax(1)")),
    (MODEL, ("num_classes: ${facts.num_classes}", "num_classes: 2")),
    (DATA, ("torch.tensor(targets)", "torch.tensor(targets) + 1")),
    (DATA, ("return make_splits(", "return inputs, targets\n    return make_splits(")),
    (("train", "mine/point.yaml"),),
    (("train", "mine/points.yaml"), ("brier, ece]", "f1]"), ("accuracy, ", "")),
    (("train_vision", "optimizer._target_=torch.optim.RMSprop"),),
    (("train_vision", f"optimizer=rmsprop optimizer.momentum=0.9 '{OPTIONS}'"),),
]  # fmt: skip


@pytest.mark.parametrize(("mistake", "answer"), [*zip(MISTAKES, ANSWERS, strict=True)])
def test_each_mistake_has_its_answer(mistake, answer, mine):
    command, *changes = mistake

    code, out, err = mine(*command, *changes)

    assert code in (2, 4) and out == "" and err.count("\n") == 1
    for part in re.findall(r"`([^`]+)`", answer):
        assert part in err


def test_the_lines_for_python_do_what_they_say(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (lines,) = re.findall(r"## In Python\n\n```python\n(.*?)```", PAGE, re.DOTALL)
    names = {}

    exec(lines, names)

    run, probabilities = names["run"], names["probabilities"]
    assert f"{run.figures['test/nll']} {run.folder}\n" in capsys.readouterr().out
    assert probabilities.shape == (8, 10)
    assert torch.allclose(probabilities.sum(1), torch.ones(8))
    for words, message in (
        (("loss=focl",), "loss=focl: no such option; did you mean loss=focal?"),
        (("--verbose",), "--verbose: give settings only"),
        (("seed=1,2",), "seed=1,2: give one value"),
        (("optimizer.lr=-1",), "optimizer.lr must be a number above 0, got -1.0"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            names["train"]("vision", *words)
    with pytest.raises(UserError, match="visoin: no such task"):
        names["train"]("visoin")
