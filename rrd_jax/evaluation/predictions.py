"""What a network predicts for every example of a split, and figures of that."""

import contextlib
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rrd_jax import networks, parallel
from rrd_jax.cpu import compiling
from rrd_jax.evaluation import knn
from rrd_jax.objectives import Objective, ObjectiveState, classifier
from rrd_jax.training import metrics

Predictions = dict[str, np.ndarray]


def make_apply(
    network: networks.Network, objectives: Mapping[str, Objective] | None = None
) -> Callable[[Any, jax.Array], networks.Outputs]:
    """A network as it is evaluated, with the logits of what classifies in its place, if any.

    Args:
      network: of `networks.create`.
      objectives: by name, one of which may classify; its state is then in the variables.

    Returns:
      (variables, normalised images [B, H, W, channels]) -> Outputs.
    """
    name = classifier(dict(objectives or {}))
    classify = objectives[name].predict if name else None

    def apply(variables, images):
        bare = {name: value for name, value in variables.items() if name != "classifier"}
        outputs = network.apply(bare, images, train=False)
        if not classify:
            return outputs
        state = ObjectiveState(**variables["classifier"])
        return outputs._replace(logits=classify(state, outputs))

    return apply


def make_predict(
    network: networks.Network,
    normalize: Callable[[jax.Array], jax.Array],
    objectives: Mapping[str, Objective] | None = None,
) -> Callable[[Any, jax.Array, jax.Array], dict[str, jax.Array]]:
    """Evaluation of a batch, example by example, so that padding can be cut off exactly.

    Args:
      network: of `networks.create`.
      normalize: uint8 images to what the network sees.
      objectives: by name, one of which may classify in the network's place; its state is then in
        the variables.

    Returns:
      (variables, images [B, H, W, channels], labels [B]) -> {"prediction": [B] int32,
      "rank": [B] int32, the number of classes put before the label, "loss": [B] cross-entropy in
      nats, "label": [B]}.
    """
    apply = make_apply(network, objectives)

    def predict(variables, images, labels):
        return from_logits(apply(variables, normalize(images)).logits, labels)

    return predict


