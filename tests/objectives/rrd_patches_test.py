"""RRD over patches: losses and gradients in float64, grids, draws, and runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import errors, objectives
from rrd_jax.networks import Outputs
from rrd_jax.objectives import rrd_patches
from rrd_jax.objectives.parts import patches
from tests.objectives import batches

_TEMPERATURES = [(0.01, 0.01), (0.01, 10.0), (10.0, 0.01), (0.07, 0.07), (0.04, 0.1), (0.1, 0.02)]


def _unit(rng, *shape):
    x = rng.standard_normal(shape)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def _log_softmax64(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def _within64(student, teacher, tau_s, tau_t, *, diagonal=True):
    """Returns the losses [B] of `within_image_loss` in float64, one row after the other."""
    losses = []
    for z, u in zip(student, teacher, strict=True):
        rows = []
        for i in range(len(z)):
            others = [j for j in range(len(z)) if diagonal or j != i]
            log_s, log_t = _log_softmax64(z[others] @ z[i] / tau_s), u[others] @ u[i] / tau_t
            rows.append(-(np.exp(_log_softmax64(log_t)) * log_s).sum())
        losses.append(np.mean(rows))
    return np.array(losses)


def _memory64(student, teacher, rows, tau_s, tau_t):
    """Returns the losses of relations of [..., D] to rows [K, D] in float64."""
    log_s, log_t = _log_softmax64(student @ rows.T / tau_s), teacher @ rows.T / tau_t
    return -(np.exp(_log_softmax64(log_t)) * log_s).sum(-1)


def _resized64(x, height, width):
    """Resizes maps [B, h, w, D] bilinearly, with half-pixel centers and repeated edges."""
    for axis, size in ((1, height), (2, width)):
        old = x.shape[axis]
        positions = np.clip((np.arange(size) + 0.5) * old / size - 0.5, 0, old - 1)
        low = np.floor(positions).astype(int)
        share = (positions - low).reshape((-1,) + (1,) * (3 - axis))
        high = np.minimum(low + 1, old - 1)
        x = np.take(x, low, axis) * (1 - share) + np.take(x, high, axis) * share
    return x


def _outputs(rng, size, dim, embedding=6):
    """Returns Outputs of 5 images in float64, with patches of a size."""
    maps = rng.standard_normal((5, *size, dim)) + 0.5
    return Outputs((), rng.standard_normal((5, embedding)), patches=maps)


def _float32(outputs):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), outputs)


def _reference64(student, teacher, state, drawn, *, tau_s, tau_t, push_before):
    """Returns (losses within images, losses with the memory) of Outputs in float64."""
    head = {name: np.asarray(leaf, np.float64) for name, leaf in state.params.items()}
    z = student.patches @ head["kernel"] + head["bias"]
    u = teacher.patches
    grid = max((u.shape[1:3], z.shape[1:3]), key=np.prod)
    z, u = (_resized64(x, *grid).reshape(5, -1, x.shape[-1]) for x in (z, u))
    z, u = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (z, u))
    within = _within64(z, u, tau_s, tau_t)
    z, u = (np.take_along_axis(x, drawn[..., None], 1) for x in (z, u))
    rows = np.asarray(state.memory.queue.rows, np.float64)
    if push_before:
        rows[: u.shape[0] * u.shape[1]] = u.reshape(-1, u.shape[-1])
    return within, _memory64(z, u, rows, tau_s, tau_t).mean(-1)


def _derivative64(function, x, direction, step=1e-6):
    return (function(x + step * direction) - function(x - step * direction)) / (2 * step)


@pytest.mark.parametrize("diagonal", [True, False])
@pytest.mark.parametrize(("tau_s", "tau_t"), _TEMPERATURES)
def test_the_loss_within_images_and_its_gradient_equal_float64(tau_s, tau_t, diagonal):
    rng = np.random.default_rng(0)
    student, teacher, direction = _unit(rng, 3, 7, 6), _unit(rng, 3, 7, 9), _unit(rng, 3, 7, 6)

    def loss(z):
        return rrd_patches.within_image_loss(
            z,
            jnp.asarray(teacher, jnp.float32),
            temperature_student=tau_s,
            temperature_teacher=tau_t,
            diagonal=diagonal,
        )

    def reference(z):
        return _within64(z, teacher, tau_s, tau_t, diagonal=diagonal)

    losses, tangent = loss(jnp.asarray(student, jnp.float32)), jnp.asarray(direction, jnp.float32)
    expected = reference(student)
    # A similarity of 1 / temperature is rounded to 6e-8 of itself.
    tolerance = max(3e-6, 5e-7 / min(tau_s, tau_t))
    np.testing.assert_allclose(losses, expected, rtol=tolerance, atol=1e-6)
    gradient = jax.grad(lambda z: loss(z).sum())(jnp.asarray(student, jnp.float32))
    actual = jnp.sum(gradient * tangent, axis=(1, 2))
    slope = _derivative64(reference, student, direction)
    np.testing.assert_allclose(actual, slope, rtol=1e-4, atol=1e-4 * np.abs(slope).max() + 1e-7)


def test_the_symmetric_loss_equals_the_divergence_of_lightly_train():
    rng = np.random.default_rng(1)
    student, teacher = _unit(rng, 4, 16, 12), _unit(rng, 4, 16, 12)
    log_s, log_t = (_log_softmax64(x @ x.swapaxes(1, 2) / 0.07) for x in (student, teacher))
    divergence = (np.exp(log_t) * (log_t - log_s)).sum(-1).mean(-1)
    temperatures = {"temperature_student": 0.07, "temperature_teacher": 0.07}
    z, u = jnp.asarray(student, jnp.float32), jnp.asarray(teacher, jnp.float32)
    losses = rrd_patches.within_image_loss(z, u, **temperatures)
    floor = rrd_patches.within_image_loss(u, u, **temperatures)
    np.testing.assert_allclose(losses - floor, divergence, rtol=1e-5)
    # The gradient of the divergence, with the softmaxes of the formula.
    shares = np.exp(log_s) - np.exp(log_t)
    expected = (shares + shares.swapaxes(1, 2)) @ student / (0.07 * 16)
    gradient = jax.grad(lambda z: rrd_patches.within_image_loss(z, u, **temperatures).sum())(z)
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_a_batch_of_several_parts_equals_single_images():
    rng = np.random.default_rng(2)
    student, teacher = (jnp.asarray(_unit(rng, 7, 600, 4), jnp.float32) for _ in range(2))
    temperatures = {"temperature_student": 0.04, "temperature_teacher": 0.1}

    @jax.jit
    def evaluate(student, teacher):
        def total(z):
            losses = rrd_patches.within_image_loss(z, teacher, **temperatures)
            return losses.sum(), losses

        return jax.grad(total, has_aux=True)(student)

    gradient, losses = evaluate(student, teacher)
    for i in (0, 3, 6):
        expected, loss = evaluate(student[i : i + 1], teacher[i : i + 1])
        np.testing.assert_allclose(losses[i], loss[0], rtol=1e-6)
        np.testing.assert_allclose(gradient[i], expected[0], rtol=1e-5, atol=1e-6)


def test_equal_patches_have_a_finite_loss_without_gradient():
    same = jnp.ones((2, 5, 3)) / np.sqrt(3)

    def loss(z, diagonal):
        losses = rrd_patches.within_image_loss(
            z, same, temperature_student=0.01, temperature_teacher=0.01, diagonal=diagonal
        )
        return losses.sum()

    for diagonal, count in ((True, 5), (False, 4)):
        value, gradient = jax.value_and_grad(loss)(same, diagonal)
        np.testing.assert_allclose(value, 2 * np.log(count), rtol=1e-6)
        np.testing.assert_allclose(gradient, 0, atol=1e-4)


@pytest.mark.parametrize(
    ("shapes", "options", "message"),
    [
        (((2, 3, 4), (2, 5, 4)), {}, r"\(2, 5, 4\) \[B, N, E\]"),
        (((2, 3), (2, 3)), {}, "must be"),
        (((2, 1, 4), (2, 1, 4)), {"diagonal": False}, "at least 2"),
        (((2, 3, 4), (2, 3, 4)), {"temperature_student": 0.0}, "temperature_student is 0.0"),
    ],
)
def test_invalid_arguments_are_refused(shapes, options, message):
    options = {"temperature_student": 0.1, "temperature_teacher": 0.1, **options}
    with pytest.raises(errors.InputError, match=message):
        rrd_patches.within_image_loss(*map(jnp.zeros, shapes), **options)


@pytest.mark.parametrize(
    ("student_size", "teacher_size", "push_before"),
    [((2, 3), (4, 4), False), ((5, 3), (2, 4), True), ((4, 2), (2, 4), False)],
)
def test_the_objective_over_patches_equals_float64(student_size, teacher_size, push_before):
    rng = np.random.default_rng(3)
    student, teacher = _outputs(rng, student_size, 7), _outputs(rng, teacher_size, 9)
    options = {"tau_s": 0.05, "tau_t": 0.2, "push_before": push_before}
    objective = objectives.create(
        "rrd",
        over="patches",
        temperature_student=0.05,
        temperature_teacher=0.2,
        push_before=push_before,
        weight_within=0.7,
        weight_memory=0.3,
        patches_per_image=3,
        patch_queue_size=40,
    )
    state = jax.jit(objective.init)(jax.random.key(1), *map(_float32, (student, teacher)))
    total = max(np.prod(student_size), np.prod(teacher_size))
    key, index = jax.random.wrap_key_data(state.frozen), jnp.array([4, 0, 9, 2, 7])
    drawn = np.asarray(patches.draw(key, state.memory.draws, index, int(total), 3))
    batch = batches.NO_BATCH._replace(index=index)

    def reference(maps):
        parts = _reference64(student._replace(patches=maps), teacher, state, drawn, **options)
        return 0.7 * parts[0] + 0.3 * parts[1]

    def loss(maps):
        outputs = _float32(student)._replace(patches=maps)
        losses, memory = objective.loss(state, outputs, _float32(teacher), batch)
        return losses.sum(), (losses, memory)

    maps = _float32(student).patches
    gradient, (losses, memory) = jax.jit(jax.grad(loss, has_aux=True))(maps)
    np.testing.assert_allclose(losses, reference(student.patches), rtol=2e-5)
    direction = rng.standard_normal(maps.shape)
    slope = _derivative64(reference, student.patches, direction)
    actual = np.sum(np.asarray(gradient, np.float64) * direction, axis=(1, 2, 3))
    np.testing.assert_allclose(actual, slope, rtol=1e-4, atol=1e-4 * np.abs(slope).max())
    assert (int(memory.draws), int(memory.queue.cursor)) == (1, 15)
    np.testing.assert_allclose(jnp.linalg.norm(memory.queue.rows, axis=1), 1, rtol=1e-6)


def test_draws_are_distinct_and_depend_on_the_image_and_the_step_only():
    key, index = jax.random.key(5), jnp.arange(64)
    drawn = np.asarray(patches.draw(key, jnp.int32(0), index, 10, 4))
    assert all(len(set(row)) == 4 for row in drawn.tolist())
    assert np.bincount(drawn.ravel(), minlength=10).min() > 10
    shuffled = patches.draw(key, jnp.int32(0), index[::-1], 10, 4)
    np.testing.assert_array_equal(shuffled[::-1], drawn)
    later = np.asarray(patches.draw(key, jnp.int32(1), index, 10, 4))
    assert (later != drawn).any(axis=1).mean() > 0.9
    every = patches.draw(key, jnp.int32(0), index, 10, 10)
    np.testing.assert_array_equal(np.sort(every), np.tile(np.arange(10), (64, 1)))


@pytest.mark.parametrize("name", ["rrd", "embed"])
def test_both_with_weight_0_for_patches_is_the_objective_over_images(name):
    weights = {
        "rrd": {"weight_within": 0.0, "weight_memory": 0.0},
        "embed": {"weight_cosine": 0.0, "weight_smooth_l1": 0.0},
    }
    rng = np.random.default_rng(4)
    # Without patches.
    student, teacher = (_float32(_outputs(rng, (2, 2), 7)._replace(patches=None)) for _ in "ab")
    size = {"queue_size": 20} if name == "rrd" else {}
    results = []
    for options in ({}, {"over": "both", **weights[name]}):
        objective = objectives.create(name, **size, **options)
        state = jax.jit(objective.init)(jax.random.key(0), student, teacher)
        loss = jax.jit(lambda *arrays, loss=objective.loss: loss(*arrays, batches.NO_BATCH))
        result = loss(state, student, teacher)
        results.append(jax.tree.leaves((state, result)))
    for alone, both in zip(*results, strict=True):
        np.testing.assert_array_equal(alone, both)


def test_both_is_the_sum_of_images_and_patches():
    rng = np.random.default_rng(5)
    student, teacher = (_float32(_outputs(rng, (2, 2), 7)) for _ in "ab")
    losses = {}
    objective = objectives.create("rrd", queue_size=20, patch_queue_size=20, over="both")
    states = {"both": jax.jit(objective.init)(jax.random.key(0), student, teacher)}
    for over in ("images", "patches"):
        parts = (field[over] for field in states["both"])
        states[over] = objectives.ObjectiveState(*parts)
    for over, state in states.items():
        objective = objectives.create("rrd", queue_size=20, patch_queue_size=20, over=over)
        loss = jax.jit(lambda *arrays, loss=objective.loss: loss(*arrays, batches.NO_BATCH))
        losses[over], _ = loss(state, student, teacher)
    np.testing.assert_allclose(losses["both"], losses["images"] + losses["patches"], rtol=1e-6)


def test_the_preset_lightly_equals_its_formula_with_a_queue_of_zeros():
    rng = np.random.default_rng(6)
    student, teacher = _outputs(rng, (2, 3), 7), _outputs(rng, (4, 4), 6)
    objective = objectives.create("rrd", preset="lightly", queue_size=12)
    state = objective.init(jax.random.key(0), *map(_float32, (student, teacher)))
    assert not state.memory["images"].rows.any()
    losses, memory = objective.loss(state, *map(_float32, (student, teacher)), batches.NO_BATCH)
    head = {name: np.asarray(leaf, np.float64) for name, leaf in state.params["images"].items()}
    z, u = student.embedding @ head["kernel"] + head["bias"], teacher.embedding
    z, u = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (z, u))
    rows = np.concatenate([u, np.zeros((7, 6))])
    head = {name: np.asarray(leaf, np.float64) for name, leaf in state.params["patches"].items()}
    maps = _resized64(student.patches @ head["kernel"] + head["bias"], 4, 4).reshape(5, 16, 6)
    pair = (maps, teacher.patches.reshape(5, 16, 6))
    pair = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in pair)
    expected = _memory64(z, u, rows, 0.07, 0.07) + _within64(*pair, 0.07, 0.07)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    np.testing.assert_allclose(memory["images"].rows, rows, atol=1e-6)


def test_dense_embed_equals_float64():
    rng = np.random.default_rng(7)
    student, teacher = _outputs(rng, (2, 3), 7), _outputs(rng, (4, 4), 6)
    objective = objectives.create("embed", over="patches")
    state = objective.init(jax.random.key(0), *map(_float32, (student, teacher)))

    def reference(maps):
        head = {name: np.asarray(leaf, np.float64) for name, leaf in state.params.items()}
        z = _resized64(maps @ head["kernel"] + head["bias"], 4, 4)
        u, error = teacher.patches, np.abs(z - teacher.patches)
        lengths = np.linalg.norm(z, axis=-1) * np.linalg.norm(u, axis=-1)
        cosine = 1 - (z * u).sum(-1) / lengths
        smooth = np.where(error < 1, error**2 / 2, error - 0.5).mean(-1)
        return (0.9 * cosine + 0.1 * smooth).mean((1, 2))

    def loss(maps):
        outputs = _float32(student)._replace(patches=maps)
        losses, _ = objective.loss(state, outputs, _float32(teacher), batches.NO_BATCH)
        return losses.sum(), losses

    gradient, losses = jax.grad(loss, has_aux=True)(_float32(student).patches)
    np.testing.assert_allclose(losses, reference(student.patches), rtol=1e-5)
    direction = rng.standard_normal(gradient.shape)
    slope = _derivative64(reference, student.patches, direction)
    actual = np.sum(np.asarray(gradient, np.float64) * direction, axis=(1, 2, 3))
    np.testing.assert_allclose(actual, slope, rtol=1e-4)


def test_a_grid_of_one_patch_has_no_relations_within_an_image():
    outputs = _float32(_outputs(np.random.default_rng(8), (1, 1), 7))
    objective = objectives.create("rrd", over="both")
    with pytest.raises(errors.InputError, match="1 x 1, but .* set weight_within=0"):
        objective.init(jax.random.key(0), outputs, outputs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"over": "patch"}, "did you mean 'patches'"),
        ({"over": "patches", "weight_within": 0.0, "weight_memory": 0.0}, "nothing is compared"),
        ({"weight_within": -1.0}, "weight_within is -1.0"),
        ({"weight_memory": float("nan")}, "weight_memory is nan"),
        ({"patches_per_image": 0}, "patches_per_image is 0"),
        ({"patch_queue_size": 1.5}, "patch_queue_size is 1.5"),
    ],
)
def test_invalid_options_are_refused(options, message):
    with pytest.raises(errors.InputError, match=message):
        objectives.create("rrd", **options)
