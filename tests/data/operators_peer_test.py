"""Operators, policies and mixing compared with torchvision and timm."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import objectives
from rrd_jax.data.augment import colours, operators, policies, warping
from rrd_jax.networks import Outputs
from tests.objectives import batches

torch = pytest.importorskip("torch")
v2 = pytest.importorskip("torchvision.transforms.v2")
timm = pytest.importorskip("timm")
F = v2.functional

_GEOMETRY = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
_FACTORS = ("brightness", "color", "contrast", "sharpness")
# Largest share of an image's values that may differ by 1: sums that are exactly integers may be
# rounded down from slightly smaller floats.
_OFF_BY_ONE = {"color": 0.15, "sharpness": 0.03}
_SPACES = {"rand": v2.RandAugment, "trivial": v2.TrivialAugmentWide}


def _torchvision_name(name):
    return "AutoContrast" if name == "autocontrast" else name.title().replace("_", "")


def _amounts(space, name, shape):
    """Yields (magnitude of torchvision, amount of rrd_jax) for all 31 magnitudes and signs."""
    make, is_signed = space._AUGMENTATION_SPACE.get(
        _torchvision_name(name), (lambda *_: None, False)
    )
    magnitudes = make(31, *shape)
    for magnitude in [0.0] if magnitudes is None else magnitudes.tolist():
        for sign in (1, -1) if is_signed else (1,):
            amount = sign * magnitude
            if name in _FACTORS:
                amount = 1 + amount
            elif name == "solarize":
                amount = 255 * amount
            elif name.startswith("translate"):
                amount = int(amount)
            yield sign * magnitude, amount


def _image(shape):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (*shape, 3), np.uint8)
    # The upper half has reduced contrast.
    noise[: shape[0] // 2] = noise[: shape[0] // 2] // 3 + 40
    return noise


def _as_torch(image):
    return torch.from_numpy(np.array(image)).movedim(-1, -3)


def _as_numpy(tensor):
    return tensor.movedim(-3, -1).numpy()


def _ties(name, amount, shape):
    """Returns a mask [H, W] of pixels whose source lies halfway between two pixels in float32."""
    matrix = np.asarray(operators._MATRICES[name](amount, *shape), np.float64)
    y, x = np.mgrid[: shape[0], : shape[1]]
    x, y = x - (shape[1] - 1) / 2, y - (shape[0] - 1) / 2
    positions = np.stack(
        [m[0] * x + m[1] * y + m[2] + (s - 1) / 2 for m, s in zip(matrix, shape[::-1], strict=True)]
    )
    return (np.abs(positions % 1 - 0.5) < 1e-4).any(0)


@pytest.mark.parametrize("name", [n for n in operators.OPERATORS if n != "solarize_add"])
def test_an_operator_equals_torchvision_at_every_magnitude(name):
    shape = (24, 40)
    image, transform = _image(shape), v2.RandAugment()
    pairs = [pair for space in _SPACES.values() for pair in _amounts(space, name, shape)]
    amounts = np.asarray([amount for _, amount in pairs], np.float32)
    apply = jax.jit(jax.vmap(operators.apply, (None, None, 0)))
    transformed = np.asarray(apply(image, operators.number(name), amounts)).astype(int)
    for (magnitude, amount), actual in zip(pairs, transformed, strict=True):
        tensor = transform._apply_image_or_video_transform(
            _as_torch(image),
            _torchvision_name(name),
            magnitude,
            transform.interpolation,
            transform._fill,
        )
        difference = np.abs(actual - _as_numpy(tensor))
        if name in _GEOMETRY:
            ties = _ties(name, amount, shape)
            assert not difference[~ties].any(), magnitude
            assert ties.mean() < 0.25
        else:
            assert difference.max() <= (name in _OFF_BY_ONE)
            assert np.mean(difference > 0) <= _OFF_BY_ONE.get(name, 0), magnitude


@pytest.mark.parametrize("name", _SPACES)
def test_a_policy_draws_the_amounts_of_torchvision(name):
    shape = (64, 96)
    space = _SPACES[name]._AUGMENTATION_SPACE
    expected = {_torchvision_name(name) for name in operators.OPERATORS} & set(space)
    assert expected == set(space)
    keys = jax.vmap(jax.random.key)(jnp.arange(600))
    for magnitude in (0, 9, 17, 30) if name == "rand" else (9,):
        policy = policies.make_policy(name, magnitude=magnitude)
        draw = jax.jit(jax.vmap(lambda key, draw=policy.draw: draw(key, shape)))
        numbers, amounts = map(np.asarray, draw(keys))
        drawn = np.asarray(operators.OPERATORS)[numbers]
        assert {_torchvision_name(name) for name in drawn.ravel()} == set(space)
        for operator in set(drawn.ravel()):
            possible = list(_amounts(_SPACES[name], operator, shape))
            if name == "rand" and len(possible) > 1:
                signs = 2 if space[_torchvision_name(operator)][1] else 1
                possible = possible[magnitude * signs : (magnitude + 1) * signs]
            if operator.startswith("translate"):
                # torchvision truncates 15.999999 to 15, although the exact value is 16.
                expected = np.asarray([np.trunc(round(level, 4)) for level, _ in possible])
            else:
                expected = np.asarray([amount for _, amount in possible])
            difference = np.abs(amounts[drawn == operator][:, None] - expected[None])
            has_amount = operator not in ("identity", "autocontrast", "equalize")
            assert difference.min(1).max() < 1e-4 or not has_amount, operator


def test_rand_increasing_draws_the_amounts_of_timm():
    from timm.data import auto_augment

    space = policies.make_policy("rand_increasing", count=1, magnitude=7)
    keys = jax.vmap(jax.random.key)(jnp.arange(2000))
    numbers, amounts = map(np.asarray, jax.jit(jax.vmap(lambda k: space.draw(k, (50, 100))))(keys))
    drawn = np.asarray(operators.OPERATORS)[numbers[:, 0]]
    names = {"translate_x": "TranslateXRel", "translate_y": "TranslateYRel"}
    increasing = (*_FACTORS, "posterize", "solarize")
    transforms = set()
    for operator in set(drawn) - {"identity"}:
        name = names.get(operator, _torchvision_name(operator))
        name += "Increasing" * (operator in increasing)
        assert name in auto_augment._RAND_INCREASING_TRANSFORMS
        transforms.add(name)
        level = auto_augment.LEVEL_TO_ARG[name]
        if level is None:
            continue
        scale = {"translate_x": -100, "translate_y": -50}.get(operator, 1)
        possible = {round(scale * level(7, {})[0], 3) for _ in range(40)}
        assert set(np.round(amounts[drawn == operator, 0].astype(float), 3)) == possible, operator
    assert transforms == set(auto_augment._RAND_INCREASING_TRANSFORMS)


def test_color_operators_equal_torchvision():
    image, tensor = _image((32, 40)), _as_torch(_image((32, 40)))
    hue, blur = jax.jit(colours.hue), jax.jit(colours.gaussian_blur, static_argnums=2)
    for turn in (-0.5, -0.13, 0.0, 0.31):
        difference = np.abs(
            np.asarray(hue(image, turn)).astype(int) - _as_numpy(F.adjust_hue(tensor, turn))
        )
        assert difference.max() <= 1
        assert np.mean(difference > 0) < 0.002
    for sigma in (0.1, 0.8, 2.0):
        expected = _as_numpy(F.gaussian_blur(tensor, [9, 9], [sigma, sigma]))
        assert np.abs(np.asarray(blur(image, sigma, 9)).astype(int) - expected).max() <= 1
    np.testing.assert_array_equal(colours.grey(image), _as_numpy(F.rgb_to_grayscale(tensor, 3)))
    bilinear = jax.jit(lambda d: warping.warp(image, warping.rotate(d, 32, 40), bilinear=True))
    for degrees in (13.0, -77.0):
        expected = F.rotate(tensor, degrees, interpolation=v2.InterpolationMode.BILINEAR)
        assert np.abs(np.asarray(bilinear(degrees)).astype(int) - _as_numpy(expected)).max() <= 1


def test_ce_with_label_smoothing_on_mixed_labels_equals_timm():
    from timm.data.mixup import mixup_target
    from timm.loss import SoftTargetCrossEntropy

    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(4, 5)).astype(np.float32), np.asarray([1, 4, 0, 2])
    target = mixup_target(torch.tensor(labels), 5, 0.3, smoothing=0.1)
    expected = SoftTargetCrossEntropy()(torch.tensor(logits), target)
    objective = objectives.create("ce", label_smoothing=0.1)
    outputs = Outputs(jnp.asarray(logits), jnp.zeros((4, 1)))
    batch = batches.from_labels(
        labels, other_label=jnp.asarray(labels[::-1]), share=jnp.full(4, 0.3)
    )
    state = objective.init(jax.random.key(0), outputs, None)
    losses, _ = objective.loss(state, outputs, None, batch)
    np.testing.assert_allclose(np.mean(losses), expected, rtol=1e-5)
