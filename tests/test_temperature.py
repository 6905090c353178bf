"""Temperature scaling: the minimum, its symmetries, its ends, and the command line around it."""

import io
import json
import math
import re
import zipfile

import numpy as np
import pytest
import torch
from conftest import SMALL
from scipy.optimize import minimize_scalar
from test_metrics import sample
from torch.nn import functional as F

from losses import CrossEntropyLoss
from metrics import (
    Metrics,
    apply_temperature,
    fit_temperature,
    fit_temperature_in_chunks,
    report,
)
from scripts import calibrate
from training.data import Split
from training.evaluation import evaluate, recalibrate


def nll(scores, targets, temperature):
    return F.cross_entropy(scores.double() / temperature, targets).item()


@pytest.mark.parametrize(
    ("classes", "temperature"), [(2, 0.1), (2, 3.0), (10, 0.7), (10, 1.0), (10, 20.0), (500, 3.0)]
)
def test_the_fit_is_the_minimum_that_a_search_finds(classes, temperature):
    scores, targets = sample(800, classes, temperature=temperature)

    fit = fit_temperature(scores, targets)

    found = minimize_scalar(
        lambda beta: nll(scores, targets, 1 / beta),
        bounds=(0.3 / fit.temperature, 3 / fit.temperature),
        method="bounded",
        options={"xatol": 1e-10},
    )
    assert fit.temperature == pytest.approx(1 / found.x, rel=1e-5)  # where the minimum is flat
    assert fit.nll_after <= found.fun + 1e-14
    assert fit.nll_before == pytest.approx(nll(scores, targets, 1.0), rel=1e-12)
    assert fit.nll_after == pytest.approx(nll(scores, targets, fit.temperature), rel=1e-12)
    assert fit.at_bound is None


@pytest.mark.parametrize("factor", [0.01, 0.3, 1000])
@pytest.mark.parametrize("temperature", [0.2, 1.4, 8.0])
def test_scores_multiplied_by_c_have_their_temperature_multiplied_by_c(factor, temperature):
    scores, targets = sample(600, temperature=temperature)

    fit = fit_temperature(scores, targets).temperature

    assert fit_temperature(factor * scores, targets).temperature / factor == pytest.approx(
        fit, rel=1e-12
    )


def test_a_constant_added_to_a_row_changes_nothing():
    scores, targets = sample(300)
    shift = 50 * torch.randn(300, 1, dtype=torch.float64)

    fit = fit_temperature(scores, targets)

    assert fit_temperature(scores + shift, targets).temperature == pytest.approx(
        fit.temperature, rel=1e-12
    )


def test_the_fit_is_never_worse_on_its_own_split():
    for seed in range(40):
        generator = np.random.default_rng(seed)
        n, classes = int(generator.integers(1, 30)), int(generator.integers(2, 6))
        scale = 10 ** generator.uniform(-6, 6)
        scores = torch.from_numpy(scale * generator.standard_normal((n, classes)))
        targets = torch.from_numpy(generator.integers(0, classes, n))

        fit = fit_temperature(scores, targets)

        assert 0 < fit.temperature < math.inf
        assert fit.nll_after <= fit.nll_before
        after = nll(scores, targets, fit.temperature)
        assert after <= nll(scores, targets, 1.0) * (1 + 1e-12) + 1e-12


def test_temperature_keeps_the_classes_in_order_and_the_rows_normalised():
    log_probs, _ = sample(50)

    scaled = apply_temperature(log_probs.reshape(10, 5, 10).movedim(2, 1), 1.7)  # (N, C, d1)

    rows = scaled.movedim(1, 2).reshape(50, 10)
    assert torch.equal(rows.argsort(1), log_probs.argsort(1))
    torch.testing.assert_close(rows.exp().sum(1), torch.ones(50, dtype=torch.float64))
    torch.testing.assert_close(rows, (log_probs / 1.7).log_softmax(1))


