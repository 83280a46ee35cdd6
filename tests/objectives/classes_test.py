"""What records say of classes is true: who needs none in common looks at no logits."""

import jax
import jax.numpy as jnp
import pytest

from rrd_jax import errors, networks, objectives
from rrd_jax.objectives import ObjectiveState, border
from rrd_jax.objectives.batch import Batch

_SIZE = 4
_FILLED = {"examples": 16, "batch_size": _SIZE}


@pytest.mark.parametrize("name", objectives.RECORDS)
def test_who_needs_no_common_classes_reads_neither_logits_nor_classifier(name):
    record = objectives.RECORDS[name]
    options = {option: _FILLED[option] for option in record.filled_in}
    if name in ("crd", "rrd"):
        options["negatives" if name == "crd" else "queue_size"] = 8
    objective = objectives.create(name, **options)
    network = networks.create("resnet8", 10)
    variables = jax.eval_shape(lambda: networks.init(network, jax.random.key(0), (8, 8, 1)))
    images = jax.ShapeDtypeStruct((_SIZE, 8, 8, 1), jnp.float32)
    outputs = jax.eval_shape(network.apply, variables, images)
    number = jax.ShapeDtypeStruct((_SIZE,), jnp.int32)
    hidden = dict.fromkeys(("logits", "head"), "which is hidden")

    def losses(key, student, teacher, batch):
        teacher = border._speaking(name, "teacher", teacher, hidden)
        state = objective.init(key, student, teacher)
        total = objective.loss(ObjectiveState(*state), student, teacher, batch)[0]
        if objective.stage:
            total += jnp.mean(objective.stage.loss(state, student, teacher, batch)[0])
        return total

    arguments = (jax.random.key(0), outputs, outputs, Batch(images, number, number, number))
    if record.needs_classes:
        with pytest.raises(errors.InputError, match="hidden|reads teacher.head"):
            jax.eval_shape(losses, *arguments)
    else:
        assert jax.eval_shape(losses, *arguments).shape in ((), (_SIZE,))
