"""Comparing runs: what is averaged, what is not, and what is shown; by independent arithmetic."""

import csv
import json
import math
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from conftest import ROOT
from scipy.stats import ttest_rel

from scripts import compare as script
from training.cli.comparison import compare
from training.cli.page import page
from training.cli.rates import draw_rates, edge_lines, tried_rates
from training.cli.runs import find_runs, read_run
from training.cli.tables import cells, markdown, print_comparisons, write_files
from training.errors import DataError

SPREAD_OF_ROWS = np.tile([-1.0, 1.0], 100)  # about nll, the same in all runs
PNG = bytes.fromhex("89504e470d0a1a0a")  # only its bytes are looked at here


def write_run(folder, loss="cross_entropy", seed=1, nll=4.0, status="complete", **changed):
    """Write the files of a run that a comparison reads."""
    settings = {"loss.gamma": 2.0, "optimizer.lr": 0.004, "trainer.epochs": 8}
    settings |= changed.pop("settings", {})
    content = {"task": "ngram", "loss": loss, "seed": seed, "data": "d", "code": "c"}
    content |= {"baseline": "cross_entropy"}
    content |= {"group": f"{loss}-{settings}", "protocol": "a text", "settings": settings}
    content |= {"table": ["nll", "accuracy", "ece"]} | changed
    folder.mkdir(parents=True)
    (folder / "status.json").write_text(
        json.dumps({"status": status, "run": content}), encoding="utf-8"
    )
    lines = [
        {"step": 5, "split": "train", "loss": 5.0},
        {"step": 5, "split": "val", "nll": nll + 1},
        {"step": 9, "split": "val", "nll": nll + 0.5},
        {"step": 9, "split": "test", "nll": nll, "accuracy": 0.25, "ece": 0.1},
        {"step": 9, "split": "test", "ece_temperature": 0.05, "temperature": 1.5},
        {"step": 9, "split": "time", "seconds": 3.0, "cpu_seconds": 5.0},
    ]
    (folder / "metrics.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8"
    )
    (folder / "test_reliability.png").write_bytes(PNG)
    rows = np.stack([nll + SPREAD_OF_ROWS, np.arange(200) < 50, np.full(200, 0.35)], 1)
    np.save(folder / "examples.npy", rows.astype(np.float32))
    return folder


@pytest.fixture
def outputs(tmp_path):
    for loss, shift in (("cross_entropy", 0.0), ("mse", 0.5), ("focal", 0.03)):
        for seed, nll in ((1, 4.0), (2, 4.1), (3, 4.4)):
            noise = {"focal": 0.02 * (-1) ** seed, "mse": 0.004}.get(loss, 0.0) * seed
            write_run(tmp_path / f"{loss}-seed{seed}", loss, seed, nll + shift + noise)
    return tmp_path


