"""Remake the tables of docs/results.md: learning rates first, then every loss with three seeds.

    python benchmarks/studies.py --out outputs/studies [--only long_tail,distill]
        [--text tinyshakespeare.txt] [--images FOLDER] [SETTING=VALUE ...]

The first sweeps of a study try learning rates for every loss (experiment=tune_lr), and more of
them where the best is the lowest or the highest. The last runs every loss at its best rate with
seeds 1, 2 and 3. Start it again, and jobs that are complete are skipped, in each. Every command is
printed before it runs, and its minutes after it.
--text is for tiny_shakespeare, --images for those whose name begins with fashion; without them
these studies are left out. Settings go to every sweep: with launcher=parallel threads=1, two jobs
at a time, all of it takes two to two and a half hours on two cores. trainer.epochs=2 tries
everything out.

OUT/STUDY-rates and OUT/STUDY hold the runs, with compare.html in each, OUT/STUDY.png is a figure of
them. OUT/results.md gathers the tables that were made, whenever that was, with the columns of the
documentation, their commands, and the best rates in the form in
which configs/*/experiment/*.yaml list them.
"""

import argparse
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # files here are called as packages are

from matplotlib.figure import Figure  # noqa: E402
from omegaconf import OmegaConf  # noqa: E402

from training.cli.comparison import Comparison, compare  # noqa: E402
from training.cli.page import draw_reliability, look, pooled  # noqa: E402
from training.cli.rates import Tried, best_rate, beyond_edges, tried_rates  # noqa: E402
from training.cli.runs import find_runs  # noqa: E402
from training.cli.tables import markdown  # noqa: E402
from training.run.figures import COLUMNS  # noqa: E402
from training.run.folder import read_status  # noqa: E402

NO_REPORT = "report=null"  # which takes a third of so short a run on Fashion-MNIST
HALF_AN_EPOCH = ("trainer.epochs=1", "trainer.max_batches=210", NO_REPORT)
THINNED = ("trainer.epochs=2", "trainer.max_batches=210", NO_REPORT)  # a quarter is left: two
ROUNDS = 2  # of two more rates each, for losses whose best is at the edge
MOST_RATES = 4 + 2 * ROUNDS  # also when it is started again
SHOWN = ("nll", "accuracy", "ece", "ece_softmax", "ece_temperature", "refinement")
OF_CLASSES = (
    "nll",
    "balanced_accuracy",
    "worst_class_accuracy",
    "ece",
    "ece_own",
    "ece_temperature",
)
TEXT, IMAGES, TEACHER = "data.path", "data.root", "teacher"


@dataclass(frozen=True)
class Study:
    """Sweeps: of learning rates, and of the losses at their best ones.

    task: ngram or vision.
    minutes: what they take on two cores, two jobs at a time.
    experiment: the option that sweeps losses and seeds.
    base: options of experiment= that come before it.
    data: the options of optimizer= and data=, by which best_lr lists the rates.
    rates: where others than those of tune_lr are tried.
    needs: the setting that must be given: a file, a folder, or the run of a teacher.
    words: settings of all sweeps.
    columns: the figures of its table.
    """

    task: str
    minutes: int
    experiment: str = "compare_losses"
    base: tuple[str, ...] = ()
    data: str = "adamw.digits"
    rates: str = ""
    needs: str = ""
    words: tuple[str, ...] = ()
    columns: tuple[str, ...] = SHOWN


FASHION = {
    "base": ("fashion_mnist_muon",),
    "data": "muon.fashion_mnist",
    "rates": "0.05,0.1,0.2",
    "needs": IMAGES,
}
STUDIES = {
    "sonnets": Study("ngram", 15, data="adamw.sonnets"),
    "tiny_shakespeare": Study(
        "ngram",
        25,
        base=("tiny_shakespeare_fast",),
        data="adamw.tiny_shakespeare",
        needs=TEXT,
        words=("report.kneser_ney.max_order=0",),
    ),
    "digits": Study("vision", 8),
    "fashion": Study("vision", 20, **FASHION, words=HALF_AN_EPOCH),
    "long_tail": Study("vision", 5, "long_tail", columns=OF_CLASSES),
    "fashion_long_tail": Study(
        "vision", 20, "long_tail", **FASHION, words=THINNED, columns=OF_CLASSES
    ),
    "label_noise": Study("vision", 9, "label_noise"),
    "label_noise_next": Study("vision", 10, "label_noise_next"),
    "fashion_label_noise": Study("vision", 20, "label_noise", **FASHION, words=HALF_AN_EPOCH),
    "distill": Study("vision", 4, "distill", needs=TEACHER),
    "overconfidence": Study("vision", 6, "overconfidence"),
}


