"""Predictions of a network for every example of a split, and metrics of these predictions."""

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rrd_jax import errors, networks, parallel
from rrd_jax.cpu import compiling
from rrd_jax.evaluation import knn
from rrd_jax.objectives import Objective, ObjectiveState, classifier
from rrd_jax.terminal import interrupts
from rrd_jax.training import metrics

SplitPredictions = dict[str, np.ndarray]


def make_apply(
    network: networks.Network, objectives: Mapping[str, Objective] | None = None
) -> Callable[[Any, jax.Array], networks.Outputs]:
    """Returns the function that evaluates a network, with an objective's classifier if it has one.

    Args:
      network: result of `networks.create`.
      objectives: objectives by name. If one of them classifies, its logits replace the network's,
        and `variables["classifier"]` holds its state.

    Returns:
      (variables, normalized images [B, H, W, channels]) -> Outputs.
    """
    name = classifier(dict(objectives or {}))
    classify = objectives[name].predict if name else None

    def apply(variables, images):
        weights = networks.network_variables(variables)
        outputs = network.apply(weights, images, train=False)
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
    """Returns a function that evaluates each example of a batch, so that padding can be removed.

    Args:
      network: result of `networks.create`.
      normalize: function from uint8 images to the network's input.
      objectives: objectives by name; see `make_apply`.

    Returns:
      (variables, images [B, H, W, channels], labels [B]) -> {"prediction": [B] int32,
      "rank": [B] int32, the number of classes ranked above the label, "loss": [B] cross-entropy in
      nats, "label": [B], "finite": [B] bool, whether the embedding is finite}.
    """
    apply = make_apply(network, objectives)

    def predict(variables, images, labels):
        outputs = apply(variables, normalize(images))
        finite = jnp.ones(len(labels), bool)
        # Several teachers have an embedding each.
        for member in getattr(outputs, "members", (outputs,)):
            if not isinstance(member.embedding, tuple):
                finite &= jnp.isfinite(member.embedding).all(axis=-1)
        return from_logits(outputs.logits, labels) | {"finite": finite}

    return predict


def from_logits(logits: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
    """Computes the outputs of `make_predict`, without "finite", from logits [B, C] and labels."""
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
    fully: bool = False,
) -> Callable:
    """Compiles a function of `make_predict`, which returns the whole batch in every process.

    Runs with the same network share the compiled function. Weights have the shardings of
    `parallel.weight_shardings` for `fully`.
    """
    terms = dict(objectives or {})
    is_shared = not classifier(terms)
    try:
        hash((network, normalize, mesh))
    # A custom network may not be hashable.
    except TypeError:
        is_shared = False
    if is_shared:
        return _shared_predict(network, normalize, mesh, fast_cpu, fully)
    return _compile_predict(network, normalize, mesh, fast_cpu, fully, terms)


def _compile_predict(network, normalize, mesh, fast_cpu, fully, objectives=None):
    network = parallel.gathered(mesh, network, fully=fully)
    predict = make_predict(network, normalize, objectives)
    replicated = parallel.replicated(mesh)
    return compiling.jit_for_mesh(predict, mesh, fast_cpu=fast_cpu, out_shardings=replicated)


def compile_logits(
    network: networks.Network,
    normalize: Callable,
    mesh: jax.sharding.Mesh,
    objectives: Mapping[str, Objective] | None = None,
    *,
    fast_cpu: bool = True,
    fully: bool = False,
) -> Callable:
    """Compiles a function that returns logits; see `compile_predict`.

    Returns:
      (variables, images [B, H, W, channels], labels [B]) -> {"logits": [B, C] float32, "label":
      [B]}, a function for `collect`.
    """
    apply = make_apply(parallel.gathered(mesh, network, fully=fully), objectives)

    def predict(variables, images, labels):
        logits = apply(variables, normalize(images)).logits
        return {"logits": logits.astype(jnp.float32), "label": labels}

    replicated = parallel.replicated(mesh)
    return compiling.jit_for_mesh(predict, mesh, fast_cpu=fast_cpu, out_shardings=replicated)


_shared_predict = functools.lru_cache(8)(_compile_predict)


class StoppedError(Exception):
    """An interruption of predictions by a request to stop the run."""


def collect(
    predict: Callable,
    variables: Any,
    split: Any,
    batch_size: int,
    mesh: jax.sharding.Mesh,
    stop: Callable[[], bool] = lambda: False,
) -> SplitPredictions:
    """Computes the outputs of `make_predict`, [N] each, for every example of a split.

    Args:
      predict: compiled function of `compile_predict`.
      variables: the network's variables.
      split: a split of a data set.
      batch_size: maximum number of images per batch, over all devices.
      mesh: the devices.
      stop: called after each batch; True stops the evaluation.

    Raises:
      StoppedError: `stop` returned True.
    """
    parts = []

    def take(batch: Any) -> None:
        batch = parallel.put_batch(mesh, batch)
        parts.append(predict(variables, batch["image"], batch["label"]))
        if stop():
            raise StoppedError

    for_each_batch(split.test_batches, len(split), batch_size, mesh, take)
    parts = jax.device_get(parts)
    return {name: np.concatenate([p[name] for p in parts])[: len(split)] for name in parts[0]}