def test_a_perplexity_too_large_to_square_is_infinite_and_the_run_is_compared(tmp_path, capsys):
    for seed in (1, 2, 3):
        run = write_run(tmp_path / f"b{seed}", "mse", seed, nll=300.0, table=["nll", "perplexity"])
        line = {"step": 9, "split": "test", "nll": 1e308, "perplexity": math.exp(300.0)}
        with (run / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        write_run(tmp_path / f"a{seed}", seed=seed)
    runs = find_runs([tmp_path])

    print_comparisons(compare(runs))

    assert runs[3].figures["perplexity"] == runs[3].figures["nll"] == math.inf
    assert "inf" in capsys.readouterr().out
    assert write_files(compare(runs), tmp_path, [])


def only(runs):
    (comparison,) = compare(find_runs(runs))
    return comparison


def test_a_row_is_the_mean_and_standard_deviation_over_seeds(outputs):
    comparison = only([outputs])

    assert [row.label for row in comparison.rows] == ["cross_entropy", "focal", "mse"]
    for row in comparison.rows:
        values = np.array(list(row.values("nll").values()))
        assert row.mean("nll") == pytest.approx(values.mean(), rel=1e-12)
        assert row.spread("nll") == pytest.approx(values.std(ddof=1), rel=1e-12)
    assert comparison.columns == ("nll", "accuracy", "ece", "ece_temperature", "seconds")
    assert comparison.rows[0].mean("val_nll") == pytest.approx(comparison.rows[0].mean("nll") + 0.5)


def test_a_difference_has_scipys_p_value_where_the_test_split_has_no_noise(outputs):
    base, focal, mse = only([outputs]).rows
    values = [list(row.values("nll").values()) for row in (base, focal, mse)]
    smaller, larger = sorted(ttest_rel(values[0], other).pvalue for other in values[1:])

    assert mse.differences["nll"].p == pytest.approx(2 * smaller, rel=1e-3)  # Holm's, of two rows
    assert focal.differences["nll"].p == pytest.approx(larger, rel=1e-3)
    assert mse.differs("nll") and not focal.differs("nll") and not base.differences
    assert not any(row.differs(name) for row in (focal, mse) for name in ("accuracy", "ece"))


def test_two_seeds_tell_nothing_and_the_verdict_says_why(outputs):
    shutil.rmtree(outputs / "mse-seed2")
    (outputs / "focal-seed2" / "examples.npy").unlink()

    comparison = only([outputs])
    of_focal, of_mse = comparison.verdict

    assert not any(row.differences for row in comparison.rows)
    assert of_mse.startswith("no difference of mse can be told from noise: fewer than 3 seeds in")
    assert of_focal.startswith("no difference of focal can be told from noise: its runs and")
    assert not any("*" in note for note in comparison.notes)  # explained where there is one


def test_the_verdict_names_what_differs_by_how_much_and_how_little_would_have_been_found(
    outputs, capsys
):
    for seed, nll in ((1, 4.0), (2, 4.1), (3, 4.4)):
        for loss, shift, right in (("bce", 0.25, 50), ("nll", -0.125, 150)):
            shifted = nll + shift + 0.001 * seed
            folder = write_run(outputs / f"{loss}-seed{seed}", loss, seed, shifted)
            rows = np.stack([shifted + SPREAD_OF_ROWS, np.arange(200) < right, [0.35] * 200], 1)
            np.save(folder / "examples.npy", rows.astype(np.float32))

    comparison = only([outputs])
    sizes = [row.differences["nll"].smallest() for row in comparison.rows if row.differences]
    *found, rest = comparison.verdict
    print_comparisons([comparison], 240)

    mse = np.mean([0.5 + 0.004 * seed for seed in (1, 2, 3)])
    assert found == [
        "better than cross_entropy beyond noise, in nll: nll by 0.1230 nats",
        f"worse than cross_entropy beyond noise, in nll: mse by {mse:.4f}; bce by 0.2520 nats",
        "better than cross_entropy beyond noise, in accuracy: nll by 50.00 points",
        "worse than cross_entropy beyond noise, in ECE: nll by 0.3000",  # .1 to |.35 - .75|
    ]
    assert rest.startswith("nothing else that could be tested differs beyond noise with 3 seeds")
    assert f"nll {min(sizes):.4f} to {max(sizes):.4f} nats" in rest
    assert capsys.readouterr().out.endswith("\n".join(comparison.verdict) + "\n")
    assert all(line in markdown(comparison) for line in comparison.verdict)


def test_a_row_that_is_the_baseline_bit_for_bit_is_no_measure_of_noise(outputs):
    for seed, nll in ((1, 4.0), (2, 4.1), (3, 4.4)):
        write_run(outputs / f"nll-seed{seed}", "nll", seed, nll)
    alike = [
        outputs / f"{loss}-seed{seed}" for loss in ("cross_entropy", "nll") for seed in (1, 2, 3)
    ]

    nothing = "nothing else that could be tested differs beyond noise with 3 seeds"
    assert only(alike).verdict == (nothing,)
    assert "nll 0.0000" not in only([outputs]).verdict[-1]


def test_no_share_of_right_answers_could_have_differed_by_more_than_100_points(outputs):
    for seed, right in ((1, 0), (2, 200), (3, 100)):
        folder = write_run(outputs / f"bce-seed{seed}", "bce", seed, nll=4.0)
        rows = np.stack([4.0 + SPREAD_OF_ROWS, np.arange(200) < right, [0.35] * 200], 1)
        np.save(folder / "examples.npy", rows.astype(np.float32))

    rest = only([outputs]).verdict[-1]

    assert "accuracy 100.00 points" in rest


@pytest.mark.parametrize(("loss", "verdict"), [
    ("cross_entropy", "there is nothing to hold against cross_entropy"),
    ("mse", "no difference can be told: no run of the baseline (cross_entropy) is here"),
])  # fmt: skip
def test_a_verdict_on_nothing_says_that_there_is_nothing(loss, verdict, tmp_path):
    assert only([write_run(tmp_path / "run", loss)]).verdict == (verdict,)


def test_refinement_and_calibration_sum_to_nll_and_are_shown_under_these_names(tmp_path, capsys):
    for seed in (1, 2):
        folder = write_run(tmp_path / str(seed), seed=seed, nll=4.0)
        with (folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write('{"step": 9, "split": "test", "nll_temperature": 3.75}\n')

    comparison = only([tmp_path])
    (row,) = comparison.rows
    print_comparisons([comparison], 240)
    files = write_files([comparison], tmp_path, [])

    assert (row.mean("refinement"), row.mean("calibration")) == (3.75, 0.25)
    for text in (capsys.readouterr().out, *(file.read_text(encoding="utf-8") for file in files)):
        assert "refinement" in text and "calibration" in text and "0.25" in text


def test_a_figure_that_is_not_finite_is_shown_and_proves_nothing(outputs, tmp_path):
    for seed in (1, 2, 3):
        write_run(outputs / f"hinge-{seed}", "hinge", seed, nll=math.inf if seed == 2 else 9.0)

    comparison = only([outputs])
    hinge = comparison.rows[-1]
    files = write_files([comparison], tmp_path, [])

    assert (hinge.label, hinge.mean("nll"), hinge.spread("nll")) == ("hinge", math.inf, None)
    assert not hinge.differs("nll")
    assert "| inf |" in files[0].read_text(encoding="utf-8")


def test_the_best_is_bold_and_a_real_difference_has_a_star(outputs):
    comparison = only([outputs])
    headings, *rows = cells(comparison)

    assert [str(heading) for heading in headings[:3]] == ["loss", "seeds", "nll"]
    assert [str(row[0]) for row in rows if row[2].style == "bold"] == ["cross_entropy"]
    assert [str(row[0]) for row in rows if str(row[2]).endswith("*")] == ["mse"]
    assert all(str(row[1]) == "3" for row in rows)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"data": "x"}, "other data"),
        ({"code": "x"}, "other code"),
        ({"data": "x", "code": "x"}, "other data and code"),
    ],
)
def test_runs_on_other_data_or_code_are_marked_and_not_averaged(outputs, changed, reason):
    write_run(outputs / "other", seed=4, nll=1.0, **changed)

    comparison = only([outputs])
    marked = [(row.label, row.excluded, len(row.runs)) for row in comparison.rows if row.excluded]

    assert marked == [("cross_entropy", reason, 1)]
    assert len(comparison.baseline.runs) == 3
    assert comparison.best("nll") == comparison.baseline.mean("nll")  # not 1.0
    assert f"cross_entropy ({reason})" in markdown(comparison)


