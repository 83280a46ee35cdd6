import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import errors, objectives
from rrd_jax.objectives import reviewkd
from tests.objectives import batches, golden_maps


def _conv64(x, kernel, pad):
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    height, width = (n - kernel.shape[0] + 1 for n in x.shape[1:3])
    return sum(
        x[:, i : i + height, j : j + width] @ kernel[i, j] for i, j in np.ndindex(*kernel.shape[:2])
    )


def _norm64(layer, x):
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    return (x - mean) / np.sqrt(var + 1e-5) * layer["scale"] + layer["shift"]


def _nearest64(x, height, width):
    y = np.zeros((len(x), height, width, x.shape[-1]))
    for i, j in np.ndindex(height, width):
        y[:, i, j] = x[:, int(i * x.shape[1] / height), int(j * x.shape[2] / width)]
    return y


def _pool64(x, size):
    y = np.zeros((len(x), size, size, x.shape[-1]))
    bounds = [
        (int(np.floor(i * x.shape[1] / size)), int(np.ceil((i + 1) * x.shape[1] / size)))
        for i in range(size)
    ]
    for i, j in np.ndindex(size, size):
        (top, bottom), (left, right) = bounds[i], bounds[j]
        y[:, i, j] = x[:, top:bottom, left:right].mean((1, 2))
    return y


def _hcl64(fused, teacher):
    total = 0.0
    for s, t in zip(fused, teacher, strict=True):
        loss, weight, all_weights = ((s - t) ** 2).mean((1, 2, 3)), 1.0, 1.0
        for size in (4, 2, 1):
            if size < s.shape[1]:
                weight /= 2
                all_weights += weight
                loss = loss + weight * ((_pool64(s, size) - _pool64(t, size)) ** 2).mean((1, 2, 3))
        total = total + loss / all_weights
    return total


def _reviewkd64(params, student, teacher):
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    fused, before = [], None
    for i in range(len(student) - 1, -1, -1):
        level = params[f"level{i}"]
        x = _norm64(level["in"]["layer0"], student[i] @ level["in"]["layer0"]["kernel"][0, 0])
        if before is not None:
            before = _nearest64(before, *x.shape[1:3])
            c = level["attention"]["layer0"]
            z = np.concatenate([x, before], -1) @ c["kernel"][0, 0] + c["bias"]
            z = 1 / (1 + np.exp(-z))
            x = x * z[..., :1] + before * z[..., 1:]
        before = _nearest64(x, *teacher[i].shape[1:3])
        out = level["out"]["layer0"]
        fused.insert(0, _norm64(out, _conv64(before, out["kernel"], 1)))
    return _hcl64(fused, teacher)


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        ([(8, 8, 5), (4, 4, 6)], [(8, 8, 3), (4, 4, 7)]),
        ([(8, 8, 5), (4, 4, 6), (2, 2, 4)], [(16, 16, 3), (8, 8, 4), (4, 4, 9)]),
        ([(9, 9, 5), (5, 5, 6)], [(6, 6, 3), (3, 3, 7)]),
    ],
)
def test_reviewkd_equals_float64(student, teacher):
    rng = np.random.default_rng(0)
    student, teacher = ([rng.standard_normal((3, *s)) for s in side] for side in (student, teacher))
    embeddings = rng.standard_normal((3, 10)), rng.standard_normal((3, 11))

    def outputs(taps, embedding):
        taps, embedding = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), (taps, embedding))
        # ReviewKD reads only the maps before the ReLU.
        zeros = [0 * x for x in taps]
        return golden_maps.outputs(zeros, preactivations=taps, embedding=embedding)

    objective = objectives.create("reviewkd")
    both = outputs(student, embeddings[0]), outputs(teacher, embeddings[1])
    state = jax.jit(objective.init)(jax.random.key(1), *both)
    assert state.params["level0"]["in"]["layer0"]["kernel"].shape == (1, 1, 5, 10)
    actual, _ = jax.jit(objective.loss)(state, *both, batches.NO_BATCH)
    sides = (
        [*taps, embedding[:, None, None]]
        for taps, embedding in zip((student, teacher), embeddings, strict=True)
    )
    np.testing.assert_allclose(actual, _reviewkd64(state.params, *sides), rtol=2e-5)


def test_hcl_is_zero_for_equal_maps():
    x = jnp.ones((2, 8, 8, 3))
    np.testing.assert_array_equal(reviewkd.hcl_loss([x], [x]), 0)
    with pytest.raises(errors.InputError, match="width is -1"):
        objectives.create("reviewkd", width=-1)
