"""Windows, as far as another system can show it: `tests/windows.py` says what that is."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from small_runs import TINY

from training.run.folder import from_here, read_status, shell_line

ALLOWED = re.compile(r'(?!(con|prn|aux|nul|com\d|lpt\d)(\.|$))[^<>:"\\|?*\x00-\x1f]*[^. ]', re.I)
TEXT = "The café is naïve; the ½ price is Ω and ℵ.\n" * 60


def on_windows(folder, script, *arguments, code=0):
    """Run a script; return its two outputs as bytes."""
    command = [sys.executable, "-X", "warn_default_encoding", ROOT / "tests/windows.py"]
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [*command, ROOT / "scripts" / script, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        check=False,
    )
    assert result.returncode == code, result.stderr.decode()
    assert b"warning: " not in result.stderr.replace(b"EncodingWarning: ", b"")
    return result.stdout, result.stderr


def assert_names_are_allowed(folder):
    wrong = [path for path in folder.rglob("*") if not ALLOWED.fullmatch(path.name)]
    assert not wrong


@pytest.mark.slow
def test_a_sweep_on_windows_writes_its_comparison_with_any_screen(tmp_path):
    words = (*TINY, "report.verse.lines=0", "seed=1,2", "hydra.sweep.dir='out/é'")

    out, _ = on_windows(tmp_path, "train_ngram.py", "-m", *words)

    assert rb"\xb1" in out  # the table has a plus-minus sign
    assert "±" in (tmp_path / "out/é/compare.md").read_text(encoding="utf-8")
    assert {p.name for p in (tmp_path / "out/é").glob("compare.*")} == {
        "compare.md", "compare.csv", "compare.html",
    }  # fmt: skip
    assert_names_are_allowed(tmp_path)


@pytest.mark.slow
def test_every_script_runs_on_windows_with_any_screen(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    text = ("data=text_file", "data.path=text.txt", "data.min_count=1")
    runs = {"ngram": "out/a é", "vision": "out/ℵ"}

    def script(name, *arguments):
        return on_windows(tmp_path, name, *arguments)[0]

    for task, folder in runs.items():
        words = ("debug=smoke", f"hydra.run.dir='{folder}'", *(text if task == "ngram" else ()))
        script(f"train_{task}.py", "--help")
        script(f"train_{task}.py", *words)
        script(f"train_{task}.py", f"resume={folder}", "trainer.epochs=2")
        assert read_status(tmp_path / folder)["status"] == "complete"
        script("calibrate.py", folder)
    script("compare.py", "out", "--out", "compared")
    script("plot_losses.py", "--out", "losses")
    (image,) = list((tmp_path / "losses").glob("bits.png"))
    script("predict.py", runs["vision"], str(image))
    shown = script("generate.py", runs["ngram"], "--prompt", "The café", "--length", "60")

    assert "caf\\xe9" in shown.decode("ascii")
    assert_names_are_allowed(tmp_path)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_screen_shows_as_a_number_what_it_lacks(encoding):
    program = (
        "import os; from training.cli.script import run_script;"
        r"run_script(lambda: print('\u2135 \udc80 |', os.environ['PYTHONIOENCODING']))"
    )
    environment = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONPATH": str(ROOT)}

    out = subprocess.check_output([sys.executable, "-c", program], env=environment)

    assert out.decode().strip() == rf"\u2135 \udc80 | {encoding}"  # a user's own choice stays


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        (r"resume=outputs\run-1", r"resume=outputs\run-1"),
        (r"resume=C:\my runs\a", r'"resume=C:\my runs\a"'),
        ("hydra.searchpath=[file://a,b]", '"hydra.searchpath=[file://a,b]"'),
        ("a&b", '"a&b"'),
    ],
)
def test_a_printed_command_is_quoted_as_the_shells_of_windows_want_it(word, shown, monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")

    assert shell_line(["python", word]) == f"python {shown}"


def test_a_path_on_another_drive_is_shown_whole(monkeypatch):
    def relpath(_):
        raise ValueError("path is on mount 'D:', start on mount 'C:'")

    monkeypatch.setattr(os.path, "relpath", relpath)

    assert from_here(Path("/x/y")) == str(Path("/x/y"))
