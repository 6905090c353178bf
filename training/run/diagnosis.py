"""What is wrong with a run, from its figures and settings: the table of docs/diagnosis.md.

Each `if` below is a row of that table: a symptom, its evidence, the likely cause, and one change.
Figures that a run lacks are NaN, and no comparison with NaN is true.
"""

import math
from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path

from training.errors import CheckpointError
from training.run.evidence import Evidence, Finding, read_evidence
from training.run.untrusted import refuse_links

MOST = 3  # findings, and so changes to try
FEW_STEPS = "trainer.max_batches=2"  # to look at shapes and at the first figures


def diagnosis(folder: Path) -> list[Finding]:
    """Return what is wrong with the run in a folder, which may come from anyone."""
    refuse_links(folder)
    try:
        return findings(read_evidence(folder))
    except (OSError, ValueError, TypeError, ArithmeticError, LookupError) as error:
        raise CheckpointError(f"{folder}: cannot be read as a run ({error!r})") from error


def usual_changes(folder: Path) -> list[str]:
    """Return what to try on a run without a finding, one at a time: the document's experiment."""
    run = read_evidence(folder)
    return [FEW_STEPS, *filter(None, (run.times("optimizer.lr", 0.5), run.smoothed()))]


def findings(run: Evidence) -> list[Finding]:
    """Return what is wrong, in the order of the checklist; nothing for a healthy run.

    What is wrong with the data, the model or the learning rate shows in every other figure, too. So
    the first finding of that kind stands alone.
    """
    first = next(of_data(run), None) or next(of_rate(run), None)
    return [first] if first else [*islice(of_the_rest(run), MOST)]


def of_data(run: Evidence) -> Iterator[Finding]:
    """Yield what is wrong with inputs, targets and the model's outputs."""
    num_classes, guess = run.last("data/classes"), run.last("data/val_guess_nll")
    nll = min(run.curve("val/nll"))
    if run.settings.get("status") == "failed":
        yield Finding("the run failed", str(run.settings.get("message")), "what it says")
    # a half is no law: padding alone seldom takes more
    if (ignored := run.last("data/ignored")) > 0.5:
        yield Finding(
            "most targets are ignored",
            f"{ignored:.1%} of the training targets are loss.ignore_index, and count for nothing",
            "targets are marked as padding, or as missing, that are not",
            FEW_STEPS,
        )
    if run.last("data/input_spread") < 1e-6:
        yield Finding(
            "all inputs are the same",
            "no input differs between the first training examples",
            "they are read or scaled wrongly, and a model can only guess",
            FEW_STEPS,
        )
    # initial weights are made for inputs of size 1 (LeCun et al. 1998, Efficient BackProp)
    if (size := run.last("data/input_size")) > 10 or size < 0.01:
        yield Finding(
            "inputs are not normalised",
            f"their root mean square is {size:.3g}; models are made for about 1",
            "data.mean and data.std are not those of the data",
            run.times("data.std", size),
        )
    # softmax of a softmax: of outputs in [0, 1] the largest is e / (e + C - 1)
    bound, accuracy = math.e / (math.e + num_classes - 1), run.last("test/accuracy")
    if 0.8 * bound < run.surest < 1.01 * bound and accuracy > 2 * run.surest:
        yield Finding(
            "the model is right far more often than it can say",
            f"accuracy {accuracy:.1%}, but no confidence above {run.surest:.2%}: softmax of outputs"
            f" from 0 to 1 ends at e / (e + {num_classes - 1:g}) = {bound:.2%}",
            "the model ends with a softmax or sigmoid, and the loss takes a softmax of that",
        )
    if (trained := run.last("data/trained")) < 0.95 and nll > 0.5 * guess:
        yield Finding(
            "a part of the model is frozen",
            f"{trained:.1%} of its parameters are trained; val nll {nll:.3f}, and {guess:.3f} for"
            " the shares of the classes",
            "requires_grad is false for parameters that were never trained",
        )
    train_loss = run.last("train/loss")
    by_heart = run.is_nll() and train_loss < run.last("data/guess_nll") - 0.1
    if by_heart and nll > guess - 0.03:
        yield Finding(
            "training rows are learnt by heart, and help no others",
            f"train loss {train_loss:.3f}, but no val nll below {nll:.3f}; shares of the classes"
            f" give {guess:.3f}",
            "targets do not belong to their inputs, as when one of the two was shuffled",
            FEW_STEPS,
        )
    val, test = run.at_best("accuracy"), run.last("test/accuracy")
    counts = run.last("data/val_targets"), run.last("data/test_targets")
    error = math.sqrt(sum(a * (1 - a) / n for a, n in zip((val, test), counts, strict=True) if n))
    if test - val > max(5 * error, 0.05):  # chance alone gives one error or two
        yield Finding(
            "the test split is easier than the validation split",
            f"accuracy {test:.1%} on test, {val:.1%} on val: {(test - val) / error:.0f} standard"
            " errors",
            "labels of training and validation are wrong more often than those of test",
            run.smoothed(),
        )
    top5, overfits = run.at_best("top5"), train_loss < 0.7 * run.last("val/loss")
    if num_classes >= 10 and val < 0.7 and top5 > 0.95 and overfits:
        yield Finding(
            "the model wavers between a few classes",
            f"val accuracy {val:.1%}, yet {top5:.1%} of the targets are among the five likeliest",
            "some targets are another class than they should be, as labels off by one",
            run.smoothed(),
        )


