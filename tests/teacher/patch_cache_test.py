"""The cache of a teacher's patches: exact rows, rounded rows, places, and kills."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import errors, networks
from rrd_jax.teacher import cache_accuracy, row_format
from tests import launch, tiny

pytestmark = pytest.mark.usefixtures("tiny_network", "one_device")
_SHAPE = (8, 8, 1)


def _layout(dtype="auto"):
    network = tiny.NETWORK(num_classes=4)
    return row_format.of_network(network, _SHAPE, dtype, has_patches=True)


def _outputs(scale=1.0):
    network = tiny.NETWORK(num_classes=4)
    variables = jax.jit(lambda: networks.init(network, jax.random.key(0), _SHAPE))()
    images = jax.random.normal(jax.random.key(1), (6, *_SHAPE))
    outputs = network.apply(variables, images)
    return outputs._replace(patches=scale * outputs.patches)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int8"])
def test_rows_have_the_width_of_the_layout_and_the_measured_errors(dtype):
    layout, outputs = _layout(dtype), _outputs()
    rows = layout.encode(outputs).astype(layout.dtype)
    assert rows.shape == (6, layout.width)
    restored = layout.decode(rows, outputs.head)
    if dtype == "float32":
        np.testing.assert_array_equal(restored.patches, outputs.patches)
        np.testing.assert_array_equal(restored.embedding, outputs.embedding)
        return
    if dtype == "int8":
        np.testing.assert_array_equal(restored.embedding, outputs.embedding)
    exact = cache_accuracy.exact(layout).encode(outputs)
    measured = cache_accuracy.measure(layout, np.asarray(exact), outputs.head)["patches"]
    difference = jnp.linalg.norm(restored.patches - outputs.patches, axis=-1)
    lengths = jnp.linalg.norm(outputs.patches, axis=-1)
    expected = np.where(lengths > 0, difference / jnp.maximum(lengths, 1e-12), 0)
    np.testing.assert_allclose(measured.mean, expected.mean(), rtol=1e-3)
    np.testing.assert_allclose(measured.largest, expected.max(), rtol=1e-3)
    bound = {"bfloat16": 4e-3, "float16": 5e-4, "int8": 2e-2}[dtype]
    assert 0 < measured.largest < bound


def test_patches_of_zeros_remain_zeros_and_values_beyond_float16_are_refused():
    layout, outputs = _layout("int8"), _outputs(0.0)
    restored = layout.decode(layout.encode(outputs), outputs.head)
    assert not np.any(restored.patches)
    layout, outputs = _layout("float16"), _outputs(1e9)
    rows = np.asarray(cache_accuracy.exact(layout).encode(outputs))
    with pytest.raises(errors.InputError, match="float16, but .* set float32 or bfloat16"):
        cache_accuracy.measure(layout, rows, outputs.head)


def test_int8_needs_patches():
    network = tiny.NETWORK(num_classes=4)
    with pytest.raises(errors.InputError, match="no objective compares patches"):
        row_format.of_network(network, _SHAPE, "int8", has_patches=False)


def _config(teacher, **fields):
    fixed = {"teacher.checkpoint": str(teacher), "teacher.cache": "on", "data.use_labels": False}
    fixed |= {"objectives.rrd.over": "both", "optimizer.learning_rate": 0.01}
    return launch.digits("smoke,tiny-tiny,rrd", **(fixed | fields))


def _losses(folder):
    return [row["train/loss"] for row in launch.rows(folder)]


@pytest.fixture
def _optimized():
    """Compiles with all optimizations, as in a user's process: others round differently by step."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.mark.long
