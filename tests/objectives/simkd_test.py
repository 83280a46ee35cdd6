import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import errors, functional, networks, objectives
from rrd_jax.objectives.parts import (
    adapters,
    pooling,
)
from tests import golden
from tests.objectives import batches, golden_maps


def test_simkd_and_its_running_statistics_equal_the_golden_file():
    file = golden.load("imagenet_simkd")
    layers = (adapters.Layer(5), adapters.Layer(5, (3, 3), padding=1), adapters.Layer(10))
    names = golden_maps.sequential_names(layers, "simkd.transfer")
    params = golden_maps.read_params(file, layers, names)
    student_map, teacher_map = golden_maps.nhwc(file["in/f_s"]), golden_maps.nhwc(file["in/f_t"])
    teacher = golden_maps.outputs([teacher_map], head=golden_maps.read_head(file))
    teacher = teacher._replace(preactivations=())
    objective = objectives.create("simkd")
    initial = jax.jit(objective.init)(
        jax.random.key(0), golden_maps.outputs([student_map]), teacher
    )
    assert jax.tree.map(jnp.shape, initial.params) == jax.tree.map(jnp.shape, params)
    state = initial._replace(
        params=params, memory=golden_maps.running_statistics(file, names, "before")
    )

    def loss(params, x):
        trained = state._replace(params=params)
        return objective.loss(trained, golden_maps.outputs([x]), teacher, batches.NO_BATCH)[0]

    golden_maps.check_adapter_loss(file, loss, params, layers, names, student_map)

    step = jax.jit(objective.loss)
    _, memory = step(state, golden_maps.outputs([student_map]), teacher, batches.NO_BATCH)
    expected = golden_maps.running_statistics(file, names, "after")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6), memory, expected)
    # In training mode, the reference predicts with the batch's statistics.
    pooled = pooling.pool(student_map, 4, 4)
    transferred = jax.jit(adapters.apply, static_argnums=0)(layers, params, pooled)
    golden_maps.check_close(transferred, golden.to_nhwc(file["out/trans_feat_s"]))
    actual = functional.linear(jnp.mean(transferred, axis=(1, 2)), **golden_maps.read_head(file))
    golden_maps.check_close(actual, file["out/pred_feat_s"])


def _simkd(student_map, teacher, **options):
    objective = objectives.create("simkd", **options)
    state = objective.init(jax.random.key(0), golden_maps.outputs([student_map]), teacher)
    return objective, state


def test_simkd_predicts_each_example_with_the_running_statistics():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((6, 8, 8, 3)), jnp.float32)
    head = {"kernel": jnp.asarray(rng.standard_normal((4, 7)), jnp.float32), "bias": jnp.ones(7)}
    teacher = golden_maps.outputs([jnp.abs(x[:, ::2, ::2, :1].repeat(4, -1))], head=head)
    objective, state = _simkd(x, teacher)
    step = jax.jit(
        lambda state: objective.loss(state, golden_maps.outputs([x]), teacher, batches.NO_BATCH)[1]
    )
    # After many steps on one batch, the running statistics equal the batch's unbiased statistics.
    for _ in range(200):
        state = state._replace(memory=step(state))
    predict = jax.jit(objective.predict)
    actual = predict(state, golden_maps.outputs([x]))
    np.testing.assert_allclose(predict(state, golden_maps.outputs([x[:1]])), actual[:1], rtol=1e-4)
    layers = (adapters.Layer(2), adapters.Layer(2, (3, 3), padding=1), adapters.Layer(4))
    apply = jax.jit(adapters.apply, static_argnums=0)
    transferred = apply(layers, state.params, pooling.pool(x, 4, 4))
    expected = functional.linear(jnp.mean(transferred, axis=(1, 2)), **head)
    assert golden.relative(actual, expected) < 0.02


_LONG = ("resnet8", "vgg8", "shufflenetv1_cifar")


@pytest.mark.parametrize(
    "name", ["wrn_16_1", *(pytest.param(name, marks=pytest.mark.long) for name in _LONG)]
)
def test_the_pooled_map_is_the_input_of_the_teachers_classifier(name):
    network = networks.create(name, 5)
    variables = networks.init(network, jax.random.key(0), (16, 16, 3))
    images = np.random.default_rng(0).standard_normal((2, 16, 16, 3)).astype(np.float32)
    outputs = jax.jit(network.apply)(variables, images)
    pooled = jnp.mean(jax.nn.relu(outputs.preactivations[-1]), axis=(1, 2))
    assert golden.relative(functional.linear(pooled, **outputs.head), outputs.logits) < 1e-5


def test_teachers_that_do_not_fit_are_refused():
    x = jnp.ones((2, 4, 4, 3))
    head = {"kernel": jnp.ones((8, 2)), "bias": jnp.ones(2)}
    with pytest.raises(errors.InputError, match="reads 8 features, and the map has 3 channels"):
        _simkd(x, golden_maps.outputs([x], head=head))
    shapes = jax.eval_shape(lambda: golden_maps.outputs([x], head=head))
    with pytest.raises(errors.InputError, match="the teacher has no weights"):
        _simkd(x, shapes)
    with pytest.raises(errors.InputError, match="factor is 0"):
        objectives.create("simkd", factor=0)
