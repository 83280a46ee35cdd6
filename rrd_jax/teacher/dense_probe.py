"""Linear segmentation of images on a network's frozen patches.

The probe is multinomial logistic regression from standardized patches to the shares of classes of
their pixels. Its logits are interpolated to the masks, and the mean intersection over union of the
classes with the largest logits is reported.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rrd_jax import functional, networks, parallel
from rrd_jax.cpu import compiling
from rrd_jax.data.subsets.masked_subset import MaskedSubset
from rrd_jax.evaluation import patches, predictions, segmentation
from rrd_jax.teacher import lbfgs, probe
from rrd_jax.training.recipe import Training

# Weights of the penalty, from which held-out training images choose.
PENALTIES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
# Every fifth training image is held out for this choice.
_FOLDS = 5
_ITERATIONS, _TOLERANCE = 300, 1e-5
# The number of logits that are in memory at the same time, on each device.
_LOGITS = 2**24


class PatchData(NamedTuple):
    """Patches with the classes of their pixels.

    Attributes:
      features: [N, D] float32, patches with at least one pixel of a class.
      counts: [N, C] int32, number of pixels of each class in a patch.
      image: [N] int32, index of the image of a patch.
    """

    features: np.ndarray
    counts: np.ndarray
    image: np.ndarray


class Fitted(NamedTuple):
    """A fitted probe.

    Attributes:
      head: {"kernel": [D, C], "bias": [C]} float32, for patches that are not standardized.
      penalty: chosen weight of the penalty.
    """

    head: dict[str, np.ndarray]
    penalty: float


class DenseProbe:
    """The evaluation of one network by linear segmentation.

    Args:
      network: a network whose outputs have patches.
      subset: images and masks.
      mesh: the devices.
      training: settings of normalization and evaluation batches.
      role: "student" or "teacher", for messages.

    Raises:
      InputError: the network has no patches, or those of the training images do not fit into
        memory.
    """

    def __init__(
        self,
        network: networks.Network,
        subset: MaskedSubset,
        mesh: jax.sharding.Mesh,
        training: Training,
        role: str,
    ):
        self._subset, self._mesh = subset, mesh
        self._batch_size = training.eval_batch_size
        shape = patches.check(network, subset.image_shape, role)
        rows, width = len(subset.train) * shape[0] * shape[1], shape[2] + subset.num_classes
        probe.check_memory(rows, width, mesh, "eval.dense", "eval.dense_images")
        network = parallel.gathered(mesh, network, fully=training.shard_parameters)
        compute = patches.make_patches(network, training.normalize)

        def embed(variables, images, masks):
            return compute(variables, images), masks

        def segment(variables, head, images, masks):
            features = compute(variables, images)
            logits = functional.linear(features.reshape(-1, features.shape[-1]), **head)
            return classes_at(logits.reshape(*features.shape[:3], -1), masks.shape[1:]), masks

        self._embed, self._segment = (
            compiling.jit_for_mesh(
                function,
                mesh,
                fast_cpu=training.fast_cpu,
                out_shardings=(parallel.replicated(mesh),) * 2,
            )
            for function in (embed, segment)
        )

    def evaluate(
        self, variables: Any, after: Callable[[float], None] = lambda share: None
    ) -> dict[str, float]:
        """Fits the probe on training images, and segments the test images.

        Args:
          variables: weights of the network.
          after: called after each batch with the completed share of a split, in [0, 1]; may raise
            an exception.

        Returns:
          miou: mean intersection over union on the test images, in percent.
          miou_absent: number of classes without true or predicted pixels, which are left out.

        Raises:
          InputError: patches are not finite.
        """
        data = self.collect(variables, after)
        predictions.check_finite(data.features, "the patches")
        matrix = self.confusion(variables, fit(data, self._mesh).head, after)
        miou, absent = segmentation.mean_iou(matrix)
        return {"miou": miou, "miou_absent": float(absent)}

    def collect(
        self, variables: Any, after: Callable[[float], None] = lambda share: None
    ) -> PatchData:
        """Returns the patches of the training images; see `evaluate`."""
        parts, done, split = [], 0, self._subset.train

        def take(batch: Any) -> None:
            nonlocal done
            batch = parallel.put_batch(self._mesh, batch)
            arrays = self._embed(variables, batch["image"], batch["mask"])
            count = min(len(arrays[1]), len(split) - done)
            features, masks = (array[:count] for array in jax.device_get(arrays))
            parts.append(_with_counts(features, masks, done, self._subset.num_classes))
            done += count
            after(done / len(split))

        predictions.for_each_batch(split.batches, len(split), self._batch_size, self._mesh, take)
        return PatchData(*map(np.concatenate, zip(*parts, strict=True)))

    def confusion(
        self,
        variables: Any,
        head: dict[str, np.ndarray],
        after: Callable[[float], None] = lambda share: None,
    ) -> np.ndarray:
        """Returns the confusion matrix of a probe on the test images, int64 [C, C]."""
        split, count, done = self._subset.test, self._subset.num_classes, 0
        head = parallel.put(parallel.replicated(self._mesh), head)
        matrix = np.zeros((count, count), np.int64)

        def take(batch: Any) -> None:
            nonlocal done, matrix
            batch = parallel.put_batch(self._mesh, batch)
            arrays = self._segment(variables, head, batch["image"], batch["mask"])
            classes, masks = jax.device_get(arrays)
            matrix += segmentation.confusion_matrix(masks, classes, count)
            done = min(len(split), done + len(masks))
            after(done / len(split))

        predictions.for_each_batch(split.batches, len(split), self._batch_size, self._mesh, take)
        return matrix


def _with_counts(
    features: np.ndarray, masks: np.ndarray, first: int, num_classes: int
) -> PatchData:
    """Returns the patches [b, h, w, D] of images from index `first` on that have valid pixels."""
    count, height, width, channels = features.shape
    grid = height, width
    counts = np.concatenate([segmentation.patch_counts(m, grid, num_classes) for m in masks])
    used = counts.any(axis=1)
    image = np.repeat(np.arange(first, first + count, dtype=np.int32), height * width)
    return PatchData(features.reshape(-1, channels)[used], counts[used], image[used])


def fit(
    data: PatchData, mesh: jax.sharding.Mesh, penalties: tuple[float, ...] = PENALTIES
) -> Fitted:
    """Fits logistic regression on standardized patches by full-batch L-BFGS.

    Minimizes, over the pixels i of all patches, mean_i CE(W^T z_i + b, y_i) + l/2 |W|^2, where z is
    the patch of a pixel with mean 0 and standard deviation 1 in each dimension over all patches.
    The same as scikit-learn's LogisticRegression with a row for each patch and class,
    `sample_weight` = number of pixels and C = 1 / (l x number of pixels). Of the penalties l, the
    one with the lowest cross-entropy on every fifth image is chosen, after a fit on the others.

    Args:
      data: patches of at least two images.
      mesh: the devices, over which the patches are sharded.
      penalties: values of l in decreasing order; a single value is not compared with others.
    """
    features, counts = data.features, data.counts
    mean = features.mean(0, dtype=np.float64)
    deviation = features.std(0, dtype=np.float64)
    deviation = np.where(deviation > 1e-6 * deviation.max(initial=0), deviation, 1.0)
    features = ((features - mean) / deviation).astype(np.float32)
    arrays, held_out = _on_devices(features, counts, _held_out(data.image), mesh)
    minimize, loss = _compiled(mesh)
    width, num_classes = features.shape[1], counts.shape[1]
    head = {
        "kernel": np.zeros((width, num_classes), np.float32),
        "bias": np.zeros(num_classes, np.float32),
    }
    head = parallel.put(parallel.replicated(mesh), head)
    chosen, best, lowest = penalties[-1], head, float("inf")
    if len(penalties) > 1:
        for penalty in penalties:
            head = minimize(*arrays, 1 - held_out, penalty, head)
            value = float(loss(*arrays, held_out, 0.0, head))
            if not value < lowest:
                break
            chosen, best, lowest = penalty, head, value
    head = jax.device_get(minimize(*arrays, jnp.ones_like(held_out), chosen, best))
    kernel = head["kernel"] / deviation[:, None]
    bias = head["bias"] - mean @ kernel
    return Fitted(
        {"kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)}, float(chosen)
    )


def _held_out(image: np.ndarray) -> np.ndarray:
    """Returns whether each patch is from an image that is held out, [N] bool."""
    order = np.unique(image, return_inverse=True)[1]
    return order % _FOLDS == min(_FOLDS - 1, order.max())


def _on_devices(
    features: np.ndarray, counts: np.ndarray, held_out: np.ndarray, mesh: jax.sharding.Mesh
) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
    """Returns ((features [chunks, chunk, D], counts [chunks, chunk, C]), held out [chunks, chunk]).

    Rows of zeros fill the last chunk.
    """
    rows, num_classes = counts.shape
    chunk = max(1, min(_LOGITS // num_classes, -(-rows // mesh.size))) * mesh.size

    def chunks(array):
        padded = np.pad(array, ((0, -rows % chunk), *((0, 0),) * (array.ndim - 1)))
        return padded.reshape(-1, chunk, *array.shape[1:])

    arrays = tuple(map(chunks, (features, counts, held_out.astype(np.float32))))
    features, counts, held_out = parallel.put(parallel.split(mesh, axis=1), arrays)
    return (features, counts), held_out


# The cache avoids a compilation per evaluation.
@functools.lru_cache(maxsize=4)
def _compiled(mesh: jax.sharding.Mesh) -> tuple[Callable, Callable]:
    replicated = parallel.replicated(mesh)

    def minimize(features, counts, weights, penalty, head):
        return lbfgs.minimize(
            functools.partial(_loss, features, counts, weights, penalty),
            head,
            tolerance=_TOLERANCE,
            iterations=_ITERATIONS,
        )[0]

    return jax.jit(minimize, out_shardings=replicated), jax.jit(_loss, out_shardings=replicated)


def _loss(
    features: jax.Array, counts: jax.Array, weights: jax.Array, penalty: jax.Array, head: Any
) -> jax.Array:
    """Computes the mean cross-entropy over pixels with the penalty.

    Args:
      features: [chunks, chunk, D].
      counts: [chunks, chunk, C].
      weights: weights of patches, [chunks, chunk].
      penalty: l.
      head: {"kernel": [D, C], "bias": [C]}.
    """

    # With rematerialization, only the logits of one chunk are in memory.
    @jax.checkpoint
    def sums(head, chunk):
        rows, pixels, weight = chunk
        logits = functional.linear(rows, **head)
        pixels = pixels * weight[:, None]
        return jnp.stack([-jnp.sum(pixels * jax.nn.log_softmax(logits)), jnp.sum(pixels)])

    total, _ = jax.lax.scan(
        lambda total, chunk: (total + sums(head, chunk), None),
        jnp.zeros(2),
        (features, counts, weights),
    )
    return total[0] / jnp.maximum(total[1], 1) + penalty / 2 * jnp.sum(head["kernel"] ** 2)


def classes_at(logits: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Returns the classes with the largest interpolated logits, uint8 [B, H, W].

    Logits are interpolated bilinearly, with half-pixel centers, row by row: all logits of an image
    with many classes would need gigabytes for a batch.

    Args:
      logits: [B, h, w, C], with C at most 255.
      size: H and W.
    """
    rows, columns = (
        jax.image.resize(jnp.eye(count), (total, count), "bilinear", antialias=False)
        for count, total in zip(logits.shape[1:3], size, strict=True)
    )

    def row(weights):
        line = jnp.einsum("h,bhwc->bwc", weights, logits, precision="highest")
        line = jnp.einsum("Ww,bwc->bWc", columns, line, precision="highest")
        return jnp.argmax(line, axis=-1).astype(jnp.uint8)

    return jnp.moveaxis(jax.lax.map(row, rows), 0, 1)
