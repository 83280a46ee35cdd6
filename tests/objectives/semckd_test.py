import jax
import jax.numpy as jnp
import pytest

from rrd_jax import errors, objectives
from rrd_jax.objectives import ObjectiveState, semckd
from rrd_jax.objectives.parts import pooling
from tests import golden
from tests.objectives import adapted, batches


def _semckd(file):
    """Parameters, and (group, key, layers, names) of each adapter."""
    parts = []
    embedding = semckd._embedding(8)
    for group, letter, count in (("queries", "query", 2), ("keys", "key", 3)):
        for i in range(count):
            modules = [f"selfa.{letter}_{i}.linear{j}" for j in (1, 2)]
            names = adapted.layer_names(embedding, modules, None)
            parts.append((group, f"tap{i}", embedding, names))
    for i in range(2):
        for j, channels in enumerate((7, 9, 5)):
            layers = semckd._projection(channels)
            names = adapted.sequential(layers, f"selfa.regressor{i}{j}.regressor")
            parts.append(("projections", f"{i}_{j}", layers, names))
    params = {"queries": {}, "keys": {}, "projections": {}}
    for group, key, layers, names in parts:
        params[group][key] = adapted.read(file, layers, names)
    return params, parts


def test_golden_semckd():
    file = golden.load("imagenet_semckd")
    student, teacher = adapted.maps(file, "s"), adapted.maps(file, "t")
    params, parts = _semckd(file)
    objective = objectives.create("semckd", batch_size=8)
    other = adapted.outputs(teacher)
    fresh = jax.eval_shape(objective.init, jax.random.key(0), adapted.outputs(student), other)
    assert jax.tree.map(jnp.shape, fresh.params) == jax.tree.map(jnp.shape, params)

    def loss(params, student):
        return objective.loss(
            ObjectiveState(params), adapted.outputs(student), other, batches.NO_BATCH
        )[0]

    value, (of_params, of_student) = adapted.jitted(loss)(params, student)
    adapted.check(value, file["out/loss"])
    adapted.check(semckd.semckd_attention(params, student, teacher), file["out/attention"])
    gradients = adapted.torch_maps(of_student)
    for group, key, layers, names in parts:
        gradients |= adapted.torch_names(of_params[group][key], layers, names)
    adapted.check_gradients(file, gradients)
    # PyTorch's other parameters are the ones that nothing reads.
    unused = set(file["meta/params_without_grad"])
    used = {name for *_, names in parts for name in names.values()}
    assert {f"param/{name}" for name in used | unused} == {k for k in file if k[:6] == "param/"}
    # The projections' statistics: each sees the pooled maps.
    for group, key, layers, names in parts:
        if group == "projections":
            i, j = map(int, key.split("_"))
            pooled, _ = pooling.pool_larger(student[i], teacher[j])
            adapted.check_running(file, layers, params[group][key], names, pooled)


def test_semckd_names_its_batch_size():
    outputs = adapted.outputs([jnp.ones((4, 2, 2, 3))])
    objective = objectives.create("semckd", batch_size=8)
    state = objective.init(jax.random.key(0), outputs, outputs)
    with pytest.raises(errors.InputError, match="batch has 4 images, but semckd was created for 8"):
        objective.loss(state, outputs, outputs, batches.NO_BATCH)
    with pytest.raises(errors.InputError, match="multiple of 4"):
        objectives.create("semckd", batch_size=6)
