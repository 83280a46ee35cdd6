import jax
import jax.numpy as jnp
import pytest

from rrd_jax import errors, objectives
from rrd_jax.objectives import ObjectiveState, semckd
from rrd_jax.objectives.parts import pooling
from tests import golden
from tests.objectives import batches, golden_maps


def _semckd(file):
    """Returns the parameters, and (group, key, layers, names) for each adapter."""
    parts = []
    embedding = semckd._embedding(8)
    for group, letter, count in (("queries", "query", 2), ("keys", "key", 3)):
        for i in range(count):
            modules = [f"selfa.{letter}_{i}.linear{j}" for j in (1, 2)]
            names = golden_maps.layer_names(embedding, modules, None)
            parts.append((group, f"tap{i}", embedding, names))
    for i in range(2):
        for j, channels in enumerate((7, 9, 5)):
            layers = semckd._projection(channels)
            names = golden_maps.sequential_names(layers, f"selfa.regressor{i}{j}.regressor")
            parts.append(("projections", f"{i}_{j}", layers, names))
    params = {"queries": {}, "keys": {}, "projections": {}}
    for group, key, layers, names in parts:
        params[group][key] = golden_maps.read_params(file, layers, names)
    return params, parts


@pytest.mark.long
def test_semckd_equals_the_golden_file():
    file = golden.load("imagenet_semckd")
    student, teacher = golden_maps.maps(file, "s"), golden_maps.maps(file, "t")
    params, parts = _semckd(file)
    objective = objectives.create("semckd", batch_size=8)
    teacher_outputs = golden_maps.outputs(teacher)
    initial = jax.eval_shape(
        objective.init, jax.random.key(0), golden_maps.outputs(student), teacher_outputs
    )
    assert jax.tree.map(jnp.shape, initial.params) == jax.tree.map(jnp.shape, params)

    def loss(params, student):
        return objective.loss(
            ObjectiveState(params), golden_maps.outputs(student), teacher_outputs, batches.NO_BATCH
        )[0]

    value, (params_gradient, student_gradient) = golden_maps.jit_value_and_grad(loss)(
        params, student
    )
    golden_maps.check_close(value, file["out/loss"])
    golden_maps.check_close(
        semckd.semckd_attention(params, student, teacher), file["out/attention"]
    )
    gradients = golden_maps.torch_map_gradients(student_gradient)
    for group, key, layers, names in parts:
        gradients |= golden_maps.torch_gradients(params_gradient[group][key], layers, names)
    golden_maps.check_gradients(file, gradients)
    # The other parameters of the reference are not used.
    unused = set(file["meta/params_without_grad"])
    used = {name for *_, names in parts for name in names.values()}
    assert {f"param/{name}" for name in used | unused} == {k for k in file if k[:6] == "param/"}
    # The input of each projection is the pooled map.
    for group, key, layers, names in parts:
        if group == "projections":
            i, j = map(int, key.split("_"))
            pooled, _ = pooling.pool_larger(student[i], teacher[j])
            golden_maps.check_running_statistics(file, layers, params[group][key], names, pooled)


def test_semckd_refuses_other_batch_sizes():
    outputs = golden_maps.outputs([jnp.ones((4, 2, 2, 3))])
    objective = objectives.create("semckd", batch_size=8)
    state = objective.init(jax.random.key(0), outputs, outputs)
    with pytest.raises(errors.InputError, match="batch has 4 images, but semckd was created for 8"):
        objective.loss(state, outputs, outputs, batches.NO_BATCH)
    with pytest.raises(errors.InputError, match="multiple of 4"):
        objectives.create("semckd", batch_size=6)