def command_of(task: str, *words: str) -> list[str]:
    """Return what trains, as the documentation writes it."""
    return [sys.executable, f"scripts/train_{task}.py", *words]


def run(command: Sequence[str]) -> int:
    """Print a command, run it in the project's folder, print its minutes; return its exit code.

    Ctrl-C stops the command, which saves what it has, and then this program.
    """
    print(f"\n$ {shlex.join(command)}", flush=True)
    start = time.perf_counter()
    code = subprocess.run(command, cwd=ROOT, check=False).returncode
    print(f"took {(time.perf_counter() - start) / 60:.1f} min, exit code {code}", flush=True)
    if code < 0 or code >= 128:  # stopped by a signal
        sys.exit(code % 256)
    return code


def losses_of(study: Study) -> str:
    """Return the losses that a study names itself; its rates are tried for those alone."""
    file = ROOT / f"configs/{study.task}/experiment/{study.experiment}.yaml"
    losses = OmegaConf.select(OmegaConf.load(file), "hydra.sweeper.params.loss", default="")
    return "" if "glob" in losses else losses


def few_rates(folder: Path) -> list[Tried]:
    """Return the tried rates of the losses for which more can be tried."""
    return [tried for tried in tried_rates(find_runs([folder])) if len(tried[2]) < MOST_RATES]


def best_rates(folder: Path) -> dict[str, float]:
    """Return the learning rate of each loss with the lowest val nll."""
    tried = tried_rates(find_runs([folder]))
    return {loss: best_rate(means) for _, loss, means in sorted(tried)}


def teacher_in(folder: Path, words: Sequence[str]) -> Path:
    """Return the run that students learn from, trained if it is not there."""
    if read_status(folder).get("status") != "complete":
        new = [f"hydra.run.dir={folder}", *(w for w in words if "launcher" not in w)]
        run(command_of("vision", *([f"resume={folder}"] if folder.exists() else new)))
    return folder


def without_rates(text: str) -> str:
    """Return a table whose rows are named by loss alone: each has one rate, which is listed."""
    return re.sub(r", lr=[\d.e-]+", "", text)


def draw(comparison: Comparison, columns: Sequence[str], path: Path) -> None:
    """Draw each loss in the plane of two figures, seeds small, and all in a reliability diagram."""
    figure = Figure(figsize=(10, 4.2), dpi=110, layout="constrained")
    plane, diagram = figure.subplots(1, 2, width_ratios=(1.25, 1))
    x, y = (columns[2], columns[0]) if "worst_class_accuracy" in columns else columns[1::-1]
    for i, row in enumerate(comparison.rows):
        color, style, order = look(comparison, i)
        kind = "o" if i < 10 else "s"  # there are ten colours
        diagram.plot([], [], kind, color=color, ls=style, label=row.runs[0].loss)
        plane.plot(row.mean(x), row.mean(y), kind, ms=9, color=color, zorder=order)
        seeds = row.values(x).keys() & row.values(y).keys()
        points = [(row.values(x)[seed], row.values(y)[seed]) for seed in seeds]
        plane.plot(*zip(*points, strict=True), ".", ms=5, color=color, alpha=0.5)
    plane.set(xlabel=COLUMNS[x][0], ylabel=COLUMNS[y][0], yscale="log")
    plane.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    for axis in (plane.yaxis.set_major_formatter, plane.yaxis.set_minor_formatter):
        axis("{x:g}")
    draw_reliability(diagram, comparison, [pooled(row) for row in comparison.rows])
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    figure.savefig(path)


