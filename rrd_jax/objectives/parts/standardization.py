"""Standardization of a teacher's features, so that no teacher or channel dominates a distance."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rrd_jax import errors

# "channels": mean and standard deviation of each channel, measured once (EUPE, arXiv 2603.22387).
# "phi_s": a rotation to channels of equal variance, measured once (PHI-S, arXiv 2410.01680).
# "running": running mean and standard deviation of each channel (UNIC, arXiv 2408.05088).
KINDS = ("none", "channels", "phi_s", "running")
MEASURED = ("channels", "phi_s")
# The last momentum of running statistics, and the smallest standard deviation.
_LAST, _FLOOR = 1e-3, 1e-3


def init(kind: str, dim: int) -> tuple[Any, Any]:
    """Returns the state of a standardization, as parts of (frozen, memory) of an objective.

    Args:
      kind: a name in KINDS. Until `measure` replaces it, a measured state changes nothing.
      dim: number D of channels.
    """
    mean, std = jnp.zeros(dim), jnp.ones(dim)
    if kind == "phi_s":
        return {"mean": mean, "matrix": jnp.eye(dim)}, ()
    if kind == "channels":
        return {"mean": mean, "std": std}, ()
    if kind == "running":
        return (), {"mean": mean, "std": std, "updates": jnp.int32(0)}
    return (), ()


def apply(frozen: Any, memory: Any, features: jax.Array) -> jax.Array:
    """Standardizes features [..., D]; returns float32.

    Args:
      frozen: the first part of `init`.
      memory: the second part of `init`.
      features: the teacher's features.
    """
    state, features = frozen or memory, features.astype(jnp.float32)
    if not state:
        return features
    rows = features.reshape(-1, features.shape[-1]) - state["mean"][None]
    if "matrix" in state:
        rows = jnp.matmul(rows, state["matrix"], precision=jax.lax.Precision.HIGHEST)
    else:
        rows = rows / state["std"][None]
    return rows.reshape(features.shape)


def restored(frozen: Any, memory: Any, layer: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Returns a linear layer whose outputs are not standardized, from one whose outputs are."""
    state = frozen or memory
    if not state:
        return layer
    if "matrix" in state:
        # The matrix is orthogonal except for a factor.
        matrix = state["matrix"]
        inverse = matrix.T * (len(matrix) / jnp.sum(jnp.square(matrix)))
        kernel, bias = layer["kernel"] @ inverse, layer["bias"] @ inverse
    else:
        kernel, bias = layer["kernel"] * state["std"][None], layer["bias"] * state["std"]
    return {"kernel": kernel, "bias": bias + state["mean"]}


def updated(memory: Any, features: jax.Array, total_steps: int) -> Any:
    """Returns the running statistics after a batch; () if there are none.

    The momentum, which is the weight of the batch, falls from 1 to 0.001 on a cosine.

    Args:
      memory: the second part of `init`.
      features: the teacher's features [..., D] of the batch, over all devices.
      total_steps: number of batches of the run.
    """
    if not memory:
        return memory
    rows = features.astype(jnp.float32).reshape(-1, features.shape[-1])
    share = jnp.minimum(memory["updates"] / total_steps, 1.0)
    momentum = _LAST + (1 - _LAST) * (1 + jnp.cos(jnp.pi * share)) / 2
    std = jnp.maximum(jnp.std(rows, axis=0), _FLOOR)
    return {
        "mean": (1 - momentum) * memory["mean"] + momentum * jnp.mean(rows, axis=0),
        "std": (1 - momentum) * memory["std"] + momentum * std,
        "updates": memory["updates"] + 1,
    }


