import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import convert, errors, functional, networks
from rrd_jax.networks import layers
from tests import golden

# Golden files whose names are not ours.
_FILES = {
    "resnet50_cifar": "ResNet50",
    "mobilenetv2_cifar": "MobileNetV2",
    "shufflenetv1_cifar": "ShuffleV1",
    "shufflenetv2_cifar": "ShuffleV2",
    "wide_resnet50_2": "imagenet_wrn_50_2",
    "resnext50_32x4d": "imagenet_resnext50_32x4d",
    "mobilenetv2": "imagenet_MobileNetV2_Imagenet",
    "shufflenetv2_x1_0": "torchvision_shufflenet_v2_x1_0",
} | {f"resnet{depth}": f"imagenet_ResNet{depth}" for depth in (18, 34, 50, "10x2", "18x2", "34x2")}
_GOLDEN = [name for name in networks.MODELS if name != "mobilenetv1"]


@pytest.mark.parametrize("name", _GOLDEN)
def test_golden_network(name):
    file = golden.load(_FILES.get(name, name))
    weights = golden.named_weights(file["entry_names"], file["entry_shapes"])
    variables = convert.from_torch(name, weights)
    network = networks.create(name, int(file["num_classes"]))
    _, channels, height, width = file["input_shape"]
    summary = networks.summarize(network, (height, width, channels))
    assert (
        summary.parameters == networks.count_parameters(variables["params"]) == file["param_count"]
    )
    assert summary.macs == file["macs_per_image"]
    images = np.random.default_rng(int(file["input_seed"])).standard_normal(file["input_shape"])
    images = golden.to_nhwc(images.astype(np.float32))

    outputs = jax.jit(network.apply)(variables, images)
    assert golden.relative(outputs.logits, file["eval/logits"]) < 1e-5
    assert golden.relative(outputs.embedding, file["eval/pooled"]) < 1e-5
    _check_taps(file, "eval", outputs.maps)
    if "eval_preact/feat0/shape" in file:
        _check_taps(file, "eval_preact", outputs.preactivations)

    half = networks.create(name, int(file["num_classes"]), dtype=jnp.bfloat16)
    logits = jax.jit(half.apply)(variables, images).logits
    assert logits.dtype == jnp.float32
    # MobileNetV2 with random weights magnifies all rounding, float32's too; 1 to 3 % over seeds.
    bound = 0.04 if name.startswith("mobilenetv2") else 0.01
    assert golden.relative(logits, file["eval/logits"]) < bound

    back = convert.to_torch(name, variables)
    assert back.keys() - set(weights) == set()
    assert all(np.array_equal(weights[entry], back[entry]) for entry in weights)
    if "train/logits" in file:
        _check_training(file, name, network, variables, images)


def _check_training(file, name, network, variables, images):
    train = jax.jit(lambda v, x: network.apply(v, x, train=True, mutable=["batch_stats"]))
    outputs, updated = train(variables, images)
    assert golden.relative(outputs.logits, file["train/logits"]) < 1e-4
    running = convert.to_torch(name, variables | updated)
    names = [n for n in file["train/running_names"] if not n.endswith("num_batches_tracked")]
    assert golden.relative(running[names[0]], file["train/running_first"]) < 1e-5
    assert golden.relative(running[names[-1]], file["train/running_last"]) < 1e-4
    means = dict(
        zip(file["train/running_names"], file["train/running_mean_of_entries"], strict=True)
    )
    for entry in names:
        scale = np.abs(running[entry]).max()
        np.testing.assert_allclose(running[entry].mean(), means[entry], rtol=0, atol=1e-4 * scale)