@pytest.mark.parametrize("factor", [0.01, 1, 1000])
def test_data_that_is_separated_or_opposed_is_reported_at_a_bound(factor):
    scores = factor * sample(100)[0]

    calls = []

    def chunks(targets):
        calls.append(1)
        return [(scores, targets)]

    separated = fit_temperature_in_chunks(lambda: chunks(scores.argmax(1)))
    opposed = fit_temperature_in_chunks(lambda: chunks(scores.argmin(1)))

    assert len(calls) <= 2 * 10  # each may be a forward pass
    assert (separated.at_bound, opposed.at_bound) == ("lower", "upper")
    assert separated.to_apply == opposed.to_apply == 1
    assert 0 < separated.temperature < 0.01 * factor
    assert 100 * factor < opposed.temperature < math.inf
    assert separated.nll_after < min(1e-9, separated.nll_before)
    assert opposed.nll_after == pytest.approx(math.log(10), abs=1e-3)
    assert opposed.nll_after < opposed.nll_before


def test_one_mistake_by_a_hair_is_still_a_minimum():
    scores = sample(100)[0]
    targets = scores.argmax(1)
    scores[0, (targets[0] + 1) % 10] = scores[0].max() + 1e-3

    fit = fit_temperature(scores, targets)

    assert fit.at_bound is None
    for nearby in (0.99, 1.01):
        assert nll(scores, targets, nearby * fit.temperature) > fit.nll_after


def test_the_noise_is_that_of_a_paired_test_of_rows_and_of_one_fitted_number():
    scores, targets = sample(300, temperature=2.0)

    fit = fit_temperature(scores, targets)
    in_chunks = fit_temperature_in_chunks(
        lambda: zip(scores.split(7), targets.split(7), strict=True)
    )

    rows = [F.cross_entropy(scores / t, targets, reduction="none") for t in (1, fit.temperature)]
    gains = (rows[0] - rows[1]).numpy()
    expected = 1.645 * gains.std(ddof=1) / math.sqrt(300) + (1 - gains.min()) / 300
    assert fit.noise == pytest.approx(expected, rel=1e-9)
    assert in_chunks.noise == pytest.approx(fit.noise, rel=1e-9)


@pytest.mark.parametrize("factor", [0.3, 1, 10])
def test_a_clear_gain_is_applied_and_moves_with_the_scores(factor):
    scores, targets = sample(800, temperature=2.0)

    fit = fit_temperature(factor * scores, targets)

    assert (fit.to_apply, fit.kept_because) == (fit.temperature, "")


def test_three_confident_mistakes_among_180_rows_leave_t_at_1():
    scores = torch.zeros(180, 10)
    scores[:, 0] = 9  # .999 sure
    targets = torch.zeros(180, dtype=torch.int64)
    targets[:3] = 1

    fit = fit_temperature(scores, targets)

    assert fit.temperature > 1.2
    assert fit.to_apply == 1
    assert fit.kept_because == f"T = {fit.temperature:.3f} gains no more than noise"
    assert fit_temperature(scores.repeat(20, 1), targets.repeat(20)).to_apply > 1.2


def test_one_mistake_among_180_rows_makes_a_model_no_surer():
    scores = torch.zeros(180, 10, dtype=torch.float64)
    scores[:, 0] = 6.75  # .99 sure
    scores[0, :2] = torch.tensor([4.0, 3.0])  # and once unsure, and wrong
    targets = torch.zeros(180, dtype=torch.int64)
    targets[0] = 1

    fit = fit_temperature(scores, targets)

    assert fit.temperature < 0.75
    assert fit.to_apply == 1
    assert fit_temperature(scores.repeat(20, 1), targets.repeat(20)).to_apply < 0.75


