"""Verification: the outputs of an exported file, compared with those of the network."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from rrd_jax import errors
from rrd_jax.evaluation import rows
from rrd_jax.exports.interface import Exportable, Outputs, Runtime
from rrd_jax.exports.sample_images import Images
from rrd_jax.training import metrics

# Relative to the largest value: the tolerance of float32, and of ties between two classes.
TOLERANCE, _TIE = 1e-4, 1e-5
# With 8-bit weights: least percentage of equal classes, and least mean cosine of embeddings.
_LEAST_AGREEMENT, _LEAST_COSINE = 50.0, 0.9
_BATCH = 100


class Comparison(NamedTuple):
    """The differences between a file and its network.

    Attributes:
      images: number of images.
      what: a description of the images, such as "test images".
      difference: largest difference of logits, relative to the largest logit; of embeddings for a
        network without a classifier.
      agreement: percentage of images in the same class, including ties. None without a classifier.
      top1: of the file, in per cent; None without labels.
      top1_here: of the network.
      cosine: mean cosine of embeddings, for a network without a classifier; else None.
    """

    images: int
    what: str
    difference: float
    agreement: float | None
    top1: float | None = None
    top1_here: float | None = None
    cosine: float | None = None


class Trial:
    """A network and the images to compare its files on.

    Args:
      exportable: the network.
      images: see `sample_images.load`.
    """

    def __init__(self, exportable: Exportable, images: Images):
        self.exportable, self.images = exportable, images

    @functools.cached_property
    def here(self) -> Outputs:
        """The outputs of the network; raises an InputError if they are not finite."""
        outputs = _outputs(self.exportable, self.images.images, [_BATCH])
        name = _compared(outputs)
        if not np.isfinite(outputs[name]).all():
            raise errors.InputError(
                f"the {_WORDS[name]} of '{self.exportable.about.model}' are not finite: there is"
                " nothing to compare a file with"
            )
        return outputs

    def compare(self, runtime: Runtime, *, is_rounded: bool = False) -> Comparison:
        """Runs a file on all images, in batches of several sizes, and compares its outputs.

        Args:
          runtime: the opened file.
          is_rounded: whether its weights have 8 bits, which allows larger differences.

        Raises:
          InputError: the outputs differ from the network's.
        """
        here, there = self.here, _outputs(runtime, self.images.images, [1, _BATCH])
        if (name := _compared(here)) != _compared(there):
            raise errors.InputError(f"it gives no {_WORDS[name]}")
        for both in here.keys() & there.keys():
            _check_shape(both, here[both], there[both])
        if name == "embedding":
            return self._compare_embeddings(here, there, is_rounded=is_rounded)
        return self._compare_classes(here, there, is_rounded=is_rounded)

    def _compare_classes(self, here: Outputs, there: Outputs, *, is_rounded: bool) -> Comparison:
        alike = _alike(here["logits"], there["logits"])
        result = Comparison(
            images=len(alike),
            what=self.images.what,
            difference=_difference(here["logits"], there["logits"]),
            agreement=100.0 * float(np.mean(alike)),
            top1=self._top1(there),
            top1_here=self._top1(here),
        )
        if is_rounded:
            if self.images.is_real and result.agreement < _LEAST_AGREEMENT:
                raise errors.InputError(
                    f"with weights of 8 bits it puts only {result.agreement:.1f} % of"
                    f" {result.images} {result.what} into the same class as the network does"
                )
            return result
        difference = max(result.difference, _of_embeddings(here, there))
        if difference > TOLERANCE or not alike.all():
            raise errors.InputError(
                f"it computes something else than the network: off by {difference:.1e} of the"
                f" largest value, where {TOLERANCE:.0e} is allowed, and the same top-1 for"
                f" {result.agreement:.2f} % of {result.images} {result.what}"
            )
        return result

    def _compare_embeddings(self, here: Outputs, there: Outputs, *, is_rounded: bool) -> Comparison:
        ours, theirs = (rows.unit(found["embedding"].astype(np.float64)) for found in (here, there))
        cosine, images = float(np.mean(np.sum(ours * theirs, axis=1))), self.images
        result = Comparison(len(ours), images.what, _of_embeddings(here, there), None)
        if is_rounded and images.is_real and cosine < _LEAST_COSINE:
            raise errors.InputError(
                f"with weights of 8 bits its embeddings of {result.images} {images.what} have a"
                f" mean cosine of only {cosine:.3f} with the network's"
            )
        if not is_rounded and result.difference > TOLERANCE:
            raise errors.InputError(
                f"it computes something else than the network: embeddings are off by"
                f" {result.difference:.1e} of the largest value, where {TOLERANCE:.0e} is allowed,"
                f" mean cosine {cosine:.3f} for {result.images} {images.what}"
            )
        return result._replace(cosine=cosine)

    def _top1(self, outputs: Outputs) -> float | None:
        if self.images.labels is None:
            return None
        return metrics.percent_equal(outputs["logits"].argmax(-1), self.images.labels)


_WORDS = {"logits": "logits", "embedding": "embeddings"}


def _compared(outputs: Outputs) -> str:
    """Returns the name of the output to compare: logits, or embedding without a classifier."""
    return "logits" if "logits" in outputs else "embedding"


def _outputs(compute: Callable[[np.ndarray], Outputs], images: np.ndarray, sizes: list[int]):
    """Computes the outputs for all images in batches of these sizes, repeating the last size."""
    parts, first = [], 0
    while first < len(images):
        size = sizes[min(len(parts), len(sizes) - 1)]
        batch = images[first : first + size]
        outputs = {name: np.asarray(value) for name, value in compute(batch).items()}
        name = _compared(outputs)
        if len(outputs.get(name, ())) != len(batch):
            raise errors.InputError(
                f"it gives {len(outputs.get(name, ()))} rows of {_WORDS[name]} for"
                f" {len(batch)} images"
            )
        parts.append(outputs)
        first += size
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _check_shape(name: str, here: np.ndarray, there: np.ndarray) -> None:
    if here.shape != there.shape:
        raise errors.InputError(
            f"its {name} have the shape {there.shape}, but the network's have {here.shape}"
        )
    if not np.isfinite(there).all():
        raise errors.InputError(f"its {name} are not finite")


def _difference(here: np.ndarray, there: np.ndarray) -> float:
    """Returns the largest difference, relative to the largest value."""
    return float(np.abs(here - there).max() / max(float(np.abs(here).max()), 1e-30))


def _of_embeddings(here: Outputs, there: Outputs) -> float:
    if not ("embedding" in here and "embedding" in there):
        return 0.0
    return _difference(here["embedding"], there["embedding"])


def _alike(here: np.ndarray, there: np.ndarray) -> np.ndarray:
    """Returns [N]: whether the top-1 is the same, or a tie up to rounding."""
    places = np.arange(len(here))
    gap = here.max(-1) - here[places, there.argmax(-1)]
    return gap <= _TIE * np.abs(here).max()
