"""scripts/predict.py: its probabilities, its output, and its answers to mistakes."""

import csv
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from torch.testing import assert_close
from vision_runs import predictions, trained_run

from scripts import predict
from training.cli.script import run_script
from training.errors import ConfigError
from training.run.finished import load_run
from training.run.folder import read_metrics
from vision.images import read_digits


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained_run(tmp_path_factory.getbasetemp())


def test_predict_gives_the_probabilities_after_temperature(run, tmp_path, monkeypatch, capsys):
    split, log_probs = predictions(run)
    files = [tmp_path / f"{i}.png" for i in range(4)]
    for file, image in zip(files, split.inputs, strict=False):
        Image.fromarray(image[0].numpy()).save(file)
    (temperature,) = {line.get("temperature") for line in read_metrics(run)} - {None}

    probs, scales = predict.predict(load_run(run), files)

    expected = (log_probs[:4] / temperature).softmax(1)
    assert_close(probs, expected, rtol=1e-4, atol=1e-6)
    assert temperature != 1
    assert scales == [1.0] * 4

    monkeypatch.setattr(sys, "argv", ["predict.py", str(run), *map(str, files), "--top", "1"])
    predict.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f"{file}: {row.argmax()} {row.max():.2%}" for file, row in zip(files, probs, strict=True)
    ]


def called(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["predict.py", *map(str, arguments)])
    try:
        run_script(predict.main)
    except SystemExit:
        return capsys.readouterr()
    return capsys.readouterr()


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Write digits 3 and 5 of 8 and 40 pixels: in folders named as classes, and in another."""
    monkeypatch.chdir(tmp_path)
    pixels = read_digits()[0].inputs
    for place, row, side in (("3/a", 3, 8), ("3/deep/b", 13, 8), ("5/c", 5, 40), ("x/d", 5, 8)):
        file = tmp_path / f"photos/{place}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[row, 0].numpy()).resize((side, side)).save(file)
    (tmp_path / "photos" / "3" / "notes.txt").write_text("no image", encoding="utf-8")
    return Path("photos")


def test_folders_and_patterns_are_classified_and_named_folders_give_the_accuracy(
    run, tree, monkeypatch, capsys
):
    out, err = called(monkeypatch, capsys, run, tree, "photos/[35]/*.png", "--top", "1")

    lines = [line.split(": ") for line in out.splitlines()]
    assert err == ""
    assert [line[0] for line in lines[:4]] == [
        str(tree / f"{place}.png") for place in ("3/a", "3/deep/b", "5/c", "x/d")
    ]
    assert [" (scaled x 0.2)" in line[1] for line in lines[:4]] == [False, False, True, False]
    assert out.splitlines()[4] == "1 of 4 images: scaled far against the training images"
    right = [line[1][0] == label for line, label in zip(lines, "335", strict=False)]
    accuracy = f"accuracy {sum(right) / 3:.2%} of 3 images in folders named as a class"
    assert out.splitlines()[5:] == [accuracy]

    inside, _ = called(
        monkeypatch, capsys, run, tree / "3" / "deep"
    )  # lies in 3, which is not given
    assert "accuracy" not in inside
    alone, _ = called(monkeypatch, capsys, run, tree / "5" / "c.png")
    assert "of 1 images" in alone.splitlines()[-1]


def test_csv_and_json_hold_every_probability(run, tree, monkeypatch, capsys):
    out, _ = called(monkeypatch, capsys, run, tree, "--csv", "a.csv", "--json", "a.json")

    with open("a.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    objects = json.loads(Path("a.json").read_text(encoding="utf-8"))
    probs, _ = predict.predict(load_run(run), [Path(row["file"]) for row in rows])
    assert [row["label"] for row in rows] == ["3", "3", "5", ""]
    assert [float(row["scale"]) for row in rows] == [1, 1, 0.2, 1]
    for row, expected, line, other in zip(rows, probs, out.splitlines(), objects, strict=False):
        given = [float(row[f"p({k})"]) for k in range(10)]
        assert_close(torch.tensor(given), expected, rtol=1e-6, atol=0)
        assert line.startswith(f"{row['file']}: {row['predicted']} {max(given):.2%}")
        assert {key: str(value) for key, value in other.items()} == row


def test_a_file_that_cannot_be_written_loses_no_prediction(run, tree, monkeypatch, capsys):
    out, err = called(monkeypatch, capsys, run, tree / "3", "--csv", "none/a.csv")
    assert out.count(".png: ") == 2
    assert err == "error: none/a.csv: cannot be written (No such file or directory)\n"

    image = (tree / "3" / "a.png").read_bytes()
    _, err = called(monkeypatch, capsys, run, "--csv", tree / "3" / "a.png", tree / "5")
    assert err == "error: photos/3/a.png: is named as an image, and would be written over\n"
    assert (tree / "3" / "a.png").read_bytes() == image


def test_the_scale_is_that_against_the_training_images_before_they_were_scaled(
    run, tree, monkeypatch
):
    lines = [*read_metrics(run), {"step": 0, "split": "data", "shorter_side": 40.0}]
    monkeypatch.setattr(predict, "read_metrics", lambda _: lines)

    _, scales = predict.predict(load_run(run), [tree / "3" / "a.png", tree / "5" / "c.png"])

    assert scales == [5.0, 1.0]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["RUN", "bad.png"], 4, r"error: bad\.png: cannot be read \(not an image .*\)\n"),
        (["RUN", "none.png"], 4, r"error: none\.png: cannot be read \(No such file .*\)\n"),
        (["RUN", "no/*.png"], 4, r"error: no/\*\.png: cannot be read \(No such file .*\)\n"),
        (["RUN", "."], 4, r"error: \.: holds no image file, .*\n"),
        (["nowhere", "bad.png"], 5, r"error: nowhere: not a run folder .*\n"),
        (["RUN", "bad.png", "--top", "0"], 2, r"error: --top 0: must be at least 1\n"),
    ],
)
def test_predict_answers_a_mistake_in_one_line(
    arguments, code, message, run, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    Path("bad.png" if "bad.png" in arguments else "bad").write_bytes(b"not an image")
    arguments = [str(run) if word == "RUN" else word for word in arguments]
    monkeypatch.setattr(sys, "argv", ["predict.py", *arguments])

    with pytest.raises(SystemExit) as stop:
        run_script(predict.main)

    assert stop.value.code == code
    assert re.fullmatch(message, capsys.readouterr().err)


def test_predict_refuses_a_run_of_text(run):
    text = replace(load_run(run), cfg=OmegaConf.create({"data": {"context_size": 3}}))
    with pytest.raises(ConfigError, match="not a vision run"):
        predict.predict(text, [])