def test_a_near_mistake_from_which_every_row_gains_makes_a_model_no_surer():
    """One row of 180 is wrong by a hair, so that no row tells what the next mistake will cost."""
    scores = torch.zeros(180, 10, dtype=torch.float64)
    scores[:, 0] = 7.0  # .992 sure: with T = 1/3 a mistake as sure as that costs 9.6 nats more
    scores[0, :2] = torch.tensor([3.01, 3.0])
    targets = torch.zeros(180, dtype=torch.int64)
    targets[0] = 1

    fit = fit_temperature(scores, targets)
    gains = scores.log_softmax(1) - (scores / fit.temperature).log_softmax(1)
    odds = 7.0 - math.log(9)  # ln p / (1 - p) of a row that is right
    error = float(gains.gather(1, targets[:, None]).std()) / math.sqrt(180)

    assert fit.temperature < 0.4 and fit.to_apply == 1
    assert fit.nll_before - fit.nll_after > 1.645 * error + 1 / 180  # chance does not explain it
    expected = 1.645 * error + (1 + (1 / fit.temperature - 1) * odds) / 180
    assert fit.noise == pytest.approx(expected, rel=1e-6)
    assert fit_temperature(scores.repeat(20, 1), targets.repeat(20)).to_apply < 0.4


def test_a_calibrated_model_seldom_gets_another_temperature():
    fits = [fit_temperature(*sample(150, temperature=1.0, seed=seed)) for seed in range(200)]

    num_moved = sum(fit.to_apply != 1 for fit in fits)

    assert num_moved <= 10  # 5 %
    assert sum(fit.temperature != 1 for fit in fits) > 190


def test_scores_that_are_all_equal_leave_nothing_to_fit():
    fit = fit_temperature(torch.full((5, 3), 2.0), torch.tensor([0, 1, 2, 0, 0]))

    assert (fit.temperature, fit.to_apply, fit.at_bound) == (1.0, 1.0, None)
    assert fit.nll_after == fit.nll_before == pytest.approx(math.log(3))


def test_impossible_classes_are_left_out():
    scores, targets = sample(300, 6)
    impossible = torch.full((300, 2), -math.inf, dtype=torch.float64)

    fit = fit_temperature(torch.cat([scores, impossible], 1), targets)

    assert fit.temperature == pytest.approx(fit_temperature(scores, targets).temperature, rel=1e-12)


def test_the_cut_into_chunks_and_ignored_rows_do_not_matter():
    scores, targets = sample(900)
    targets[::4] = -100
    kept = targets != -100

    fit = fit_temperature_in_chunks(lambda: zip(scores.split(7), targets.split(7), strict=True))

    whole = fit_temperature(scores[kept], targets[kept])
    assert fit.temperature == pytest.approx(whole.temperature, rel=1e-12)
    assert fit.nll_after == pytest.approx(whole.nll_after, rel=1e-12)
    cube = scores.reshape(9, 100, 10).movedim(2, 1)
    assert fit_temperature(cube, targets.reshape(9, 100)) == fit_temperature(scores, targets)


def test_a_large_vocabulary_is_gone_through_in_pieces():
    scores, targets = sample(100, 13_000, dtype=torch.float32)
    calls = []

    def chunks():
        calls.append(1)
        yield from zip(scores.split(64), targets.split(64), strict=True)

    fit = fit_temperature_in_chunks(chunks)

    assert fit.temperature == pytest.approx(
        fit_temperature(scores.double(), targets).temperature, rel=1e-12
    )
    assert len(calls) <= 10  # each may be a forward pass


def test_many_rows_are_gone_through_four_times_at_most():
    scores, targets = sample(40_000, 3, temperature=2.5)
    targets[::5] = -100
    calls = []

    def chunks():
        calls.append(1)
        yield from zip(scores.split(999), targets.split(999), strict=True)

    fit = fit_temperature_in_chunks(chunks)

    assert len(calls) <= 4  # each may be a forward pass
    kept = targets != -100
    beta = torch.tensor(1 / fit.temperature, dtype=torch.float64, requires_grad=True)
    F.cross_entropy(beta * scores[kept], targets[kept]).backward()
    assert abs(beta.grad) < 1e-13
    assert fit.nll_after == pytest.approx(nll(scores[kept], targets[kept], fit.temperature), 1e-13)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_scores_that_are_not_finite_are_refused(value):
    scores, targets = sample(10)
    scores[4, 2] = value

    with pytest.raises(ValueError, match=r"cannot fit a temperature: a row holds NaN or \+inf"):
        fit_temperature(scores, targets)