def of_rate(run: Evidence) -> Iterator[Finding]:
    """Yield what is wrong with the learning rate."""
    nlls = run.curve("val/nll")
    limit = math.log(max(1.0, run.last("data/classes")))
    worst, diverged = max(nlls), run.settings.get("status") == "diverged"
    # initial weights stand near ln C; what is far above has been thrown there
    if diverged or worst > limit + 0.5:
        shown = f"val nll {worst:,.4g} at evaluation {nlls.index(worst) + 1} of {len(nlls)}"
        yield Finding(
            "training diverged" if diverged else "a model that knows nothing would be better",
            str(run.settings.get("message")) if diverged else f"{shown}; ln C is {limit:.3f}",
            "the learning rate is too high",
            run.times("optimizer.lr", 0.1 if diverged or min(nlls) > limit else 0.5),
        )
    losses, falls = run.curve("train/loss"), all(b < a for a, b in pairwise(nlls))
    hardly = losses[-1] > 0.85 * losses[0] and nlls[-1] > 0.85 * nlls[0]
    guess = run.last("data/val_guess_nll")
    knows_less = run.is_nll() and min(nlls) > guess + 0.1
    # a healthy run halves its loss, or turns, and soon knows the shares of the classes
    if hardly and (knows_less or (len(nlls) > 2 and falls)):
        yield Finding(
            "hardly trained",
            f"val nll went from {nlls[0]:.3f} to {nlls[-1]:.3f} in {len(nlls)} evaluations; the"
            f" shares of the classes give {guess:.3f}",
            "the learning rate is too low",
            run.times("optimizer.lr", 10),
        )


