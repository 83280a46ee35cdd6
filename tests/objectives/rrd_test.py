import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized

from rrd_jax import errors, objectives
from rrd_jax.networks import Outputs
from rrd_jax.objectives import rrd, rrd_bank
from rrd_jax.objectives.parts import arithmetic, memory, negatives, projections
from tests import golden
from tests.objectives import batches, golden_banks


def _unit(rng, *shape):
    x = rng.standard_normal(shape)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def _arrays(seed=0, batch=6, dim=8, size=10):
    rng = np.random.default_rng(seed)
    return _unit(rng, batch, dim), _unit(rng, batch, dim), _unit(rng, size, dim)


def _log_softmax64(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def _reference64(student, teacher, rows, tau_s, tau_t):
    log_p_s = _log_softmax64(student @ rows.T / tau_s)
    log_p_t = _log_softmax64(teacher @ rows.T / tau_t)
    return -(np.exp(log_p_t) * log_p_s).sum(-1), -(np.exp(log_p_t) * log_p_t).sum(-1)


def _float32(*arrays):
    return tuple(jnp.asarray(a, jnp.float32) for a in arrays)


class VariantsTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True, with_pmap=True)
    @parameterized.parameters((0.04, 0.1), (0.1, 0.02), (1.0, 1.0))
    def test_equals_float64(self, tau_s, tau_t):
        arrays = _arrays()

        @self.variant
        def loss(student, teacher, rows):
            return rrd.relational_loss(
                student, teacher, rows, temperature_student=tau_s, temperature_teacher=tau_t
            )

        actual = loss(*_float32(*arrays))
        expected, _ = _reference64(*arrays, tau_s, tau_t)
        np.testing.assert_allclose(np.ravel(actual)[: len(expected)], expected, rtol=2e-6)


@pytest.mark.parametrize("seed", range(5))
def test_the_loss_is_never_below_the_teachers_entropy(seed):
    arrays = _arrays(seed)
    actual = rrd.relational_loss(
        *_float32(*arrays), temperature_student=0.07, temperature_teacher=0.1
    )
    _, entropy = _reference64(*arrays, 0.07, 0.1)
    assert np.all(actual >= entropy - 1e-5)


def test_the_loss_equals_the_teachers_entropy_for_equal_relations():
    _, teacher, rows = _arrays()
    actual = rrd.relational_loss(
        *_float32(teacher, teacher, rows), temperature_student=0.1, temperature_teacher=0.1
    )
    _, entropy = _reference64(teacher, teacher, rows, 0.1, 0.1)
    np.testing.assert_allclose(actual, entropy, rtol=1e-5)


def test_equal_temperatures_give_kl_plus_entropy():
    student, teacher, rows = _arrays()
    actual = rrd.relational_loss(
        *_float32(student, teacher, rows), temperature_student=0.2, temperature_teacher=0.2
    )
    log_s = _log_softmax64(student @ rows.T / 0.2)
    log_t = _log_softmax64(teacher @ rows.T / 0.2)
    kl = (np.exp(log_t) * (log_t - log_s)).sum(-1)
    entropy = -(np.exp(log_t) * log_t).sum(-1)
    np.testing.assert_allclose(actual, kl + entropy, rtol=1e-5)


def test_a_cold_teacher_with_its_own_key_in_memory_gives_infonce():
    student, teacher, rows = _arrays()
    rows = np.concatenate([teacher, rows])
    actual = rrd.relational_loss(
        *_float32(student, teacher, rows), temperature_student=0.1, temperature_teacher=1e-4
    )
    info_nce = -np.diagonal(_log_softmax64(student @ rows.T / 0.1))
    np.testing.assert_allclose(actual, info_nce, rtol=1e-5)


@pytest.mark.parametrize(("tau_s", "tau_t"), [(0.04, 0.1), (0.1, 0.02), (0.1, 0.1)])
def test_a_student_with_the_norm_that_balances_the_temperatures_reaches_the_floor(tau_s, tau_t):
    _, teacher, rows = _arrays()

    def loss(student):
        return rrd.relational_loss(
            student,
            *_float32(teacher, rows),
            temperature_student=tau_s,
            temperature_teacher=tau_t,
        ).mean()

    value, gradient = jax.value_and_grad(loss)(*_float32(teacher * (tau_s / tau_t)))
    _, entropy = _reference64(teacher, teacher, rows, tau_t, tau_t)
    np.testing.assert_allclose(value, entropy.mean(), rtol=2e-6)
    assert np.linalg.norm(gradient, axis=-1).max() < 1e-5 / tau_s
    unit, unit_gradient = jax.value_and_grad(loss)(*_float32(teacher))
    assert unit > entropy.mean() + 1e-3 or tau_s == tau_t
    # The gradient is a difference of two means of unit rows, divided by the temperature.
    assert np.linalg.norm(unit_gradient, axis=-1).max() < 2 / tau_s