@pytest.mark.usefixtures("_optimized")
@pytest.mark.parametrize("fields", [{}, {"data.views.count": 3, "data.augment": "resized_crop"}])
def test_cached_patches_give_the_run_of_a_live_teacher(tiny_teacher, tmp_path, fields, capsys):
    losses = {}
    modes = {"live": {"teacher.cache": "off"}, "exact": {}}
    modes |= {dtype: {"teacher.cache_dtype": dtype} for dtype in ("float16", "int8")}
    if fields:
        modes["file"] = {"teacher.cache_place": "file"}
    for name, changed in modes.items():
        launch.run(_config(tiny_teacher, **{**fields, **changed}), tmp_path / name)
        output = capsys.readouterr().out
        assert ("relative errors in" in output) == (name in ("float16", "int8"))
        assert ("embeddings and patches" in output) == (name != "live")
        losses[name] = _losses(tmp_path / name)
    np.testing.assert_allclose(losses["float16"], losses["live"], rtol=1e-3)
    np.testing.assert_allclose(losses["int8"], losses["live"], rtol=3e-2)
    states = {name: launch.digests(tmp_path / name, 6) for name in modes}
    exact = ("exact", "file") if fields else ("exact",)
    assert all(states[name] == states["live"] for name in exact)


@pytest.mark.long
@pytest.mark.parametrize(
    ("fields", "tolerance"),
    [
        ({"train.accumulate": 2, "train.remat": "all"}, 2e-6),
        ({"dtype": "bfloat16"}, 1e-2),
        ({"dtype": "bfloat16", "train.accumulate": 2, "train.remat": "all"}, 1e-2),
    ],
)
def test_cached_views_of_patches_combine_with_other_fields(
    tiny_teacher, tmp_path, fields, tolerance
):
    views = {"data.views.count": 2, "data.augment": "resized_crop"}
    losses = []
    for cache in ("off", "on"):
        config = _config(tiny_teacher, **{**views, **fields, "teacher.cache": cache})
        launch.run(config, tmp_path / cache)
        losses.append(_losses(tmp_path / cache))
    np.testing.assert_allclose(*losses, rtol=tolerance)


@pytest.mark.long
def test_remat_of_a_run_over_patches_changes_rounding_only(tiny_teacher, tmp_path):
    for remat in ("none", "all"):
        launch.run(_config(tiny_teacher, **{"train.remat": remat}), tmp_path / remat)
    np.testing.assert_allclose(_losses(tmp_path / "all"), _losses(tmp_path / "none"), rtol=2e-6)


@pytest.mark.long
def test_objectives_on_positions_equal_those_of_a_live_teacher(tiny_teacher, tmp_path):
    losses = []
    for cache in ("off", "on"):
        config = launch.digits("smoke,tiny-tiny,sdd+wkd")
        config.objectives.wkd.over = "both"
        config.update_from_flattened_dict(
            {"teacher.checkpoint": str(tiny_teacher), "teacher.cache": cache, "baseline": False}
        )
        launch.run(config, tmp_path / cache)
        losses.append(_losses(tmp_path / cache))
    np.testing.assert_allclose(*losses, rtol=1e-4)


@pytest.mark.long
def test_patches_of_several_teachers_are_cached(tiny_teacher, tmp_path, capsys):
    losses = []
    for cache in ("off", "on"):
        config = launch.digits("smoke,tiny+tiny-tiny,rrd")
        for teacher in config.teacher:
            teacher.checkpoint, teacher.cache = str(tiny_teacher), cache
        config.data.use_labels = False
        config.data.views.count, config.data.augment = 2, "resized_crop"
        config.objectives.rrd.over = "both"
        launch.run(config, tmp_path / cache)
        assert ("embeddings and patches" in capsys.readouterr().out) == (cache == "on")
        losses.append(_losses(tmp_path / cache))
    np.testing.assert_allclose(*losses, rtol=2e-6)


@pytest.mark.long
def test_a_run_over_patches_with_a_cache_resumes_to_the_bit(tiny_teacher, tmp_path):
    launch.check_resume(_config(tiny_teacher, **{"teacher.cache_dtype": "int8"}), tmp_path)