def remake(name: str, out: Path, given: dict[str, str], words: Sequence[str]) -> str:
    """Run the sweeps of a study; return its part of results.md."""
    study, folder, rates_folder = STUDIES[name], out / name, out / f"{name}-rates"
    if study.needs == TEACHER:
        given = {TEACHER: str(teacher_in(out / "teacher", words))}
    needed = [f"{study.needs}={given[study.needs]}"] if study.needs else []
    needed += [*study.words, *words]
    experiments = [*study.base, study.experiment]
    named = [f"loss={losses}"] if (losses := losses_of(study)) else []
    named += [f"optimizer.lr={study.rates}"] * bool(study.rates)
    tuning = f"experiment=[{','.join([*experiments, 'tune_lr'])}]"
    at = f"hydra.sweep.dir={rates_folder}"
    run(command_of(study.task, "-m", tuning, *named, *needed, at))
    for _ in range(ROUNDS):
        for more, losses in beyond_edges(few_rates(rates_folder)).items():
            tried = (f"loss={','.join(losses)}", f"optimizer.lr={more}")
            run(command_of(study.task, "-m", tuning, *tried, *needed, at))
    rates = best_rates(rates_folder)
    rates |= {"nll": rates["cross_entropy"]}  # the same loss in other words
    best = [f"best_lr.{study.data}.{loss}={rate:g}" for loss, rate in rates.items()]
    comparing = command_of(study.task, "-m", f"experiment=[{','.join(experiments)}]", *needed)
    run([*comparing, *best, f"hydra.sweep.dir={folder}"])
    ends = {record.status for record in find_runs([rates_folder, folder])}
    listed = "".join(f"      {loss}: {rate:g}\n" for loss, rate in rates.items())
    optimizer, data = study.data.split(".")
    failed = (
        "some jobs are not complete: start it again\n\n" if ends - {"complete", "diverged"} else ""
    )
    runs = [record for record in find_runs([folder]) if record.loss != "nll"]
    comparison = compare(runs)[0]
    shown = tuple(column for column in study.columns if column in comparison.columns)
    table = without_rates(markdown(replace(comparison, columns=shown)))
    draw(comparison, study.columns, out / f"{name}.png")
    return (
        f"## {name}\n\n{failed}```sh\n{shlex.join(comparing[1:])}\n```\n\n{table}\n"
        f"```yaml\nbest_lr:\n  {optimizer}:\n    {data}:\n{listed}```\n"
    )


def main() -> None:
    """Read the command line, remake what it names, and gather the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("outputs/studies"))
    parser.add_argument("--only", help="names, with commas between: " + ", ".join(STUDIES))
    parser.add_argument("--text", type=Path, help="tiny Shakespeare, a text file")
    parser.add_argument("--images", type=Path, help="folder that holds FashionMNIST/")
    args, words = parser.parse_known_args()
    if wrong := [word for word in words if "=" not in word or word.startswith("-")]:
        parser.error(f"{wrong[0]}: give settings only, as in trainer.epochs=2")
    names = args.only.split(",") if args.only else list(STUDIES)
    if unknown := [name for name in names if name not in STUDIES]:
        parser.error(f"--only {unknown[0]}: none of {', '.join(STUDIES)}")
    paths = {TEXT: args.text, IMAGES: args.images}
    given = {key: str(path.resolve()) for key, path in paths.items() if path} | {TEACHER: ""}
    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGINT, lambda *_: None)  # the command that runs is sent it, too
    minutes = sum(STUDIES[name].minutes for name in names)
    print(f"about {minutes} minutes on two cores with launcher=parallel threads=1", flush=True)
    for name in names:
        if STUDIES[name].needs and STUDIES[name].needs not in given:
            option = {TEXT: "--text FILE", IMAGES: "--images FOLDER"}[STUDIES[name].needs]
            print(f"\n{name}: left out, give {option}", flush=True)
            continue
        (out / f"{name}.md").write_text(remake(name, out, given, words), encoding="utf-8")
        files = [file for study in STUDIES if (file := out / f"{study}.md").exists()]
        text = "\n".join(file.read_text(encoding="utf-8") for file in files)
        (out / "results.md").write_text(text, encoding="utf-8")
    print(f"\n{out / 'results.md'}")


if __name__ == "__main__":
    main()
