"""scripts/predict.py: its probabilities, its output, and its answers to mistakes."""

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from PIL import Image
from torch.testing import assert_close
from vision_runs import predictions, trained_run

from scripts import predict
from training.cli.script import run_script
from training.errors import ConfigError
from training.run.finished import load_run
from training.run.folder import read_metrics


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained_run(tmp_path_factory.getbasetemp())


def test_predict_gives_the_probabilities_after_temperature(run, tmp_path, monkeypatch, capsys):
    split, log_probs = predictions(run)
    files = [tmp_path / f"{i}.png" for i in range(4)]
    for file, image in zip(files, split.inputs, strict=False):
        Image.fromarray(image[0].numpy()).save(file)
    (temperature,) = {line.get("temperature") for line in read_metrics(run)} - {None}

    probs = predict.predict(load_run(run), files)

    expected = (log_probs[:4] / temperature).softmax(1)
    assert_close(probs, expected, rtol=1e-4, atol=1e-6)
    assert temperature != 1

    monkeypatch.setattr(sys, "argv", ["predict.py", str(run), *map(str, files), "--top", "1"])
    predict.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f"{file}: {row.argmax()} {row.max():.2%}" for file, row in zip(files, probs, strict=True)
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["RUN", "bad.png"], 4, r"error: bad\.png: cannot be read \(not an image .*\)\n"),
        (["RUN", "none.png"], 4, r"error: none\.png: cannot be read \(No such file .*\)\n"),
        (["nowhere", "bad.png"], 5, r"error: nowhere: not a run folder .*\n"),
        (["RUN", "bad.png", "--top", "0"], 2, r"error: --top 0: must be at least 1\n"),
    ],
)
def test_predict_answers_a_mistake_in_one_line(
    arguments, code, message, run, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    Path("bad.png").write_bytes(b"not an image")
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