def test_what_cannot_be_fitted_is_refused():
    scores, targets = sample(10)

    with pytest.raises(ValueError, match="no rows to fit a temperature to"):
        fit_temperature(scores[:0], targets[:0])
    with pytest.raises(ValueError, match=r"targets must be in \[0, 10\)"):
        fit_temperature(scores, targets + 5)
    impossible = scores.clone()
    impossible[range(10), targets] = -math.inf
    with pytest.raises(ValueError, match="gives its target probability 0"):
        fit_temperature(impossible, targets)


class Scores(torch.nn.Module):
    """A model that gives its inputs back."""

    def forward(self, inputs):
        return inputs


def test_a_model_is_fitted_on_one_split_and_measured_on_the_other():
    scores, targets = sample(2000, temperature=2.0)
    calibration, test = Split(scores[:1000], targets[:1000]), Split(scores[1000:], targets[1000:])
    loss_fn = CrossEntropyLoss()

    fit, report = recalibrate(Scores(), loss_fn, calibration, test, 10)

    assert fit == fit_temperature(scores[:1000], targets[:1000])
    before, after = evaluate(Scores(), loss_fn, test, 10).metrics, report.metrics
    expected = nll(scores[1000:], targets[1000:], fit.temperature)
    assert after["nll"] == pytest.approx(expected, rel=1e-12)
    assert after["accuracy"] == before["accuracy"]
    assert after["ece"] < before["ece"] / 3
    assert after.keys() == before.keys() - {"loss"}


@pytest.fixture
def command(monkeypatch, capsys):
    """Return a function that runs scripts/calibrate.py here: (exit code, stdout, stderr)."""

    def command(*arguments):
        monkeypatch.setattr("sys.argv", ["calibrate.py", *map(str, arguments)])
        try:
            calibrate.main()
            code = 0
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return command


PROBS = torch.randn(500, 10, generator=torch.Generator().manual_seed(0)).softmax(1).double().numpy()


@pytest.fixture
def arrays():
    scores, targets = sample(500)
    return {"logits": scores.numpy(), "labels": targets.numpy()}


def test_logits_from_a_file_give_the_table_that_papers_print(command, arrays, tmp_path):
    np.savez(tmp_path / "resnet.npz", **arrays)
    scores, targets = (torch.from_numpy(arrays[name]) for name in ("logits", "labels"))
    fit = fit_temperature(scores, targets)
    before, after = (Metrics(10), Metrics(10))
    before.update(scores.log_softmax(1), targets)
    after.update((scores / fit.temperature).log_softmax(1), targets)
    before, after = before.compute(), after.compute()

    code, out, _ = command("--logits", tmp_path / "resnet.npz")

    assert code == 0
    row = next(i for i, line in enumerate(out.splitlines()) if "resnet" in line)
    percent = {name: f"{100 * value:.2f}" for name, value in before.items()}
    error, ece_after = (f"{100 * value:.2f}" for value in (1 - before["accuracy"], after["ece"]))
    scores = [f"{before[name]:.4f}" for name in ("nll", "brier")]
    end = [percent["ece"], percent["ece_null"], ece_after, f"({fit.temperature:.4g})"]
    assert out.splitlines()[row].split() == ["resnet", error, *scores, *end]
    interval = f"[{percent['ece_low']}, {percent['ece_high']}]"
    assert out.splitlines()[row + 1].strip() == interval


