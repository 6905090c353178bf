"""Where images come from: the digits, torchvision's files, and folders of a user's own."""

import gzip
import re
import shutil
import struct

import numpy as np
import pytest
import torch
from conftest import compose
from PIL import Image
from sklearn.datasets import load_digits

from training.errors import DataError
from training.run.targets import instantiate
from vision.images import middle_square, open_image, read_digits, read_folder, read_torchvision


def parts_of(splits):
    return [splits.train, splits.val, splits.calibration, splits.test]


def test_digits_are_scikit_learns_as_bytes():
    pixels = read_digits()[0].inputs

    assert pixels.dtype == torch.uint8 and pixels.shape == (1797, 1, 8, 8)
    assert np.array_equal((pixels[:, 0].double() * 16 / 255).round(), load_digits().images)


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
        DataError, match=r"FashionMNIST .*training images, row 5 .*no class has label 77"
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
    assert re.fullmatch(r"error: data\.root=.*: FashionMNIST cannot be read \(.*\).*\n", err)


@pytest.mark.parametrize(
    ("dataset", "download"), [("MNIST", True), ("FashionMNIST", False), ("CIFAR10", True)]
)
def test_no_files_and_no_network_are_one_line(dataset, download, tmp_path, monkeypatch):
    def unreachable(*_, **__):
        raise OSError("no route")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)

    with pytest.raises(DataError) as error:
        read_torchvision(dataset, tmp_path, download)

    message = str(error.value)
    assert re.fullmatch(rf"data\.root={tmp_path}: {dataset} cannot be read \(.*", message)
    assert ("data.download=true" in message) == (not download)


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

    train, _, test = read_folder(tmp_path / "both", 1, 8, True)

    assert len(train) == len(test) == 20


def test_a_wide_image_is_cut_to_its_middle_square(tmp_path):
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, 4:12] = (10, 20, 30)
    Image.fromarray(pixels).save(tmp_path / "wide.png")

    image = middle_square(open_image(tmp_path / "wide.png", 3), 8)

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
        image = middle_square(open_image(tmp_path / "deep.tif", 1), 4)
        assert image[0, ::2].tolist() == (levels // 256).tolist()


def test_a_test_folder_of_another_class_is_refused(folder, tmp_path):
    for part in ("train", "test"):
        shutil.copytree(folder, tmp_path / "both" / part)
    shutil.copytree(folder / "cats", tmp_path / "both" / "test" / "mice")

    with pytest.raises(DataError, match=r"train and test must have the same classes: mice"):
        read_folder(tmp_path / "both", 1, 8, True)


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda f: (f / "cats" / "1.png").write_bytes(b"no"), r"1\.png: cannot be read \(not an"),
        (lambda f: [x.unlink() for x in (f / "dogs").iterdir()], r"no valid file for .* dogs\."),
        (lambda f: f.rename(f.with_name("gone")), r"data\.root=.*: .*No such file"),
        (
            lambda f: [x.unlink() for x in (f / "dogs").iterdir()] and (f / "dogs").rmdir(),
            r"two folders or more, one per class: \['cats'\]",
        ),
    ],
)
def test_unusable_folders_are_data_errors(folder, prepare, message):
    prepare(folder)

    with pytest.raises(DataError, match=message):
        read_folder(folder, 3, 16, False)
