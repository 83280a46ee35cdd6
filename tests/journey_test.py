"""The commands on one folder of real images: prepare, fine-tune, distill, predict and export."""

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
def folder(tmp_path_factory):
    """A folder with images of the digits 5 to 9 by class, and weights trained on 0 to 3."""
    folder = tmp_path_factory.mktemp("journey")
    digits = sklearn.datasets.load_digits()
    images, labels = (digits.images * 255 / 16).round().astype(np.uint8)[..., None], digits.target
    for i in np.flatnonzero(labels >= 5):
        split = "test" if i % 4 == 0 else "train"
        class_folder = folder / "images" / split / _NAMES[labels[i] - 5]
        class_folder.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(images[i, ..., 0]).save(class_folder / f"{i}.png")
    source_classes = labels < 4
    split = images[source_classes], labels[source_classes]
    trained = rrd_jax.train_teacher(
        "resnet8", split, split, epochs=6, batch_size=32, workdir=folder / "pretrained"
    )
    trained.network.export(folder / "pretrained.safetensors", names="torch")
    return folder


@pytest.mark.long
def test_a_folder_of_images_becomes_a_student_that_predicts_and_is_exported(folder):
    with forks.Commands() as commands:

        def run(module, *arguments):
            outcome = commands.run(*arguments, module=f"rrd_jax.{module}", cwd=folder)
            assert outcome.code == 0, outcome.err
            return outcome.out

        configs = folder / "configs"
        configs.symlink_to(_ROOT / "configs")
        config = "--config=configs/image_folder.py"
        images = "--config.data.manual_dir=images"
        output = run("data.prepare", "--name=image_folder", "--manual_dir=images")
        assert "5 classes" in output
        output = run(
            *("main", f"{config}:resnet8", images, *_FIELDS, "--workdir=teacher"),
            "--config.student.checkpoint=pretrained.safetensors",
        )
        assert "new classifier for 5 classes" in output
        run(
            *("main", f"{config}:resnet8-resnet8,rrd+kd", images, *_FIELDS),
            *("--config.teacher.checkpoint=teacher@best", "--workdir=student"),
        )
        result = json.loads((folder / "student" / "results.json").read_text())[-1]
        assert result["top1"] > 80

        lines = run("predict", "--workdir=student", "--format=jsonl", "images/test").splitlines()
        rows = [json.loads(line) for line in lines]
        correct = [row["top"][0]["class"] == row["file"].split("/")[-2] for row in rows]
        assert 100 * np.mean(correct) == pytest.approx(result["top1"])

        output = run("export", "--workdir=student", "--format=onnx", "--output=student.onnx")
        assert re.search(r"student\.onnx.*onnxruntime", output)
        exported = run("predict", "--workdir=student.onnx", "--format=jsonl", "images/test")
        exported_classes = [json.loads(line)["top"][0]["class"] for line in exported.splitlines()]
        assert exported_classes == [row["top"][0]["class"] for row in rows]
