"""What a run folder, a checkpoint, a config or a name may bring leaves nothing behind."""

import hashlib
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from conftest import SMALL, compose
from omegaconf import OmegaConf
from processes import download, server

from training.cli.folder_names import slug
from training.errors import CheckpointError, UserError
from training.run.checkpoint import load_checkpoint
from training.run.finished import load_run
from training.run.start import start as run
from training.run.targets import find_target, instantiate

TINY = [*SMALL, "trainer.epochs=1", "trainer.max_batches=2", "report.kneser_ney.max_order=0"]


class Payload:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


PAYLOADS = {
    "system": lambda mark: Payload(__import__("os").system, f"touch {mark}"),
    "eval": lambda mark: Payload(eval, f"open({str(mark)!r}, 'w')"),
    "exec": lambda mark: Payload(exec, f"open({str(mark)!r}, 'w')"),
    "open": lambda mark: Payload(open, str(mark), "w"),
    "import": lambda mark: Payload(__import__, "antigravity"),
    "touch": lambda mark: Payload(Path.touch, Path(mark)),
    "popen": lambda mark: Payload(__import__("subprocess").getoutput, f"touch {mark}"),
    "torch.load": lambda mark: Payload(torch.load, str(mark)),
    "getattr": lambda mark: Payload(getattr, Path(mark), "touch"),
    "makedirs": lambda mark: Payload(__import__("os").makedirs, str(mark)),
}


@pytest.mark.parametrize("name", PAYLOADS)
@pytest.mark.parametrize("way", ["torch", "pickle"])
def test_a_checkpoint_that_carries_code_is_refused_and_nothing_runs(name, way, tmp_path):
    mark, path = tmp_path / "mark", tmp_path / "x.pt"
    state = {"format": 1, "model": {}, "payload": PAYLOADS[name](mark)}
    if way == "torch":
        torch.save(state, path)
    else:
        path.write_bytes(pickle.dumps(state))

    with pytest.raises(CheckpointError):
        load_checkpoint(path)
    assert not mark.exists()


@pytest.mark.parametrize(
    "member", ["../mark", "/tmp/mark-of-a-test", "archive/../../mark", "archive/data.pkl"]
)
def test_an_archive_with_odd_names_is_refused_and_unpacks_nothing(member, tmp_path):
    path = tmp_path / "folder" / "x.pt"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, b"\0" * 10**7)

    with pytest.raises(CheckpointError):
        load_checkpoint(path)
    assert [f.name for f in tmp_path.rglob("*")] == ["folder", "x.pt"]


@pytest.mark.parametrize(
    "settings",
    [
        {"_target_": "os.system", "command": "touch mark"},
        {"_target_": "builtins.open", "file": "mark", "mode": "w"},
        {"_target_": "pathlib.Path.touch", "self": "mark"},
        {"_target_": "torch.load", "f": "mark"},
        {"_target_": "torch.hub.load", "repo_or_dir": "mark", "model": "x"},
        {"_target_": "torch.nn.functional.torch.hub.load", "repo_or_dir": "a/b", "model": "x"},
        {"_target_": "torch.nn.modules.module.os.system", "command": "touch mark"},
        {"_target_": "training.run.folder.os.makedirs", "name": "mark"},
        {"_target_": "training.run.folder.socket.create_server", "address": ["localhost", 0]},
        {"_target_": "hydra.utils.instantiate", "config": {"_target_": "os.mkdir", "path": "mark"}},
        {"_target_": "subprocess.run", "args": "touch mark", "shell": True},
        {"_target_": "training.run.folder.write_file", "path": "mark", "content": "x"},
        {"_target_": "training.run.folder.claim", "folder": "mark"},
        {"_target_": "vision.images.TemporaryDirectory"},
        {"_target_": "losses.CrossEntropyLoss", "weight": {"_target_": "os.mkdir", "path": "mark"}},
        {"_target_": "losses.CrossEntropyLoss", "weight": [{"_target_": "os.mkdir", "path": "m"}]},
        {"_target_": "losses.CrossEntropyLoss", "weight": "${oc.create:{_target_: os.getcwd}}"},
    ],
)
def test_settings_that_name_code_are_refused_and_nothing_runs(settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    with pytest.raises(UserError):
        instantiate(OmegaConf.create({"node": settings}).node)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name",
    [
        "training.run.targets.instantiate",
        "training.run.finished.instantiate",
        "training.run.targets.find_target",
        "training.run.start.start",
        "training.cli.main.train",
        "training.cli.settings.compose",
    ],
)
def test_a_run_folder_cannot_name_what_builds_or_composes(name):
    with pytest.raises(UserError, match=f"{name}: not allowed"):
        find_target("model._target_", name)


def test_settings_cannot_have_a_file_beside_them_built(tmp_path):
    mark, file = tmp_path / "mark", tmp_path / "other.yaml"
    file.write_text(f"_target_: os.mkdir\npath: {mark}\n", encoding="utf-8")
    composed = {"_target_": "training.cli.settings.compose", "task": str(file)}
    node = {"_target_": "training.run.targets.instantiate", "node": composed, "guarded": False}

    with pytest.raises(UserError, match="not allowed"):
        instantiate(OmegaConf.create({"model": node}).model)
    assert not mark.exists()


def test_a_module_that_is_not_allowed_is_not_even_imported(tmp_path, monkeypatch):
    (tmp_path / "module_of_a_stranger.py").write_text(
        "import os; os.mkdir('mark'); make = dict", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)

    with pytest.raises(UserError, match="not allowed"):
        find_target("model._target_", "module_of_a_stranger.make")
    assert not (tmp_path / "mark").exists()


def test_a_run_folder_cannot_trust_on_its_own_account(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(compose(*TINY), tmp_path / "run")
    config = tmp_path / "run" / "config.yaml"
    cfg = OmegaConf.load(config)
    cfg.trusted = ["os", "posix"]
    cfg.model = {"_target_": "os.makedirs", "name": "mark", "trusted": ["os"]}
    OmegaConf.save(cfg, config)

    with pytest.raises(UserError, match="not allowed"):
        load_run(tmp_path / "run")
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    "name", ["../../etc", "/abs/olute", "a\nb", "x" * 5000, "..", "\U0001f600"]
)
def test_a_hostile_name_becomes_a_plain_folder_name(name):
    made = slug("run", name)

    assert len(made) <= 120 and "/" not in made and "\n" not in made
    assert made.strip(".-") == made


def test_four_processes_that_download_at_once_all_have_the_text(tmp_path):
    content = b"content\n" * 100_000
    (tmp_path / "source").write_bytes(content)
    root = tmp_path / "root"
    words = (tmp_path / "source").as_uri(), hashlib.sha256(content).hexdigest(), str(root)

    processes = [server.Process(target=download, args=words) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()

    assert [process.exitcode for process in processes] == [0] * 4
    assert [file.read_bytes() for file in root.iterdir()] == [content]