def invalid(predictions: SplitPredictions) -> str:
    """Describes losses or embeddings that are not finite; returns "" if all are finite."""
    losses = predictions["loss"]
    valid = {"loss": np.isfinite(losses), "embedding": predictions.get("finite", losses == losses)}
    for name, finite in valid.items():
        if not finite.all():
            bad = np.flatnonzero(~finite)
            return (
                f"the {name} of {len(bad)} of {len(finite)} images is not finite, starting with"
                f" example {bad[0]}"
            )
    return ""


def check_finite(embeddings: np.ndarray, description: str) -> None:
    """Raises an InputError for embeddings [N, D] that are not finite.

    Args:
      embeddings: the embeddings.
      description: the embeddings in messages, such as "the teacher's embeddings".
    """
    finite = np.isfinite(embeddings).all(axis=-1)
    if not finite.all():
        bad = np.flatnonzero(~finite)
        raise errors.InputError(
            f"{description} of {len(bad)} of {len(finite)} images are not finite, starting with"
            f" image {bad[0]}; check the weights, which may be too large or damaged"
        )


def compile_embed(
    network: networks.Network,
    normalize: Callable,
    mesh: jax.sharding.Mesh,
    *,
    fast_cpu: bool = True,
    fully: bool = False,
) -> Callable:
    """Compiles a function that returns embeddings and labels of a batch.

    For an ensemble, the cosines of the embeddings are the weighted means of the members' cosines.
    Weights have the shardings of `parallel.weight_shardings` for `fully`. In every process, the
    function returns the whole batch's embeddings.

    Returns:
      (variables, images [B, H, W, channels], labels [B]) -> (embeddings [B, D], labels [B]).
    """
    network = parallel.gathered(mesh, network, fully=fully)

    def embed(variables, images, labels):
        weights = networks.network_variables(variables)
        outputs = network.apply(weights, normalize(images), train=False)
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
    """Computes embeddings [N, D] float32 and labels [N] of a split, preprocessed as test images.

    Args:
      embed: compiled function of `compile_embed`.
      variables: the network's variables.
      split: a split of a data set.
      batch_size: maximum number of images per batch, over all devices.
      mesh: the devices.
      after: called after each batch with the completed share, in [0, 1]; may raise an exception.
    """
    rows, labels, done = None, np.zeros(len(split), np.int32), 0

    def take(batch: Any) -> None:
        nonlocal rows, done
        batch = parallel.put_batch(mesh, batch)
        part = jax.device_get(embed(variables, batch["image"], batch["label"]))
        if rows is None:
            rows = np.zeros((len(split), part[0].shape[-1]), np.float32)
        count = min(len(part[1]), len(split) - done)
        rows[done : done + count], labels[done : done + count] = (p[:count] for p in part)
        done += count
        after(done / len(split))

    for_each_batch(split.test_batches, len(split), batch_size, mesh, take)
    return rows, labels


def for_each_batch(
    batches: Callable[[int, tuple[int, int]], Iterator[Any]],
    examples: int,
    largest: int,
    mesh: jax.sharding.Mesh,
    take: Callable[[Any], None],
) -> None:
    """Calls a function for each batch of all examples, in order, until it raises an exception.

    Args:
      batches: (batch size, process share) -> iterator of this process's part of each batch.
      examples: number of examples.
      largest: maximum number of images per batch, over all devices.
      mesh: the devices.
      take: function of a batch.
    """
    batch_size = even_batch(examples, largest, mesh.size)
    with contextlib.closing(batches(batch_size, parallel.process_share())) as parts:
        for part in parts:
            take(part)
            interrupts.check()


def even_batch(examples: int, largest: int, devices: int) -> int:
    """Returns the batch size that minimizes the number of batches, then the padding.

    Args:
      examples: number of examples.
      largest: maximum batch size before rounding up to a multiple of `devices`.
      devices: number of devices, of which the batch size is a multiple.
    """
    batches = max(1, math.ceil(examples / largest))
    return max(1, math.ceil(math.ceil(examples / batches) / devices)) * devices


def compute_metrics(
    predictions: SplitPredictions, teacher: SplitPredictions | None = None
) -> dict[str, float]:
    """Computes `top1`, `top5` and, with a teacher, `agreement` in percent, and `loss` in nats."""
    result = {
        "top1": metrics.percent_equal(predictions["prediction"], predictions["label"]),
        "top5": 100.0 * float(np.mean(predictions["rank"] < 5)),
        "loss": float(np.mean(predictions["loss"], dtype=np.float64)),
    }
    return result if teacher is None else result | agreement(predictions, teacher)


def agreement(predictions: SplitPredictions, teacher: SplitPredictions) -> dict[str, float]:
    """Computes the percentage of images for which two networks predict the same class."""
    return {"agreement": metrics.percent_equal(predictions["prediction"], teacher["prediction"])}
