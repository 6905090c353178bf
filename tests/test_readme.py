"""The README's recipe for a loss of one's own works as it is written there."""

import os
import re
import subprocess
import sys

from conftest import ROOT


def test_a_loss_of_ones_own_follows_the_three_steps(tmp_path):
    recipe = (ROOT / "README.md").read_text().split("### Add your own loss")[1].split("\n## ")[0]
    blocks = re.findall(r"`([\w/.]+)`:\n\n   ```\w+\n(.*?)   ```", recipe, re.DOTALL)
    for name, block in blocks:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(re.sub(r"^   ", "", block, flags=re.MULTILINE))
    command = re.search(r"```sh\n(.*?)```", recipe, re.DOTALL)[1]
    command = command.replace(".venv/bin/python", sys.executable).replace("\\\n", "")
    command = command.replace("scripts/", f"{ROOT}/scripts/").strip() + " debug=smoke"

    done = subprocess.run(
        command,
        shell=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONWARNINGS": "error::UserWarning"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert len(blocks) == 2
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "outputs").iterdir()
    assert run.name.startswith("ngram-generalised-seed1-")
    assert "q: 0.5" in (run / "config.yaml").read_text()

    wrong = subprocess.run(
        command.replace("loss.q=0.5", "loss.q=2"),
        shell=True,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (wrong.returncode, wrong.stderr) == (2, "error: loss.q must be in (0, 1], got 2\n")


def test_every_selectable_loss_is_in_the_table():
    table = (ROOT / "README.md").read_text().split("## The losses")[1].split("###")[0]

    listed = re.findall(r"^\| `(\w+)` \|.*`(losses/\w+\.py)` \|$", table, re.MULTILINE)

    assert {name for name, _ in listed} == {
        f.stem for f in (ROOT / "configs" / "loss").glob("*.yaml")
    }
    assert all((ROOT / file).exists() for _, file in listed)
