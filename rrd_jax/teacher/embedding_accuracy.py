"""Accuracy of embeddings: k-nearest-neighbor classification and a linear probe."""

from collections.abc import Callable, Collection
from typing import Any

import jax
import numpy as np

from rrd_jax import data
from rrd_jax.data import sanity
from rrd_jax.evaluation import knn, predictions
from rrd_jax.teacher import probe
from rrd_jax.training import metrics
from rrd_jax.training.recipe import Training

_L2 = 1.0


def neighbour_counts(dataset: data.Dataset) -> tuple[int, ...]:
    """Returns the values of k that do not exceed the number of training images."""
    return tuple(k for k in knn.KS if k <= len(dataset.train))


def check_memory(
    dataset: data.Dataset, width: int, mesh: jax.sharding.Mesh, training: Training
) -> None:
    """Raises an InputError if the embeddings of the training images do not fit into memory."""
    field = "eval.labelled" if training.alignment.labelled else "eval.knn"
    probe.check_memory(len(dataset.train), width, mesh, field)


def evaluate(
    embed: Callable,
    variables: Any,
    dataset: data.Dataset,
    mesh: jax.sharding.Mesh,
    training: Training,
    after: Callable[[float], None] = lambda share: None,
) -> dict[str, float]:
    """Computes the test top-1, in percent, of classifiers on embeddings of the training images.

    Args:
      embed: the compiled function of `predictions.compile_embed`.
      variables: weights of its network.
      dataset: a data set with labels; training images are preprocessed like test images.
      mesh: the devices.
      training: settings of evaluation batches.
      after: see `predictions.collect_embeddings`.

    Returns:
      knn_10, knn_20, knn_100, knn_200: see `knn.classify`; for `neighbour_counts` only.
      probe: see `probe.fit`, with l2 1.

    Raises:
      InputError: embeddings are not finite or do not fit into memory, or a label is invalid.
    """

    def collect(split):
        size = training.eval_batch_size
        arrays = predictions.collect_embeddings(embed, variables, split, size, mesh, after)
        predictions.check_finite(arrays[0], "the embeddings")
        return arrays

    queries, truth = collect(dataset.test)
    check_memory(dataset, queries.shape[1], mesh, training)
    embeddings, labels = collect(dataset.train)
    for name, split_labels in (("labelled", labels), ("labelled test", truth)):
        sanity.check_labels(split_labels, dataset.num_classes, name)
    return evaluate_embeddings(
        queries,
        truth,
        embeddings,
        labels,
        dataset.num_classes,
        mesh,
        ks=neighbour_counts(dataset),
    )


def evaluate_embeddings(
    queries: np.ndarray,
    truth: np.ndarray,
    embeddings: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    mesh: jax.sharding.Mesh,
    ks: Collection[int] = knn.KS,
) -> dict[str, float]:
    """Computes the metrics of `evaluate` from embeddings.

    Args:
      queries: [Q, D], embeddings of test images.
      truth: [Q], labels of the test images.
      embeddings: [N, D] float32, embeddings of labeled images; overwritten.
      labels: [N], labels of the labeled images.
      num_classes: C.
      mesh: the devices.
      ks: numbers of neighbors, at most N.
    """
    votes = {}
    if ks:
        votes = knn.classify(queries, embeddings, labels, num_classes, ks)
    accuracies = {f"knn_{k}": metrics.percent_equal(classes, truth) for k, classes in votes.items()}
    head = probe.fit(embeddings, labels, num_classes, _L2, mesh).head
    guesses = np.argmax(queries @ head["kernel"] + head["bias"], axis=-1)
    return accuracies | {"probe": metrics.percent_equal(guesses, truth)}