def test_runs_that_did_not_end_are_left_out_by_name(outputs):
    write_run(outputs / "mse-seed4", "mse", 4, nll=1.0, status="diverged")

    comparison = only([outputs])

    assert "mse-seed4: diverged, left out" in comparison.notes
    assert [len(row.runs) for row in comparison.rows] == [3, 3, 3]


def test_a_complete_run_without_figures_is_left_out_by_name(outputs):
    for seed, content in ((1, "garbage"), (2, "")):
        (outputs / f"mse-seed{seed}" / "metrics.jsonl").write_text(content, encoding="utf-8")

    comparison = only([outputs])

    assert "mse-seed1: no figures in metrics.jsonl, left out" in comparison.notes
    assert [len(row.runs) for row in comparison.rows if row.label == "mse"] == [1]


def test_a_second_run_of_the_same_seed_and_settings_does_not_count_twice(outputs):
    write_run(outputs / "again", seed=1, nll=0.0)

    comparison = only([outputs])

    assert len(comparison.baseline.runs) == 3
    assert any("same seed and settings" in note for note in comparison.notes)


def test_rows_are_named_by_what_makes_them_differ(tmp_path):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", "focal")
    write_run(tmp_path / "c", "focal", settings={"loss.gamma": 3.0})
    write_run(tmp_path / "d", "mse", settings={"trainer.epochs": 4})

    assert {row.label for row in only([tmp_path]).rows} == {
        *("cross_entropy", "focal, gamma=2.0", "focal, gamma=3.0", "mse, epochs=4")
    }