def test_out_gets_the_diagram_every_figure_and_the_row(command, arrays, tmp_path):
    np.savez(tmp_path / "a|b.npz", **arrays)
    halved = arrays | {"logits": arrays["logits"].copy()}
    halved["logits"][0, arrays["labels"][0]] = -np.inf  # its nll is infinite
    np.savez(tmp_path / "inf.npz", **halved)

    folder = tmp_path / "new" / "out"

    code, *_ = command("--logits", tmp_path / "a|b.npz", "--out", folder)

    assert code == 0
    assert {file.name for file in folder.iterdir()} == {"reliability.png", "report.json", "row.md"}
    assert (folder / "reliability.png").read_bytes().startswith(b"\x89PNG")
    figures = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    fit_on = (arrays["labels"], arrays["logits"])
    assert figures == report(arrays["labels"], logits=arrays["logits"], fit_on=fit_on).to_dict()
    headings, _, row = (folder / "row.md").read_text(encoding="utf-8").splitlines()[:3]
    assert row.replace("\\|", "").count("|") == headings.count("|") == 8
    assert row.startswith(f"| a\\|b | {100 * (1 - figures['accuracy']):.2f} | ")
    assert f" | {100 * figures['ece']:.2f} [{100 * figures['ece_low']:.2f}, " in row

    others = ("--fit-on", tmp_path / "a|b.npz", "--out", folder)
    assert command("--logits", tmp_path / "inf.npz", *others)[0] == 0
    assert json.loads((folder / "report.json").read_text(encoding="utf-8"))["nll"] is None


def test_a_folder_that_cannot_be_written_loses_no_table(command, arrays, tmp_path):
    np.savez(tmp_path / "a.npz", **arrays)

    code, out, err = command("--logits", tmp_path / "a.npz", "--out", tmp_path / "a.npz" / "out")

    assert code == 5
    assert "ECE after (T)" in out
    assert err == f"error: {tmp_path}/a.npz/out: cannot be written (Not a directory)\n"
    assert command("some-run", "--out", "out")[0] == 2


def test_the_temperature_can_be_fitted_on_another_file(command, arrays, tmp_path):
    np.savez(tmp_path / "test.npz", **arrays)
    np.savez(tmp_path / "half.npz", logits=arrays["logits"] / 2, labels=arrays["labels"])
    fit = fit_temperature(*(torch.from_numpy(arrays[name]) for name in ("logits", "labels")))

    _, out, _ = command("--logits", tmp_path / "test.npz", "--fit-on", tmp_path / "half.npz")

    assert f"({fit.temperature / 2:.4g})" in out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": None}, "must hold arrays named logits and labels"),
        ({"labels": np.arange(7)}, r"labels must be \(500,\), got \(7,\)"),
        ({"labels": np.full(500, 10)}, r"labels must be classes from 0 to 9, row 0 .* has 10"),
        ({"labels": np.full(500, 0.5)}, "labels must be whole numbers"),
        (
            {"logits": np.full((500, 10), math.nan)},
            r"must be finite, row 0 \(from 0\) is not",
        ),
        ({"logits": np.full((500, 10), 0.1)}, "rows are >= 0 and sum to 1: give their logarithm"),
        ({"logits": np.full(500, 0.1)}, r"logits must be \(N, C\) .*, got \(500,\)"),
        ({"logits": np.array([None] * 500)}, "cannot be read as an npz file of numbers"),
        ({"logits": PROBS.round(3)}, "rows are >= 0 and sum to 1: give their logarithm"),
        ({"logits": 100 * PROBS}, "sum to 100: divide them by 100 and give their logarithm"),
        ({"logits": PROBS * 1j}, "logits must be real numbers, got torch.complex128"),
        ({"labels": np.eye(10)[np.arange(500) % 10]}, r"use labels.argmax\(1\)"),
        ({"labels": np.zeros((500, 1))}, r"use labels.reshape\(500,\)"),
        ({"labels": np.full(500, "cat")}, "labels must be numbers, got <U3: give each class's"),
        ({"labels": None, "label": np.zeros(500)}, "named logits and labels, got label"),
        ({"logits": np.zeros((0, 3)), "labels": np.zeros(0, dtype=int)}, "no rows"),
    ],
)
def test_bad_logits_are_one_line_and_exit_code_4(command, arrays, tmp_path, change, message):
    file = tmp_path / "bad.npz"
    changed = {name: array for name, array in (arrays | change).items() if array is not None}
    np.savez(file, **changed)

    code, out, err = command("--logits", file)

    assert (code, out) == (4, "")
    assert err.startswith(f"error: {file}: ")
    assert err.count("\n") == 1
    assert re.search(message, err)


