"""A teacher's outputs for training images, for objectives that measure them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rrd_jax import data, networks, parallel
from rrd_jax.cpu import compiling
from rrd_jax.data.feeds import feed
from rrd_jax.evaluation import predictions
from rrd_jax.objectives.parts import patches
from rrd_jax.teacher import ensemble
from rrd_jax.terminal import console
from rrd_jax.training.recipe import Training

# Patches of each image that are measured.
_PATCHES = 16


def collect(
    network: networks.Network,
    variables: Any,
    dataset: data.Dataset,
    mesh: jax.sharding.Mesh,
    training: Training,
    *,
    count: int,
    with_patches: bool,
) -> tuple[Any, np.ndarray]:
    """Returns the outputs for training images without augmentation, and the images' labels.

    Args:
      network: the teacher's network, or an Ensemble.
      variables: its variables.
      dataset: the data set.
      mesh: the devices.
      training: the run's settings.
      count: maximal number N of images, evenly spaced in the training split.
      with_patches: whether random patches of each image are included.

    Returns:
      (Outputs, or EnsembleOutputs, of NumPy arrays: `embedding` [N, D] float32, and `patches`
      [M, 1, 1, D] or None; without logits; labels [N]).
    """
    total = len(dataset.train)
    positions = np.arange(total)
    if total > count:
        # The images may be sorted by class.
        positions = np.linspace(0, total - 1, count).astype(np.int64)
    split = feed.select(dataset.train, positions)
    apply = _compile(network, mesh, training, with_patches)
    parts, done = [], 0

    def take(batch: Any) -> None:
        nonlocal done
        images, labels = parallel.put_batch(mesh, (batch["image"], batch["label"]))
        index = np.arange(done, done + len(images))
        outputs = jax.device_get(apply(variables, images, index, labels))
        # The last batch is padded.
        parts.append(jax.tree.map(lambda leaf, first=done: leaf[: len(split) - first], outputs))
        done = min(done + len(images), len(split))
        console.progress("teacher", [f"measuring outputs: {done / len(split):.0%}"])

    size = training.eval_batch_size
    predictions.for_each_batch(split.test_batches, len(split), size, mesh, take)
    members, labels = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    members = tuple(
        networks.Outputs((), part["embedding"], patches=_as_maps(part.get("patches")))
        for part in members
    )
    return ensemble.join_outputs(network, members), labels


def _as_maps(sample: np.ndarray | None) -> np.ndarray | None:
    return None if sample is None else sample.reshape(-1, 1, 1, sample.shape[-1])


def _compile(
    network: networks.Network, mesh: jax.sharding.Mesh, training: Training, with_patches: bool
) -> Any:
    fully = training.shard_parameters
    network = parallel.gathered(mesh, network, fully=fully)

    def apply(variables, images, index, labels):
        weights = networks.network_variables(variables)
        outputs = network.apply(weights, training.normalize(images), train=False)
        members = []
        for member in getattr(outputs, "members", (outputs,)):
            part = {"embedding": member.embedding.astype(jnp.float32)}
            if with_patches:
                rows = member.patches.reshape(len(images), -1, member.patches.shape[-1])
                count = min(_PATCHES, rows.shape[1])
                key = jax.random.key(0)
                drawn = patches.draw(key, jnp.int32(0), index, rows.shape[1], count)
                sample = jnp.take_along_axis(rows, drawn[..., None], axis=1)
                part["patches"] = sample.astype(jnp.float32)
            members.append(part)
        # Each process loads a part of the labels, and returns all.
        return members, labels

    return compiling.jit_for_mesh(
        apply, mesh, fast_cpu=training.fast_cpu, out_shardings=parallel.replicated(mesh)
    )
