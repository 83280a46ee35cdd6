"""The banks of golden files."""

import jax.numpy as jnp
import numpy as np

from rrd_jax.objectives.parts import banks, memory, negatives


def banks_of(file, entry):
    """The state that a golden file's buffers hold."""
    _, _, *constants, _ = file[f"{entry}params"]
    examples = len(file[f"{entry}memory_v1"])
    return banks.Banks(
        memory.Bank(jnp.asarray(file[f"{entry}memory_v1"])),
        memory.Bank(jnp.asarray(file[f"{entry}memory_v2"])),
        jnp.maximum(jnp.stack(constants), 0),
        negatives.init(examples),
    )


def check_banks(found, file, entry):
    """Asserts that they are what a golden file's buffers hold."""
    np.testing.assert_allclose(found.student.rows, file[f"{entry}memory_v1"], rtol=0, atol=2e-7)
    np.testing.assert_allclose(found.teacher.rows, file[f"{entry}memory_v2"], rtol=0, atol=2e-7)
    np.testing.assert_allclose(found.constants, file[f"{entry}params"][2:4], rtol=3e-6)
