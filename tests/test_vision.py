"""The vision task: images and their splits, augmentation, models, reports, prediction."""

import gzip
import re
import shutil
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, compose, run_epoch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.metrics import confusion_matrix
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.nn import functional as F
from torch.testing import assert_close

from training.data import Split, stream_seed
from training.errors import ConfigError, DataError
from training.evaluation import evaluate, recalibrate
from training.loop import Training
from training.run.finished import load_run, read_metrics
from training.run.start import start
from training.run.targets import instantiate, with_facts
from vision.augment import Augment, uniforms
from vision.data import image_splits, stratified
from vision.images import (
    Images,
    ImageSet,
    read_digits,
    read_folder,
    read_image,
    read_torchvision,
)
from vision.models import linear, mlp, resnet18, small_cnn

LOSSES = sorted(f.stem for f in (ROOT / "configs" / "loss").glob("*.yaml"))
SETTINGS = {
    "channels": 1,
    "image_size": 4,
    "mean": [0.5],
    "std": [0.5],
    "split": [0.6, 0.1, 0.1, 0.2],
    "split_seed": 1,
    "imbalance": 1.0,
    "augment": Augment(1),
}
GREY = {"num_classes": 3, "channels": 1, "image_size": 8, "mean": [0.3], "std": [0.4]}


def numbered(counts, test=None):
    """Return images of which each has pixels of its own: its number, in base 256."""
    targets = torch.cat([torch.full((n,), k) for k, n in enumerate(counts)])
    pixels = torch.zeros(len(targets), 1, 4, 4, dtype=torch.uint8)
    pixels[:, 0, 0, 0] = torch.arange(len(targets)) % 256
    pixels[:, 0, 0, 1] = torch.arange(len(targets)) // 256
    return ImageSet(Images(pixels, targets), tuple("abcdefghij"[: len(counts)]), test)


def numbers(split):
    return (split.inputs[:, 0, 0, 0].long() + 256 * split.inputs[:, 0, 0, 1].long()).tolist()


def split_up(images, **settings):
    return image_splits(lambda: images, "some", **(SETTINGS | settings))


def parts_of(splits):
    return [splits.train, splits.val, splits.calibration, splits.test]


def test_digits_are_scikit_learns_as_bytes():
    pixels = read_digits().images.pixels

    assert pixels.dtype == torch.uint8 and pixels.shape == (1797, 1, 8, 8)
    assert np.array_equal((pixels[:, 0].double() * 16 / 255).round(), load_digits().images)


def test_every_image_is_in_one_split_and_every_class_in_its_share():
    counts = [200, 100, 50]

    splits = split_up(numbered(counts))

    found = [number for part in parts_of(splits) for number in numbers(part)]
    assert sorted(found) == list(range(350))
    for part, share in zip(parts_of(splits), SETTINGS["split"], strict=True):
        assert part.targets.bincount().tolist() == [round(share * n) for n in counts]
        assert part.inputs.dtype == torch.uint8
        assert len(part.targets[:20].unique()) > 1  # shuffled: the first rows are a fair sample
    assert splits.class_counts.tolist() == [120, 60, 30]


def test_the_splits_are_a_function_of_their_seed():
    images = numbered([100, 100])
    first, again, other = (split_up(images, split_seed=seed) for seed in (1, 1, 2))

    assert numbers(first.test) == numbers(again.test)
    assert numbers(first.train) == numbers(again.train)
    assert sorted(numbers(first.test)) != sorted(numbers(other.test))


def test_the_test_images_do_not_depend_on_the_runs_seed():
    splits = [instantiate(compose(f"seed={seed}", task="vision").data) for seed in (1, 2)]

    assert torch.equal(splits[0].test.inputs, splits[1].test.inputs)