def of(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def zipped(member, compression=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("logits.npy", member)
        archive.writestr("labels.npy", member)
    return file.getvalue()


GOOD = of(logits=np.eye(3) + 2, labels=np.arange(3))


def marked(place, value):
    """Return the file with a number changed in the head of a member, and in the directory."""
    content = bytearray(GOOD)
    for magic, shift in ((b"PK\x01\x02", 0), (b"PK\x03\x04", -2)):
        content[content.index(magic) + place + shift] = value
    return bytes(content)


ONE_ARRAY = io.BytesIO()
np.save(ONE_ARRAY, np.eye(3))
TORCHS = io.BytesIO()
torch.save({"logits": torch.eye(3)}, TORCHS)
HUGE = ONE_ARRAY.getvalue().replace(b"(3, 3)", b"(9999999999999, 1)")[:-11]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (GOOD[:-40], "cannot be read as an npz file"),
        (GOOD.replace(b"\0\0\x08@", b"\0\0\0@", 1), "logits.npy is damaged"),
        (marked(8, 1), "cannot be read as an npz file of numbers (File 'logits.npy' is encrypted"),
        (marked(10, 99), "cannot be read as an npz file of numbers (That compression method"),
        (zipped(HUGE), "cannot be read as an npz file"),
        (zipped(b"no array"), "logits and labels must be arrays; save both with np.savez"),
        (ONE_ARRAY.getvalue(), "holds one array; save both with np.savez"),
        (TORCHS.getvalue(), "is torch's own format; torch.load it, and save both with np.savez"),
    ],
)
def test_a_damaged_or_another_file_is_one_line_and_exit_code_4(command, tmp_path, content, message):
    file = tmp_path / "some.npz"
    file.write_bytes(content)

    code, out, err = command("--logits", file)

    assert content != GOOD
    assert (code, out, err.count("\n")) == (4, "", 1)
    assert err.startswith(f"error: {file}: {message}")


def test_arrays_that_are_not_used_are_named_and_any_number_type_is_read(command, arrays, tmp_path):
    wanted = None
    for dtype in (np.float64, ">f8", np.longdouble, np.float32, np.float16):
        np.savez(tmp_path / "a.npz", **arrays | {"logits": arrays["logits"].astype(dtype)})
        code, out, err = command("--logits", tmp_path / "a.npz")
        wanted = wanted or out
        assert (code, err) == (0, "")
        assert out == wanted or dtype in (np.float32, np.float16)

    np.savez(tmp_path / "a.npz", **arrays, ids=np.arange(500), val_logits=arrays["logits"])
    assert command("--logits", tmp_path / "a.npz")[2] == (
        f"{tmp_path}/a.npz: not used: ids, val_logits\n"
    )


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut short"])
def test_a_file_that_is_no_npz_is_one_line_and_exit_code_4(command, tmp_path, content):
    file = tmp_path / "junk.npz"
    file.write_bytes(content)

    code, out, err = command("--logits", file)

    assert (code, out, err.count("\n")) == (4, "", 1)
    assert err.startswith(f"error: {file}: cannot be read as an npz file of numbers (")
    assert command("--logits", tmp_path / "none.npz")[::2] == (
        4,
        f"error: {tmp_path}/none.npz: no such file\n",
    )


@pytest.mark.parametrize(
    "arguments", [[], ["--logits"], ["--bins", "3"], ["RUN", "--logits", "FILE"], ["--fit-on", "F"]]
)
def test_bad_arguments_are_one_line_and_exit_code_2(command, arguments):
    code, out, err = command(*arguments)

    assert (code, out, err.count("\n")) == (2, "", 1)


def test_a_finished_run_is_a_row(command, train):
    folder = train(*SMALL, "trainer.epochs=1")

    code, out, _ = command(folder)

    assert code == 0
    assert folder.name in out
    assert "T fitted on the calibration split" in out
