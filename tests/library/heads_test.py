"""Students that are loaded with the head of an objective."""

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

import rrd_jax
from rrd_jax import errors, exports
from tests import launch
from tests.conftest import use_one_device
from tests.objectives.parts.projections_test import orthonormal

pytestmark = pytest.mark.long

_IMAGES = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), np.uint8)
_METHOD = "rrd+crd+embed"


@pytest.fixture(scope="module")
def run(tiny_teacher, tiny_network, tmp_path_factory):
    """The folder of a run without labels, with one head of each kind."""
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
        "objectives.embed.head": "orthogonal",
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
def test_embeddings_equal_the_projections_of_each_objective(run):
    folder = run / "checkpoints" / "3" / "state"
    stored = ocp.PyTreeCheckpointer().restore(folder)["params"]["objectives"]
    stored = jax.tree.map(np.asarray, stored)
    bare = rrd_jax.load(run).embed(_IMAGES).astype(np.float64)
    mlp = stored["rrd"]
    expected = {
        "rrd": _unit(_linear(mlp["out"], np.maximum(_linear(mlp["hidden"], bare), 0))),
        "crd": _unit(_linear(stored["crd"]["student"], bare)),
        "embed": bare @ orthonormal(stored["embed"]["free"]),
    }
    assert expected["rrd"].shape == (5, 6)
    for name, rows in expected.items():
        student = rrd_jax.load(run, head=name)
        np.testing.assert_allclose(student.embed(_IMAGES), rows, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(student(_IMAGES).embedding, rows, rtol=1e-4, atol=1e-5)
    assert rrd_jax.load(f"{run}@best", head="rrd").embed(_IMAGES).shape == (5, 6)


@pytest.mark.usefixtures("one_device")
def test_exported_programs_contain_the_head_but_weight_files_refuse_it(run, tmp_path):
    student = rrd_jax.load(run, head="rrd")
    with pytest.raises(errors.UnfitError, match="omit --head"):
        student.export(tmp_path / "f.safetensors", test=_IMAGES)
    pytest.importorskip("onnxruntime")
    written = student.export(tmp_path / "f.onnx", test=_IMAGES)
    assert written.comparison.cosine == pytest.approx(1, abs=1e-6)
    embeddings = exports.open_file(tmp_path / "f.onnx")(_IMAGES)["embedding"]
    np.testing.assert_allclose(embeddings, student.embed(_IMAGES), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-5)
    with pytest.raises(errors.InputError, match="omit head"):
        rrd_jax.load(tmp_path / "f.onnx", head="rrd")


@pytest.mark.usefixtures("one_device")
@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("dkd", "has no objective 'dkd'; available: crd, embed, rrd"),
        ("ce", "no head to the teacher"),
        ("rrd[0]", "the run has only one head; use 'rrd'"),
    ],
)
def test_a_missing_head_is_refused_in_one_line(head, message, run, tiny_teacher):
    folder = tiny_teacher if head == "ce" else run
    with pytest.raises(errors.InputError, match=message) as caught:
        rrd_jax.load(folder, head=head)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("one_device")
def test_a_student_with_a_head_cannot_be_fine_tuned(run):
    with pytest.raises(errors.InputError, match="loaded with a head"):
        rrd_jax.train_teacher(rrd_jax.load(run, head="rrd"), *[(_IMAGES, np.arange(5) % 2)] * 2)


@pytest.mark.usefixtures("one_device")
def test_class_vectors_classify_embeddings_after_the_head(run, tmp_path):
    rows = np.random.default_rng(1).standard_normal((3, 6)).astype(np.float32)
    file = tmp_path / "vectors.npz"
    np.savez(file, rows, names=np.array(["cat", "dog", "owl"]))
    student = rrd_jax.load(run, head="rrd", class_vectors=file, class_vectors_scale=10.0)
    expected = 10 * rrd_jax.load(run, head="rrd").embed(_IMAGES) @ _unit(rows).T
    np.testing.assert_allclose(student(_IMAGES).logits, expected, rtol=1e-4, atol=1e-4)
    assert student.predict(_IMAGES).class_names == ("cat", "dog", "owl")
    pytest.importorskip("onnxruntime")
    student.export(tmp_path / "f.onnx", test=_IMAGES)
    logits = exports.open_file(tmp_path / "f.onnx")(_IMAGES)["logits"]
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-3)
    with pytest.raises(errors.InputError, match="vectors of width 6, but the embedding has width"):
        rrd_jax.load(run, class_vectors=file)
    with pytest.raises(errors.InputError, match="class_vectors_scale is -1"):
        rrd_jax.load(run, head="rrd", class_vectors=file, class_vectors_scale=-1.0)