def test_imbalance_thins_only_training_classes_exponentially():
    images, fair = numbered([1000] * 5), SETTINGS["split"]
    even, thin = split_up(images), split_up(images, imbalance=0.01)

    expected = [600 * 0.01 ** (k / 4) for k in range(5)]
    assert_close(thin.class_counts.double(), torch.tensor(expected).double(), rtol=0, atol=1)
    assert set(numbers(thin.train)) < set(numbers(even.train))
    for part in ("val", "calibration", "test"):
        assert sorted(numbers(getattr(thin, part))) == sorted(numbers(getattr(even, part)))
    rare = stratified(torch.tensor([0] * 50 + [1] * 3), fair, torch.Generator(), imbalance=1e-9)
    assert torch.tensor([0] * 50 + [1] * 3)[rare[0]].bincount()[1] == 1  # never none at all


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"split": [1, 0]}, "split must be four shares"),
        ({"split": [0.5, 0.1, 0.1, 0.1]}, "split must be four shares"),
        ({"std": [0]}, "std must be 1 numbers above 0"),
        ({"mean": [0.5] * 3}, "mean must be 1 numbers"),
        ({"channels": 2}, "channels must be 1"),
        ({"imbalance": 1.5}, r"imbalance must be in \(0, 1\]"),
        ({"has_test": True}, "split must leave 0 for test"),
    ],
)
def test_a_setting_is_refused_before_anything_is_read(setting, message):
    with pytest.raises(ValueError, match=message):
        image_splits(pytest.fail, "some", **(SETTINGS | setting))


def write_idx(file, array):
    header = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    content = header + array.astype(np.uint8).tobytes()
    file.write_bytes(gzip.compress(content) if file.suffix == ".gz" else content)


@pytest.fixture
def fashion(tmp_path):
    """Return a function that writes a tiny Fashion-MNIST as torchvision lays it out."""

    def write(suffix):
        raw = tmp_path / "data" / "FashionMNIST" / "raw"
        raw.mkdir(parents=True)
        generator, arrays = np.random.default_rng(0), {}
        for name, n in (("train", 400), ("t10k", 50)):
            arrays[name] = generator.integers(256, size=(n, 28, 28)), np.arange(n) % 10
            write_idx(raw / f"{name}-images-idx3-ubyte{suffix}", arrays[name][0])
            write_idx(raw / f"{name}-labels-idx1-ubyte{suffix}", arrays[name][1])
        return tmp_path / "data", arrays

    return write


def test_a_label_out_of_range_is_refused_with_its_file_and_row(fashion):
    root, arrays = fashion("")
    labels = arrays["train"][1].copy()
    labels[5] = 77
    write_idx(root / "FashionMNIST" / "raw" / "train-labels-idx1-ubyte", labels)

    with pytest.raises(
        DataError, match=r"FashionMNIST, training images, row 5 .* label 77 is none"
    ):
        read_torchvision("FashionMNIST", root, False)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_the_published_test_split_stays_the_test_split(fashion, suffix):
    root, arrays = fashion(suffix)
    before = sorted(root.rglob("*"))

    splits = instantiate(compose("data=fashion_mnist", f"data.root={root}", task="vision").data)

    assert np.array_equal(splits.test.inputs[:, 0], arrays["t10k"][0])
    assert np.array_equal(splits.test.targets, arrays["t10k"][1])
    assert [len(part) for part in parts_of(splits)] == [360, 20, 20, 50]
    rest = torch.cat([part.inputs[:, 0] for part in parts_of(splits)[:3]]).flatten(1).numpy()
    assert sorted(map(bytes, rest.astype(np.uint8))) == sorted(
        map(bytes, arrays["train"][0].reshape(400, -1).astype(np.uint8))
    )
    assert splits.class_names[0] == "T-shirt/top"
    assert sorted(root.rglob("*")) == before  # it may be read-only


def test_damaged_files_are_one_line(fashion, command_line):
    root, _ = fashion(".gz")
    file = root / "FashionMNIST" / "raw" / "t10k-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:100])

    code, _, err = command_line("data=fashion_mnist", f"data.root={root}", task="vision")

    assert code == 4
    assert re.fullmatch(r"error: data\.root=.*: FashionMNIST could not be read \(.*\).*\n", err)


@pytest.mark.parametrize(
    ("name", "download"), [("mnist", "true"), ("fashion_mnist", "false"), ("cifar10", "true")]
)
def test_no_files_and_no_network_are_one_line(name, download, command_line, monkeypatch):
    def unreachable(*_, **__):
        raise OSError("no route")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)

    code, out, err = command_line(f"data={name}", f"data.download={download}", task="vision")

    assert (code, out) == (4, "")
    assert re.fullmatch(r"error: data\.root=data: \w+ could not be (read|had) \(.*\n", err), err
    assert ("data.download=true" in err) == (download == "false")


