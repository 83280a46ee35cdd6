"""Jobs with several teachers."""

import json

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

import rrd_jax
from rrd_jax import errors, exports
from rrd_jax.config import parse
from rrd_jax.jobs import evaluate
from tests import launch

pytestmark = pytest.mark.usefixtures("one_device", "tiny_network")


def _config():
    config = launch.digits("smoke,tiny+tiny-tiny,rrd+kd+at+embed")
    config.teacher[0].weight, config.teacher[1].seed = 3.0, 1
    config.teacher[0].objectives = "rrd, kd, at"
    config.objectives.embed.standardize = "channels"
    return config


@pytest.mark.long
def test_two_teachers_are_trained_before_the_student_and_reused_by_the_next_start(tmp_path, capsys):
    results = launch.run(_config(), tmp_path)
    assert [result.label for result in results] == [
        "teacher",
        "teacher2",
        "distilled, rrd+kd+at+embed",
    ]
    assert capsys.readouterr().out.count("at compares feature maps (student - teacher):") == 1
    rows = evaluate.run(parse(_config()), tmp_path)
    assert [row["run"] for row in rows] == ["teacher", "teacher", "teachers", "student"]
    metrics = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["agreement"] == pytest.approx(metrics[-1]["test/agreement"])
    losses = {name for name in metrics[-1] if name.startswith("train/loss/")}
    names = ("ce", "kd", "rrd", "rrd[0]", "rrd[1]", "at", "at[0]", "at[1]", "embed", "embed[1]")
    assert losses == {f"train/loss/{name}" for name in names}
    for name in ("rrd", "at"):
        parts = [metrics[-1][f"train/loss/{name}[{i}]"] for i in range(2)]
        mean = np.average(parts, weights=(3, 1))
        assert metrics[-1][f"train/loss/{name}"] == pytest.approx(mean, rel=1e-4)
    _check_heads(tmp_path)
    changed = _config()
    # The path of a teacher may change.
    changed.teacher[1].checkpoint = str(tmp_path / "teacher2")
    assert launch.run(changed, tmp_path)[-1] == results[-1]
    changed.teacher[1].weight = 2.0
    with pytest.raises(errors.InputError, match=r"teacher\[1\].weight is 2.0, stored 1.0"):
        launch.run(changed, tmp_path)


def _state(run):
    """Returns parts of the newest checkpoint, as NumPy arrays."""
    *_, state = sorted(run.glob("checkpoints/*/state"))
    restored = ocp.PyTreeCheckpointer().restore(state)
    parts = ("params", "frozen", "memory")
    return {name: jax.tree.map(np.asarray, restored[name]) for name in parts}


def _check_heads(run):
    """Asserts that the student can be loaded with the head of each teacher."""
    restored = _state(run)
    # The statistics of the second teacher's embeddings of the training images.
    split = rrd_jax.data.load(parse(_config()).student.source).train
    embeddings = rrd_jax.load(run / "teacher2").embed(split.images)
    measured = restored["frozen"]["embed"]["teacher1"]
    np.testing.assert_allclose(measured["mean"], embeddings.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(measured["std"], np.maximum(embeddings.std(0), 1e-3), rtol=1e-3)
    stored = restored["params"]["objectives"]["rrd"]
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), np.uint8)
    bare = rrd_jax.load(run).embed(images)
    for i in range(2):
        layer = stored[f"teacher{i}"]
        rows = bare @ layer["kernel"] + layer["bias"]
        expected = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        actual = rrd_jax.load(run, head=f"rrd[{i}]").embed(images)
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
    for name in ("rrd", "rrd[2]"):
        with pytest.raises(errors.InputError, match=r"use 'rrd\[0\]' or 'rrd\[1\]'"):
            rrd_jax.load(run, head=name)


@pytest.mark.long
def test_students_keep_the_heads_of_teachers_and_classify_by_their_class_vectors(
    tiny_teacher, tmp_path
):
    config = launch.digits("smoke,tiny+tiny-tiny,embed")
    for teacher in config.teacher:
        teacher.checkpoint = str(tiny_teacher)
    config.data.use_labels, config.train.drop_teachers = False, 0.5
    config.eval.patches = True
    config.objectives.embed.update(
        over="both", distance="unic", standardize="running", head="mlp", head_width=5
    )
    launch.run(config, tmp_path)
    metrics = launch.rows(tmp_path)[-1]
    names = ("train/loss/embed", "proof/cka", "proof/patch_neighbours_10")
    assert metrics.keys() >= {f"{name}[{i}]" for i in range(2) for name in names}
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), np.uint8)
    embeddings = rrd_jax.load(tmp_path, head="embed[1]").embed(images).astype(np.float64)
    state = _state(tmp_path)
    bare = rrd_jax.load(tmp_path).embed(images, features="patches")
    head = state["params"]["objectives"]["embed"]["teacher1"]["patches"]
    hidden = np.maximum(bare @ head["hidden"]["kernel"] + head["hidden"]["bias"], 0)
    running = state["memory"]["embed"]["teacher1"]["patches"]
    maps = (hidden @ head["out"]["kernel"] + head["out"]["bias"]) * running["std"] + running["mean"]
    projected = rrd_jax.load(tmp_path, head="embed[1]")
    np.testing.assert_allclose(
        projected.embed(images, features="patches"), maps, rtol=1e-4, atol=1e-4
    )
    rows = np.random.default_rng(1).standard_normal((3, embeddings.shape[1]))
    np.save(tmp_path / "vectors.npy", rows.astype(np.float32))
    options = {"head": "embed[1]", "class_vectors": tmp_path / "vectors.npy"}
    logits = rrd_jax.load(tmp_path, **options)(images).logits
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (embeddings, rows)]
    np.testing.assert_allclose(logits, 100 * unit[0] @ unit[1].T, atol=1e-2)
    with pytest.raises(errors.InputError, match="class_vectors need one head"):
        rrd_jax.load(tmp_path, **options | {"head": "embed[0],embed[1]"})
    pytest.importorskip("onnxruntime")
    student = rrd_jax.load(tmp_path, head="embed[0],embed[1]")
    student.export(tmp_path / "f.onnx", test=images)
    outputs = exports.open_file(tmp_path / "f.onnx")(images)
    assert outputs.keys() == {"embedding", "embed_0", "embed_1"}
    np.testing.assert_allclose(outputs["embed_1"], embeddings, rtol=1e-4, atol=1e-4)
    student.export(tmp_path / "b.onnx", test=images, backbone=True)
    outputs = exports.open_file(tmp_path / "b.onnx")(images)
    np.testing.assert_allclose(outputs["embed_1_patches"], maps, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(outputs["patches"], bare, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (("rdr", ""), "names 'rdr', .*did you mean 'rrd'"),
        (("rrd", "rrd,at,embed"), "'kd' compares the student with no teacher"),
    ],
)
def test_objectives_of_teachers_are_checked(chosen, message):
    config = _config()
    config.teacher[0].objectives, config.teacher[1].objectives = chosen
    with pytest.raises(errors.InputError, match=message):
        parse(config)


def test_invalid_weights_and_objectives_of_several_teachers_are_refused():
    config = _config()
    config.teacher[1].weight = -1.0
    with pytest.raises(errors.InputError, match=r"teacher\[1\].weight is -1"):
        parse(config)
    with config.unlocked():
        config.teacher[1].weight = 1.0
        config.objectives.simkd = {"weight": 1.0}
    with pytest.raises(errors.InputError, match="'simkd' reuses its teacher's classifier"):
        parse(config)