def test_a_hot_student_gives_the_logarithm_of_the_memory_size():
    actual = rrd.relational_loss(
        *_float32(*_arrays(size=50)), temperature_student=1e3, temperature_teacher=0.1
    )
    np.testing.assert_allclose(actual, np.log(50), atol=2e-3)


def test_only_the_student_has_a_gradient():
    arrays = _float32(*_arrays())

    def loss(student, teacher, rows):
        return jnp.sum(
            rrd.relational_loss(
                student, teacher, rows, temperature_student=0.1, temperature_teacher=0.1
            )
        )

    student, teacher, rows = jax.grad(loss, argnums=(0, 1, 2))(*arrays)
    assert np.abs(student).max() > 0
    np.testing.assert_array_equal(teacher, 0)
    np.testing.assert_array_equal(rows, 0)


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e4])
def test_loss_and_gradient_stay_finite_at_extremes(scale):
    student, teacher, rows = _float32(*_arrays())

    def loss(student):
        unit = arithmetic.unit(student * scale) if scale < 1 else student * scale
        return jnp.sum(
            rrd.relational_loss(
                unit, teacher, rows, temperature_student=0.02, temperature_teacher=0.02
            )
        )

    value, gradient = jax.value_and_grad(loss)(student)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("bad", [0, -0.1, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["temperature_student", "temperature_teacher"])
def test_invalid_temperatures_are_refused(name, bad):
    temperatures = {"temperature_student": 0.1, "temperature_teacher": 0.1, name: bad}
    with pytest.raises(errors.InputError, match=name):
        rrd.relational_loss(*_float32(*_arrays()), **temperatures)
    with pytest.raises(errors.InputError, match=name):
        objectives.create("rrd", **{name: bad})


def test_presets_set_the_other_options():
    with pytest.raises(errors.InputError, match="known: sharp_student, sharp_teacher, seed"):
        objectives.create("rrd", preset="sharp")
    _, pushed = _loss_of(objectives.create("rrd", preset="sharp_teacher", queue_size=4, dim=3))
    chex.assert_shape(pushed.rows, (4, 3))


def test_shapes_that_do_not_fit_are_refused():
    student, teacher, rows = _float32(*_arrays())
    with pytest.raises(errors.InputError, match=r"\[B, D\]"):
        rrd.relational_loss(
            student[:, :-1], teacher, rows, temperature_student=1.0, temperature_teacher=1.0
        )


def _outputs(features):
    return Outputs(logits=jnp.zeros((len(features), 2)), embedding=jnp.asarray(features))


def _loss_of(objective, student=None, teacher=None, key=0):
    rng = np.random.default_rng(key)
    student = _outputs(rng.standard_normal((5, 6)).astype(np.float32))
    teacher = _outputs(rng.standard_normal((5, 7)).astype(np.float32))
    state = jax.jit(objective.init)(jax.random.key(key), student, teacher)
    return jax.jit(objective.loss)(state, student, teacher, batches.NO_BATCH)


def test_push_before_changes_the_loss_but_not_the_memory():
    options = {"queue_size": 16, "dim": 4, "temperature_teacher": 1e-3}
    before, after_push = _loss_of(objectives.create("rrd", push_before=True, **options))
    after, other_push = _loss_of(objectives.create("rrd", push_before=False, **options))
    assert np.abs(before - after).max() > 1e-3
    chex.assert_trees_all_equal(after_push, other_push)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"own_pair": True, "push_before": True}, "own_pair and push_before are both set"),
        (
            {"own_pair": True, "memory": "momentum_reference"},
            "own_pair and memory=momentum_reference are both set",
        ),
        ({"head": "mpl"}, "unknown head 'mpl'; did you mean 'mlp'"),
        ({"head_width": 8}, "head_width is 8, but head is 'linear'"),
        ({"head": "mlp", "head_width": 0}, "head_width is 0"),
    ],
)
def test_heads_and_pairs_that_do_not_fit_are_refused(options, message):
    with pytest.raises(errors.InputError, match=message):
        objectives.create("rrd", examples=8, **options)