@pytest.fixture
def folder(tmp_path):
    """Write images of two classes, some of them grey, with transparency, or not square."""
    for name, level in (("cats", 40), ("dogs", 200)):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for i in range(10):
            mode = ("RGB", "L", "RGBA", "P")[i % 4]
            image = Image.new("RGB", (20 + i, 20), (level, level, level)).convert(mode)
            image.save(tmp_path / "pets" / name / f"{i}.png")
    (tmp_path / "pets" / "cats" / "notes.txt").write_text("not an image")
    return tmp_path / "pets"


def test_a_folder_a_class_becomes_splits(folder):
    splits = instantiate(
        compose(
            "data=image_folder",
            f"data.root={folder}",
            "data.image_size=16",
            "data.resize=true",
            task="vision",
        ).data
    )

    assert splits.class_names == ("cats", "dogs")
    assert [len(part) for part in parts_of(splits)] == [12, 2, 2, 4]
    for part in parts_of(splits):
        assert part.inputs.shape[1:] == (3, 16, 16)
        assert torch.equal(part.inputs[:, 0, 0, 0] > 100, part.targets == 1)


def test_images_of_mixed_size_are_refused_with_file_and_row(folder):
    with pytest.raises(DataError, match=r"cats/1\.png: image 1 \(from 0\) is 21 x 20, .* 20 x 20;"):
        read_folder(folder, 1, 8, False)


def test_train_and_test_folders_are_kept_apart(folder, tmp_path):
    for part in ("train", "test"):
        (tmp_path / "both").mkdir(exist_ok=True)
        (tmp_path / "both" / part).symlink_to(folder)

    images = read_folder(tmp_path / "both", 1, 8, True)

    assert len(images.images.targets) == len(images.test.targets) == 20
    with pytest.raises(ValueError, match="split must leave 0 for test"):
        split_up(images, image_size=8)
    splits = split_up(images, image_size=8, split=[0.8, 0.1, 0.1, 0])
    assert torch.equal(splits.test.inputs, images.test.pixels)


def test_a_wide_image_is_cut_to_its_middle_square(tmp_path):
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, 4:12] = (10, 20, 30)
    Image.fromarray(pixels).save(tmp_path / "wide.png")

    image = read_image(tmp_path / "wide.png", 3, 8)

    assert torch.equal(image, torch.tensor([10, 20, 30]).byte()[:, None, None].expand(3, 8, 8))


def test_sixteen_bits_a_pixel_are_scaled_and_not_cut_off(tmp_path):
    levels = np.array([[0, 255, 256, 9728], [25600, 40000, 51200, 65535]], np.uint16)
    for mode, pixels in (
        ("I;16", levels.repeat(2, 0)),
        ("I", levels.repeat(2, 0).astype(np.int32)),
    ):
        Image.fromarray(pixels).save(tmp_path / "deep.tif")
        with Image.open(tmp_path / "deep.tif") as opened:
            assert opened.mode == mode
        image = read_image(tmp_path / "deep.tif", 1, 4)
        assert image[0, ::2].tolist() == (levels // 256).tolist()


def test_a_test_folder_of_another_class_is_refused(folder, tmp_path):
    for part in ("train", "test"):
        shutil.copytree(folder, tmp_path / "both" / part)
    (tmp_path / "both" / "test" / "mice").mkdir()

    with pytest.raises(DataError, match=r"test/mice: is no class of .*train"):
        read_folder(tmp_path / "both", 1, 8, True)


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda f: (f / "cats" / "1.png").write_bytes(b"no"), r"1\.png: cannot be read \(not an"),
        (lambda f: [x.unlink() for x in (f / "dogs").iterdir()], "dogs: holds no images"),
        (lambda f: f.rename(f.with_name("gone")), r"data\.root=.*: cannot be read \(No such"),
        (
            lambda f: [x.unlink() for x in (f / "dogs").iterdir()] and (f / "dogs").rmdir(),
            "at least two folders",
        ),
    ],
)
def test_unusable_folders_are_data_errors(folder, prepare, message):
    prepare(folder)

    with pytest.raises(DataError, match=message):
        read_folder(folder, 3, 16, False)


def draws_by_hand(seed, epoch, index, num_draws):
    """Splitmix64 on Python's integers."""
    found = []
    for column in range(num_draws):
        x = (index * num_draws + column) * 0x9E3779B97F4A7C15 + stream_seed(seed, "augment", epoch)
        x %= 2**64
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
        x ^= x >> 31
        found.append((x >> 40) / 2**24)
    return found


