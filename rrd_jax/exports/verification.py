"""Verification of exported files: compares the outputs of a file with the network's."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from rrd_jax import errors
from rrd_jax.evaluation import rows
from rrd_jax.exports.interface import Exportable, Outputs, Runtime
from rrd_jax.exports.sample_images import Images
from rrd_jax.training import metrics

# Tolerances relative to the largest value: of float32 outputs, and of ties between two classes.
TOLERANCE, _TIE = 1e-4, 1e-5
# Minimum percentage of equal classes and minimum mean cosine of embeddings, for 8-bit weights.
_MIN_AGREEMENT, _MIN_COSINE = 50.0, 0.9
_BATCH = 100


class Comparison(NamedTuple):
    """The differences between a file and its network.

    Attributes:
      images: number of images.
      description: description of the images, such as "test images".
      difference: largest absolute difference of logits, relative to the largest logit; for a
        network without a classifier, of embeddings and, for a backbone, of feature maps.
      agreement: images with equal top-1 class, including ties, in percent; None without a
        classifier.
      top1: top-1 accuracy of the file, in percent; None without labels.
      network_top1: top-1 accuracy of the network, in percent; None without labels.
      cosine: mean cosine of embeddings, for a network without a classifier; None with a classifier.
    """

    images: int
    description: str
    difference: float
    agreement: float | None
    top1: float | None = None
    network_top1: float | None = None
    cosine: float | None = None


class Trial:
    """A network, and the images on which exported files are compared with the network.

    Args:
      exportable: the network.
      images: the images, see `sample_images.load`.
    """

    def __init__(self, exportable: Exportable, images: Images):
        self.exportable, self.images = exportable, images

    @functools.cached_property
    def reference(self) -> Outputs:
        """The outputs of the network; raises an InputError for outputs that are not finite."""
        outputs = _outputs(self.exportable, self.images.images, [_BATCH])
        name = _compared(outputs)
        if not np.isfinite(outputs[name]).all():
            raise errors.InputError(
                f"the {_PLURALS[name]} of '{self.exportable.about.model}' are not finite, so no"
                " file can be verified; check the weights"
            )
        return outputs

    def compare(self, runtime: Runtime, *, is_rounded: bool = False) -> Comparison:
        """Runs a file on all images, in batches of several sizes, and compares the outputs.

        Args:
          runtime: the opened file.
          is_rounded: True for 8-bit weights, which allow larger differences.

        Raises:
          InputError: the outputs differ from the network's.
        """
        expected, actual = self.reference, _outputs(runtime, self.images.images, [1, _BATCH])
        if (name := _compared(expected)) != _compared(actual):
            raise errors.InputError(f"the file returns no {_PLURALS[name]}, but the network does")
        for shared in expected.keys() & actual.keys():
            _check_shape(shared, expected[shared], actual[shared])
        if name == "embedding":
            return self._compare_embeddings(expected, actual, is_rounded=is_rounded)
        return self._compare_classes(expected, actual, is_rounded=is_rounded)

    def _compare_classes(
        self, expected: Outputs, actual: Outputs, *, is_rounded: bool
    ) -> Comparison:
        same_top1 = _same_top1(expected["logits"], actual["logits"])
        result = Comparison(
            images=len(same_top1),
            description=self.images.description,
            difference=_difference(expected["logits"], actual["logits"]),
            agreement=100.0 * float(np.mean(same_top1)),
            top1=self._top1(actual),
            network_top1=self._top1(expected),
        )
        if is_rounded:
            if self.images.is_real and result.agreement < _MIN_AGREEMENT:
                raise errors.InputError(
                    f"with 8-bit weights, only {result.agreement:.1f} % of {result.images}"
                    f" {result.description} have the network's top-1 class (required:"
                    f" {_MIN_AGREEMENT:.0f} %); omit --quantize"
                )
            return result
        difference = max(result.difference, _feature_difference(expected, actual))
        if difference > TOLERANCE or not same_top1.all():
            raise errors.InputError(
                f"the file's outputs differ from the network's: largest relative error"
                f" {difference:.1e} (at most {TOLERANCE:.0e} is allowed), same top-1 for"
                f" {result.agreement:.2f} % of {result.images} {result.description}"
            )
        return result

    def _compare_embeddings(
        self, expected: Outputs, actual: Outputs, *, is_rounded: bool
    ) -> Comparison:
        units = [rows.unit(y["embedding"].astype(np.float64)) for y in (expected, actual)]
        cosine, images = float(np.mean(np.sum(units[0] * units[1], axis=1))), self.images
        result = Comparison(
            len(units[0]), images.description, _feature_difference(expected, actual), None
        )
        if is_rounded and images.is_real and cosine < _MIN_COSINE:
            raise errors.InputError(
                f"with 8-bit weights, the embeddings of {result.images} {images.description} have a"
                f" mean cosine of only {cosine:.3f} with the network's (required: {_MIN_COSINE});"
                " omit --quantize"
            )
        if not is_rounded and result.difference > TOLERANCE:
            raise errors.InputError(
                f"the file's outputs differ from the network's: largest relative error of"
                f" embeddings {result.difference:.1e} (at most {TOLERANCE:.0e} is allowed), mean"
                f" cosine {cosine:.3f} for {result.images} {images.description}"
            )
        return result._replace(cosine=cosine)

    def _top1(self, outputs: Outputs) -> float | None:
        if self.images.labels is None:
            return None
        return metrics.percent_equal(outputs["logits"].argmax(-1), self.images.labels)


_PLURALS = {
    "logits": "logits",
    "embedding": "embeddings",
    "patches": "patches",
    **{f"stage{i}": f"maps of stage {i}" for i in range(2, 6)},
}


def _compared(outputs: Outputs) -> str:
    """Returns the name of the compared output: "logits", or "embedding" without a classifier."""
    return "logits" if "logits" in outputs else "embedding"


def _outputs(compute: Callable[[np.ndarray], Outputs], images: np.ndarray, sizes: list[int]):
    """Computes the outputs for all images in batches of `sizes`, and repeats the last size."""
    parts, first = [], 0
    while first < len(images):
        size = sizes[min(len(parts), len(sizes) - 1)]
        batch = images[first : first + size]
        outputs = {name: np.asarray(value) for name, value in compute(batch).items()}
        name = _compared(outputs)
        if len(outputs.get(name, ())) != len(batch):
            raise errors.InputError(
                f"the file returns {len(outputs.get(name, ()))} rows of {_PLURALS[name]} for a"
                f" batch of {len(batch)}"
            )
        parts.append(outputs)
        first += size
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _check_shape(name: str, expected: np.ndarray, actual: np.ndarray) -> None:
    if expected.shape != actual.shape:
        raise errors.InputError(
            f"the file's {_PLURALS[name]} have shape {actual.shape}, but the network's have shape"
            f" {expected.shape}"
        )
    if not np.isfinite(actual).all():
        raise errors.InputError(f"the file's {_PLURALS[name]} are not finite")


def _difference(expected: np.ndarray, actual: np.ndarray) -> float:
    """Returns the largest absolute difference, relative to the largest absolute value."""
    return float(np.abs(expected - actual).max() / max(float(np.abs(expected).max()), 1e-30))


def _feature_difference(expected: Outputs, actual: Outputs) -> float:
    """Returns the largest difference of outputs other than logits; 0 if none is shared."""
    names = (expected.keys() & actual.keys()) - {"logits"}
    return max((_difference(expected[name], actual[name]) for name in names), default=0.0)


def _same_top1(expected: np.ndarray, actual: np.ndarray) -> np.ndarray:
    """Returns bool [N], True if the top-1 class is the same or a tie up to rounding."""
    indices = np.arange(len(expected))
    gap = expected.max(-1) - expected[indices, actual.argmax(-1)]
    return gap <= _TIE * np.abs(expected).max()
