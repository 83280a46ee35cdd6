import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import convert, errors, models
from rrd_jax.models import layers
from tests import golden, networks

_FILES = {name: name for name in models.MODELS if name not in ("resnet18", "resnet34", "resnet50")}
_FILES |= {f"resnet{depth}": f"imagenet_ResNet{depth}" for depth in (18, 34, 50)}


@pytest.mark.parametrize("name", models.MODELS)
def test_golden_network(name):
    file = golden.load(_FILES[name])
    weights = golden.named_weights(file["entry_names"], file["entry_shapes"])
    variables = convert.from_torch(name, weights)
    assert models.count_parameters(variables["params"]) == file["param_count"]
    images = np.random.default_rng(int(file["input_seed"])).standard_normal(file["input_shape"])
    images = golden.to_nhwc(images.astype(np.float32))
    network = models.create(name, int(file["num_classes"]))

    def check_eval(outputs):
        assert golden.relative(outputs.logits, file["eval/logits"]) < 1e-5
        assert golden.relative(outputs.embedding, file["eval/pooled"]) < 1e-5
        _check_taps(file, "eval", outputs.maps)
        if "eval_preact/feat0/shape" in file:
            _check_taps(file, "eval_preact", outputs.preactivations)

    check_eval(jax.jit(lambda v, x: network.apply(v, x, train=False))(variables, images))
    if "train/logits" not in file:
        return
    outputs, updated = jax.jit(
        lambda v, x: network.apply(v, x, train=True, mutable=["batch_stats"])
    )(variables, images)
    assert golden.relative(outputs.logits, file["train/logits"]) < 1e-4
    running = convert.to_torch(name, variables | updated)
    names = [n for n in file["train/running_names"] if not n.endswith("num_batches_tracked")]
    assert golden.relative(running[names[0]], file["train/running_first"]) < 1e-5
    assert golden.relative(running[names[-1]], file["train/running_last"]) < 1e-4


def _check_taps(file, mode, maps):
    for i, found in enumerate(maps):
        own = f"{mode}/feat{i}"
        found = np.transpose(found, (0, 3, 1, 2))
        assert found.shape == tuple(file[f"{own}/shape"])
        scale = max(abs(file[f"{own}/min"]), abs(file[f"{own}/max"]))
        sample = found.ravel()[np.arange(256) * (found.size // 256)]
        assert np.abs(sample - file[f"{own}/sample256"]).max() < 1e-5 * scale
        np.testing.assert_allclose(found.std(), file[f"{own}/std"], rtol=1e-4)
    assert len(maps) == file["num_feats"] - 1  # the last one there is the embedding


def test_bfloat16_convolutions_keep_float32_results_close():
    images = np.random.default_rng(0).standard_normal((4, 16, 16, 3)).astype(np.float32)
    network = models.create("resnet14", 7)
    variables = networks.init(network, (16, 16, 3))
    full = network.apply(variables, images, train=False)
    half = models.create("resnet14", 7, dtype=jnp.bfloat16).apply(variables, images, train=False)
    assert half.logits.dtype == half.embedding.dtype == jnp.float32
    assert golden.relative(half.logits, full.logits) < 0.02


@pytest.mark.parametrize(("size", "channels"), [(8, 1), (28, 1), (32, 3), (64, 3)])
def test_other_image_sizes_and_class_counts(size, channels):
    network = models.create("resnet8", 5)
    variables = networks.init(network, (size, size, channels))
    outputs = network.apply(variables, jnp.zeros((2, size, size, channels)))
    assert outputs.logits.shape == (2, 5)
    assert models.output_shapes(network, (size, size, channels)).embedding.shape == (1, 64)


def test_batch_norm_keeps_the_unbiased_running_variance():
    x = np.random.default_rng(0).standard_normal((2, 3, 3, 4)).astype(np.float32) * 3 + 1000
    norm = layers.BatchNorm()
    variables = norm.init(jax.random.key(0), x, train=True)
    y, updated = norm.apply(variables, x, train=True, mutable=["batch_stats"])
    flat = x.reshape(-1, 4).astype(np.float64)
    np.testing.assert_allclose(
        updated["batch_stats"]["var"], 0.9 + 0.1 * flat.var(0, ddof=1), rtol=1e-4
    )
    np.testing.assert_allclose(updated["batch_stats"]["mean"], 0.1 * flat.mean(0), rtol=1e-5)
    np.testing.assert_allclose(
        y.reshape(-1, 4), (flat - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5), atol=1e-3
    )


def test_an_unknown_name_lists_the_known():
    with pytest.raises(errors.InputError, match="did you mean 'resnet8x4'.*known: resnet8, "):
        models.create("resnet8x5", 10)
    with pytest.raises(errors.InputError, match="num_classes is 0"):
        models.create("resnet8", 0)
