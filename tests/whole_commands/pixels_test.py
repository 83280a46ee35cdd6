"""Pixels of whole commands: test crops, transparent images, and the size of small images."""

import io
import json
import pathlib
import re

import numpy as np
import PIL.Image
import PIL.ImageDraw
import pytest

import rrd_jax
from rrd_jax.data.images import transforms
from tests.data import folders

pytestmark = pytest.mark.long

_CONFIG = "--config=configs/image_folder.py:resnet8"
# The flags with which README suggests to try one's own images on a CPU.
_FLAGS = ("--config.data.image_size=32", "--config.train.batch_size=8", "--config.train.epochs=1")


def _drawing(seed):
    """Returns a PNG of a shape on transparent pixels that hide another color."""
    rng = np.random.default_rng(seed)
    width, height, *colors = rng.integers(40, 90, 8).tolist()
    image = PIL.Image.new("RGBA", (width, height), (*colors[:3], 0))
    draw = PIL.ImageDraw.Draw(image)
    draw.ellipse([5, 5, 35, 35], outline=(*colors[3:], 128 + seed), width=4)
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def drawings(tmp_path_factory):
    """A folder of transparent drawings of two classes, and the flags that read the folder."""
    root = tmp_path_factory.mktemp("drawings")
    for i in range(24):
        folders.put(
            root / "tree" / ("train", "test")[i % 2] / "ab"[i % 4 // 2] / f"{i}.png", _drawing(i)
        )
    return root / "tree", (
        f"--config.data.manual_dir={root / 'tree'}",
        f"--config.data.dir={root / 'index'}",
    )


@pytest.fixture(scope="module")
def run(drawings, commands, tmp_path_factory):
    """The output of a run on the drawings with README's flags for a CPU, and its workdir."""
    folder = tmp_path_factory.mktemp("run")
    outcome = commands.run(_CONFIG, *_FLAGS, *drawings[1], f"--workdir={folder}")
    assert outcome.code == 0, outcome.err
    return outcome, folder


def _prepared(path, size, resize):
    """Returns an image as the documentation describes it, by Pillow and OpenCV."""
    image = PIL.Image.open(path).convert("RGBA")
    white = PIL.Image.new("RGBA", image.size, "white")
    pixels = np.asarray(PIL.Image.alpha_composite(white, image).convert("RGB"))
    scaled = transforms.scale_short(pixels, resize)
    top, left = ((side - size) // 2 for side in scaled.shape[:2])
    return scaled[top : top + size, left : left + size]


def test_training_evaluation_prediction_export_and_a_script_agree(
    run, drawings, commands, tmp_path
):
    outcome, folder = run
    root, flags = drawings
    assert "24 images with transparency: on white (data.background)" in outcome.out
    config = json.loads((folder / "config.json").read_text())["data"]
    assert (config["resize"], config["background"]) == (36, "white")
    assert (
        "shorter side scaled to 36 pixels, then center crop; transparent pixels on white"
        in (folder / "README.md").read_text()
    )
    tested = commands.run(_CONFIG, *_FLAGS, *flags, f"--workdir={folder}", "--mode=eval")
    assert tested.code == 0, tested.err
    exported = commands.run(
        f"--workdir={folder}",
        "--format=onnx",
        "--embed_preprocessing",
        f"--output={tmp_path / 'x.onnx'}",
        module="rrd_jax.export",
    )
    assert exported.code == 0, exported.err
    network = rrd_jax.load(folder)
    files = sorted((root / "test").glob("*/*.png"))
    pixels = np.stack([_prepared(file, 32, 36) for file in files])
    expected = np.asarray(network(pixels).logits)
    labels = [file.parent.name for file in files]
    right = [name == "ab"[row.argmax()] for name, row in zip(labels, expected, strict=True)]
    assert f"| {100 * np.mean(right):.2f} " in tested.out
    (result,) = json.loads((folder / "results.json").read_text())
    assert result["top1"] == pytest.approx(100 * np.mean(right))
    for path in (folder, tmp_path / "x.onnx"):
        output = tmp_path / f"{path.name}.npz"
        flags = ("--format=npz", "--logits", f"--output={output}", str(root / "test"))
        predicted = commands.run(f"--workdir={path}", *flags, module="rrd_jax.predict")
        assert predicted.code == 0, predicted.err
        predictions = np.load(output)
        rows = dict(
            zip(map(pathlib.Path, predictions["files"]), predictions["logits"], strict=True)
        )
        np.testing.assert_allclose([rows[file] for file in files], expected, atol=2e-5)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        (
            "data.background=red",
            "data.background is 'red', but must be white, black, a color such",
        ),
        ("data.background=#12345", "data.background is '#12345', but must be"),
        ("data.resize=abc", "data.resize is 'abc', but must be a whole number from 4|or auto"),
        ("data.resize=31", "data.resize is 31, less than data.image_size 32"),
    ],
)
def test_invalid_values_are_refused(flag, message, drawings, commands, tmp_path):
    command = (_CONFIG, *_FLAGS, *drawings[1], f"--config.{flag}", f"--workdir={tmp_path}")
    assert re.search(message, commands.run(*command).check_refused(1))


def test_a_teacher_that_saw_another_background_is_told(run, drawings, commands, tmp_path):
    command = ("--config=configs/image_folder.py:resnet8-resnet8,kd", *_FLAGS, *drawings[1])
    flags = (f"--config.teacher.checkpoint={run[1]}", f"--workdir={tmp_path}")
    outcome = commands.run(*command, *flags, "--config.data.background=black")
    assert outcome.code == 0, outcome.err
    assert "was trained with data.background=white, but this run has data.background=black" in (
        outcome.out
    )


def test_a_resumed_run_refuses_another_background(run, drawings, commands):
    command = (
        _CONFIG,
        *_FLAGS,
        *drawings[1],
        f"--workdir={run[1]}",
        "--config.data.background=black",
    )
    assert "data.background is black, stored white" in commands.run(*command).check_refused(2)


def test_a_workdir_of_an_earlier_version_keeps_its_pixels(drawings, commands, tmp_path):
    """Changes a new workdir to what version 0.2.0 wrote."""
    command = (_CONFIG, *_FLAGS, *drawings[1], f"--workdir={tmp_path / 'run'}")
    flags = ("--config.data.background=none", "--config.data.resize=256")
    first = commands.run(*command, *flags)
    assert first.code == 0, first.err
    assert "the central 32 x 32 of 256 x 256 pixels, 1.6 %" in first.out
    path = tmp_path / "run/config.json"
    fields = json.loads(path.read_text())
    del fields["data"]["background"]
    path.write_text(json.dumps(fields))
    again = commands.run(*command, "--config.train.epochs=2")
    assert again.code == 0, again.err
    assert "24 images with transparency, which data.background=none drops" in again.out
    assert json.loads(path.read_text())["data"]["background"] == "none"
    assert json.loads(path.read_text())["data"]["resize"] == 256