def measure(kind: str, features: np.ndarray) -> Any:
    """Returns the frozen state for a teacher's features, in float64.

    PHI-S is t' = H U^T (t - mean) / phi, with U the eigenvectors of the covariance S, H a Hadamard
    matrix over sqrt(D), and phi^2 = tr S / D: each channel of t' has variance 1. The sign of each
    eigenvector is that of its largest component.

    Args:
      kind: a name in MEASURED.
      features: [N, D].

    Raises:
      InputError: all features are equal, PHI-S has N <= D, or there is no Hadamard matrix of order
        D.
    """
    rows = features.astype(np.float64)
    mean = rows.mean(0)
    rows -= mean
    std = np.sqrt(np.mean(rows**2, axis=0))
    if not std.any():
        raise errors.InputError(
            f"standardize is '{kind}', but the teacher's features of {len(rows):,} images or"
            " patches are all equal; check the teacher's weights, or set standardize='none'"
        )
    if kind == "phi_s" and len(rows) <= rows.shape[1]:
        # Their covariance has eigenvectors that rounding chooses.
        raise errors.InputError(
            f"standardize is 'phi_s', which is measured on at most {len(rows):,} images or patches"
            f" here, but needs more than the {rows.shape[1]:,} channels of the teacher's features;"
            " use more training images, or set standardize='channels'"
        )
    if kind == "channels":
        return {"mean": np.float32(mean), "std": np.float32(np.maximum(std, _FLOOR))}
    scale = math.sqrt(np.mean(std**2))
    _, vectors = np.linalg.eigh(rows.T @ rows / len(rows))
    largest = np.take_along_axis(vectors, np.abs(vectors).argmax(0)[None], axis=0)
    matrix = vectors * np.sign(largest) @ hadamard(len(mean)).T / (math.sqrt(len(mean)) * scale)
    return {"mean": np.float32(mean), "matrix": np.float32(matrix)}


def check_order(order: int) -> None:
    """Raises an InputError if `hadamard` has no matrix of this order."""
    if _core(order) is None:
        raise errors.InputError(
            f"standardize is 'phi_s', but the teacher's features have {order} channels, for which"
            " no Hadamard matrix is known here; set standardize='channels'"
        )


def hadamard(order: int) -> np.ndarray:
    """Returns a matrix of 1 and -1 with orthogonal rows: Sylvester's, times one of Paley's.

    Args:
      order: number of rows; 2^k, 2^k (q + 1) for a prime q with remainder 3 of division by 4, or
        2^k 2 (q + 1) for a prime q with remainder 1.

    Raises:
      InputError: there is no such matrix.
    """
    check_order(order)
    matrix = _paley(_core(order))
    while len(matrix) < order:
        matrix = np.kron([[1, 1], [1, -1]], matrix)
    return matrix


def _core(order: int) -> int | None:
    """Returns the order of Paley's factor, 1 for none; None if there is no factorization."""
    while order >= 1:
        if order == 1 or _paley_prime(order):
            return order
        if order % 2:
            break
        order //= 2
    return None


def _paley_prime(order: int) -> int:
    """Returns the prime of Paley's matrix of this order; 0 if there is none."""
    candidates = (order - 1, 3), (order // 2 - 1, 1)
    for prime, remainder in candidates:
        if order % 4 == 0 and prime % 4 == remainder and _is_prime(prime):
            return prime
    return 0


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, math.isqrt(number) + 1))


def _paley(order: int) -> np.ndarray:
    """Returns Paley's matrix of an order that `_core` returns."""
    if order == 1:
        return np.ones((1, 1))
    prime = _paley_prime(order)
    squares = {i * i % prime for i in range(1, prime)}
    character = np.array([0] + [1 if i in squares else -1 for i in range(1, prime)])
    differences = (np.arange(prime)[None] - np.arange(prime)[:, None]) % prime
    bordered = np.ones((prime + 1, prime + 1))
    bordered[1:, 1:] = character[differences]
    bordered[0, 0] = 0
    if prime == order - 1:
        bordered[1:, 0] = -1
        return bordered + np.eye(order)
    # The symmetric matrix of the second construction.
    return np.kron(bordered, [[1, 1], [1, -1]]) + np.kron(np.eye(prime + 1), [[1, -1], [-1, -1]])
