"""Where images come from: the digits, torchvision's files, and folders of a user's own."""

import gzip
import os
import re
import shutil
import struct

import numpy as np
import pytest
import torch
from conftest import compose
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import IFDRational
from sklearn.datasets import load_digits

from training.errors import DataError
from training.run.folder import read_metrics
from training.run.start import start
from training.run.targets import instantiate
from vision.images import middle_square, open_images, read_digits, read_folder, read_torchvision


def parts_of(splits):
    return [splits.train, splits.val, splits.calibration, splits.test]


def opened(file, channels=1):
    (image,) = open_images([file], channels)
    return image


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
    (tmp_path / "pets" / "cats" / "notes.txt").write_text("not an image", encoding="utf-8")
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

    train, _, test, _ = read_folder(tmp_path / "both", 1, 8, True)

    assert len(train) == len(test) == 20


def test_a_wide_image_is_cut_to_its_middle_square(tmp_path):
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, 4:12] = (10, 20, 30)
    Image.fromarray(pixels).save(tmp_path / "wide.png")

    image = middle_square(opened(tmp_path / "wide.png", 3), 8)

    assert torch.equal(image, torch.tensor([10, 20, 30]).byte()[:, None, None].expand(3, 8, 8))


def test_sixteen_bits_a_pixel_are_scaled_and_not_cut_off(tmp_path):
    levels = np.array([[0, 255, 256, 9728], [25600, 40000, 51200, 65535]], np.uint16)
    for mode, pixels in (
        ("I;16", levels.repeat(2, 0)),
        ("I", levels.repeat(2, 0).astype(np.int32)),
    ):
        Image.fromarray(pixels).save(tmp_path / "deep.tif")
        with Image.open(tmp_path / "deep.tif") as before:
            assert before.mode == mode
        image = middle_square(opened(tmp_path / "deep.tif"), 4)
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
        (
            lambda f: [x.unlink() for x in (f / "dogs").iterdir()],
            r"dogs: holds no image file, whose name ends in one of \.png",
        ),
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


def test_what_a_notebook_or_an_archiver_left_is_no_image_and_no_class(folder):
    before = read_folder(folder, 1, 8, True)
    for place in ("", "cats", "cats/more"):
        for name in (".ipynb_checkpoints", "__MACOSX"):
            (folder / place / name).mkdir(parents=True)
            shutil.copy(folder / "cats" / "0.png", folder / place / name / "0.png")
        (folder / place / "._0.png").write_bytes(b"no image")

    after = read_folder(folder, 1, 8, True)

    assert after[1] == before[1]
    assert torch.equal(after[0].inputs, before[0].inputs)


def test_a_linked_folder_of_images_is_followed_and_a_link_in_a_circle_is_named(folder, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(folder / "dogs" / "1.png", tmp_path / "elsewhere" / "other.png")
    (folder / "dogs" / "more").symlink_to(tmp_path / "elsewhere")

    assert len(read_folder(folder, 1, 8, True)[0]) == 21
    (tmp_path / "elsewhere" / "again").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"more/again: is a link to a folder that it is in"):
        read_folder(folder, 1, 8, True)


RAMP = np.linspace(0, 1, 64).reshape(8, 8)


def test_floats_from_0_to_1_become_bytes(tmp_path):
    Image.fromarray(RAMP.astype(np.float32)).save(tmp_path / "a.tif")

    assert np.array_equal(np.array(opened(tmp_path / "a.tif")), (255 * RAMP).round())


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (
            (2 * RAMP - 1).astype(np.float32),
            "mode F with pixels from -1 to 1: must be from 0 to 1;",
        ),
        ((65535 * RAMP).astype(np.float32), "mode F with pixels from 0 to 65535: must be from 0"),
        (np.where(RAMP > 0.5, np.nan, RAMP).astype(np.float32), "mode F .* nan: must be from 0"),
        ((255 * RAMP).astype(np.uint16), "mode I;16 with pixels from 0 to 255: .* all become 0;"),
        ((255 * RAMP).astype(np.int32), "mode I with pixels from 0 to 255: different pixels all"),
        ((4095 * RAMP).astype(np.uint16), "mode I;16 with pixels from 0 to 4095: no file has"),
        ((70000 * RAMP).astype(np.int32), "mode I with pixels from 0 to 70000: must be from 0 to"),
        (np.stack([np.zeros((8, 8)), 255 * RAMP], 2).astype(np.uint8), "mode LA: different pixels"),
    ],
)
def test_pixels_that_would_be_cut_off_or_become_one_value_are_refused(pixels, message, tmp_path):
    Image.fromarray(pixels).save(tmp_path / "a.tif")

    with pytest.raises(DataError, match=f"a.tif: {message}"):
        opened(tmp_path / "a.tif")


