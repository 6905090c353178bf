"""configs/loss: every file on disk makes the loss it names, and lists what a user may set."""

import inspect
from copy import deepcopy
from functools import cache
from pathlib import Path

import hydra
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

import losses
from losses import ClassificationLoss
from training.cli.hydra_versions import VERSION_BASE
from training.run.targets import find_target, instantiate

FOLDER = Path(__file__).parent.parent / "configs"
NAMES = sorted(path.stem for path in (FOLDER / "loss").glob("*.yaml"))
# what a file sets differently from the class's own default
SETS = {
    "label_smoothing": {"label_smoothing"},
    "weighted": {"weight"},
    "distillation": {"teacher"},
    "logit_adjusted": {"class_counts"},
}


@cache
def compose_once(name, *overrides):
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(FOLDER), **VERSION_BASE):
        return hydra.compose(overrides=[f"+loss={name}", *overrides])


def compose(name, *overrides, counts=(1, 1)):
    """Return the settings of a loss, with facts of the data as a training script fills them in."""
    cfg = deepcopy(compose_once(name, *overrides))
    facts = {"num_classes": len(counts), "class_counts": torch.tensor(counts), "teacher": None}
    OmegaConf.set_struct(cfg, False)
    cfg.facts = OmegaConf.create(facts, flags={"allow_objects": True})
    return cfg.loss


def test_every_loss_of_the_family_can_be_selected():
    assert set(NAMES) >= {
        "cross_entropy", "nll", "label_smoothing", "weighted", "focal", "mse", "mse_logits",
        "mse_rescaled", "bce", "hinge", "distillation", "logit_adjusted", "generalised",
    }  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_file_opens_with_a_line_that_says_what_it_selects_and_the_source(name):
    first = (FOLDER / "loss" / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]

    assert first.startswith("# ")
    assert any(year.isdigit() and len(year) == 4 for year in first.rstrip(")").split())


@pytest.mark.parametrize("name", NAMES)
def test_file_lists_every_argument_with_its_default(name):
    cfg = compose(name)
    parameters = inspect.signature(find_target("loss", cfg._target_)).parameters

    assert set(cfg) - {"_target_"} == set(parameters)
    for key, parameter in parameters.items():
        if key not in SETS.get(name, ()):
            assert cfg[key] == parameter.default


@pytest.mark.parametrize("name", [name for name in NAMES if name != "distillation"])
def test_file_makes_a_loss_that_scores_a_batch(name):
    loss_fn = instantiate(compose(name, counts=(5, 3, 2)))

    assert isinstance(loss_fn, ClassificationLoss)
    value = loss_fn(torch.tensor([[2.0, 1.0, 0.1]]), torch.tensor([1]))
    assert value.isfinite() and value > 0


def test_weighted_takes_the_counts_of_the_data_and_each_of_its_schemes():
    def weight(*overrides):
        return instantiate(compose("weighted", *overrides, counts=(90, 9, 1))).weight.tolist()

    counts = torch.tensor([90, 9, 1])
    assert weight() == pytest.approx([10 / 27, 100 / 27, 100 / 3])
    scheme = "loss.weight.scheme=effective_number"
    expected = losses.class_weights(counts, "effective_number", beta=0.9).tolist()
    assert weight(scheme, "loss.weight.beta=0.9") == pytest.approx(expected)
    assert weight("loss.weight.scheme=[1, 2.5, 4]") == [1, 2.5, 4]


def test_logit_adjusted_takes_the_counts_of_the_data():
    loss_fn = instantiate(compose("logit_adjusted", "loss.tau=0.5", counts=(90, 9, 1)))

    assert loss_fn.class_counts.tolist() == [90, 9, 1] and loss_fn.tau == 0.5


def test_a_list_of_weights_can_be_given_to_any_loss_with_weights():
    for name in ("cross_entropy", "nll", "focal", "hinge"):
        assert instantiate(compose(name, "loss.weight=[1, 2, 4]")).weight.tolist() == [1, 2, 4]


def test_distillation_takes_the_teacher_of_the_whole_settings():
    cfg = compose("distillation", "loss.temperature=3")

    assert cfg._get_node("teacher")._value() == "${facts.teacher}"
    assert instantiate(cfg).temperature == 3