def test_draws_are_splitmix64_of_seed_epoch_and_index():
    indices = torch.tensor([0, 7, 123456])

    draws = uniforms(3, 5, indices, 4)

    expected = [draws_by_hand(3, 5, i, 4) for i in indices.tolist()]
    assert torch.equal(draws, torch.tensor(expected))


def test_draws_are_uniform_and_uncorrelated():
    draws = uniforms(1, 1, torch.arange(100_000), 8).double()

    assert_close(draws.mean(0), torch.full((8,), 0.5).double(), rtol=0, atol=0.004)
    assert_close(torch.cov(draws.T) * 12, torch.eye(8).double(), rtol=0, atol=0.02)
    assert_close(torch.corrcoef(torch.stack([draws[:-1, 0], draws[1:, 0]]))[0, 1].item(), 0.0,
                 rtol=0, atol=0.02)  # fmt: skip


@pytest.fixture
def pictures():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (12, 3, 9, 9), generator=generator, dtype=torch.uint8)


def test_shift_flip_and_cutout_are_what_numpy_makes_of_the_same_draws(pictures):
    augment, indices = Augment(seed=4, shift=2, flip=True, cutout=3), torch.arange(100, 112)

    images = augment(pictures, indices, 6)

    for i, image in enumerate(pictures.numpy()):
        draws = draws_by_hand(4, 6, 100 + i, 8)
        top, left = (int(5 * u) for u in draws[1:3])
        padded = np.pad(image, ((0, 0), (2, 2), (2, 2)), mode="reflect")
        expected = padded[:, top : top + 9, left : left + 9].astype(np.float32)
        if draws[5] < 0.5:
            expected = expected[:, :, ::-1].copy()
        y, x = (int(9 * u) - 1 for u in draws[6:8])
        expected[:, max(0, y) : y + 3, max(0, x) : x + 3] = 0
        assert np.array_equal(images[i], expected)


def test_a_crop_reads_an_image_along_a_straight_line():
    side, indices = 16, torch.arange(50)
    ramp = torch.arange(side).float().expand(50, 1, side, side)

    images = Augment(seed=1, crop=0.5)(ramp, indices, 1)

    rows = images[:, 0]
    assert_close(rows, rows[:, :1].expand_as(rows), rtol=0, atol=1e-4)  # the ramp has no rows
    steps = rows[:, 0, 2:-1] - rows[:, 0, 1:-2]
    assert_close(steps, steps[:, :1].expand_as(steps), rtol=0, atol=1e-4)
    assert steps.min() >= 0.5 - 1e-4 and steps.max() <= 1 + 1e-4 and steps.std() > 0.1
    assert rows.min() >= 0 and rows.max() <= side - 1


def test_an_augmented_image_depends_on_seed_epoch_and_index_only(pictures):
    options = {"shift": 2, "crop": 0.7, "flip": True, "cutout": 3}
    augment, indices = Augment(seed=1, **options), torch.arange(12)
    whole = augment(pictures, indices, 3)

    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    pieces = [augment(pictures[part], part, 3) for part in order.split(5)]

    assert_close(torch.cat(pieces), whole[order], rtol=0, atol=1e-4)
    for other in (augment(pictures, indices, 4), Augment(seed=2, **options)(pictures, indices, 3)):
        assert ((other - whole).abs().amax((1, 2, 3)) > 1).all()


def test_no_augmentation_leaves_the_bytes_alone(pictures):
    assert Augment(seed=1)(pictures, torch.arange(12), 1) is pictures


def test_only_training_batches_are_augmented():
    splits = instantiate(compose(task="vision").data)

    assert splits.train.augment is not None
    assert all(part.augment is None for part in parts_of(splits)[1:])


@pytest.mark.parametrize("model", [linear, mlp, small_cnn, resnet18])
@pytest.mark.parametrize(("channels", "side"), [(1, 8), (3, 32)])
def test_logits_are_the_head_of_the_features(model, channels, side):
    options = {"mean": [0.5] * channels, "std": [0.2] * channels}
    model = model(num_classes=3, channels=channels, image_size=side, **options)
    inputs = torch.randint(256, (2, channels, side, side), dtype=torch.uint8)

    model.train()(inputs[:1])  # a last batch of one image does not stop training
    logits = model.eval()(inputs)

    assert logits.shape == (2, 3)
    assert_close(logits, model.head(model.features(inputs)), rtol=0, atol=0)
    assert_close(logits, model(inputs.float()), rtol=0, atol=0)


