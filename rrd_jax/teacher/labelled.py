"""What embeddings say of classes: votes of nearest images, and a linear probe."""

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


def votes(dataset: data.Dataset) -> tuple[int, ...]:
    """How many of the training images vote, for each k that there are so many for."""
    return tuple(k for k in knn.KS if k <= len(dataset.train))


def check_memory(
    dataset: data.Dataset, width: int, mesh: jax.sharding.Mesh, training: Training
) -> None:
    """Raises an InputError for training images whose embeddings of a width are too many."""
    field = "eval.labelled" if training.proof.labelled else "eval.knn"
    probe.check_memory(len(dataset.train), width, mesh, field)


def of(
    embed: Callable,
    variables: Any,
    dataset: data.Dataset,
    mesh: jax.sharding.Mesh,
    training: Training,
    after: Callable[[float], None] = lambda share: None,
) -> dict[str, float]:
    """Test top-1, in per cent, of classifiers that are made of embeddings of the training images.

    Args:
      embed: compiled, of `predictions.compile_embed`.
      variables: of its network.
      dataset: with labels; training images are seen as test images are.
      mesh: the devices.
      training: for the batches of evaluation.
      after: as `predictions.collect_embeddings` has it.

    Returns:
      knn_10, knn_20, knn_100, knn_200: as `knn.classify` has it, with its temperature;
        those of `votes`.
      probe: as `probe.fit` has it, with l2 1.

    Raises:
      InputError: the embeddings are not finite, or more than memory holds; a label that is none of
        the classes.
    """

    def collect(split):
        size = training.eval_batch_size
        return predictions.collect_embeddings(embed, variables, split, size, mesh, after)

    queries, truth = collect(dataset.test)
    check_memory(dataset, queries.shape[1], mesh, training)
    embeddings, labels = collect(dataset.train)
    for name, of_split in (("labelled", labels), ("labelled test", truth)):
        sanity.check_labels(of_split, dataset.num_classes, name)
    given = (queries, truth, embeddings, labels, dataset.num_classes, mesh)
    return of_embeddings(*given, ks=votes(dataset))


def of_embeddings(
    queries: np.ndarray,
    truth: np.ndarray,
    embeddings: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    mesh: jax.sharding.Mesh,
    ks: Collection[int] = knn.KS,
) -> dict[str, float]:
    """As `of`, from embeddings.

    Args:
      queries: [Q, D] of test images.
      truth: [Q] their labels.
      embeddings: [N, D] float32 of images with labels; they are overwritten.
      labels: [N].
      num_classes: C.
      mesh: the devices.
      ks: how many nearest images vote; all of them where there are fewer.
    """
    voted = {}
    if ks:
        voted = knn.classify(queries, embeddings, labels, num_classes, ks)
    figures = {f"knn_{k}": metrics.percent_equal(classes, truth) for k, classes in voted.items()}
    head = probe.fit(embeddings, labels, num_classes, _L2, mesh).head  # it overwrites them
    guesses = np.argmax(queries @ head["kernel"] + head["bias"], axis=-1)
    return figures | {"probe": metrics.percent_equal(guesses, truth)}
