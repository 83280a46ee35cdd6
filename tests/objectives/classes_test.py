"""A record's `needs_classes` agrees with what the objective's loss reads."""

import jax
import jax.numpy as jnp
import pytest

from rrd_jax import objectives
from rrd_jax.objectives.batch import Batch, SecondView
from tests.objectives import toy


@pytest.mark.parametrize("name", objectives.RECORDS)
def test_only_objectives_that_need_common_classes_read_logits_or_classifier(name):
    record = objectives.RECORDS[name]
    sizes = {"examples": 16, "batch_size": 8, "queue_size": 8, "negatives": 8}
    options = {key: value for key, value in sizes.items() if objectives.takes(name, key)}
    objective = objectives.create(name, **options)
    outputs = jax.eval_shape(lambda: toy.outputs(0))
    number = jax.ShapeDtypeStruct((8,), jnp.int32)
    batch = Batch(jax.ShapeDtypeStruct((8, 8, 8, 3), jnp.float32), number, number, number)

    def losses(classes, student, teacher, batch, key):
        teacher = teacher._replace(logits=classes[0], head=classes[1])
        state = objective.init(key, student, teacher)
        batch = batch._replace(second=SecondView(student, teacher))
        total = jnp.mean(objective.loss(state, student, teacher, batch)[0])
        if objective.stage:
            total += jnp.mean(objective.stage.loss(state, student, teacher, batch)[0])
        if objective.predict:
            total += jnp.mean(objective.predict(state, student))
        return total

    classes = outputs.logits, outputs.head
    key = jax.random.key(0)
    program = jax.make_jaxpr(losses)(classes, outputs, outputs, batch, key).jaxpr
    inputs = program.invars[: len(jax.tree.leaves(classes))]
    read = any(variable is v for e in program.eqns for v in e.invars for variable in inputs)
    assert read == record.needs_classes
