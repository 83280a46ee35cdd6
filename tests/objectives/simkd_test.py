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
from tests.objectives import adapted, batches


def _head(file):
    return {"kernel": jnp.asarray(file["param/cls_t.weight"].T), "bias": file["param/cls_t.bias"]}


def test_golden_simkd_with_its_running_statistics():
    file = golden.load("imagenet_simkd")
    layers = (adapters.Layer(5), adapters.Layer(5, (3, 3), padding=1), adapters.Layer(10))
    names = adapted.sequential(layers, "simkd.transfer")
    params = adapted.read(file, layers, names)
    student_map, teacher_map = adapted.nhwc(file["in/f_s"]), adapted.nhwc(file["in/f_t"])
    teacher = adapted.outputs([teacher_map], head=_head(file))
    teacher = teacher._replace(preactivations=())
    objective = objectives.create("simkd")
    fresh = jax.jit(objective.init)(jax.random.key(0), adapted.outputs([student_map]), teacher)
    assert jax.tree.map(jnp.shape, fresh.params) == jax.tree.map(jnp.shape, params)
    state = fresh._replace(params=params, memory=adapted.running(file, names, "before"))

    def loss(params, x):
        own = state._replace(params=params)
        return objective.loss(own, adapted.outputs([x]), teacher, batches.NO_BATCH)[0]

    value, (of_params, of_student) = adapted.jitted(loss)(params, student_map)
    adapted.check(value, file["out/loss"])
    gradients = adapted.torch_names(of_params, layers, names)
    gradients["in/f_s"] = np.transpose(of_student, (0, 3, 1, 2))
    adapted.check_gradients(file, gradients)

    step = jax.jit(objective.loss)
    _, memory = step(state, adapted.outputs([student_map]), teacher, batches.NO_BATCH)
    wanted = adapted.running(file, names, "after")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6), memory, wanted)
    # In training mode, the reference's prediction is by the batch's statistics.
    pooled = pooling.pool(student_map, 4, 4)
    transferred = jax.jit(adapters.apply, static_argnums=0)(layers, params, pooled)
    adapted.check(transferred, golden.to_nhwc(file["out/trans_feat_s"]))
    found = functional.linear(jnp.mean(transferred, axis=(1, 2)), **_head(file))
    adapted.check(found, file["out/pred_feat_s"])


def _simkd(student_map, teacher, **options):
    objective = objectives.create("simkd", **options)
    state = objective.init(jax.random.key(0), adapted.outputs([student_map]), teacher)
    return objective, state


def test_simkd_predicts_each_example_alone_by_what_it_learned():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((6, 8, 8, 3)), jnp.float32)
    head = {"kernel": jnp.asarray(rng.standard_normal((4, 7)), jnp.float32), "bias": jnp.ones(7)}
    teacher = adapted.outputs([jnp.abs(x[:, ::2, ::2, :1].repeat(4, -1))], head=head)
    objective, state = _simkd(x, teacher)
    step = jax.jit(
        lambda state: objective.loss(state, adapted.outputs([x]), teacher, batches.NO_BATCH)[1]
    )
    for _ in range(200):  # the same batch: running statistics become the batch's, but unbiased
        state = state._replace(memory=step(state))
    predict = jax.jit(objective.predict)
    found = predict(state, adapted.outputs([x]))
    np.testing.assert_allclose(predict(state, adapted.outputs([x[:1]])), found[:1], rtol=1e-4)
    layers = (adapters.Layer(2), adapters.Layer(2, (3, 3), padding=1), adapters.Layer(4))
    apply = jax.jit(adapters.apply, static_argnums=0)
    transferred = apply(layers, state.params, pooling.pool(x, 4, 4))
    wanted = functional.linear(jnp.mean(transferred, axis=(1, 2)), **head)
    assert golden.relative(found, wanted) < 0.02


_LONG = ("resnet8", "vgg8", "shufflenetv1_cifar")


@pytest.mark.parametrize(
    "name", ["wrn_16_1", *(pytest.param(name, marks=pytest.mark.long) for name in _LONG)]
)
def test_a_perfect_projector_would_give_the_teachers_logits(name):
    """The map that SimKD compares with is the one that the teacher's classifier reads, pooled."""
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
        _simkd(x, adapted.outputs([x], head=head))
    shapes = jax.eval_shape(lambda: adapted.outputs([x], head=head))
    with pytest.raises(errors.InputError, match="the teacher has no weights"):
        _simkd(x, shapes)
    with pytest.raises(errors.InputError, match="factor is 0"):
        objectives.create("simkd", factor=0)
