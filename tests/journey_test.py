"""The README's journey on real images: a folder and pretrained weights become a file for others."""

import json
import pathlib
import re

import numpy as np
import PIL.Image
import pytest
import sklearn.datasets

import rrd_jax
from tests import forks

_ROOT = pathlib.Path(__file__).parent.parent
_NAMES = ("five", "six", "seven", "eight, or ∞", "neuf")
_FIELDS = (
    "--config.data.image_size=8",
    "--config.data.augment=crop_flip",
    "--config.data.pad=1",
    "--config.data.flip=False",
    "--config.data.mean=(0.305,0.305,0.305)",
    "--config.data.std=(0.376,0.376,0.376)",
    "--config.optimizer.learning_rate=0.05",
    "--config.train.batch_size=32",
    "--config.train.epochs=6",
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Images of the digits 5 to 9, a folder a class, and weights that have learnt 0 to 3."""
    place = tmp_path_factory.mktemp("journey")
    digits = sklearn.datasets.load_digits()
    images, labels = (digits.images * 255 / 16).round().astype(np.uint8)[..., None], digits.target
    for i in np.flatnonzero(labels >= 5):
        split = "test" if i % 4 == 0 else "train"
        folder = place / "images" / split / _NAMES[labels[i] - 5]
        folder.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(images[i, ..., 0]).save(folder / f"{i}.png")
    few = labels < 4
    split = images[few], labels[few]
    trained = rrd_jax.train_teacher(
        "resnet8", split, split, epochs=6, batch_size=32, workdir=place / "pretrained"
    )
    trained.network.export(place / "pretrained.safetensors", names="torch")
    return place


@pytest.mark.long
def test_a_folder_of_images_becomes_a_student_that_predicts_and_is_exported(place):
    with forks.Commands() as commands:

        def run(module, *arguments):
            done = commands.run(*arguments, module=f"rrd_jax.{module}", cwd=place)
            assert done.code == 0, done.err
            return done.out

        here = place / "configs"
        here.symlink_to(_ROOT / "configs")
        config = "--config=configs/image_folder.py"
        images = "--config.data.manual_dir=images"
        said = run("data.prepare", "--name=image_folder", "--manual_dir=images")
        assert "5 classes" in said
        said = run(
            *("main", f"{config}:resnet8", images, *_FIELDS, "--workdir=teacher"),
            "--config.student.checkpoint=pretrained.safetensors",
        )
        assert "new classifier for 5 classes" in said
        run(
            *("main", f"{config}:resnet8-resnet8,rrd+kd", images, *_FIELDS),
            *("--config.teacher.checkpoint=teacher@best", "--workdir=student"),
        )
        result = json.loads((place / "student" / "results.json").read_text())[-1]
        assert result["top1"] > 80

        lines = run("predict", "--workdir=student", "--format=jsonl", "images/test").splitlines()
        rows = [json.loads(line) for line in lines]
        right = [row["top"][0]["class"] == row["file"].split("/")[-2] for row in rows]
        assert 100 * np.mean(right) == pytest.approx(result["top1"])

        said = run("export", "--workdir=student", "--format=onnx", "--output=student.onnx")
        assert re.search(r"student\.onnx.*onnxruntime", said)
        other = run("predict", "--workdir=student.onnx", "--format=jsonl", "images/test")
        named = [json.loads(line)["top"][0]["class"] for line in other.splitlines()]
        assert named == [row["top"][0]["class"] for row in rows]
