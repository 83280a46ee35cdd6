"""SemCKD: cross-layer distillation (arXiv 2012.03236)."""

import jax
import jax.numpy as jnp

from rrd_jax import errors
from rrd_jax.objectives.base import Objective, ObjectiveState, Record
from rrd_jax.objectives.parts import adapters
from rrd_jax.objectives.parts.adapters import Layer
from rrd_jax.objectives.parts.arithmetic import mean_square, unit
from rrd_jax.objectives.parts.maps import Maps, stage_maps
from rrd_jax.objectives.parts.pooling import pool_larger

# Ratio of the batch size to the dimension of queries and keys.
_FACTOR = 4


def semckd_attention(
    params: dict, student: Maps, teacher: Maps, *, temperature: float = 1.0
) -> jax.Array:
    """Computes the attention of each student tap over the teacher's taps.

    A small network per tap maps an example's similarities to the batch to a query (student) or key
    (teacher) of length 1. The attention is the softmax over the teacher's taps of their products.

    Args:
      params: {"queries": {tap: ...}, "keys": {tap: ...}}, from the state of `semckd`.
      student: S maps [B, H, W, channels].
      teacher: T maps, constant for gradients.
      temperature: softmax temperature, > 0.

    Returns:
      [B, S, T], with sum 1 over the teacher's taps.
    """
    errors.check_positive(temperature=temperature)
    layers = _embedding(len(student[0]))

    def embed(tap_params, x):
        rows = x.astype(jnp.float32).reshape(len(x), -1)
        similarities = jnp.matmul(rows, rows.T, precision="highest")
        return unit(adapters.apply_rows(layers, tap_params, similarities))

    teacher = jax.lax.stop_gradient(teacher)
    queries = [embed(params["queries"][f"tap{i}"], x) for i, x in enumerate(student)]
    keys = [embed(params["keys"][f"tap{j}"], x) for j, x in enumerate(teacher)]
    queries, keys = jnp.stack(queries, axis=1), jnp.stack(keys, axis=1)
    products = jnp.einsum("bsd,btd->bst", queries, keys, precision="highest")
    return jax.nn.softmax(products / temperature, axis=-1)


def semckd_loss(
    params: dict, student: Maps, teacher: Maps, *, temperature: float = 1.0
) -> jax.Array:
    """Computes SemCKD: distances between all taps of both networks, weighted by attention.

        loss = 1/S sum_ij attention_ij mean_hwc (p_ij(F_i) - F_j)^2

    Args:
      params: {"queries", "keys", "projections": {"<i>_<j>": ...}}, from the state of `semckd`.
      student: S maps [B, H, W, channels].
      teacher: T maps, constant for gradients; the larger map of a pair is pooled first.
      temperature: softmax temperature of the attention, > 0.

    Returns:
      [B] losses >= 0.

    References:
      Chen et al., arXiv 2012.03236.
    """
    weights = semckd_attention(params, student, teacher, temperature=temperature)
    total = 0.0
    for i, tap_s in enumerate(student):
        for j, tap_t in enumerate(teacher):
            s, t = pool_larger(tap_s, tap_t)
            layers, projection = _projection(t.shape[-1]), params["projections"][f"{i}_{j}"]
            error = mean_square(adapters.apply(layers, projection, s), t)
            total += weights[:, i, j] * error
    return total / len(student)


def semckd(*, batch_size: int = 64, temperature: float = 1.0) -> Objective:
    """Builds SemCKD on all taps after the stem; see `semckd_loss`.

    The parameters' shapes depend on the batch size, and the loss on the order of the batch.

    Args:
      batch_size: size B of the batch that `loss` receives, a multiple of 4; the microbatch if
        gradients are accumulated. Set by the trainer.
      temperature: softmax temperature of the attention, > 0.

    Raises:
      InputError: a value is out of range; in `loss`, the batch size differs.
    """
    errors.check_positive(batch_size=batch_size, temperature=temperature)
    if batch_size % _FACTOR:
        raise errors.InputError(f"batch_size is {batch_size}, but must be a multiple of {_FACTOR}")

    def init(key, student, teacher):
        return ObjectiveState(params=_init(key, *stage_maps(student, teacher), batch_size))

    def loss(state, student, teacher, batch):
        del batch
        if len(student.maps[-1]) != batch_size:
            raise errors.InputError(
                f"the batch has {len(student.maps[-1])} images, but semckd was created for"
                f" {batch_size}; set its option batch_size to the size of the batch"
            )
        taps = stage_maps(student, teacher)
        return semckd_loss(state.params, *taps, temperature=temperature), state.memory

    return Objective(init, loss)


def _init(key: jax.Array, student: Maps, teacher: Maps, batch_size: int) -> dict:
    """Initializes the parameters of `semckd_loss`."""
    queries_key, keys_key, key = jax.random.split(key, 3)
    layers = _embedding(batch_size)

    def embeddings(key, taps):
        return adapters.init_per_tap(key, [layers] * len(taps), [batch_size] * len(taps))

    projections = {
        f"{i}_{j}": adapters.init(
            jax.random.fold_in(key, i * len(teacher) + j),
            _projection(t.shape[-1]),
            s.shape[-1],
        )
        for i, s in enumerate(student)
        for j, t in enumerate(teacher)
    }
    return {
        "queries": embeddings(queries_key, student),
        "keys": embeddings(keys_key, teacher),
        "projections": projections,
    }


def _embedding(batch_size: int) -> tuple[Layer, ...]:
    length = batch_size // _FACTOR
    hidden = Layer(2 * length, bias=True, norm=False)
    return hidden, Layer(length, bias=True, norm=False, slope=1.0)


def _projection(channels: int) -> tuple[Layer, ...]:
    wide = 2 * channels
    return Layer(wide), Layer(wide, (3, 3), padding=1), Layer(channels, norm=False, slope=1.0)


RECORD = Record(
    semckd,
    "all pairs of maps, weighted by attention",
    "arXiv 2012.03236",
    weight=400.0,
    company={"kd": 1.0},
    filled_in=("batch_size",),
    needs_classes=False,
)