def test_linear_is_softmax_regression_on_normalised_pixels():
    model = linear(num_classes=3, channels=3, image_size=4, mean=[0.1, 0.2, 0.3], std=[1, 2, 4])
    inputs = torch.randint(256, (5, 3, 4, 4), dtype=torch.uint8)

    logits = model(inputs)

    pixels = inputs.numpy() / 255 - np.array([0.1, 0.2, 0.3])[:, None, None]
    pixels = (pixels / np.array([1, 2, 4])[:, None, None]).reshape(5, -1)
    weight, bias = (p.detach().double().numpy() for p in model.parameters())
    assert_close(logits.double(), torch.from_numpy(pixels @ weight.T + bias), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("side", [8, 16])
def test_small_cnn_is_four_convolutions_the_last_one_residual(side):
    torch.manual_seed(0)
    model = small_cnn(**(GREY | {"image_size": side}), width=4).eval()
    inputs = torch.randint(256, (2, 1, side, side), dtype=torch.uint8)

    state = iter([v for k, v in model.state_dict().items() if "num_batches" not in k])

    def convolution(x, pool=False):
        weight, scale, offset, mean, variance = (next(state) for _ in range(5))
        x = F.conv2d(x, weight, stride=2 if weight.shape[-1] == 4 else 1, padding=1)
        x = F.max_pool2d(x, 2) if pool else x
        return F.relu(F.batch_norm(x, mean, variance, scale, offset))

    x = convolution((inputs / 255 - 0.3) / 0.4)
    x = convolution(convolution(x, pool=True))
    x = x + convolution(x)
    expected = F.linear(x.mean((2, 3)), next(state), next(state))
    assert next(state, None) is None
    assert_close(model(inputs), expected, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("outputs") / "run"
    cfg = compose("trainer.epochs=2", "model.width=16", "trainer.figures=2", task="vision")
    start(cfg, folder)
    return folder


@pytest.mark.parametrize("loss", LOSSES)
def test_thirty_two_images_reach_zero_error_under_each_loss(loss, run):
    teacher = [f"loss.teacher.run={run}"] if loss == "distillation" else []
    settings = ["model.width=8", "trainer.epochs=200", "trainer.batch_size=16"]
    cfg = compose(f"loss={loss}", *teacher, *settings, task="vision")
    split = instantiate(cfg.data).train.first(32)
    cfg = with_facts(cfg, 10, split.targets.bincount(minlength=10))
    torch.manual_seed(0)
    model, loss_fn, settings = map(instantiate, (cfg.model, cfg.loss, cfg.trainer))
    optimizer = instantiate(cfg.optimizer, call_with=[model.parameters()])

    training = Training(model, loss_fn, optimizer, lambda *_: 1.0, settings, 1)
    for epoch in range(1, 201):
        run_epoch(training, split, epoch)
        if epoch % 5 == 0:
            log_probs = loss_fn.log_probs(model.eval()(split.inputs))
            if torch.equal(log_probs.argmax(1), split.targets):
                return
    pytest.fail("some of 32 images are still mistaken")


@pytest.fixture
def broken_torchvision(monkeypatch):
    """Let torchvision fail as one made for another torch does."""

    class Finder:
        @staticmethod
        def find_spec(name, *_):
            if name.split(".")[0] == "torchvision":
                raise RuntimeError("operator torchvision::nms does not exist")

    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])


def test_smoke_runs_every_stage_where_torchvision_is_broken(command_line, broken_torchvision):
    code, out, err = command_line("debug=smoke", task="vision")

    assert (code, err) == (0, "")
    (folder,) = Path("outputs").iterdir()
    assert folder.name.startswith("vision-cross_entropy-seed1-")
    assert "10 classes, 8x8x1, 1,078 / 180 / 180 / 359" in out
    assert re.search(r"least accurate: \d, .*%; most frequent mistake: \d taken for", out)
    for name in ("test_confusion.png", "test_mistakes.png", "test_reliability.png"):
        assert (folder / name).stat().st_size > 1000


