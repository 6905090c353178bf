"""Whether a run folder from a stranger can do anything but be read.

    python tests/stress/shared_folders.py [--only WORD] [--readers generate,resume]

Each payload edits a copy of a real run, and every program that reads run folders is given the copy.
A file must not appear (the mark), another must not change (the victim), a variable of the
environment must not be written or printed (the secret), nothing may steer the terminal, and a
refusal must be one line with exit code 2, 4 or 5. What fails is printed, and the exit code is 1.
"""

import argparse
import contextlib
import io
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[2])

import torch  # noqa: E402
from hydra.core.global_hydra import GlobalHydra  # noqa: E402
from omegaconf import OmegaConf  # noqa: E402
from PIL import Image  # noqa: E402

from scripts import generate, predict  # noqa: E402
from training.cli import calibrate_run, compare_runs  # noqa: E402
from training.cli.main import main as train_main  # noqa: E402
from training.cli.script import run_script  # noqa: E402

SECRET = "hunter2-of-a-stranger"
Payload = Callable[[Path, Path, Path], None]  # folder, mark, victim
PAYLOADS: dict[str, Payload] = {}


def config(change: Callable[[Any, str, str], None]) -> Payload:
    """Return a payload that changes config.yaml, given the names of mark and victim."""

    def payload(folder: Path, mark: Path, victim: Path) -> None:
        file = folder / "config.yaml"
        cfg = OmegaConf.load(file)
        change(cfg, str(mark), str(victim))
        file.write_text(OmegaConf.to_yaml(cfg), encoding="utf-8")

    return payload


def text(name: str, content: str) -> Payload:
    """Return a payload that puts this into a file."""

    def payload(folder: Path, *_: Path) -> None:
        (folder / name).write_text(content, encoding="utf-8", errors="surrogatepass")

    return payload


def status(change: Callable[[Any], None]) -> Payload:
    """Return a payload that changes status.json."""

    def payload(folder: Path, *_: Path) -> None:
        content = json.loads((folder / "status.json").read_text(encoding="utf-8"))
        change(content)
        (folder / "status.json").write_text(json.dumps(content), encoding="utf-8")

    return payload


def weights(change: Callable[[Any], None], pattern: str = "best.pt") -> Payload:
    """Return a payload that changes checkpoints."""

    def payload(folder: Path, *_: Path) -> None:
        for file in folder.glob(f"checkpoints/{pattern}"):
            state = torch.load(file, weights_only=True)
            change(state)
            torch.save(state, file)

    return payload


def link(name: str, *, to_mark: bool = False) -> Payload:
    """Return a payload that puts a link in the place of a file, to the victim or to nothing."""

    def payload(folder: Path, mark: Path, victim: Path) -> None:
        path = folder / name.replace("PID", str(os.getpid()))
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        path.symlink_to(mark if to_mark else victim)

    return payload


def folder_link(folder: Path, _: Path, victim: Path) -> None:
    """Let the checkpoints lie in the victim's folder."""
    shutil.copytree(folder / "checkpoints", victim.parent / "elsewhere", dirs_exist_ok=True)
    shutil.rmtree(folder / "checkpoints")
    (folder / "checkpoints").symlink_to(victim.parent / "elsewhere")