def _check_taps(file, mode, maps):
    for i, found in enumerate(maps):
        own = f"{mode}/feat{i}"
        found = np.transpose(np.asarray(found), (0, 3, 1, 2))
        assert found.shape == tuple(file[f"{own}/shape"])
        scale = max(abs(file[f"{own}/min"]), abs(file[f"{own}/max"]))
        if f"{own}/full" in file:
            wanted, sample = file[f"{own}/full"].ravel(), found.ravel()
        else:
            wanted = file[f"{own}/sample256"]
            sample = found.ravel()[np.arange(256) * (found.size // 256)]
        assert np.abs(sample - wanted).max() < 1e-5 * scale
        np.testing.assert_allclose(found.std(dtype=np.float64), file[f"{own}/std"], rtol=1e-4)
    assert len(maps) == file["num_feats"] - 1  # the last one there is the embedding


@pytest.mark.parametrize("name", ["mobilenetv2_cifar", "mobilenetv2", "mobilenetv1"])
def test_bfloat16_keeps_fresh_mobilenets_within_two_per_cent(name):
    images = np.random.default_rng(0).standard_normal((2, 64, 64, 3)).astype(np.float32)
    network = networks.create(name, 10)
    variables = networks.init(network, (64, 64, 3))
    full = jax.jit(network.apply)(variables, images).logits
    half = jax.jit(networks.create(name, 10, dtype=jnp.bfloat16).apply)(variables, images).logits
    assert golden.relative(half, full) < 0.02


def test_mobilenetv1_has_the_size_its_paper_gives():
    summary = networks.summarize(networks.create("mobilenetv1", 1000), (224, 224, 3))
    assert (summary.parameters, summary.macs) == (4_231_976, 568_740_352)  # 4.2 M, 569 M
    taps = [tap.shape[1:] for tap in summary.outputs.maps]
    shapes = [(112, 32), (56, 128), (28, 256), (14, 512), (7, 1024)]
    assert taps == [(size, size, channels) for size, channels in shapes]


def test_mobilenetv1_computes_what_plain_loops_compute():
    network = networks.create("mobilenetv1", 3)
    variables = networks.init(network, (32, 32, 3))
    noise = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda leaf: (leaf + 0.1 * np.abs(noise.standard_normal(leaf.shape))).astype(np.float32),
        variables,
    )
    images = noise.standard_normal((2, 32, 32, 3)).astype(np.float32)
    weights = {
        k: v.astype(np.float64) for k, v in convert.to_torch("mobilenetv1", variables).items()
    }

    def block(x, conv, norm, stride, depthwise):
        kernel = weights[f"{conv}.weight"].transpose(2, 3, 1, 0)
        pad = kernel.shape[0] // 2
        x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
        size = (x.shape[1] - kernel.shape[0]) // stride + 1
        y = 0
        for row in range(kernel.shape[0]):
            for column in range(kernel.shape[1]):
                rows = slice(row, row + stride * size, stride)
                columns = slice(column, column + stride * size, stride)
                part = x[:, rows, columns][:, :size, :size]
                own = kernel[row, column]
                y = y + (part * own[0] if depthwise else part @ own)
        y = (y - weights[f"{norm}.running_mean"]) / np.sqrt(weights[f"{norm}.running_var"] + 1e-5)
        return np.maximum(y * weights[f"{norm}.weight"] + weights[f"{norm}.bias"], 0)

    x = block(images, "model.0.0", "model.0.1", 2, False)
    for i in range(1, 14):
        x = block(x, f"model.{i}.0", f"model.{i}.1", 2 if i in (2, 4, 6, 12) else 1, True)
        x = block(x, f"model.{i}.3", f"model.{i}.4", 1, False)
    wanted = x.mean((1, 2)) @ weights["fc.weight"].T + weights["fc.bias"]
    assert golden.relative(network.apply(variables, images).logits, wanted) < 1e-5


@pytest.mark.parametrize("family", ["resnet8", "wrn_16_1", "vgg8", "shufflenetv2_cifar"])
@pytest.mark.parametrize(("size", "channels"), [(8, 1), (28, 1), (64, 3)])
def test_other_image_sizes_and_class_counts(family, size, channels):
    network = networks.create(family, 5)
    variables = networks.init(network, (size, size, channels))
    outputs = jax.jit(network.apply)(variables, jnp.ones((2, size, size, channels)))
    assert outputs.logits.shape == (2, 5)
    assert np.isfinite(outputs.logits).all()


def test_every_network_takes_small_and_odd_images():
    for name in networks.MODELS:
        outputs = networks.summarize(networks.create(name, 7), (33, 47, 1)).outputs
        assert outputs.logits.shape == (1, 7)
        assert len(outputs.maps) == len(outputs.preactivations) >= 4


def test_vgg_halves_images_of_64_pixels_once_more():
    for size, last in ((32, 4), (64, 4)):
        outputs = networks.summarize(networks.create("vgg8", 5), (size, size, 3)).outputs
        assert outputs.maps[-1].shape[1] == last


def test_images_that_pooling_uses_up_are_refused():
    with pytest.raises(errors.InputError, match="too small for this network: 0x0 is left"):
        networks.summarize(networks.create("vgg8", 5), (4, 4, 3))


@pytest.mark.parametrize("name", ["vgg8", "mobilenetv1", "shufflenetv1_cifar"])
def test_fresh_networks_start_at_a_sensible_scale(name):
    size = 64 if name in networks.IMAGENET else 32
    images = np.random.default_rng(0).standard_normal((4, size, size, 3)).astype(np.float32)
    network = networks.create(name, 10)
    variables = networks.init(network, (size, size, 3))
    train = jax.jit(lambda v, x: network.apply(v, x, train=True, mutable=["batch_stats"])[0])
    logits = train(variables, images).logits
    assert 1e-4 < np.asarray(logits).std() < 10


@pytest.mark.parametrize(("features", "groups", "kernel"), [(12, 12, 3), (24, 3, 1), (24, 4, 3)])
@pytest.mark.parametrize("stride", [1, 2])
def test_grouped_convolutions_are_those_of_xla(features, groups, kernel, stride):
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (2, 7, 10, 12))
    conv = layers.Conv(features, kernel, stride, groups=groups)
    variables = conv.init(keys[1], x)
    pad = (kernel - 1) // 2

    def plain(variables, x):
        return jax.lax.conv_general_dilated(
            x,
            variables["params"]["kernel"],
            (stride, stride),
            ((pad, pad), (pad, pad)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    wanted, pull = jax.vjp(plain, variables, x)
    found, own_pull = jax.vjp(conv.apply, variables, x)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    cotangent = jax.random.normal(keys[2], wanted.shape)
    for own, other in zip(
        jax.tree.leaves(own_pull(cotangent)), jax.tree.leaves(pull(cotangent)), strict=True
    ):
        np.testing.assert_allclose(own, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", [(32, 32), (33, 46), (7, 9)])
def test_a_stem_on_pixels_of_two_by_two_is_the_one_on_pixels(size):
    images = jax.random.normal(jax.random.key(0), (2, *size, 3))
    stem = layers.Conv(8, 7, 2)
    variables = stem.init(jax.random.key(1), images)
    wanted, pull = jax.vjp(stem.apply, variables, images)
    found, own_pull = jax.vjp(stem.clone(space_to_depth=True).apply, variables, images)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    cotangent = jax.random.normal(jax.random.key(2), wanted.shape)
    for own, other in zip(
        jax.tree.leaves(own_pull(cotangent)), jax.tree.leaves(pull(cotangent)), strict=True
    ):
        assert golden.relative(own, other) < 1e-5


def test_networks_with_a_stem_of_seven_pixels_take_space_to_depth():
    network, deep = (networks.create("resnet18", 4, space_to_depth=deep) for deep in (False, True))
    variables = networks.init(network, (48, 48, 3))
    images = np.random.default_rng(0).standard_normal((2, 48, 48, 3)).astype(np.float32)
    wanted, found = (jax.jit(n.apply)(variables, images).logits for n in (network, deep))
    assert golden.relative(found, wanted) < 1e-5
    assert (
        networks.summarize(deep, (48, 48, 3)).macs == networks.summarize(network, (48, 48, 3)).macs
    )
    with pytest.raises(errors.InputError, match="a 7x7 convolution, not for 'mobilenetv1'"):
        networks.create("mobilenetv1", 4, space_to_depth=True)


@pytest.mark.parametrize(
    # Far from the running mean float32 loses (mean / deviation)^2: 8 times its epsilon of 900.
    ("mean", "running", "error"),
    [(3, 0, 2e-6), (30, 29, 2e-6), (30, 0, 9e-4)],
)
def test_batch_norm_is_exact_around_its_running_mean_and_good_far_from_it(mean, running, error):
    x = np.random.default_rng(0).standard_normal((64, 8, 8, 4)).astype(np.float32) + mean
    norm = layers.BatchNorm()
    variables = norm.init(jax.random.key(0), x, train=True)
    variables["batch_stats"]["mean"] += running

    def loss(x, train):
        found, _ = norm.apply(variables, x, train=train, mutable=["batch_stats"])
        return jnp.sum(jnp.sin(found)), found

    gradient, found = jax.jit(jax.grad(loss, has_aux=True), static_argnums=1)(x, True)
    exact = (x.astype(np.float64) - x.mean((0, 1, 2), np.float64)) / x.std((0, 1, 2), np.float64)
    np.testing.assert_allclose(found, exact, atol=error + 3e-5)  # of epsilon
    rows = np.cos(exact).reshape(-1, 4), exact.reshape(-1, 4)
    wanted = rows[0] - rows[0].mean(0) - rows[1] * (rows[0] * rows[1]).mean(0)
    wanted /= x.std((0, 1, 2), np.float64)
    np.testing.assert_allclose(gradient.reshape(-1, 4), wanted, atol=10 * error + 3e-5)


@pytest.mark.parametrize("scale", [1, 100])
def test_sums_over_many_places_are_as_exact_as_numpys(scale):
    x = np.random.default_rng(0).standard_normal((64, 32, 32, 3)).astype(np.float32) * scale
    other = np.random.default_rng(1).standard_normal(x.shape).astype(np.float32)
    exact = x.astype(np.float64)

    def loss(factor, shift):
        return jnp.vdot(functional.affine(x, factor, shift), other)

    mean, var = jax.jit(functional.moments)(x, jnp.zeros(3))
    by_factor, by_shift = jax.jit(jax.grad(loss, (0, 1)))(jnp.ones(3), jnp.zeros(3))
    np.testing.assert_allclose(mean, exact.mean((0, 1, 2)), atol=5e-7 * scale)
    np.testing.assert_allclose(var, exact.var((0, 1, 2)), rtol=5e-7)
    bound = 5e-7 * np.abs(exact * other).sum((0, 1, 2)).max()
    np.testing.assert_allclose(by_factor, (exact * other).sum((0, 1, 2)), atol=bound)
    np.testing.assert_allclose(by_shift, other.sum((0, 1, 2), np.float64), atol=bound)


def test_batch_norm_keeps_the_unbiased_running_variance():
    x = np.random.default_rng(0).standard_normal((2, 3, 3, 4)).astype(np.float32) * 3 + 1000
    norm = layers.BatchNorm()
    variables = norm.init(jax.random.key(0), x, train=True)
    variables["batch_stats"]["mean"] += 999
    y, updated = norm.apply(variables, x, train=True, mutable=["batch_stats"])
    flat = x.reshape(-1, 4).astype(np.float64)
    np.testing.assert_allclose(
        updated["batch_stats"]["var"], 0.9 + 0.1 * flat.var(0, ddof=1), rtol=1e-4
    )
    np.testing.assert_allclose(
        updated["batch_stats"]["mean"], 0.9 * 999 + 0.1 * flat.mean(0), rtol=1e-5
    )
    np.testing.assert_allclose(
        y.reshape(-1, 4), (flat - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5), atol=1e-3
    )


def test_an_unknown_name_lists_the_known():
    with pytest.raises(errors.InputError, match="did you mean 'resnet8x4'.*known: resnet8, "):
        networks.create("resnet8x5", 10)
    with pytest.raises(errors.InputError, match="num_classes is 0"):
        networks.create("resnet8", 0)


def test_the_table_of_networks_has_a_row_for_each():
    from rrd_jax.networks import __main__ as program

    rows = program.table().split("\n")[2:]
    assert [row.split()[1] for row in rows] == list(networks.MODELS)
    assert "| 83,892     | 12,507,392     | 16@32 16@32 32@16 64@8" in rows[0]