@pytest.mark.parametrize(
    ("task", "arguments", "message"),
    [
        (
            "vision",
            ["data=sonnets"],
            r"data=sonnets: no such option \(data: cifar10, digits, fashion_mnist,"
            r" image_folder, mnist\)",
        ),
        ("vision", ["model=ngram_mlp"], r"model=ngram_mlp: no such option \(model: linear, .*\)"),
        ("vision", ["data=digit"], r"data=digit: .*; did you mean data=digits\? .*"),
        ("vision", ["data.context_size=3"], r"data\.context_size: no .*; did you mean data\..*"),
        ("ngram", ["data=digits"], r"data=digits: no such option \(data: sonnets, .*\)"),
        ("vision", ["data.imbalance=0"], r"data\.imbalance must be in \(0, 1\], got 0"),
        ("vision", ["data.augment.crop=0"], r"data\.augment\.crop must be in \(0, 1\], got 0"),
        ("vision", ["data.augment.shift=8"], r"data\.augment\.shift must be less than .*, got 8"),
        ("vision", ["data.image_size=9"], r"digits: images are 1 x 8 x 8; set data\.channels .*"),
        ("vision", ["model=mlp", "model.dropout=1"], r"model\.dropout must be in .*, got 1"),
        ("vision", ["report.images.mistakes=-1"], r"report\.images\.mistakes must be .*, got -1"),
        ("vision", ["data=image_folder"], r"data\.root is required: data\.root=FOLDER, .*"),
        (
            "vision",
            ["data=mnist", "data.split=[0.6,0.1,0.1,0.2]"],
            r"data\.split must leave 0 for test, .*",
        ),
    ],
)
def test_a_mistake_is_one_line(task, arguments, message, command_line):
    code, out, err = command_line(*arguments, task=task)

    assert re.fullmatch(f"error: {message}\n", err), err
    assert (code, out) == (4 if "image_size=9" in arguments[0] else 2, "")


@pytest.mark.parametrize("option", ["data=mnist", "model=resnet18"])
def test_a_broken_torchvision_says_how_to_mend_it(option, command_line, broken_torchvision):
    code, out, err = command_line(option, task="vision")

    assert (code, out) == (4, "")
    assert re.fullmatch(
        r"error: torchvision cannot be imported \(operator torchvision::nms does not exist\);"
        r" install the pair .*pip install .*data=digits.*\n",
        err,
    )


def test_help_names_the_options_of_this_task_only(command_line):
    _, out, _ = command_line("--help", task="vision")

    assert "data: cifar10, digits, fashion_mnist, image_folder, mnist" in out
    assert "sonnets" not in out


def predictions(run, name="test"):
    """Return (targets, log_probs) of a split under a finished run."""
    finished = load_run(run)
    split = getattr(finished.splits(), name)
    return split, finished.loss_fn.log_probs(finished.model(split.inputs))


def test_class_accuracies_and_curves_are_those_of_the_test_split(run):
    split, log_probs = predictions(run)
    matrix = confusion_matrix(split.targets, log_probs.argmax(1))
    events = EventAccumulator(str(run), size_guidance={"tensors": 0, "images": 0}).Reload()

    last = [line for line in read_metrics(run) if "accuracy_3" in line and line["split"] == "test"]

    assert len(last) == 1
    for k in range(10):
        expected = matrix[k, k] / matrix[k].sum()
        assert last[0][f"accuracy_{k}"] == pytest.approx(expected, rel=1e-6)
    (event,) = events.Tensors("test/pr_3")
    curve = np.frombuffer(event.tensor_proto.tensor_content, np.float32)
    curve = curve if len(curve) else np.array(event.tensor_proto.float_val)
    true_positives, false_positives = curve.reshape(6, -1)[:2]
    chosen = log_probs[:, 3].exp() >= 0.5
    half = len(true_positives) // 2  # of 127 thresholds from 0 to 1
    assert true_positives[half] == (chosen & (split.targets == 3)).sum()
    assert false_positives[half] == (chosen & (split.targets != 3)).sum()
    assert (
        len(events.Tensors("val/pr_3")) == 1
    )  # where the run drew; at the end it is the test split
    assert len(events.Images("test/confusion")) == len(events.Images("test/mistakes")) == 1


