"""Linear probes: classifiers on a frozen network's embeddings of the training images."""

import contextlib
import functools
import hashlib
import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rrd_jax import checkpoints, data, errors, functional, networks, parallel
from rrd_jax.evaluation import predictions
from rrd_jax.run_folder import workdir
from rrd_jax.teacher import lbfgs
from rrd_jax.terminal import console
from rrd_jax.training.recipe import Training

_ITERATIONS = 1000
# L-BFGS stops when no entry of the mean loss's gradient exceeds this value.
_TOLERANCE = 1e-5
# The number of logits that are in memory at the same time, on each device.
_LOGITS = 2**24


class Fitted(NamedTuple):
    """A trained probe.

    Attributes:
      head: {"kernel": [D, C], "bias": [C]} float32.
      top1: top-1 on the training images, in percent.
      iterations: number of L-BFGS iterations.
    """

    head: dict[str, np.ndarray]
    top1: float
    iterations: int


def load_or_train(
    network: networks.Network,
    variables: Callable[[], Any],
    digest: str,
    dataset: data.Dataset,
    mesh: jax.sharding.Mesh,
    training: Training,
    l2: float,
    folder: pathlib.Path,
    *,
    label: str = "teacher",
    store: bool = True,
) -> dict[str, jax.Array]:
    """Returns the probe of a network, replicated on all devices; trains a missing probe.

    Args:
      network: a network of `networks.create` or a wrapper, with an embedding.
      variables: () -> weights of the network, on the devices.
      digest: digest of the weights.
      dataset: the data set, whose training images are preprocessed like test images.
      mesh: the devices.
      training: the student's training settings, for normalization and evaluation batches.
      l2: see `fit`.
      folder: folder of this teacher's probes.
      label: the teacher's name on the console.
      store: whether to store a newly trained probe.

    Raises:
      InputError: the network has no embedding, or the embeddings do not fit into memory.
    """
    outputs = networks.summarize(network, dataset.image_shape).outputs
    if isinstance(outputs.embedding, tuple):
        raise errors.InputError(
            f"teacher.probe requires embeddings, but the network of {label} returns none; return a"
            " pair (logits, embedding)"
        )
    width = outputs.embedding.shape[-1]
    path = folder.absolute() / _key(network, digest, dataset, training, l2)
    replicated = parallel.replicated(mesh)
    with workdir.exclusive(path.with_suffix(".lock")) if store else contextlib.nullcontext():
        if parallel.broadcast_from_main(checkpoints.exists(path)):
            like = _like(width, dataset.num_classes, replicated)
            if (head := checkpoints.load_arrays(path, like)) is not None:
                console.say(f"[{label}] linear probe: read from {path}")
                return head
        check_memory(len(dataset.train), width, mesh)
        head = _train(network, variables(), dataset, mesh, training, l2, label=label)
        if store:
            parallel.main_first(lambda: parallel.is_main() and checkpoints.delete(path))
            checkpoints.save_arrays(path, head, {})
    return head


def _train(
    network: networks.Network,
    variables: Any,
    dataset: data.Dataset,
    mesh: jax.sharding.Mesh,
    training: Training,
    l2: float,
    *,
    label: str,
) -> dict[str, jax.Array]:
    """Trains a probe, logs its accuracy, and returns its weights, replicated on all devices."""
    start = time.monotonic()
    embeddings, labels = embed(network, variables, dataset.train, mesh, training)
    fitted = fit(embeddings, labels, dataset.num_classes, l2, mesh)
    console.say(
        f"[{label}] linear probe: train top-1 {fitted.top1:.2f} on {len(labels):,} images"
        f" ({embeddings.shape[-1]} features, {fitted.iterations} L-BFGS iterations,"
        f" {time.monotonic() - start:.0f} s)"
    )
    return parallel.put(parallel.replicated(mesh), fitted.head)


def cache_folder(run: pathlib.Path, label: str) -> pathlib.Path:
    """Returns the folder of a run that stores the probes of a teacher."""
    return run / f"{label}.probe"


def read(folder: pathlib.Path, width: int, num_classes: int) -> dict[str, jax.Array]:
    """Reads the newest probe of a run.

    Args:
      folder: the folder from `cache_folder`.
      width: D, the width of the embeddings.
      num_classes: C.

    Raises:
      InputError: the probe is missing or damaged.
    """
    paths = [path for path in folder.absolute().glob("*") if checkpoints.exists(path)]
    like = _like(width, num_classes, jax.sharding.SingleDeviceSharding(jax.local_devices()[0]))
    for path in sorted(paths, key=lambda path: path.stat().st_mtime)[-1:]:
        if (head := checkpoints.load_arrays(path, like)) is not None:
            return head
    raise errors.InputError(
        f"the teacher's linear probe in {folder} is missing or damaged; run the training"
        " command again to recompute it"
    )


def _like(width: int, num_classes: int, sharding: jax.sharding.Sharding) -> dict[str, Any]:
    shapes = {"kernel": (width, num_classes), "bias": (num_classes,)}
    return {
        name: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)
        for name, shape in shapes.items()
    }


def _key(
    network: networks.Network, digest: str, dataset: data.Dataset, training: Training, l2: float
) -> str:
    """Returns a name for the probe: a digest of everything that affects its weights."""
    images = (dataset.pixels_version, len(dataset.train), dataset.num_classes, dataset.image_shape)
    inputs = (repr(network), digest, images, training.mean, training.std, l2)
    return hashlib.sha256(repr(inputs).encode()).hexdigest()[:16]


