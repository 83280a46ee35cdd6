"""A teacher's own way to see images, against torchvision's, which its file was trained with."""

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

_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's
_STUDENT = Preprocessing(24, 3, (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))


class _Nothing:
    """A network that nothing is asked of."""

    dtype = np.float32


@pytest.mark.parametrize(
    ("said", "asked", "interpolation"),
    [
        ({}, "auto", "bilinear"),
        ({"interpolation": "bicubic"}, "auto", "bicubic"),
        ({"interpolation": "nearest"}, "bicubic", "bicubic"),
        ({"interpolation": "bicubic"}, "bilinear", "bilinear"),
    ],
)
@pytest.mark.parametrize("size", [56, 17])
def test_a_file_with_another_preprocessing_sees_what_torchvision_shows_it(
    tmp_path, size, said, asked, interpolation
):
    images = {"input_size": [3, size, size], "mean": _MEAN, "std": _STD, "crop_pct": 1.0}
    config = {"architecture": "resnet18", "pretrained_cfg": images | said}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes(b"")
    known = files.preprocessing_of(tmp_path / "model.safetensors")
    teaching = TeachingChoice(interpolation=asked)
    seen = preprocessing.for_teacher(teaching, known, _STUDENT)
    assert (seen.image_size, seen.mean) == (size, _MEAN)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 24, 24, 3), dtype=np.uint8)
    student = (pixels / np.float32(255) - np.float32(_STUDENT.mean)) / np.float32(_STUDENT.std)
    found = preprocessing.wrap(_Nothing(), seen, _STUDENT).preprocess(jax.numpy.asarray(student))
    given = torch.tensor(pixels).permute(0, 3, 1, 2).float() / 255
    mode = transforms.InterpolationMode(interpolation)
    resized = transforms.resize(given, [size, size], interpolation=mode, antialias=True)
    wanted = transforms.normalize(resized, _MEAN, _STD).permute(0, 2, 3, 1)
    np.testing.assert_allclose(found, wanted, atol=2e-5)
