"""The head behind a student's embedding, kept at the end by the name of its objective."""

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

import rrd_jax
from rrd_jax import errors, exports
from tests import launch
from tests.conftest import use_one_device

_IMAGES = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), np.uint8)
_METHOD = "rrd+crd+embed"


@pytest.fixture(scope="module")
def run(tiny_teacher, tiny_network, tmp_path_factory):
    """The folder of a run without labels, with a head of each kind."""
    folder = tmp_path_factory.mktemp("heads")
    fields = {
        "data.use_labels": False,
        "teacher.checkpoint": str(tiny_teacher),
        "train.epochs": 1,
        "objectives.rrd.head": "mlp",
        "objectives.rrd.head_width": 12,
        "objectives.rrd.dim": 6,
        "objectives.crd.dim": 5,
        "objectives.embed.distance": "smooth_l1",
    }
    with pytest.MonkeyPatch.context() as patch:
        use_one_device(patch)
        launch.run(launch.digits(f"smoke,tiny-tiny,{_METHOD}", **fields), folder)
    return folder


def _linear(layer, rows):
    return rows @ layer["kernel"] + layer["bias"]


def _unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.usefixtures("one_device")
def test_embeddings_are_what_each_objective_compared(run):
    folder = run / "checkpoints" / "3" / "state"
    stored = ocp.PyTreeCheckpointer().restore(folder)["params"]["objectives"]
    stored = jax.tree.map(np.asarray, stored)
    bare = rrd_jax.load(run).embed(_IMAGES).astype(np.float64)
    mlp = stored["rrd"]
    expected = {
        "rrd": _unit(_linear(mlp["out"], np.maximum(_linear(mlp["hidden"], bare), 0))),
        "crd": _unit(_linear(stored["crd"]["student"], bare)),
        "embed": _linear(stored["embed"], bare),
    }
    assert expected["rrd"].shape == (5, 6)
    for name, rows in expected.items():
        student = rrd_jax.load(run, head=name)
        np.testing.assert_allclose(student.embed(_IMAGES), rows, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(student(_IMAGES).embedding, rows, rtol=1e-4, atol=1e-5)
    assert rrd_jax.load(f"{run}@best", head="rrd").embed(_IMAGES).shape == (5, 6)


@pytest.mark.usefixtures("one_device")
def test_files_compute_the_head_too_but_weights_alone_have_none(run, tmp_path):
    student = rrd_jax.load(run, head="rrd")
    with pytest.raises(errors.UnfitError, match="leave out --head"):
        student.export(tmp_path / "f.safetensors", test=_IMAGES)
    pytest.importorskip("onnxruntime")
    written = student.export(tmp_path / "f.onnx", test=_IMAGES)
    assert written.comparison.cosine == pytest.approx(1, abs=1e-6)
    there = exports.open_file(tmp_path / "f.onnx")(_IMAGES)["embedding"]
    np.testing.assert_allclose(there, student.embed(_IMAGES), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(there, axis=1), 1, rtol=1e-5)
    with pytest.raises(errors.InputError, match="leave out head"):
        rrd_jax.load(tmp_path / "f.onnx", head="rrd")


@pytest.mark.usefixtures("one_device")
@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("dkd", "has no objective 'dkd'; available: crd, embed, rrd"),
        ("ce", "no head behind"),
        ("rrd[0]", "the run has only one head: use 'rrd'"),
    ],
)
def test_a_head_that_is_not_there_is_one_line(head, message, run, tiny_teacher):
    folder = tiny_teacher if head == "ce" else run
    with pytest.raises(errors.InputError, match=message) as caught:
        rrd_jax.load(folder, head=head)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("one_device")
def test_a_student_with_its_head_is_no_start(run):
    with pytest.raises(errors.InputError, match="loaded with a head"):
        rrd_jax.train_teacher(rrd_jax.load(run, head="rrd"), *[(_IMAGES, np.arange(5) % 2)] * 2)
