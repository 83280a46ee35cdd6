"""Whole commands with implausible labels, validation images, and data that change."""

import re
import tempfile

import numpy as np
import PIL.Image
import pytest

from tests import launch

pytestmark = pytest.mark.long

# A data set whose images show their class, and variants with mistakes.
_MODULE = """
import numpy as np

rng = np.random.default_rng(0)


class Source(list):
    reads = 0

    def __getitem__(self, i):
        image, label = super().__getitem__(i)
        Source.reads += 1
        if self.late and Source.reads > 400:
            label = (label + 1) % 4 if self.late == "label" else label
            image = 255 - image if self.late == "image" else image
            image = image[:6] if self.late == "shape" else image
            self.append(0) if self.late == "length" and len(self) < 100 else None
        return image, label


def source(split, case="plain"):
    labels = np.arange(96 if split == "train" else 80) % 4
    images = rng.integers(0, 60, (len(labels), 8, 8, 3), np.uint8)
    for image, label in zip(images, labels):
        image[2 * label : 2 * label + 2] += 180
    if split == "test":
        labels = {"shifted": labels + 1, "permuted": (labels + 1) % 4}.get(case, labels)
        labels = np.full_like(labels, 1) if case == "test of one class" else labels
    elif case == "one class":
        labels = np.full_like(labels, 3)
    keep = labels != 2 if (split, case) == ("train", "missing") else labels >= 0
    rows = Source(zip(images[keep], labels[keep].tolist()))
    rows.late = case.partition(" ")[2] if case.startswith("late") else ""
    rows.num_classes = 10 if case == "one class" else 5 if case == "shifted" else 4
    rows.class_names = {
        "blank": ["a", " ", "b", "c"], "equal": ["a", "a", "b", "c"], "few": ["a", "b"]
    }.get(case, [])
    return rows
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("module")
    (path / "mistaken.py").write_text(_MODULE)
    return path


def _run(commands, folder, *fields, case="plain"):
    settings = ("data.mock_examples=0", "data.name=mistaken:source", "data.augment=none")
    settings += ("data.mean=(0.5,0.5,0.5)", "data.std=(0.3,0.3,0.3)", "train.batch_size=16")
    flags = [f"--config.{field}" for field in (*settings, f"data.options.case={case}", *fields)]
    config = f"--config={launch.CONFIGS / 'digits.py'}:resnet8,smoke"
    with tempfile.TemporaryDirectory(dir=folder) as workdir:
        return commands.run(config, *flags, f"--workdir={workdir}", cwd=folder)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("shifted", r"20 of 80 images .* 1 class without .* labels are 0 to 3 .* and 1 to 4"),
        ("one class", "all 96 labels of split 'train' are 3, but training needs at least two"),
        ("missing", r"20 of 80 images of split 'test' belong to 1 class without .* \(2\)"),
        ("blank", "blank name for label 1 of 4 classes"),
        ("few", "class_names has 2 names, but there are 4 classes"),
    ],
)
def test_mistaken_labels_of_an_import_path_are_refused(commands, folder, case, message):
    outcome = _run(commands, folder, case=case)
    assert re.search(message, outcome.check_refused(2)), outcome.err


@pytest.mark.parametrize(
    ("case", "epochs", "message"),
    [
        ("test of one class", 1, r"classes without images in split 'test': 3 of 4 \(0, 2, 3\)"),
        ("equal", 1, "labels 0 and 1 have the same class name 'a'"),
        ("permuted", 4, r"but \d+\.\d % with permuted classes: the test labels are numbered"),
    ],
)
def test_implausible_labels_of_an_import_path_are_told(commands, folder, case, epochs, message):
    fields = (f"train.epochs={epochs}", "optimizer.schedule=constant")
    outcome = _run(commands, folder, *fields, case=case)
    assert outcome.code == 0, outcome.err
    assert re.search(f"warning: .*{message}", outcome.out), outcome.out


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("late label", r"example \d+ .* its label was \d and is now \d"),
        ("late image", r"example \d+ .* its image has changed"),
        ("late shape", r"example \d+ .* its image has another size or type, now .*\(6, 8, 3\)"),
        ("late length", r"example \d+ .* it had \d+ examples and now has \d+"),
    ],
)
def test_a_source_that_changes_during_a_run_is_refused(commands, folder, case, message):
    outcome = _run(commands, folder, "data.feed=streamed", "train.epochs=6", case=case)
    assert re.search(message, outcome.check_refused(2)), outcome.err


@pytest.mark.parametrize(
    ("value", "code", "message"),
    [
        ("96", 2, "96 of the 96 images of split 'train'"),
        ("95", 2, "leaves 3 classes without training images, such as class"),
        ("1.5", 1, "data.val_split is 1.5, but must be a share from 0 to below 1, or a whole"),
        ("-1", 1, "data.val_split is -1"),
    ],
)
def test_an_impossible_validation_split_is_refused(commands, folder, value, code, message):
    outcome = _run(commands, folder, f"data.val_split={value}")
    assert re.search(message, outcome.check_refused(code)), outcome.err


def test_validation_images_choose_the_best_checkpoint(commands, folder):
    outcome = _run(commands, folder, "data.val_split=0.25", "train.epochs=2")
    assert outcome.code == 0, outcome.err
    assert "val_split: 24 of 96 training images are held out for validation, 6 per" in outcome.out
    assert re.search(r"epoch +2/2  val top-1 .* test top-1 .* best by val", outcome.out)
    assert "test top-1, best by validation images (epoch)" in outcome.out


def test_labels_of_predict_must_match_a_folder(commands, folder, tmp_path):
    for name in ("run", "a", "x"):
        (tmp_path / name).mkdir()
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    for name, pixels in zip("ax", images, strict=True):
        PIL.Image.fromarray(pixels).save(tmp_path / name / "1.png")
    run = commands.run(
        "--config=configs/image_folder.py:resnet8,smoke",
        *("--config.data.image_size=8", f"--workdir={tmp_path / 'run'}"),
        *(f"--config.data.{field}" for field in _folder_of_classes(tmp_path / "images")),
        "--config.train.epochs=1",
    )
    assert run.code == 0, run.err
    flags = (f"--workdir={tmp_path / 'run'}", "--labels")
    outcome = commands.run(*flags, tmp_path / "x", module="rrd_jax.predict")
    assert re.search("no image is in a folder with the name of a class", outcome.check_refused(2))
    outcome = commands.run(*flags, tmp_path / "a", tmp_path / "x", module="rrd_jax.predict")
    assert outcome.code == 0, outcome.err
    assert "of 1 image with a label" in outcome.out + outcome.err


def _folder_of_classes(root):
    """Writes images of two classes; returns config fields."""
    rng = np.random.default_rng(0)
    for name in "ab":
        (root / name).mkdir(parents=True)
        for i in range(30):
            PIL.Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(
                root / name / f"{i}.png"
            )
    return f"manual_dir={root}", "mock_examples=0", "augment=crop_flip"