def test_the_projector_has_each_test_image_with_its_class_and_the_guess(run):
    (facts,) = run.glob("*/images/metadata.tsv")
    header, *rows = [line.split("\t") for line in facts.read_text().splitlines()]
    features = np.loadtxt(facts.with_name("tensors.tsv"))
    targets = load_run(run).splits().test.targets[:500]
    right = sum(a == b for a, b in rows) / len(rows)
    (test,) = [line for line in read_metrics(run) if line["split"] == "test" and "nll" in line]

    assert header == ["class", "predicted"]
    assert len(rows) == len(features) == len(targets) == test["count"]
    assert [label for label, _ in rows] == [str(k) for k in targets.tolist()]
    assert right == pytest.approx(test["accuracy"])
    with Image.open(facts.with_name("sprite.png")) as sprite:
        assert sprite.width == sprite.height and sprite.width % 8 == 0


def test_the_most_confident_mistakes_are_shown_with_their_labels(run, monkeypatch):
    from training.run.report import ReportContext
    from vision import reports

    shown = {}
    monkeypatch.setattr(reports, "draw_images", lambda i, c: shown.update(images=i, captions=c))
    monkeypatch.setattr(reports, "draw_confusion", lambda m, c: shown.update(matrix=m))
    finished, log = load_run(run), type("Log", (), {})()
    log.scalars = log.figure = lambda *_: None
    log.events = type("Events", (), {"add_pr_curve": lambda *_: None})
    moment = ReportContext(
        finished.model, finished.loss_fn, finished.splits(), log, 1, 1, final=True, max_rows=None
    )

    report = reports.ImageReport(mistakes=3)(moment)

    split, log_probs = predictions(run)
    confidence, predicted = log_probs.exp().max(1)
    wrong = [i for i in range(len(split)) if predicted[i] != split.targets[i]]
    wrong = sorted(wrong, key=lambda i: -confidence[i])[:3]
    assert len(wrong) == 3
    assert torch.equal(shown["images"], split.inputs[wrong])
    assert shown["captions"] == [
        f"{split.targets[i]}\nas {predicted[i]} {confidence[i]:.3f}" for i in wrong
    ]
    expected = confusion_matrix(split.targets, predicted)
    assert np.array_equal(shown["matrix"], expected)
    off_diagonal = expected - np.diag(np.diag(expected))
    assert f"{off_diagonal.max()} of " in report.text


def test_a_run_without_mistakes_says_so():
    from vision.reports import describe

    assert describe(torch.eye(3).long() * 4, "abc") == "no mistakes"
    text = describe(torch.tensor([[3, 1, 0], [0, 4, 0], [0, 0, 0]]), "abc")  # none of class c
    assert text.startswith(
        "least accurate: a, 75.00%; most frequent mistake: a taken for b, 1 of 4"
    )


def test_a_calibration_split_without_mistakes_leaves_the_temperature_alone(run):
    finished = load_run(run)
    splits = finished.splits()
    right = predictions(run, "calibration")[1].argmax(1) == splits.calibration.targets
    perfect = Split(splits.calibration.inputs[right], splits.calibration.targets[right])

    result = recalibrate(finished.model, finished.loss_fn, perfect, splits.test, 10)

    before = evaluate(finished.model, finished.loss_fn, splits.test, 10).metrics
    assert (result.fit.at_bound, result.fit.temperature) == ("lower", 1.0)
    assert result.test.metrics["nll"] == pytest.approx(before["nll"], rel=1e-6)


def test_predict_gives_the_probabilities_after_temperature(run, tmp_path, monkeypatch, capsys):
    from scripts import predict

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
    from scripts import predict

    monkeypatch.chdir(tmp_path)
    Path("bad.png").write_bytes(b"not an image")
    arguments = [str(run) if word == "RUN" else word for word in arguments]
    monkeypatch.setattr(sys, "argv", ["predict.py", *arguments])

    with pytest.raises(SystemExit) as stop:
        predict.main()

    assert stop.value.code == code
    assert re.fullmatch(message, capsys.readouterr().err)


def test_predict_refuses_a_run_of_text(run):
    from dataclasses import replace

    from omegaconf import OmegaConf

    from scripts import predict

    text = replace(load_run(run), cfg=OmegaConf.create({"data": {"context_size": 3}}))
    with pytest.raises(ConfigError, match="not a vision run"):
        predict.predict(text, [])
