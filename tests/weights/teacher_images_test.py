"""Separate preprocessing of a teacher, compared with torchvision."""

import json

import jax
import numpy as np
import pytest

from rrd_jax.data.model_info import Preprocessing
from rrd_jax.teacher import preprocessing
from rrd_jax.training.choices import TeachingChoice
from rrd_jax.weights import files

torch = pytest.importorskip("torch")
transforms = pytest.importorskip("torchvision.transforms.v2.functional")

# Mean and standard deviation of CLIP.
_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_STUDENT = Preprocessing(24, 3, (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))


class _FakeNetwork:
    """A network that has only a dtype."""

    dtype = np.float32


@pytest.mark.parametrize(
    ("sidecar", "field", "interpolation"),
    [
        ({}, "auto", "bilinear"),
        ({"interpolation": "bicubic"}, "auto", "bicubic"),
        ({"interpolation": "nearest"}, "bicubic", "bicubic"),
        ({"interpolation": "bicubic"}, "bilinear", "bilinear"),
    ],
)
@pytest.mark.parametrize("size", [56, 17])
def test_teacher_preprocessing_equals_torchvision(tmp_path, size, sidecar, field, interpolation):
    images = {"input_size": [3, size, size], "mean": _MEAN, "std": _STD, "crop_pct": 1.0}
    config = {"architecture": "resnet18", "pretrained_cfg": images | sidecar}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes(b"")
    file_preprocessing = files.preprocessing_of(tmp_path / "model.safetensors")
    teaching = TeachingChoice(interpolation=field)
    teacher = preprocessing.for_teacher(teaching, file_preprocessing, _STUDENT)
    assert (teacher.image_size, teacher.mean) == (size, _MEAN)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 24, 24, 3), dtype=np.uint8)
    student = (pixels / np.float32(255) - np.float32(_STUDENT.mean)) / np.float32(_STUDENT.std)
    actual = preprocessing.wrap(_FakeNetwork(), teacher, _STUDENT).preprocess(
        jax.numpy.asarray(student)
    )
    scaled = torch.tensor(pixels).permute(0, 3, 1, 2).float() / 255
    mode = transforms.InterpolationMode(interpolation)
    resized = transforms.resize(scaled, [size, size], interpolation=mode, antialias=True)
    expected = transforms.normalize(resized, _MEAN, _STD).permute(0, 2, 3, 1)
    np.testing.assert_allclose(actual, expected, atol=2e-5)