@pytest.mark.parametrize("kind", ["fifo", "momentum"])
def test_a_fixed_projection_equals_the_trained_one_without_a_gradient(kind):
    rng, results = np.random.default_rng(0), {}
    student, teacher = (
        _outputs(rng.standard_normal((5, width)).astype(np.float32)) for width in (6, 7)
    )
    for trained in (True, False):
        objective = objectives.create(
            "rrd", memory=kind, queue_size=8, dim=4, examples=16, train_projection=trained
        )
        state = objective.init(jax.random.key(0), student, teacher)

        def loss(params, features, objective=objective, state=state):
            arguments = state._replace(params=params), _outputs(features), teacher
            return objective.loss(*arguments, batches.from_labels(range(5)))[0].mean()

        results[trained] = jax.value_and_grad(loss, argnums=(0, 1))(state.params, student.embedding)
    assert not jax.tree.leaves(results[False][1][0])
    assert all(np.any(leaf) for leaf in jax.tree.leaves(results[True][1][0]))
    chex.assert_trees_all_equal(results[True][0], results[False][0])
    chex.assert_trees_all_equal(results[True][1][1], results[False][1][1])


@pytest.mark.parametrize(
    "name",
    ["a", "b", "c_two_calls", "d_wrap", "e_batch_eq_queue", "f_large", "g_unit_rows"],
)
def test_the_loss_gradients_and_queue_equal_the_golden_file(name):
    file = golden.load(f"rrd_fifo_{name}")
    for step in ("step0/", "step1/") if "step0/out/loss" in file else ("",):
        _check_step(file, step)


def test_the_imagenet_copy_of_the_reference_gives_the_same_results():
    _check_step(golden.load("imagenet_rrd_shimmed"), "", module="rrd")


def _check_step(file, step, module="rrd.memory"):
    tau_s, tau_t = float(file["hp/nce_t_s"]), float(file["hp/nce_t_t"])
    objective = objectives.create(
        "rrd", temperature_student=tau_s, temperature_teacher=tau_t, push_before=True
    )
    student, teacher = file[f"{step}in/f_s"], file[f"{step}in/f_t"]
    state = objectives.ObjectiveState(
        params=golden.linear(file, f"{module}.embed_s"),
        frozen=golden.linear(file, f"{module}.embed_t"),
        memory=memory.Queue(
            _queue_rows(file, f"{step}buf_before/{module}.queue"),
            jnp.int32(file[f"{step}buf_before/{module}.queue_ptr"][0]),
        ),
    )

    def mean_loss(params, features):
        losses, pushed = objective.loss(
            state._replace(params=params), _outputs(features), _outputs(teacher), batches.NO_BATCH
        )
        return jnp.mean(losses), pushed

    (loss, pushed), gradients = jax.jit(
        jax.value_and_grad(mean_loss, argnums=(0, 1), has_aux=True)
    )(state.params, jnp.asarray(student))
    assert golden.relative(loss, file[f"{step}out/loss"]) < 1e-5
    assert golden.relative(gradients[1], file[f"{step}grad/in/f_s"]) < 1e-5
    golden.check_linear(gradients[0], file, f"{step}grad/param/{module}.embed_s")
    _check_queue(file, f"{step}buf_after/{module}.queue", pushed)


def _queue_rows(file, entry):
    if entry in file:
        return jnp.asarray(file[entry])
    shape = tuple(file[f"{entry}#shape"])
    rows = np.random.default_rng(int(file["hp/queue_seed"])).standard_normal(shape)
    return jnp.asarray((rows / np.sqrt((rows**2).sum(0))).astype(np.float32))


def _check_queue(file, entry, queue):
    assert int(queue.cursor) == file[f"{entry}_ptr"][0]
    if entry in file:
        np.testing.assert_allclose(queue.rows, file[entry], rtol=0, atol=2e-7)
        return
    np.testing.assert_allclose(queue.rows[:4], file[f"{entry}#rows0_4"], rtol=0, atol=2e-7)
    np.testing.assert_allclose(queue.rows[62:68], file[f"{entry}#rows62_68"], rtol=0, atol=2e-7)
    total = np.asarray(queue.rows).sum(dtype=np.float64)
    np.testing.assert_allclose(total, file[f"{entry}#sum"], rtol=1e-5)


