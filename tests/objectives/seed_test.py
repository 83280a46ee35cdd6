"""SEED and CompRess: RRD's loss on the teacher's embeddings without projection."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import errors, objectives
from rrd_jax.config import parse
from rrd_jax.networks import Outputs
from tests import launch
from tests.objectives import batches

_WIDTHS = {"student": 6, "teacher": 7}


def _embeddings():
    rng = np.random.default_rng(0)
    return [rng.standard_normal((5, width)).astype(np.float32) for width in _WIDTHS.values()]


def _outputs(embedding):
    return Outputs(logits=jnp.zeros((len(embedding), 2)), embedding=jnp.asarray(embedding))


def _unit64(x):
    x = np.asarray(x, np.float64)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def _log_softmax64(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def _head64(params, x):
    layers = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    if "out" not in layers:
        return _unit64(x @ layers["kernel"] + layers["bias"])
    hidden = np.maximum(x @ layers["hidden"]["kernel"] + layers["hidden"]["bias"], 0)
    return _unit64(hidden @ layers["out"]["kernel"] + layers["out"]["bias"])


@pytest.mark.parametrize(
    ("name", "temperatures", "own_pair"),
    [("seed", (0.2, 1e-4), True), ("compress", (0.04, 0.04), False)],
)
def test_the_loss_equals_float64(name, temperatures, own_pair):
    student, teacher = _embeddings()
    outputs = _outputs(student), _outputs(teacher)
    objective = objectives.create(name, queue_size=16)
    state = objective.init(jax.random.key(0), *outputs)
    assert not jax.tree.leaves(state.frozen)
    query, key = _head64(state.params, student), _unit64(teacher)
    rows = np.asarray(state.memory.rows, np.float64)
    chex.assert_shape(rows, (16, 7))

    def relations(x, temperature):
        similarities = x @ rows.T
        if own_pair:
            similarities = np.concatenate([(x * key).sum(-1, keepdims=True), similarities], 1)
        return _log_softmax64(similarities / temperature)

    target = np.exp(relations(key, temperatures[1]))
    losses, pushed = objective.loss(state, *outputs, batches.NO_BATCH)
    expected = -(target * relations(query, temperatures[0])).sum(-1)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    np.testing.assert_allclose(pushed.rows[:5], key, atol=1e-6)
    floor = -(target * relations(key, temperatures[1])).sum(-1)
    np.testing.assert_allclose(objective.floor(state, outputs[1]), floor, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["seed", "compress"])
@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_the_preset_of_rrd_gives_the_same_results(name, head):
    outputs = [_outputs(embedding) for embedding in _embeddings()]
    results = []
    for objective in (
        objectives.create(name, queue_size=16, head=head),
        objectives.create("rrd", preset=name, queue_size=16, head=head),
    ):
        state = objective.init(jax.random.key(0), *outputs)

        def loss(params, objective=objective, state=state):
            state = state._replace(params=params)
            losses, memory = objective.loss(state, *outputs, batches.NO_BATCH)
            return losses.mean(), memory

        results.append((state, jax.value_and_grad(loss, has_aux=True)(state.params)))
    chex.assert_trees_all_equal(*results)


@pytest.mark.parametrize(
    ("name", "size", "head"), [("seed", 65_536, {"hidden", "out"}), ("compress", 128_000, None)]
)
def test_defaults_are_those_of_the_published_code(name, size, head):
    outputs = [_outputs(embedding) for embedding in _embeddings()]
    state = jax.eval_shape(objectives.create(name).init, jax.random.key(0), *outputs)
    assert state.memory.rows.shape == (size, 7)
    assert set(state.params) == (head or {"kernel", "bias"})


@pytest.mark.parametrize("name", objectives.RECORDS)
def test_published_defaults_are_valid_config_fields(name):
    parse(launch.get_config("digits", f"smoke,resnet8-resnet8,{name}"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": "mpl"}, "unknown head 'mpl'; did you mean 'mlp'"),
        ({"queue_size": 0}, "queue_size is 0"),
        ({"chunk": -1}, "chunk is -1"),
        ({"precision": "low"}, "unknown precision 'low'"),
    ],
)
def test_invalid_options_are_refused(options, message):
    for name in ("seed", "compress"):
        with pytest.raises(errors.InputError, match=message):
            objectives.create(name, **options)
