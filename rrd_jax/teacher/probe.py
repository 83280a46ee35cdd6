"""A linear probe: a classifier on a frozen network's embeddings of the training images."""

import contextlib
import functools
import hashlib
import pathlib
import shutil
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
from rrd_jax.terminal import console
from rrd_jax.training.recipe import Training

_ITERATIONS = 1000
_TOLERANCE = 1e-5  # of the largest entry of the gradient of the mean loss
_LOGITS = 2**24  # that are in memory at once, on each device


class Fitted(NamedTuple):
    """A trained probe.

    Attributes:
      head: {"kernel": [D, C], "bias": [C]} float32.
      top1: of the training images, in per cent.
      iterations: of L-BFGS.
    """

    head: dict[str, np.ndarray]
    top1: float
    iterations: int


def load_or_train(
    network: networks.Network,
    variables: Any,
    dataset: data.Dataset,
    mesh: jax.sharding.Mesh,
    training: Training,
    l2: float,
    folder: pathlib.Path,
    *,
    label: str = "teacher",
    keep: bool = True,
) -> dict[str, jax.Array]:
    """Returns the probe of a network, on every device: read from a folder, or trained.

    Args:
      network: of `networks.create`, or a wrapper; it returns an embedding.
      variables: its weights, on the devices.
      dataset: its training images are preprocessed like test images.
      mesh: the devices.
      training: the student's, for normalization and evaluation batches.
      l2: see `fit`.
      folder: of this teacher's probes.
      label: the teacher's name on the console.
      keep: whether to store a probe that is trained.

    Raises:
      InputError: the network has no embedding, or the embeddings do not fit into memory.
    """
    outputs = networks.summarize(network, dataset.image_shape).outputs
    if isinstance(outputs.embedding, tuple):
        raise errors.InputError(
            f"teacher.probe classifies embeddings, but the network of {label} returns none: return"
            " a pair (logits, embedding)"
        )
    width = outputs.embedding.shape[-1]
    path = folder.absolute() / _key(network, variables, dataset, training, l2)
    everywhere = parallel.replicated(mesh)
    with workdir.exclusive(path.with_suffix(".lock")) if keep else contextlib.nullcontext():
        if parallel.as_main(checkpoints.exists(path)):
            like = _like(width, dataset.num_classes, everywhere)
            if (head := checkpoints.load_arrays(path, like)) is not None:
                console.say(f"[{label}] its linear probe is read from {path}")
                return head
        check_memory(len(dataset.train), width, mesh)
        head = _train(network, variables, dataset, mesh, training, l2, label=label)
        if keep:
            parallel.main_first(lambda: parallel.is_main() and shutil.rmtree(path, True))
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
    """Trains a probe, logs its accuracy, and returns it on every device."""
    start = time.monotonic()
    embeddings, labels = embed(network, variables, dataset.train, mesh, training)
    fitted = fit(embeddings, labels, dataset.num_classes, l2, mesh)
    console.say(
        f"[{label}] linear probe: {fitted.top1:.2f} training top-1 of {len(labels):,} images,"
        f" embeddings of {embeddings.shape[-1]}, {fitted.iterations} iterations of L-BFGS,"
        f" {time.monotonic() - start:.0f} s"
    )
    return parallel.put(parallel.replicated(mesh), fitted.head)


def cache_folder(run: pathlib.Path, label: str) -> pathlib.Path:
    """Returns the folder of a run that holds the probes of a teacher."""
    return run / f"{label}.probe"


def read(folder: pathlib.Path, width: int, num_classes: int) -> dict[str, jax.Array]:
    """Reads the newest probe of a run.

    Args:
      folder: of `cache_folder`.
      width: D, of the embeddings.
      num_classes: C.

    Raises:
      InputError: there is no intact probe.
    """
    paths = [path for path in folder.absolute().glob("*") if checkpoints.exists(path)]
    like = _like(width, num_classes, jax.sharding.SingleDeviceSharding(jax.local_devices()[0]))
    for path in sorted(paths, key=lambda path: path.stat().st_mtime)[-1:]:
        if (head := checkpoints.load_arrays(path, like)) is not None:
            return head
    raise errors.InputError(
        f"the linear probe of the teacher is not in {folder} any more, or damaged: the run's"
        " command makes it again"
    )


def _like(width: int, num_classes: int, sharding: jax.sharding.Sharding) -> dict[str, Any]:
    shapes = {"kernel": (width, num_classes), "bias": (num_classes,)}
    return {
        name: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)
        for name, shape in shapes.items()
    }


def _key(
    network: networks.Network, variables: Any, dataset: data.Dataset, training: Training, l2: float
) -> str:
    """Returns a name for the probe: a digest of all that it depends on."""
    images = (dataset.version, len(dataset.train), dataset.num_classes, dataset.image_shape)
    known = (repr(network), checkpoints.digest(variables), images, training.mean, training.std, l2)
    return hashlib.sha256(repr(known).encode()).hexdigest()[:16]