def check_memory(
    examples: int,
    width: int,
    mesh: jax.sharding.Mesh,
    field: str = "teacher.probe",
    fewer: str = "data.share",
) -> None:
    """Raises an InputError for embeddings that need more than half of the free memory.

    Args:
      examples: N.
      width: D.
      mesh: the devices.
      field: the config field that needs the embeddings.
      fewer: the config field that reduces their number.
    """
    size = 4 * examples * width
    host, device = parallel.host_bytes(), parallel.free_device_bytes(mesh)
    location, free = ("the host", host) if size > host / 2 else ("each device", device)
    needed = size if size > host / 2 else size / mesh.size
    if needed > free / 2:
        raise errors.InputError(
            f"{field} needs {needed / 1e9:.2f} GB on {location} for {examples:,} embeddings of"
            f" {width} float32 values, more than half of its {free / 1e9:.2f} GB of memory; use"
            f" more devices, or fewer images with {fewer}"
        )


def embed(
    network: networks.Network,
    variables: Any,
    split: Any,
    mesh: jax.sharding.Mesh,
    training: Training,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns embeddings [N, D] float32 and labels [N] of a split, without augmentation."""
    embed = predictions.compile_embed(
        network,
        training.normalize,
        mesh,
        fast_cpu=training.fast_cpu,
        fully=training.shard_parameters,
    )

    def show(share):
        console.progress("probe", [f"embedding images: {share:.0%}"])

    return predictions.collect_embeddings(
        embed, variables, split, training.eval_batch_size, mesh, after=show
    )


def fit(
    embeddings: np.ndarray, labels: np.ndarray, num_classes: int, l2: float, mesh: jax.sharding.Mesh
) -> Fitted:
    """Fits logistic regression on standardized embeddings by full-batch L-BFGS.

    Minimizes sum_i CE(W^T z_i + b, y_i) + l2/2 |W|^2, like scikit-learn's LogisticRegression with
    C = 1/l2, where z is the embedding with mean 0 and standard deviation 1 in each dimension. The
    returned head applies to embeddings that are not standardized.

    Args:
      embeddings: [N, D] float32; overwritten.
      labels: [N] in [0, C).
      num_classes: C.
      l2: weight of the penalty, above 0.
      mesh: the devices, over which the images are sharded.
    """
    if not np.isfinite(embeddings).all():
        raise errors.InputError(
            "teacher.probe: the teacher's embeddings are not finite; check the teacher's weights"
        )
    mean = embeddings.mean(0, dtype=np.float64)
    deviation = np.sqrt(embeddings.var(0, dtype=np.float64))
    deviation = np.where(deviation > 1e-6 * deviation.max(initial=0), deviation, 1.0)
    embeddings -= mean.astype(np.float32)
    embeddings /= deviation.astype(np.float32)
    count, width = embeddings.shape
    chunk = max(1, min(_LOGITS // num_classes, -(-count // mesh.size))) * mesh.size
    padding = -count % chunk
    split = parallel.split(mesh, axis=1)
    images = parallel.put(
        split, np.pad(embeddings, ((0, padding), (0, 0))).reshape(-1, chunk, width)
    )
    targets = np.pad(labels.astype(np.int32), (0, padding), constant_values=-1)
    targets = parallel.put(split, targets.reshape(-1, chunk))
    minimize = _compiled(mesh, num_classes, l2 / count, count)
    head, correct, iterations = jax.device_get(minimize(images, targets))
    kernel = head["kernel"] / deviation[:, None]
    bias = head["bias"] - mean @ kernel
    head = {"kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)}
    return Fitted(head, 100.0 * int(correct) / count, int(iterations))


# The cache avoids a compilation per epoch, because students are evaluated after each epoch.
@functools.lru_cache(maxsize=4)
def _compiled(mesh: jax.sharding.Mesh, num_classes: int, l2: float, count: int) -> Callable:
    minimize = functools.partial(_minimize, num_classes=num_classes, l2=l2, count=count)
    return jax.jit(minimize, out_shardings=parallel.replicated(mesh))


def _minimize(
    images: jax.Array, targets: jax.Array, *, num_classes: int, l2: float, count: int
) -> tuple[dict[str, jax.Array], jax.Array, jax.Array]:
    """Returns the head, the number of correctly classified images and of iterations."""

    # With rematerialization, only the logits of one chunk are in memory.
    @jax.checkpoint
    def losses(head, chunk):
        rows, labels = chunk
        logits = functional.linear(rows, **head)
        entropy = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return jnp.sum(jnp.where(labels >= 0, entropy, 0.0))

    def loss(head):
        total, _ = jax.lax.scan(
            lambda total, chunk: (total + losses(head, chunk), None), 0.0, (images, targets)
        )
        return total / count + l2 / 2 * jnp.sum(head["kernel"] ** 2)

    head = {"kernel": jnp.zeros((images.shape[-1], num_classes)), "bias": jnp.zeros(num_classes)}
    head, iterations = lbfgs.minimize(loss, head, tolerance=_TOLERANCE, iterations=_ITERATIONS)

    def right(total, chunk):
        guesses = jnp.argmax(functional.linear(chunk[0], **head), axis=-1)
        return total + jnp.sum(guesses == chunk[1]), None

    return head, jax.lax.scan(right, jnp.int32(0), (images, targets))[0], iterations
