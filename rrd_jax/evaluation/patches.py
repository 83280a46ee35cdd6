"""Patches of a network for every image of a split, and their alignment with a teacher's."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rrd_jax import errors, functional, networks, parallel
from rrd_jax.cpu import compiling
from rrd_jax.evaluation import alignment, knn, predictions, rows

Grid = tuple[int, int]
# Patches of all images that are compared.
MAX_PATCHES = 4_000
# Metrics of `alignment.compare` that patches have.
_METRICS = ("neighbours_1", "neighbours_10", "neighbours_20", "cka", "effective_rank")


def check(
    network: networks.Network, image_shape: tuple[int, int, int], role: str
) -> tuple[int, int, int]:
    """Returns the (h, w, D) of the patches of `make_patches`.

    Args:
      network: the network.
      image_shape: (H, W, channels) of the images.
      role: "student" or "teacher", for messages.

    Raises:
      InputError: the network has no patches.
    """
    outputs = networks.summarize(network, image_shape).outputs
    members = [member.patches for member in getattr(outputs, "members", (outputs,))]
    if any(patches is None for patches in members):
        raise errors.InputError(
            f"eval.patches and eval.dense compare patches, but the network of the {role} returns"
            " none; return patches [B, h, w, D] in its Outputs, or omit these fields"
        )
    height, width = (max(patches.shape[axis] for patches in members) for axis in (1, 2))
    return height, width, sum(patches.shape[3] for patches in members)


def make_patches(
    network: networks.Network, normalize: Callable[[jax.Array], jax.Array], grid: Grid | None = None
) -> Callable[[Any, jax.Array], jax.Array]:
    """Returns the function (variables, uint8 images [B, H, W, channels]) -> patches [B, h, w, D].

    For an ensemble, the patches of all members are interpolated to the finest of their grids, and
    their cosines are the weighted means of the members' cosines.

    Args:
      network: a network whose outputs have patches.
      normalize: function from uint8 images to the network's input.
      grid: height and width to which patches are interpolated; None for those of the network.
    """

    def compute(variables, images):
        weights = networks.network_variables(variables)
        outputs = network.apply(weights, normalize(images), train=False)
        members = getattr(outputs, "members", (outputs,))
        finest = tuple(max(m.patches.shape[axis] for m in members) for axis in (1, 2))
        parts = [functional.resize(m.patches.astype(jnp.float32), grid or finest) for m in members]
        if len(parts) == 1:
            return parts[0]
        shares = [share**0.5 for share in getattr(network, "weights", ())]
        units = [s * knn.unit(part) for s, part in zip(shares, parts, strict=True)]
        return jnp.concatenate(units, axis=-1)

    return compute


def compile_patches(
    network: networks.Network,
    normalize: Callable,
    mesh: jax.sharding.Mesh,
    *,
    grid: Grid | None = None,
    fast_cpu: bool = True,
    fully: bool = False,
) -> Callable[[Any, jax.Array], jax.Array]:
    """Compiles a function of `make_patches`, which returns the whole batch in every process."""
    network = parallel.gathered(mesh, network, fully=fully)
    return compiling.jit_for_mesh(
        make_patches(network, normalize, grid),
        mesh,
        fast_cpu=fast_cpu,
        out_shardings=parallel.replicated(mesh),
    )


def collect_sample(
    compute: Callable,
    variables: Any,
    split: Any,
    batch_size: int,
    mesh: jax.sharding.Mesh,
    after: Callable[[float], None] = lambda share: None,
) -> np.ndarray:
    """Returns a fixed random subset of the patches of a split, [N, D] float32.

    Networks with the same grid have the same subset of positions.

    Args:
      compute: compiled function of `compile_patches`.
      variables: the network's variables.
      split: a split of a data set.
      batch_size: maximum number of images per batch, over all devices.
      mesh: the devices.
      after: called after each batch with the completed share, in [0, 1]; may raise an exception.
    """
    count, done, parts, positions = len(split), 0, [], None

    def take(batch: Any) -> None:
        nonlocal done, positions
        patches = compute(variables, parallel.put_batch(mesh, batch["image"]))
        patches = jax.device_get(patches)[: count - done]
        per_image = patches.shape[1] * patches.shape[2]
        if positions is None:
            positions = rows.subset(count * per_image, MAX_PATCHES)
        first = done * per_image
        inside = positions[(positions >= first) & (positions < first + len(patches) * per_image)]
        parts.append(patches.reshape(-1, patches.shape[-1])[inside - first])
        done += len(patches)
        after(done / count)

    predictions.for_each_batch(split.test_batches, count, batch_size, mesh, take)
    return np.concatenate(parts)


def compare(patches: np.ndarray, teacher: alignment.Reference) -> dict[str, float]:
    """Compares a student's patches [N, D] with its teacher's; see `alignment.compare`.

    Returns:
      patch_neighbours_1, patch_neighbours_10, patch_neighbours_20: percentage of the nearest
        patches of the subset that student and teacher have in common.
      patch_cka, patch_effective_rank: the same metrics as for embeddings.
    """
    metrics = alignment.compare(patches, teacher)
    return {f"patch_{name}": metrics[name] for name in _METRICS if name in metrics}
