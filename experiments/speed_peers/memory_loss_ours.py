"""Times RRD's loss and its gradient; experiments/memory_loss.py starts this program.

The argument is a task as JSON. Each line of input names a case, "FORM B K"; the answer is a line of
JSON with the seconds a call, median of as many calls as last a fifth of a second.
"""

import json
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from rrd_jax import relational_loss

_PEAK = 1024  # rows and columns of the matrix whose square is the processor's own peak
_TEMPERATURES = {"temperature_student": 0.04, "temperature_teacher": 0.1}


def _unit(key: jax.Array, size: int, dim: int) -> jax.Array:
    rows = jax.random.normal(key, (size, dim))
    return rows / jnp.linalg.norm(rows, axis=1, keepdims=True)


def _value(student, teacher, rows):
    return jnp.mean(relational_loss(student, teacher, rows, **_TEMPERATURES))


_FORMS = {"value": jax.jit(_value), "gradient": jax.jit(jax.value_and_grad(_value))}
_UNIT, _SQUARE = jax.jit(_unit, static_argnums=(1, 2)), jax.jit(lambda matrix: matrix @ matrix)


def seconds(function, arrays, clock) -> float:
    """A call's, after one that warms up."""
    jax.block_until_ready(function(*arrays))
    found, end = [], clock() + 0.2
    while clock() < end or not found:
        start = clock()
        jax.block_until_ready(function(*arrays))
        found.append(clock() - start)
    return float(np.median(found))


def _main() -> None:
    task = json.loads(sys.argv[1])
    clock = time.process_time if task["cpu_time"] else time.perf_counter
    ready = {
        "platform": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "versions": {"jax": jax.__version__},
    }
    print(json.dumps(ready), flush=True)
    for line in sys.stdin:
        _, form, batch, size = line.split()  # the first asks for a round
        keys = jax.random.split(jax.random.key(0), 3)
        if form == "peak":
            function, arrays = _SQUARE, [jax.random.normal(keys[0], (_PEAK, _PEAK))]
        else:
            sizes = (int(batch), int(batch), int(size))
            arrays = [_UNIT(key, n, task["dim"]) for key, n in zip(keys, sizes, strict=True)]
            function = _FORMS[form]
        print(json.dumps({"seconds": seconds(function, arrays, clock)}), flush=True)


if __name__ == "__main__":
    _main()