def test_of_several_learning_rates_the_lowest_validation_nll_is_named(tmp_path):
    for lr, nll in ((0.001, 4.2), (0.01, 4.0), (0.1, 4.5)):
        write_run(tmp_path / f"a{lr}", nll=nll, settings={"optimizer.lr": lr})

    assert "lowest val nll: cross_entropy, lr=0.01" in only([tmp_path]).notes


def test_the_files_hold_the_figures_and_the_page_needs_nothing_else(outputs, tmp_path):
    comparison = only([outputs])
    table, numbers, html = write_files([comparison], outputs, [])

    with numbers.open(encoding="utf-8") as file:
        found = {(r["loss"], r["figure"]): float(r["mean"]) for r in csv.DictReader(file)}
    assert found["mse", "nll"] == pytest.approx(comparison.rows[2].mean("nll"), rel=1e-12)
    assert found["mse", "cpu_seconds"] == 5  # not shown in the table
    with numbers.open(encoding="utf-8") as file:
        (mse,) = [r for r in csv.DictReader(file) if (r["loss"], r["figure"]) == ("mse", "nll")]
    low, difference, high = (float(mse[name]) for name in ("low", "difference", "high"))
    assert difference == pytest.approx(0.508, rel=1e-4) and low < difference < high
    assert float(mse["p"]) < 0.05 and float(mse["smallest"]) > 0
    assert re.search(r"\| \*\*4\.\d{4} ± 0\.\d{4}\*\* \|", table.read_text(encoding="utf-8"))

    loaded, tags = [], []

    class Links(HTMLParser):
        def handle_starttag(self, tag, attributes):
            tags.append(tag)
            loaded.extend(v for k, v in attributes if k in ("src", "href", "xlink:href") and v)

    Links().feed(html.read_text(encoding="utf-8"))
    assert tags.count("svg") == 3 and tags.count("img") == 3  # nll, train loss, reliability
    assert all(link.startswith(("data:", "#")) for link in loaded)
    assert not {"script", "link", "iframe"} & set(tags)
    assert "<b>4." in html.read_text(encoding="utf-8")


def test_the_best_rate_at_an_edge_is_named_with_the_command_that_goes_beyond(tmp_path):
    nlls = {
        "focal": (4.0, 3.5, 3.0, 2.0),
        "mse": (4.0, 3.0, 3.5, 4.5),
        "bce": (4.0, 3.0, 2.0, None),
    }
    for loss, by_rate in nlls.items():
        for rate, nll in zip((0.001, 0.003, 0.01, 0.03), by_rate, strict=True):
            folder, how = tmp_path / f"{loss}{rate}", {"settings": {"optimizer.lr": rate}}
            how |= {"status": "diverged"} if nll is None else {"nll": nll}
            write_run(folder, loss, **how)

    tried = tried_rates(find_runs([tmp_path]))
    draw_rates(tried, tmp_path / "rates.png")
    again = ["train.py", "-m", "experiment=tune_lr", "data.path=a b", "loss=focal,mse"]
    _, command = lines = [*edge_lines(tried, again)]

    assert {label: [*means.values()] for label, _, means in tried} == {
        loss: [math.inf if nll is None else nll + 0.5 for nll in of_loss]
        for loss, of_loss in nlls.items()
    }
    assert "edge of the rates tried: focal 0.03; to try more" in lines[0]  # bce diverged beyond .01
    assert command == (
        "train.py -m experiment=tune_lr 'data.path=a b' loss=focal optimizer.lr=0.09,0.3"
    )
    assert (tmp_path / "rates.png").read_bytes().startswith(PNG)
    assert not tried_rates(find_runs([*tmp_path.glob("*0.001")]))


