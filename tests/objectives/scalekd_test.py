"""ScaleKD against the published code, and its options."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import errors, objectives
from rrd_jax.networks import Outputs
from rrd_jax.objectives import ObjectiveState, scalekd
from tests import golden
from tests.objectives import batches

_FILE = golden.load("scalekd")
_LINEAR = {name: f"pos_attention.{name}" for name in "qkv"} | {"out": "pos_attention.proj"}


def _params(name):
    """Returns the parameters of a projector of the golden file."""

    def entry(field):
        return jnp.asarray(_FILE[f"param/{name}.{field}"])

    def linear(field):
        return {"kernel": entry(f"{field}.weight").T, "bias": entry(f"{field}.bias")}

    query = {"kernel": entry("proj_pos.0.weight")[..., 0, 0].T, "bias": entry("proj_pos.0.bias")}
    return {
        "entry": {
            "layer0": {
                "kernel": entry("proj_student.0.weight").transpose(2, 3, 1, 0),
                "bias": entry("proj_student.0.bias"),
                "scale": entry("proj_student.1.weight"),
                "shift": entry("proj_student.1.bias"),
            }
        },
        "positions": entry("pos_embed")[0].transpose(1, 2, 0),
        "queries": entry("query.weight"),
        "query": query,
        "mlp": {"hidden": linear("ffn.a"), "out": linear("ffn.b")},
        "scale": entry("norm.weight"),
        "shift": entry("norm.bias"),
        **{key: linear(field) for key, field in _LINEAR.items()},
    }


def _outputs(patches):
    return Outputs((), jnp.mean(patches, axis=(1, 2)), patches=patches)


_STUDENT, _TEACHER = (jnp.asarray(golden.to_nhwc(_FILE[f"in/{n}"])) for n in ("student", "teacher"))
_STATE = {"spatial": _params("projector_0"), "frequency": _params("projector_1")}


def test_scalekd_equals_the_published_code():
    # The reference divides the sum over the batch by the number of images.
    for name in ("spatial", "frequency"):
        other = {"spatial": "frequency", "frequency": "spatial"}[name]
        objective = objectives.create("scalekd", heads=2, **{f"weight_{other}": 0.0})
        state = ObjectiveState({name: _STATE[name]})
        losses, _ = objective.loss(state, _outputs(_STUDENT), _outputs(_TEACHER), batches.NO_BATCH)
        assert losses.shape == (len(_STUDENT),)
        np.testing.assert_allclose(jnp.mean(losses), _FILE[f"out/{name}"], rtol=1e-5)
    projected = scalekd.project(_STATE["spatial"], _STUDENT, 2, 5.0)
    assert golden.relative(projected, _FILE["out/projected"]) < 1e-5


def test_gradients_equal_the_published_code():
    objective = objectives.create("scalekd", heads=2)

    def loss(params, student):
        pair = _outputs(student), _outputs(_TEACHER)
        return jnp.mean(objective.loss(ObjectiveState(params), *pair, batches.NO_BATCH)[0])

    params, student = jax.jit(jax.grad(loss, (0, 1)))(_STATE, _STUDENT)
    spatial, frequency = params["spatial"], params["frequency"]
    actual = {
        "student": student.transpose(0, 3, 1, 2),
        "projector_0.query.weight": spatial["queries"],
        "projector_0.proj_student.0.weight": spatial["entry"]["layer0"]["kernel"].transpose(
            3, 2, 0, 1
        ),
        "projector_1.pos_attention.k.weight": frequency["k"]["kernel"].T,
        "projector_1.pos_embed": frequency["positions"].transpose(2, 0, 1)[None],
    }
    for name, gradient in actual.items():
        assert golden.relative(gradient, _FILE[f"grad/{name}"]) < 1e-4, name


def test_the_initial_state_has_queries_for_the_grid_of_the_teacher():
    student, teacher = _outputs(jnp.ones((2, 5, 4, 6))), _outputs(jnp.ones((2, 3, 2, 8)))
    objective = objectives.create("scalekd")
    state = objective.init(jax.random.key(0), student, teacher)
    assert state.params["frequency"]["queries"].shape == (6, 8)
    losses, _ = objective.loss(state, student, teacher, batches.NO_BATCH)
    assert np.isfinite(losses).all()
    expected = jax.tree.map(jnp.shape, _STATE["spatial"])
    square = objective.init(jax.random.key(0), _outputs(_STUDENT), _outputs(_TEACHER))
    assert jax.tree.map(jnp.shape, square.params["spatial"]) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight_spatial": 0, "weight_frequency": 0}, "are 0, so nothing is compared"),
        ({"weight_spatial": -1.0}, "weight_spatial is -1"),
        ({"sharpness": 0.0}, "sharpness is 0"),
        ({"heads": 0}, "heads is 0"),
        ({"heads": 3}, "heads is 3, but must divide the 8 channels"),
    ],
)
def test_invalid_options_are_refused(options, message):
    with pytest.raises(errors.InputError, match=message):
        objectives.create("scalekd", **options).init(
            jax.random.key(0), _outputs(_STUDENT), _outputs(_TEACHER)
        )