def check_memory(
    examples: int, width: int, mesh: jax.sharding.Mesh, field: str = "teacher.probe"
) -> None:
    """Raises an InputError for embeddings that take more than half of the free memory.

    Args:
      examples: N.
      width: D.
      mesh: the devices.
      field: of the config that needs them.
    """
    size = 4 * examples * width
    host, device = parallel.host_bytes(), parallel.free_bytes(mesh)
    where, free = ("the host", host) if size > host / 2 else ("each device", device)
    needed = size if size > host / 2 else size / mesh.size
    if needed > free / 2:
        raise errors.InputError(
            f"{field} keeps {examples:,} embeddings of {width} float32, {needed / 1e9:.2f} GB"
            f" on {where}, more than half of its {free / 1e9:.2f} GB of memory: use more"
            " devices, or a part of the images with data.share"
        )


def embed(
    network: networks.Network,
    variables: Any,
    split: Any,
    mesh: jax.sharding.Mesh,
    training: Training,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns embeddings [N, D] float32 and labels [N] of a split, without augmentation."""
    embed = predictions.compile_embed(network, training.normalize, mesh, fast_cpu=training.fast_cpu)

    def show(share):
        console.progress("probe", [f"{share:.0%} of the images are embedded"])

    return predictions.collect_embeddings(
        embed, variables, split, training.eval_batch_size, mesh, after=show
    )


def fit(
    embeddings: np.ndarray, labels: np.ndarray, num_classes: int, l2: float, mesh: jax.sharding.Mesh
) -> Fitted:
    """Fits logistic regression on standardized embeddings, by full-batch L-BFGS.

    Minimizes sum_i CE(W^T z_i + b, y_i) + l2/2 |W|^2, as scikit-learn's LogisticRegression with
    C = 1/l2 does, where z is the embedding with mean 0 and deviation 1 in each dimension. The
    returned head takes embeddings that are not standardized.

    Args:
      embeddings: [N, D] float32; overwritten.
      labels: [N] in [0, C).
      num_classes: C.
      l2: weight of the penalty, above 0.
      mesh: the devices, over which the images are split.
    """
    if not np.isfinite(embeddings).all():
        raise errors.InputError("teacher.probe: the teacher's embeddings are not finite")
    mean = embeddings.mean(0, dtype=np.float64)
    deviation = np.sqrt(embeddings.var(0, dtype=np.float64))
    deviation = np.where(deviation > 1e-6 * deviation.max(initial=0), deviation, 1.0)
    embeddings -= mean.astype(np.float32)
    embeddings /= deviation.astype(np.float32)
    count, width = embeddings.shape
    chunk = max(1, min(_LOGITS // num_classes, -(-count // mesh.size))) * mesh.size
    missing = -count % chunk
    split = parallel.split(mesh, axis=1)
    images = parallel.put(
        split, np.pad(embeddings, ((0, missing), (0, 0))).reshape(-1, chunk, width)
    )
    targets = np.pad(labels.astype(np.int32), (0, missing), constant_values=-1)
    targets = parallel.put(split, targets.reshape(-1, chunk))
    minimise = _compiled(mesh, num_classes, l2 / count, count)
    head, right, iterations = jax.device_get(minimise(images, targets))
    kernel = head["kernel"] / deviation[:, None]
    bias = head["bias"] - mean @ kernel
    head = {"kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)}
    return Fitted(head, 100.0 * int(right) / count, int(iterations))


@functools.lru_cache(maxsize=4)  # Students are evaluated after each epoch.
def _compiled(mesh: jax.sharding.Mesh, num_classes: int, l2: float, count: int) -> Callable:
    minimise = functools.partial(_minimise, num_classes=num_classes, l2=l2, count=count)
    return jax.jit(minimise, out_shardings=parallel.replicated(mesh))


def _minimise(
    images: jax.Array, targets: jax.Array, *, num_classes: int, l2: float, count: int
) -> tuple[dict[str, jax.Array], jax.Array, jax.Array]:
    """Returns the head, the number of correctly classified images, and the iterations."""

    @jax.checkpoint  # At any time, only the logits of one chunk are in memory.
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

    optimizer = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(loss)

    def step(carry):
        head, state, _, i = carry
        value, gradient = value_and_grad(head, state=state)
        updates, state = optimizer.update(
            gradient, state, head, value=value, grad=gradient, value_fn=loss
        )
        head = optax.apply_updates(head, updates)
        slope = optax.tree.get(state, "grad")
        largest = jnp.max(jnp.stack([jnp.max(jnp.abs(leaf)) for leaf in jax.tree.leaves(slope)]))
        return head, state, largest, i + 1

    head = {"kernel": jnp.zeros((images.shape[-1], num_classes)), "bias": jnp.zeros(num_classes)}
    start = head, optimizer.init(head), jnp.float32(jnp.inf), jnp.int32(0)
    head, _, _, iterations = jax.lax.while_loop(
        lambda carry: (carry[2] > _TOLERANCE) & (carry[3] < _ITERATIONS), step, start
    )

    def right(total, chunk):
        guesses = jnp.argmax(functional.linear(chunk[0], **head), axis=-1)
        return total + jnp.sum(guesses == chunk[1]), None

    return head, jax.lax.scan(right, jnp.int32(0), (images, targets))[0], iterations