def test_the_momentum_form_of_the_reference_equals_the_golden_file(monkeypatch):
    file = golden.load("rrd_momentum")
    objective = objectives.create(
        "rrd",
        memory="momentum_reference",
        temperature_student=float(file["hp/nce_t_s"]),
        temperature_teacher=float(file["hp/nce_t_t"]),
        temperature_bank=float(file["hp/nce_t"]),
        queue_size=32,
        dim=16,
        examples=200,
    )
    params = golden.linear(file, "crit.memory.embed_s")
    frozen = {
        "projection": golden.linear(file, "crit.memory.embed_t"),
        "key": jax.random.key_data(jax.random.key(0)),
    }
    for step in ("step0/", "step1/"):
        drawn = jnp.asarray(file[f"{step}in/contrast_idx"][:, 1:])
        monkeypatch.setattr(negatives, "draw", lambda *args, drawn=drawn: drawn)
        before = golden_banks.read_banks(file, f"{step}buf_before/crit.memory.contrast.")
        index = jnp.asarray(file[f"{step}in/idx"])

        def loss(params, student, step=step, before=before, index=index):
            outputs = (_outputs(x) for x in (student, file[f"{step}in/f_t"]))
            state = objectives.ObjectiveState(params, frozen, before)
            batch = batches.from_labels(jnp.zeros_like(index), index)
            losses, moved = objective.loss(state, *outputs, batch)
            return jnp.mean(losses), moved

        (value, moved), (layer, features) = jax.jit(
            jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
        )(params, file[f"{step}in/f_s"])
        assert golden.relative(value, file[f"{step}out/loss"]) < 1e-5
        assert golden.relative(features, file[f"{step}grad/in/f_s"]) < 1e-5
        golden.check_linear(layer, file, f"{step}grad/param/crit.memory.embed_s")
        golden_banks.check_banks(moved, file, f"{step}buf_after/crit.memory.contrast.")


@pytest.mark.parametrize("push_before", [False, True])
@pytest.mark.parametrize("size", [4, 12, 50])
def test_the_momentum_form_compares_with_running_embeddings_of_the_training_set(size, push_before):
    objective = objectives.create(
        "rrd", memory="momentum", queue_size=size, dim=4, examples=12, push_before=push_before
    )
    rng = np.random.default_rng(0)
    student, teacher = (_outputs(jnp.asarray(rng.standard_normal((5, n)))) for n in (3, 6))
    state = jax.jit(objective.init)(jax.random.key(0), student, teacher)
    batch = batches.from_labels(np.zeros(5), [2, 7, 0, 11, 5])
    loss = jax.jit(objective.loss)
    losses, updated = loss(state, student, teacher, batch)
    target = projections.project(state.frozen["projection"], teacher.embedding)
    moved = memory.update(state.memory.bank, batch.index, target)
    chex.assert_trees_all_close(updated.bank, moved)
    assert int(updated.draws) == 1
    if size >= 12:
        expected = rrd.relational_loss(
            projections.project(state.params, student.embedding),
            target,
            (moved if push_before else state.memory.bank).rows,
            temperature_student=0.04,
            temperature_teacher=0.1,
        )
        np.testing.assert_allclose(losses, expected, rtol=1e-5)
    # A queue smaller than the bank uses other rows at the next step.
    else:
        again, _ = loss(state._replace(memory=updated), student, teacher, batch)
        assert np.abs(again - losses).max() > 1e-3


def test_banks_need_the_number_of_examples():
    for kind in ("momentum", "momentum_reference"):
        with pytest.raises(errors.InputError, match="a bank needs examples"):
            objectives.create("rrd", memory=kind)
        with pytest.raises(errors.InputError, match="momentum is -1"):
            objectives.create("rrd", memory=kind, examples=5, momentum=-1)
    with pytest.raises(errors.InputError, match="known: fifo, momentum, momentum_reference"):
        objectives.create("rrd", memory="bank")
    with pytest.raises(errors.InputError, match="temperature_student is 0"):
        rrd_bank.nested_loss(
            jnp.ones((1, 2)), jnp.ones((1, 2)), temperature_student=0, temperature_teacher=1.0
        )


def test_a_batch_without_images_has_no_losses():
    empty, rows = jnp.zeros((0, 4), jnp.bfloat16), jnp.ones((6, 4))
    temperatures = {"temperature_student": 0.04, "temperature_teacher": 0.1}
    losses = rrd.relational_loss(empty, empty, rows, extra_rows=empty, **temperatures)
    assert (losses.shape, losses.dtype) == ((0,), jnp.float32)