def test_a_dark_image_of_a_set_of_16_bits_keeps_the_scale_of_the_set(tmp_path):
    for name, peak in (("dark", 4000), ("light", 60000)):
        Image.fromarray((peak * RAMP).astype(np.uint16)).save(tmp_path / f"{name}.png")

    dark, light = open_images([tmp_path / "dark.png", tmp_path / "light.png"], 1)

    assert (dark.getextrema(), light.getextrema()) == ((0, 15), (0, 234))


@pytest.mark.parametrize("orientation", range(10))
def test_the_orientation_is_read_beside_tags_that_cannot_be_written_again(orientation, tmp_path):
    image = Image.fromarray(np.arange(0, 240, 5, dtype=np.uint8).reshape(6, 8))
    exif = Image.Exif()
    exif[274] = orientation
    image.save(tmp_path / "a.jpg", exif=exif, quality=100)
    want = np.array(ImageOps.exif_transpose(Image.open(tmp_path / "a.jpg")))
    exif[33434] = IFDRational(1, 3)  # the exposure time, put at -1 / 0 below
    image.save(tmp_path / "a.jpg", exif=exif, quality=100)
    content = (tmp_path / "a.jpg").read_bytes()
    third = next(
        x for x in (struct.pack(f"{end}II", 1, 3) for end in "<>") if content.count(x) == 1
    )
    bad = struct.pack("<ii" if third[0] else ">ii", -1, 0)
    (tmp_path / "a.jpg").write_bytes(content.replace(third, bad))

    assert np.array_equal(np.array(opened(tmp_path / "a.jpg")), want)


@pytest.mark.skipif(os.name != "posix", reason="names of files are UTF-16 there")
def test_a_folder_whose_name_is_not_utf8_is_a_class_with_its_bytes_escaped(folder, command_line):
    try:
        (folder / "cats").rename(folder / os.fsdecode(b"caf\xe9"))
    except OSError:
        pytest.skip("this file system takes names in UTF-8 only")
    settings = ["data.resize=true", "data.image_size=8", "trainer.epochs=1", "device=cpu"]
    settings += ["data=image_folder", f"data.root={folder}", "model=linear", "hydra.run.dir=run"]

    code, _, err = command_line(*settings, task="vision")

    assert (code, err) == (0, "")
    code, _, err = command_line("data=image_folder", "data.root=caf\udce9", task="vision")
    assert (code, err.count("\n")) == (2, 1) and "must be UTF-8" in err
    assert read_folder(folder, 1, 8, True)[1] == ("caf\\xe9", "dogs")


def test_the_size_of_training_images_before_they_were_scaled_is_kept_for_predictions(tmp_path):
    for name, sides in (("a", (20, 24, 30)), ("b", (24, 24, 90))):
        (tmp_path / "own" / name).mkdir(parents=True)
        for i, side in enumerate(sides):
            Image.new("L", (side, side + 5)).save(tmp_path / "own" / name / f"{i}.png")

    cfg = compose(
        *("data=image_folder", f"data.root={tmp_path / 'own'}", "data.resize=true", "debug=smoke"),
        *("data.channels=1", "data.image_size=8", "data.mean=[0.5]", "data.std=[0.5]"),
        task="vision",
    )
    start(cfg, tmp_path / "run")

    (line,) = (line for line in read_metrics(tmp_path / "run") if line["split"] == "data")
    assert line["shorter_side"] == 24
