"""Accuracy and loss of networks on test images."""

import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np

from rrd_jax import config as configs
from rrd_jax import data, errors, parallel
from rrd_jax.data.source import Source
from rrd_jax.evaluation import predictions
from rrd_jax.library.loaded_network import Loaded, Trained
from rrd_jax.library.predictor import Predictor
from rrd_jax.library.quiet import quietly
from rrd_jax.library.weights_loader import load, read_run_fields
from rrd_jax.teacher import prediction_checks
from rrd_jax.terminal import console
from rrd_jax.weights import files


@quietly
def evaluate(
    network: Loaded | Predictor | Trained | str | pathlib.Path,
    test: Any = None,
    *,
    batch_size: int = 500,
    source: Source | None = None,
) -> dict[str, float]:
    """Computes `top1` and `top5` in percent and `loss` in nats on test images.

    Args:
      network: a result of `load`, `distill` or `train_teacher`; or a path, as for `load`.
      test: test images, as for `distill`; None for the test split of the run in the workdir.
      batch_size: images per call, over all devices.
      source: preprocessing of the images; None for that of the network, as for `predict`.

    Raises:
      InputError: there are no test images, they do not fit the network, or its outputs are not
        finite.

    Examples:
      >>> import numpy as np, rrd_jax
      >>> split = np.zeros((32, 8, 8, 1), np.uint8), np.arange(32) % 4
      >>> trained = rrd_jax.train_teacher("resnet8", split, split, epochs=1, batch_size=16)
      warning: only 32 test images: ...
      >>> sorted(rrd_jax.evaluate(trained, test=split))
      ['loss', 'top1', 'top5']
    """
    errors.check_counts(batch_size=batch_size)
    if source is not None and not isinstance(source, Source):
        raise errors.InputError(f"source is {source!r}, but must be an rrd_jax.data.Source")
    trained = network if isinstance(network, Trained) else None
    loaded = trained.network if trained else network
    loaded = loaded if isinstance(loaded, Loaded | Predictor) else load(loaded)
    if not loaded.num_classes:
        raise errors.InputError(
            f"'{loaded.name}' has no classifier, so it has no accuracy; pass a network with a"
            " classifier"
        )
    if test is not None:
        source = source or _source(loaded)
        dataset = data.from_sources(test, test, source, num_classes=loaded.num_classes)
    elif trained and trained.dataset:
        dataset = trained.dataset
    else:
        workdir = trained.workdir if trained else network
        folder = None if workdir is loaded else files.split(pathlib.Path(workdir))[0]
        dataset = _dataset_of(folder and read_run_fields(folder))
    if loaded.num_classes != dataset.num_classes:
        raise errors.InputError(
            f"the test images have {dataset.num_classes} classes, but '{loaded.name}' has"
            f" {loaded.num_classes}; pass test images of the network's classes"
        )
    channels = dataset.image_shape[-1]
    if loaded.image_shape and loaded.image_shape[-1] != channels:
        raise errors.InputError(
            f"the test images have {channels} channels, but '{loaded.name}' takes"
            f" {loaded.image_shape[-1]}; pass images with {loaded.image_shape[-1]} channels"
        )
    _check_class_names(loaded, dataset)
    results = _predictions(loaded, dataset.test, batch_size)
    if invalid := predictions.invalid(results):
        raise errors.InputError(
            f"'{loaded.name}' is invalid for the test images: {invalid}; check its weights, which"
            " are too large or damaged"
        )
    metrics = predictions.compute_metrics(results)
    if matched := prediction_checks.permuted_top1(results, dataset.num_classes):
        console.warn(
            f"top-1 of '{loaded.name}' is {metrics['top1']:.1f} %, but {100 * matched:.1f} % with"
            " permuted classes; number the test labels in the order of the network's classes"
        )
    return metrics


def _check_class_names(loaded: Loaded | Predictor, dataset: data.Dataset) -> None:
    """Raises an InputError if network and test images have the same classes in another order."""
    names = loaded.about.class_names if loaded.about else ()
    if sorted(names) != sorted(dataset.class_names) or names == dataset.class_names:
        return
    pairs = zip(names, dataset.class_names, strict=True)
    label, (name, other) = next((i, pair) for i, pair in enumerate(pairs) if len(set(pair)) > 1)
    raise errors.InputError(
        f"label {label} is '{errors.printable(name)}' for '{loaded.name}', but"
        f" '{errors.printable(other)}' for the test images; number the classes in the order of the"
        " network"
    )


def _predictions(
    network: Loaded | Predictor, split: Any, batch_size: int
) -> predictions.SplitPredictions:
    mesh = parallel.make_mesh()
    if isinstance(network, Predictor):

        def predict(_, images, labels):
            logits = network.compute(np.asarray(images))["logits"]
            return predictions.from_logits(jnp.asarray(logits), labels)

        return predictions.collect(predict, None, split, batch_size, mesh)
    predict = predictions.compile_predict(network.network, network.normalize, mesh, network.terms)
    variables = parallel.put(parallel.replicated(mesh), network.variables)
    return predictions.collect(predict, variables, split, batch_size, mesh)


def _source(loaded: Loaded | Predictor) -> Source:
    """Returns the preprocessing of a network's test images as a source."""
    if loaded.image_shape is None:
        raise errors.InputError(
            f"the image size of '{loaded.name}' is unknown; pass"
            " source=rrd_jax.data.Source(image_size=...)"
        )
    size, preprocessing = loaded.image_shape[0], loaded.about.preprocessing
    if preprocessing is None:
        return Source(image_size=size)
    # Of the augmentations, random_resized is the one whose test images are cropped.
    crop = {"augment": "random_resized", "resize": preprocessing.resize}
    return Source(
        image_size=size,
        background=preprocessing.background,
        **(crop if preprocessing.resize else {}),
    )


def _dataset_of(fields: dict[str, Any] | None) -> data.Dataset:
    if not fields or not fields["data"]["name"]:
        raise errors.InputError("there is nothing to evaluate on; pass test=(images, labels)")
    return data.load(configs.source_of(fields))