def pipe(name: str) -> Payload:
    """Return a payload that makes whoever opens a file wait."""

    def payload(folder: Path, *_: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return payload


def made(name: str) -> Payload:
    """Return a payload that makes a folder, with a file in it, where a file would be."""

    def payload(folder: Path, *_: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).mkdir(parents=True)
        (folder / name / "file").write_text("", encoding="utf-8")

    return payload


# --- code: by group, what a target must not be

TARGETS: dict[str, dict[str, Any]] = {
    "torch.load": {"f": "MARK", "weights_only": False},
    "joblib.load": {"filename": "MARK"},
    "shutil.copy": {"src": "VICTIM", "dst": "MARK"},
    "pathlib.Path.touch": {"self": "MARK"},
    "os.makedirs": {"name": "MARK"},
    "os.system": {"command": "touch MARK"},
    "subprocess.run": {"args": "touch MARK", "shell": True},
    "builtins.open": {"file": "MARK", "mode": "w"},
    "builtins.eval": {"source": "open('MARK', 'w')"},
    "training.cli.main.main": {"task": "ngram"},
    "training.cli.main.train": {"task": "ngram"},
    "training.run.start.start": {"folder": "MARK"},
    "training.run.targets.find_target": {"key": "x", "target": "os.system", "guarded": False},
    "training.run.targets.instantiate": {"node": "x", "guarded": False},
    "training.run.folder.write_file": {"path": "MARK", "content": "x"},
    "training.run.folder.write_status": {"folder": "MARK"},
    "training.run.finished.load_run": {"folder": "MARK", "trusted": ["os"]},
    "ngram.corpus.read_text": {"path": "VICTIM"},
    "ngram.corpus.torch.hub.download_url_to_file": {"url": "file://VICTIM", "dst": "MARK"},
    "ngram.models.torch.load": {"f": "MARK"},
    "torch.hub.load": {"repo_or_dir": "MARK", "model": "x", "source": "local"},
    "torch.nn.modules.module.register_module_forward_hook": {"hook": None},
    "torch.nn.init.zeros_": {"tensor": None},
    "torch.nn.Module.register_forward_hook": {"self": None, "hook": None},
    "torch.nn.functional.linear": {},
    "hydra.utils.instantiate": {"config": {"_target_": "os.mkdir", "path": "MARK"}},
    "vision.images.TemporaryDirectory": {"dir": "MARK"},
    "losses.checks.number": {"name": "x", "value": 1, "interval": "[0, 1]"},
}


def filled(node: Any, mark: str, victim: str) -> Any:
    """Return a node with the names of the files in it."""
    if isinstance(node, dict):
        return {key: filled(value, mark, victim) for key, value in node.items()}
    if isinstance(node, list):
        return [filled(value, mark, victim) for value in node]
    return node.replace("MARK", mark).replace("VICTIM", victim) if isinstance(node, str) else node


def set_node(key: str, node: Any) -> Payload:
    """Return a payload that puts a node at a key."""
    return config(lambda cfg, mark, victim: OmegaConf.update(cfg, key, filled(node, mark, victim)))


def code(key: str, node: Any) -> Payload:
    """Return a payload that puts a node at a key, and nothing of what stood there."""

    def change(cfg: Any, mark: str, victim: str) -> None:
        OmegaConf.update(cfg, key, filled(node, mark, victim), merge=False)

    return config(change)


for target, arguments in TARGETS.items():
    PAYLOADS[f"code model {target}"] = code("model", {"_target_": target, **arguments})
TOUCH = {"_target_": "os.makedirs", "name": "MARK"}
PARTIAL = {**TOUCH, "_partial_": True}
LAYER = {"_target_": "torch.nn.TransformerEncoderLayer", "d_model": 8, "nhead": 2}
TEACHER = {"_target_": "training.run.finished.load_run", "folder": "MARK"}
for group in ("loss", "data", "optimizer", "scheduler", "trainer", "report.mine"):
    PAYLOADS[f"code {group}"] = code(group, TOUCH)
    PAYLOADS[f"code {group} partial"] = code(group, PARTIAL)
PAYLOADS |= {
    "code report beside": code("report.mine", {"_target_": "ngram.data.text_file", "path": "x"}),
    "code nested": code("loss.weight", TOUCH),
    "code nested in a list": code("loss.weight", [[TOUCH]]),
    "code nested partial": code("model", {**LAYER, "activation": PARTIAL}),
    "code nested in a dict": code("data.split", {"x": {"y": TOUCH}}),
    "code by reference": config(
        lambda cfg, mark, _: (
            OmegaConf.update(cfg, "model", {"_target_": "${x}.makedirs", "name": mark}, merge=False)
            or OmegaConf.update(cfg, "x", "os")
        )
    ),
    "code by a whole reference": config(
        lambda cfg, mark, _: (
            OmegaConf.update(cfg, "loss.weight", "${x}")
            or OmegaConf.update(cfg, "x", {"_target_": "os.makedirs", "name": mark})
        )
    ),
    "code by oc.create": set_node(
        "loss.weight", "${oc.create:{_target_: os.makedirs, name: MARK}}"
    ),
    "trust as a setting": config(
        lambda cfg, mark, _: (
            OmegaConf.update(cfg, "trusted", ["os", "posix"])
            or OmegaConf.update(
                cfg,
                "model",
                {"_target_": "os.makedirs", "name": mark, "trusted": ["os"]},
                merge=False,
            )
        )
    ),
    "trust of a teacher": code(
        "loss", {"_target_": "losses.DistillationLoss", "teacher": {**TEACHER, "trusted": ["os"]}}
    ),
    "teacher as a model": code("model", TEACHER),
    "loss as data": code("data", {"_target_": "losses.FocalLoss"}),
    "a loss that is a module": code("loss", {"_target_": "torch.nn.CrossEntropyLoss"}),
}

# --- links, pipes and folders

LINKS = ("lock", "metrics.jsonl", "events.out.tfevents.run", "status.json", "config.yaml")
LINKS += ("checkpoints/best.pt", "checkpoints/step-00000002.pt", "val_reliability.png")
LINKS += ("00004", "projector_config.pbtxt", "status.json.PID.tmp", "checkpoints/best.pt.PID.tmp")
LINKS += ("../compare.html", "../compare.md", "../compare.csv", "../compare.csv.PID.tmp")
for name in LINKS:
    PAYLOADS[f"link {name}"] = link(name)
    PAYLOADS[f"link to nothing {name}"] = link(name, to_mark=True)
PAYLOADS["link checkpoints"] = folder_link
for name in ("lock", "metrics.jsonl", "status.json", "config.yaml", "checkpoints/best.pt"):
    PAYLOADS[f"pipe {name}"] = pipe(name)
for name in ("x.tmp", "status.json", "metrics.jsonl", "config.yaml", "lock", "x_reliability.png"):
    PAYLOADS[f"folder {name}"] = made(name)
for name in ("best.pt", "step-00000001.pt", "step-00000002.pt.damaged", "step-00000099.pt"):
    PAYLOADS[f"folder {name}"] = made(f"checkpoints/{name}")

# --- secrets

PAYLOADS |= {
    f"secret {key} {value}": set_node(key, value)
    for key, value in {
        "model.hidden_dim": "${oc.env:MYSECRET}",
        "loss.reduction": "${oc.env:MYSECRET}",
        "data.path": "${oc.env:MYSECRET}",
        "data.protocol": "${oc.env:MYSECRET}",
        "data.level": "x${oc.env:MYSECRET}",
        "data._target_": "${oc.env:MYSECRET}",
        "trainer.precision": "${oc.env:MYSECRET}",
        "optimizer.lr": "${oc.decode:'${oc.env:MYSECRET}'}",
        "loss.ignore_index": "${oc.${x}:MYSECRET}",
        "baseline": "${oc.env:MYSECRET}",
        "device": "${oc.env:MYSECRET}",
        "seed": "${oc.env:MYSECRET}",
        "task": "${oc.env:MYSECRET}",
        "report.mine": {"_target_": "${oc.env:MYSECRET}"},
        "table": ["${oc.env:MYSECRET}"],
        "model.near": "\\\\${oc.env:MYSECRET}",
    }.items()
}

# --- texts

ODD = "\x1b[2J\x1b[31mred\x1b]0;title\x07|[/bold]\n\t\r\u202e\ud800"


def rename_classes(state: Any) -> None:
    """Give the classes names that steer a terminal."""
    state["class_names"] = [f"{ODD}{i}" for i in range(len(state["class_names"]))]


PAYLOADS |= {
    "text class names": weights(rename_classes),
    "text loss": status(lambda content: content["run"].update(loss=ODD)),
    "text protocol": status(lambda content: content["run"].update(protocol=ODD)),
    "text settings": status(lambda content: content["run"]["settings"].update({ODD: ODD})),
    "text task": status(lambda content: content["run"].update(task=ODD)),
    "text message": status(lambda content: content.update(message=ODD, status=ODD)),
    "text resume": status(lambda content: content.update(resume=ODD)),
    "text table": status(lambda content: content["run"].update(table=[ODD])),
    "text target": set_node("model._target_", ODD.replace("\ud800", "")),
    "text value": set_node("trainer.precision", ODD.replace("\ud800", "")),
    "text word_pattern": set_node("data.word_pattern", "\\w+|[/]\x1b[31m"),
    "text YAML": text("config.yaml", f"model: [{{\x1b[31m {ODD}"),
    "text metrics": text("metrics.jsonl", json.dumps({"step": 1, "split": ODD, ODD: 1.0}) + "\n"),
}

# --- wrong types

SHAPES = ("[]", "null", '"x"', "3", "1" * 400, "1" * 5000, '"\\ud800"', "[" * 10**5, "{", "NaN", "")
for number, shape in enumerate(SHAPES):
    PAYLOADS[f"type status {number} {shape[:9]}"] = text("status.json", shape)
    PAYLOADS[f"type metrics {number} {shape[:9]}"] = text("metrics.jsonl", shape + "}\n")
    PAYLOADS[f"type config {number} {shape[:9]}"] = text("config.yaml", shape)
VALUES: tuple[Any, ...] = ("x", None, [], {}, 10**400, 1e308, True, [[["x"]]], -1)
for number, value in enumerate(VALUES):
    for field in ("seed", "loss", "table", "settings", "group"):
        PAYLOADS[f"type run.{field} {number}"] = status(
            lambda content, field=field, value=value: content["run"].update({field: value})  # type: ignore[misc]
        )
    for field in ("status", "exit_code", "run", "step"):
        PAYLOADS[f"type {field} {number}"] = status(
            lambda content, field=field, value=value: content.update({field: value})  # type: ignore[misc]
        )
    line = json.dumps({"step": 2, "split": "test", "nll": value, "temperature": value})
    PAYLOADS[f"type figure {number}"] = text("metrics.jsonl", line + "\n")
    line = json.dumps({"step": value, "split": value, "nll": 1.0})
    PAYLOADS[f"type step and split {number}"] = text("metrics.jsonl", line + "\n")
for number, value in enumerate(("x", None, [], {}, True, -1, 1e308, [["x"]], 2**60)):
    keys = ("seed", "table", "report", "threads", "device", "model", "loss", "data", "optimizer")
    keys += ("data.context_size", "data.level", "data.image_size", "data.mean", "data.channels")
    for key in (*keys, "trainer.epochs", "trainer.batch_size", "loss.weight", "model._target_"):
        PAYLOADS[f"type config {key} {number}"] = code(key, value)


def grow(cfg: Any, form: str | list[str]) -> None:
    """Let each of sixty settings refer twice to the one before."""
    cfg.x0 = "x"
    for i in range(60):
        cfg[f"x{i + 1}"] = form.format(i) if isinstance(form, str) else [f.format(i) for f in form]
    OmegaConf.update(cfg, "loss.weight", "${x60}", merge=False)


BOMB = "".join(f"x{i}: &x{i} [{', '.join([f'*x{i - 1}'] * 9)}]\n" for i in range(1, 12))
PAYLOADS |= {
    "type aliases": text("config.yaml", f"x0: &x0 [1]\n{BOMB}"),
    "type references": config(lambda cfg, *_: grow(cfg, "${{x{0}}}${{x{0}}}")),
    "type lists of references": config(lambda cfg, *_: grow(cfg, ["${{x{0}}}", "${{x{0}}}"])),
    "type reference to itself": set_node("loss.weight", "${loss.weight}"),
    "type number as a key": text("config.yaml", "1: x\nmodel: {}\n"),
    "type best is no dict": weights(lambda state: state.clear()),
    "type class names": weights(lambda s: s.update(class_names=list(range(len(s["class_names"]))))),
    "type nested class names": weights(
        lambda s: s.update(class_names=[["x"]] * len(s["class_names"]))
    ),
    "type one class": weights(lambda s: s.update(class_names=["x"], class_counts=torch.ones(1))),
    "type class counts expanded": weights(
        lambda s: s.update(class_counts=torch.ones(1, dtype=torch.int64).expand(10**12))
    ),
    "type class counts of texts": weights(lambda s: s.update(class_counts=["x"])),
    "type class counts of 2 axes": weights(
        lambda s: s.update(class_counts=s["class_counts"][:, None])
    ),
    "type class counts negative": weights(lambda s: s.update(class_counts=-s["class_counts"])),
    "type weights of 1e38": weights(
        lambda s: s.update(model={k: torch.full_like(v, 1e38) for k, v in s["model"].items()})
    ),
    "type weights expanded": weights(
        lambda s: s.update(model={k: torch.ones(1).expand(10**12) for k in s["model"]})
    ),
    "type weights sparse": weights(
        lambda s: s.update(model={k: v.float().to_sparse() for k, v in s["model"].items()})
    ),
    "type weights on meta": weights(
        lambda s: s.update(model={k: v.to("meta") for k, v in s["model"].items()})
    ),
}
for field in ("optimizer", "random", "log", "epoch_loss", "window", "step", "visited", "seconds"):
    for number, value in enumerate(("x", -1, 10**30, {}, [], {"x": "x"}, ["x", "x", "x"])):
        PAYLOADS[f"type state {field} {number}"] = weights(
            lambda state, field=field, value=value: state.update({field: value}),  # type: ignore[misc]
            "step-*.pt",
        )
PAYLOADS["type optimizer sizes"] = weights(
    lambda state: [
        each.update(exp_avg=torch.zeros(1), exp_avg_sq=torch.zeros(1))
        for each in state["optimizer"]["state"].values()
    ],
    "step-*.pt",
)
PAYLOADS["type optimizer expanded"] = weights(
    lambda state: [
        each.update(exp_avg=torch.zeros(1).expand(10**12))
        for each in state["optimizer"]["state"].values()
    ],
    "step-*.pt",
)
for lacking in ("step", "exp_avg", "exp_avg_sq"):
    PAYLOADS[f"type optimizer without {lacking}"] = weights(
        lambda state, lacking=lacking: [  # type: ignore[misc]
            each.pop(lacking) for each in state["optimizer"]["state"].values()
        ],
        "step-*.pt",
    )


def hard_link(name: str) -> Payload:
    """Return a payload that makes a file of the run a second name of the victim."""

    def payload(folder: Path, mark: Path, victim: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).hardlink_to(victim)

    return payload


for name in ("lock", "metrics.jsonl", "events.out.tfevents.run", "status.json"):
    PAYLOADS[f"type hard link {name}"] = hard_link(name)

# --- the programs that read a folder

SMALL = ["data.max_lines=120", "model.embedding_dim=8", "model.hidden_dim=8"]
SMALL += ["trainer.epochs=1", "trainer.max_batches=2", "trainer.batch_size=64"]
SMALL += ["report.kneser_ney.max_order=0", "report.verse.lines=1", "report.embedding.words=9"]
SMALL += ["trainer.figures=1", "device=cpu"]
MORE = ["trainer.epochs=2", "trainer.figures=0"]
IMAGES = ["model.width=4", "trainer.epochs=1", "trainer.max_batches=2", "report=null", "device=cpu"]


class Hung(BaseException):
    """A program that waits for something."""


def call(
    function: Callable[..., None], *words: str, arguments: tuple[Any, ...] = ()
) -> tuple[int, str]:
    """Return exit code and output of a program; a traceback has code 1."""
    output = io.StringIO()
    before, sys.argv = sys.argv, ["x.py", *words]
    GlobalHydra.instance().clear()
    signal.alarm(60)
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            function(*arguments)
        exit_code = 0
    except SystemExit as stop:
        exit_code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except Hung:
        exit_code = -1
    except BaseException as error:
        exit_code = 1
        print(f"TRACEBACK {type(error).__name__}: {error}", file=output)
    finally:
        signal.alarm(0)
        sys.argv = before
    return exit_code, output.getvalue()


def read_generate(folder: Path) -> tuple[int, str]:
    """Sample a text."""
    return call(run_script, str(folder), "--length", "3", arguments=(generate.main,))


def read_predict(folder: Path) -> tuple[int, str]:
    """Classify an image."""
    image = folder.parent.parent / "image.png"
    return call(run_script, str(folder), str(image), arguments=(predict.main,))


def read_calibrate(folder: Path) -> tuple[int, str]:
    """Fit a temperature."""
    return call(calibrate_run.main, str(folder))


def read_compare(folder: Path) -> tuple[int, str]:
    """Compare with a run that was not changed."""
    return call(compare_runs.main, str(folder), str(folder.parent / "other"))


def read_resume(folder: Path) -> tuple[int, str]:
    """Go on with the run."""
    task = "vision" if "vision" in folder.parent.name else "ngram"
    return call(train_main, f"resume={folder}", *MORE, arguments=(task,))


def read_teacher(folder: Path) -> tuple[int, str]:
    """Distil from it."""
    new = f"hydra.run.dir={folder.parent / 'student'}"
    words = [*SMALL, new, "loss=distillation", f"teacher={folder}"]
    return call(train_main, *words, arguments=("ngram",))


def read_sweep(folder: Path) -> tuple[int, str]:
    """Go on with a sweep of which the folder is a job."""
    file = folder / "status.json"
    with contextlib.suppress(ValueError, OSError, AttributeError, RecursionError):
        if file.is_file() and not file.is_symlink():
            content = json.loads(file.read_text(encoding="utf-8"))
            if content.get("status") == "complete":
                file.write_text(json.dumps(content | {"status": "interrupted"}), encoding="utf-8")
    words = ["-m", *SMALL, "seed=1,2", f"hydra.sweep.dir={folder.parent}"]
    return call(train_main, *words, arguments=("ngram",))


READERS = {
    "generate": read_generate,
    "predict": read_predict,
    "calibrate": read_calibrate,
    "compare": read_compare,
    "resume": read_resume,
    "teacher": read_teacher,
    "sweep": read_sweep,
}


def problems(folder: Path, mark: Path, victim: Path, exit_code: int, output: str) -> Iterator[str]:
    """Yield what a program did beside reading."""
    if mark.exists():
        yield "MARK"
    if victim.read_text(encoding="utf-8") != "the victim's text\n":
        yield "VICTIM"
    if SECRET in output:
        yield "SECRET on screen"
    for file in folder.parent.rglob("*"):
        if file.is_file() and not file.is_symlink() and SECRET.encode() in file.read_bytes():
            yield f"SECRET in {file.name}"
        if file.suffix in (".md", ".csv", ".html") and file.is_file():
            output += file.read_text(encoding="utf-8")
    odd = {c for c in output if not c.isprintable() and c not in "\n\t\r\xa0"}
    if odd or "\r" in output.replace("\r\n", "\n"):
        yield f"ODD {odd}"
    if exit_code == -1:
        yield "HUNG"
    elif exit_code not in (0, 2, 4, 5):
        yield f"EXIT {exit_code}"


def main() -> None:
    """Prepare real runs, change copies of them, read those."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="payloads with this in their name")
    parser.add_argument("--readers", default=",".join(READERS), help="programs, by commas")
    options = parser.parse_args()
    os.environ["MYSECRET"] = SECRET
    torch.set_num_threads(1)
    signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(Hung()))
    chosen = {name: payload for name, payload in PAYLOADS.items() if options.only in name}
    failed = trials = 0
    with tempfile.TemporaryDirectory() as base:
        root = Path(base)
        os.chdir(root)
        for seed in (1, 2):
            sweep = ["-m", *SMALL, f"seed={seed}", "hydra.sweep.dir=ngram"]
            assert call(train_main, *sweep, arguments=("ngram",))[0] == 0
            words = [*IMAGES, f"seed={seed}", f"hydra.run.dir=vision/{seed}"]
            assert call(train_main, *words, arguments=("vision",))[0] == 0
        for task in ("ngram", "vision"):
            _, second = sorted(file.parent for file in Path(task).glob("*/status.json"))
            shutil.copytree(second, Path(task) / "other")
        jobs = {
            task: sorted(Path(task).glob("*/status.json"))[0].parent.name
            for task in ("ngram", "vision")
        }
        for name, payload in chosen.items():
            answers = []
            for reader in options.readers.split(","):
                task = "vision" if reader == "predict" else "ngram"
                trials += 1
                place = root / f"{task}-trial"
                shutil.rmtree(place, ignore_errors=True)
                shutil.copytree(root / task, place)
                for file in place.glob("compare.*"):
                    file.unlink()
                image, mark, victim = root / "image.png", root / "mark", root / "victim" / "text"
                Image.new("L", (8, 8)).save(image)
                shutil.rmtree(victim.parent, ignore_errors=True)
                victim.parent.mkdir()
                victim.write_text("the victim's text\n", encoding="utf-8")
                folder = place / jobs[task]
                try:
                    payload(folder, mark, victim)
                except (KeyError, FileNotFoundError) as error:
                    answers.append(f"{reader} not applied ({error})")
                    continue
                exit_code, output = READERS[reader](folder)
                bad = list(problems(folder, mark, victim, exit_code, output))
                answers.append(f"{reader} {exit_code}{' '.join(['', *bad])}")
                if bad:
                    failed += 1
                    print(f"FAILED {name}: {reader}: {bad}\n    {output[-700:]!a}", flush=True)
                if mark.is_dir():
                    shutil.rmtree(mark)
                mark.unlink(missing_ok=True)
            print(f"{name}: {', '.join(answers)}", flush=True)
    print(f"{len(chosen)} payloads, {trials} trials, {failed} failed")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
