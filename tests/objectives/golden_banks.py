"""Memory banks in golden files."""

import jax.numpy as jnp
import numpy as np

from rrd_jax.objectives.parts import banks, memory, negatives


def read_banks(file, entry):
    """Returns the banks that a golden file stores under the prefix `entry`."""
    _, _, *constants, _ = file[f"{entry}params"]
    examples = len(file[f"{entry}memory_v1"])
    return banks.Banks(
        memory.Bank(jnp.asarray(file[f"{entry}memory_v1"])),
        memory.Bank(jnp.asarray(file[f"{entry}memory_v2"])),
        jnp.maximum(jnp.stack(constants), 0),
        negatives.init(examples),
    )


def check_banks(actual, file, entry):
    """Asserts that banks equal those of a golden file."""
    np.testing.assert_allclose(actual.student.rows, file[f"{entry}memory_v1"], rtol=0, atol=2e-7)
    np.testing.assert_allclose(actual.teacher.rows, file[f"{entry}memory_v2"], rtol=0, atol=2e-7)
    np.testing.assert_allclose(actual.constants, file[f"{entry}params"][2:4], rtol=3e-6)