def from_logits(logits: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
    """What `make_predict`'s function returns, from logits [B, C] and labels [B]."""
    return {
        "prediction": jnp.argmax(logits, axis=-1),
        "rank": metrics.rank(logits, labels),
        "loss": optax.softmax_cross_entropy_with_integer_labels(logits, labels),
        "label": labels,
    }


def compile_predict(
    network: networks.Network,
    normalize: Callable,
    mesh: jax.sharding.Mesh,
    objectives: Mapping[str, Objective] | None = None,
    *,
    fast_cpu: bool = True,
) -> Callable:
    """`make_predict`, compiled; every process gets the whole batch's figures.

    Runs with the same network share the function, which is compiled once.
    """
    terms = dict(objectives or {})
    is_shared = not classifier(terms)
    try:
        hash((network, normalize, mesh))
    except TypeError:  # A custom network may not be hashable.
        is_shared = False
    if is_shared:
        return _shared_predict(network, normalize, mesh, fast_cpu)
    return _compile_predict(network, normalize, mesh, fast_cpu, terms)


def _compile_predict(network, normalize, mesh, fast_cpu, objectives=None):
    predict = make_predict(network, normalize, objectives)
    replicated = parallel.replicated(mesh)
    return compiling.jit_for_mesh(predict, mesh, fast_cpu=fast_cpu, out_shardings=replicated)


_shared_predict = functools.lru_cache(8)(_compile_predict)


class StoppedError(Exception):
    """The predictions are not complete, because the run is to stop."""


def collect(
    predict: Callable,
    variables: Any,
    split: Any,
    batch_size: int,
    mesh: jax.sharding.Mesh,
    stop: Callable[[], bool] = lambda: False,
) -> Predictions:
    """`prediction`, `rank`, `loss` and `label` [N] of every example, each exactly once.

    Args:
      predict: compiled, of `compile_predict`.
      variables: of its network.
      split: of a data set.
      batch_size: images at once, over all devices, at most.
      mesh: the devices.
      stop: whether to break off; asked after each batch.

    Raises:
      StoppedError: `stop` said so.
    """
    parts, batch_size = [], even_batch(len(split), batch_size, mesh.size)
    with contextlib.closing(split.test_batches(batch_size, parallel.process_share())) as batches:
        for batch in batches:
            batch = parallel.put_batch(mesh, batch)
            parts.append(predict(variables, batch["image"], batch["label"]))
            if stop():
                raise StoppedError
    names = ("prediction", "rank", "loss", "label")
    parts = jax.device_get(parts)
    return {name: np.concatenate([p[name] for p in parts])[: len(split)] for name in names}


def compile_embed(
    network: networks.Network,
    normalize: Callable,
    mesh: jax.sharding.Mesh,
    *,
    fast_cpu: bool = True,
) -> Callable:
    """(variables, images [B, H, W, channels], labels [B]) -> (embeddings [B, D], labels), compiled.

    Of several networks as one, embeddings have as cosines the weighted mean of theirs. Every
    process gets the whole batch's.
    """

    def embed(variables, images, labels):
        bare = {name: value for name, value in variables.items() if name != "classifier"}
        outputs = network.apply(bare, normalize(images), train=False)
        if not hasattr(outputs, "members"):
            return outputs.embedding.astype(jnp.float32), labels
        units = [
            share**0.5 * knn.unit(member.embedding)
            for share, member in zip(network.weights, outputs.members, strict=True)
        ]
        return jnp.concatenate(units, axis=-1), labels

    replicated = parallel.replicated(mesh)
    return compiling.jit_for_mesh(
        embed, mesh, fast_cpu=fast_cpu, out_shardings=(replicated, replicated)
    )


def collect_embeddings(
    embed: Callable,
    variables: Any,
    split: Any,
    batch_size: int,
    mesh: jax.sharding.Mesh,
    after: Callable[[float], None] = lambda share: None,
) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings [N, D] float32 and labels [N] of a split, seen as test images.

    Args:
      embed: compiled, of `compile_embed`.
      variables: of its network.
      split: of a data set.
      batch_size: images at once, over all devices, at most.
      mesh: the devices.
      after: is told the share that is done, after each batch, and may raise.
    """
    batch_size = even_batch(len(split), batch_size, mesh.size)
    rows, labels, done = None, np.zeros(len(split), np.int32), 0
    with contextlib.closing(split.test_batches(batch_size, parallel.process_share())) as batches:
        for batch in batches:
            batch = parallel.put_batch(mesh, batch)
            part = jax.device_get(embed(variables, batch["image"], batch["label"]))
            if rows is None:
                rows = np.zeros((len(split), part[0].shape[-1]), np.float32)
            count = min(batch_size, len(split) - done)
            rows[done : done + count], labels[done : done + count] = (p[:count] for p in part)
            done += count
            after(done / len(split))
    return rows, labels


def even_batch(examples: int, largest: int, devices: int) -> int:
    """The size of batches that are as few as `largest` allows, and padded as little."""
    batches = max(1, math.ceil(examples / largest))
    return max(1, math.ceil(math.ceil(examples / batches) / devices)) * devices


def compute_metrics(
    predictions: Predictions, teacher: Predictions | None = None
) -> dict[str, float]:
    """`top1` and `top5` in per cent, `loss` in nats, and `agreement` in per cent with a teacher."""
    result = {
        "top1": metrics.percent_equal(predictions["prediction"], predictions["label"]),
        "top5": 100.0 * float(np.mean(predictions["rank"] < 5)),
        "loss": float(np.mean(predictions["loss"], dtype=np.float64)),
    }
    return result if teacher is None else result | agreement(predictions, teacher)


def agreement(predictions: Predictions, teacher: Predictions) -> dict[str, float]:
    """The share of images that two networks put into the same class, in per cent."""
    same = metrics.percent_equal(predictions["prediction"], teacher["prediction"])
    return {"agreement": same}
