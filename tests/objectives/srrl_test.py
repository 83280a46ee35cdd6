import jax
import jax.numpy as jnp
import numpy as np

from rrd_jax import functional, objectives
from rrd_jax.objectives import ObjectiveState, srrl
from rrd_jax.objectives.parts import adapters
from tests import golden
from tests.objectives import batches, golden_maps


def test_srrl_equals_the_golden_file():
    file = golden.load("imagenet_srrl")
    layers = (adapters.Layer(20),)
    names = golden_maps.sequential_names(layers, "srrl.transfer")
    params = golden_maps.read_params(file, layers, names)
    teacher = golden_maps.outputs(
        embedding=file["in/f_t"], logits=file["in/logit_t"], head=golden_maps.read_head(file)
    )
    objective = objectives.create("srrl")

    def loss(params, embedding):
        student = golden_maps.outputs(embedding=embedding)
        return objective.loss(ObjectiveState(params), student, teacher, batches.NO_BATCH)[0]

    embedding = jnp.asarray(file["in/f_s"])
    value, (params_gradient, student_gradient) = golden_maps.jit_value_and_grad(loss)(
        params, embedding
    )
    golden_maps.check_close(value, file["out/loss"])
    gradients = golden_maps.torch_gradients(params_gradient, layers, names) | {
        "in/f_s": student_gradient
    }
    listed = {k: v for k, v in file.items() if not k.startswith("grad/param/cls_t")}
    golden_maps.check_gradients(listed, gradients)
    actual = jax.jit(adapters.apply_rows, static_argnums=0)(layers, params, embedding)
    golden_maps.check_close(actual, file["out/trans_feat_s"])
    golden_maps.check_close(
        functional.linear(actual, **golden_maps.read_head(file)), file["out/pred_feat_s"]
    )
    golden_maps.check_running_statistics(file, layers, params, names, embedding[:, None, None])


def test_the_teachers_classifier_has_no_gradient():
    rng = np.random.default_rng(0)
    head = {"kernel": jnp.asarray(rng.standard_normal((4, 3))), "bias": jnp.ones(3)}
    g, f, z = (jnp.asarray(rng.standard_normal((5, n))) for n in (4, 4, 3))
    gradient = jax.grad(lambda *args: jnp.sum(srrl.srrl_loss(g, *args)), argnums=(0, 1, 2))
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(gradient(f, z, head)))