def of_the_rest(run: Evidence) -> Iterator[Finding]:
    """Yield what is wrong with confidence, balance, length, the loss and the splits."""
    num_classes, guess = run.last("data/classes"), run.last("data/val_guess_nll")
    nlls = run.curve("val/nll")
    best = nlls.index(min(nlls)) + 1
    scarcer, rarest = run.last("data/scarcer"), run.last("data/rarest")
    worst, mean = run.at_best("worst_class_accuracy"), run.at_best("balanced_accuracy")
    is_thin = rarest * num_classes < 0.2 * run.last("data/train_targets")
    # of many classes, as of words, some are rare by nature
    fails = num_classes <= 100 and is_thin and worst < 0.7 * mean
    if fails or scarcer > 10:
        shown = f"the rarest class has {rarest:g} training targets"
        if scarcer > 10:
            shown = f"a class is {scarcer:.0f} times as rare in training as in validation"
        untried = ["loss=weighted"] * (not run.is_weighted()) + ["loss=focal"]
        yield Finding(
            "a class fails for want of examples",
            f"{shown}; accuracy of the worst class {worst:.1%}, of all on average {mean:.1%}",
            "imbalance",
            "" if run.number("loss.gamma") > 0 else untried[0],
        )
    ece, gap, floor = (run.last(f"test/{n}") for n in ("ece", "overconfidence", "ece_null"))
    before = nlls[-2] if len(nlls) > 1 else guess
    # one evaluation alone shows no fall; then half of what guessing costs is far to go
    is_learning = best == len(nlls) and before - nlls[-1] > 0.05 * guess
    is_learning &= len(nlls) > 1 or nlls[-1] > 0.5 * guess
    # beyond chance: the interval's lower end is above the floor (docs/calibration.md); losses other
    # than nll may be under-confident by nature, and nll is so where it has far to go
    low, is_rare = run.last("test/ece_low"), fails or scarcer > 10
    is_over = low > floor and gap > max(0.5 * ece, 0.02) and not is_rare
    is_under = low > 2.5 * floor and gap < -0.05 and run.is_nll() and not is_learning
    if is_over or is_under:
        yield Finding(
            "over-confident" if is_over else "under-confident",
            f"test ECE {ece:.3f} where chance gives {floor:.3f}; confidence minus accuracy"
            f" {gap:+.3f}; T = {run.last('test/temperature'):.2f} takes nll from"
            f" {run.last('test/nll'):.3f} to {run.last('test/nll_temperature'):.3f}",
            "training rows are fitted more closely than others can be"
            if is_over
            else "labels of training are wrong more often than those held out",
            run.smoothed(),
        )
    if is_learning:
        yield Finding(
            "still learning at the end",
            f"val nll fell from {before:.3f} to {nlls[-1]:.3f} at the last of {len(nlls)}",
            "too few epochs",
            run.times("trainer.epochs", 2),
        )
    if 2 * best <= len(nlls) and nlls[-1] > 1.03 * min(nlls) + 0.01:
        yield Finding(
            "later epochs made it worse",
            f"val nll {min(nlls):.3f} at evaluation {best} of {len(nlls)}, {nlls[-1]:.3f} at last",
            "training rows are learnt by heart (the weights of the best evaluation are kept)",
            run.times("trainer.epochs", best / len(nlls)),
        )
    smoothing, train_loss = run.number("loss.label_smoothing"), run.last("train/loss")
    if 0 < smoothing < 1:  # the entropy of a smoothed target (Szegedy et al. 2016)
        rest = smoothing / num_classes  # of each other class
        own = 1 - smoothing + rest
        least = -own * math.log(own) - (num_classes - 1) * rest * math.log(rest)
        if train_loss < 1.01 * least:
            yield Finding(
                "the loss stands at its floor",
                f"train loss {train_loss:.4f}; with label smoothing {smoothing:g} none is below"
                f" {least:.4f}",
                "nothing is left to learn from these targets: this is no failure to learn",
                "loss=cross_entropy",
            )
    # what squared errors and hinges of many classes leave: docs/results.md, the Sonnets
    gain = run.last("test/nll") - run.last("test/nll_temperature")
    is_flat = gap < -0.05 and run.last("test/ece_low") > 2 * floor
    shown = (
        f"confidence is {-gap:.3f} below accuracy, and T gains {gain:.3f} of {nlls[-1]:.3f} nats"
    )
    if worse := not run.is_nll() and min(nlls) > guess + 0.1:
        shown = f"val nll {min(nlls):.3f} at best; the shares of the classes alone give {guess:.3f}"
    if worse or (is_flat and not run.is_nll() and gain < 0.02 * nlls[-1]):
        yield Finding(
            "the loss gives no good probabilities",
            shown,
            "it is not made for so many classes, or for such unequal ones",
            "loss=cross_entropy",
        )
    if (unknown := run.last("data/unk")) > 0.25:
        yield Finding(
            "many words are <unk>",
            f"{unknown:.1%} of the training targets: perplexity looks better than it is",
            "data.min_count is high for this text",
            f"data.min_count={1 if run.number('data.min_count') <= 2 else 2}",
        )
    for name in ("val", "test"):
        count = run.last(f"data/{name}_targets")
        if 0 < count < 100 or 0 < count / run.last("data/block_rows") < 5:
            yield Finding(
                f"the {name} split is too small to tell",
                f"{count:g} targets, {count / run.last('data/block_rows'):.0f} draws of chance: an"
                f" accuracy of one half is uncertain by {1 / math.sqrt(count):.1%}",
                "its share in data.split is small for this much data",
                "data.split=[0.6,0.1,0.1,0.2]",
            )