def test_lines_of_many_learning_rates_all_look_different(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, _: drawn.append(figure))
    tried = [(f"loss {i}", "mse", {0.1: 1.0 + i, 0.2: 2.0, 0.3: 3.0}) for i in range(13)]

    draw_rates(tried, tmp_path / "rates.png")

    lines = [line for line in drawn[0].axes[0].lines if len(line.get_xdata()) == 3]
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == len(lines) == 13


HOSTILE = [r"\w+|[/]", "[bold]x[/bold]", ":smile:", "<script>x</script>", r"$\x$", "*a* `b` \\|"]


@pytest.mark.parametrize(("width", "headings", "nll"), [
    (44, ["loss", "nll"], "4.2857"),
    (80, ["loss", "nll", "accuracy", "ECE", "ECE at T"], "4.2857"),
    (120, ["loss", "seeds", "nll", "accuracy", "ECE", "ECE at T"], "4.2857 ± 0.1429"),
    (140, ["loss", "seeds", "nll", "accuracy", "ECE", "ECE at T", "seconds"], "4.2857 ± 0.1429"),
])  # fmt: skip
def test_a_narrow_screen_shows_fewer_columns_and_cuts_no_name(
    width, headings, nll, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("FORCE_COLOR", "1")
    for seed in (1, 2, 3):
        for loss in ("cross_entropy", "label_smoothing"):
            settings = {"loss.gamma": 2.5, "optimizer.lr": 0.0012345 * len(loss)}
            how = {"settings": settings, "nll": 4 + seed / 7}
            write_run(tmp_path / f"{loss}{seed}", loss, seed, **how)

    print_comparisons([only([tmp_path])], width)

    out = capsys.readouterr().out
    lines = re.sub(r"\x1b\[[\d;]*m", "", out).splitlines()
    (titles,) = [line for line in lines if line.startswith("┃")]
    rows = [[c.strip() for c in line[1:-1].split("│")] for line in lines if line.startswith("│")]
    assert [title.strip() for title in titles[1:-1].split("┃")] == headings
    assert rows[0][headings.index("nll")] == nll
    names = " ".join(row[0] for row in rows)
    assert names == "cross_entropy, lr=0.0160485 label_smoothing, lr=0.0185175"
    assert "…" not in out
    assert ("a wider screen shows" in out) == (width < 140)
    assert max(map(len, lines)) <= width  # notes and verdict, too, which break between words


def test_a_task_with_few_columns_keeps_its_spreads_where_they_fit(tmp_path, capsys):
    for seed in (1, 2):
        folder = write_run(tmp_path / str(seed), seed=seed, nll=4.0 + seed, table=["nll"])
        (folder / "metrics.jsonl").write_text(
            json.dumps({"step": 9, "split": "test", "nll": 4.0 + seed}) + "\n", encoding="utf-8"
        )

    print_comparisons([only([tmp_path])], 80)

    out = capsys.readouterr().out
    assert "5.5000 ± 0.7071" in out and "a wider screen" not in out  # sqrt(.5)


@pytest.fixture(params=HOSTILE)
def hostile(request, tmp_path):
    """Compare two runs that differ in a setting whose text looks like markup."""
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", settings={"data.word_pattern": request.param}, protocol=request.param)
    return request.param, only([tmp_path])


def test_the_terminal_shows_text_from_a_run_as_it_is(hostile, capsys):
    text, comparison = hostile

    print_comparisons([comparison])

    assert f"cross_entropy, word_pattern={text}" in capsys.readouterr().out


def test_a_markdown_table_keeps_its_columns_whatever_a_run_is_called(hostile):
    text, comparison = hostile
    lines = [line for line in markdown(comparison).splitlines() if line.startswith("| ")]

    # a cell ends at a bar that no backslash escapes; a backslash is taken from what it escapes
    rows = [re.findall(r"((?:\\.|[^|\\])+)\|", line[1:]) for line in lines]

    assert {len(row) for row in rows} == {len(comparison.columns) + 2}
    shown = [re.sub(r"\\(.)", r"\1", row[0]).strip().strip("*") for row in rows]
    assert f"cross_entropy, word_pattern={text}" in shown


def test_the_page_shows_text_from_a_run_as_it_is(hostile):
    text, comparison = hostile
    seen = []

    class Texts(HTMLParser):
        def handle_data(self, data):
            seen.append(data)

        def handle_starttag(self, tag, attributes):
            assert tag != "script"

    Texts().feed(page([comparison], []))

    label = f"cross_entropy, word_pattern={text}"
    assert seen.count(label) == 3  # in the table, and in the legends of curves and calibration
    assert f"{label}, seed 1" in seen


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (None, "holds no run"),
        ("{", "KeyError.*older than this program"),
        ('{"status": "complete"}', "KeyError.*older than this program"),
        ('{"status": "complete", "run": {}}', "missing .* 'task'"),
        ('{"status": "complete", "run": 1}', "TypeError"),
    ],
)
def test_what_is_no_run_is_refused_by_name_in_one_line(tmp_path, status, reason):
    (tmp_path / "run").mkdir()
    if status:
        (tmp_path / "run" / "status.json").write_text(status, encoding="utf-8")

    for folder in [tmp_path / "run"] + [tmp_path] * bool(status):
        with pytest.raises(DataError, match=f"run: .*{reason}") as refusal:
            find_runs([folder])
        assert "\n" not in str(refusal.value)


def test_a_job_that_failed_before_its_data_was_known_is_no_run_of_a_sweep(outputs):
    (outputs / "job").mkdir()
    (outputs / "job" / "status.json").write_text('{"status": "failed"}', encoding="utf-8")

    assert len(find_runs([outputs])) == 9
    with pytest.raises(DataError, match="KeyError"):
        read_run(outputs / "job")


def test_comparing_runs_imports_no_torch(outputs):
    program = (
        "import sys; from scripts.compare import main; main(); assert 'torch' not in sys.modules"
    )

    subprocess.run([sys.executable, "-c", program, str(outputs)], cwd=ROOT, check=True)

    assert (outputs / "compare.html").exists()


def test_the_script_prints_and_writes_beside_the_runs(outputs, monkeypatch, capsys):
    monkeypatch.chdir(outputs.parent)
    monkeypatch.setattr("sys.argv", ["compare.py", str(outputs / "mse-seed1"), outputs.name])
    script.main()

    shown = capsys.readouterr().out
    assert "cross_entropy" in shown and f"\n{outputs.name}/compare.html\n" in shown
    html = (outputs / "compare.html").read_text(encoding="utf-8")
    assert f"compare.py {outputs / 'mse-seed1'} {outputs.name}</code>" in html

    monkeypatch.setattr("sys.argv", ["compare.py", str(outputs / "nothing")])
    with pytest.raises(SystemExit) as stop:
        script.main()
    assert stop.value.code == 4
    assert capsys.readouterr().err.startswith(f"error: {outputs / 'nothing'}: holds no run")


@pytest.mark.parametrize(
    ("lacking", "written"), [("commonpath", "here"), ("relpath", ".")], ids=["runs", "command"]
)
def test_a_comparison_needs_no_drive_in_common(lacking, written, outputs, monkeypatch, capsys):
    def on_different_drives(*_):
        raise ValueError("Paths don't have the same drive")

    (outputs / "here").mkdir()
    monkeypatch.chdir(outputs / "here")
    monkeypatch.setattr(os.path, lacking, on_different_drives)
    monkeypatch.setattr("sys.argv", ["compare.py", str(outputs)])

    script.main()

    assert (outputs / written / "compare.html").exists()
    last = capsys.readouterr().out.splitlines()[-1]
    assert os.path.samefile(last, outputs / written / "compare.html")
