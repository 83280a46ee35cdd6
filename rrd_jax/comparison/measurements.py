"""Costs and accuracy of a network."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rrd_jax import data, networks
from rrd_jax.exports import Exportable, Images
from rrd_jax.training import metrics


@dataclasses.dataclass(frozen=True)
class Measurements:
    """Costs and accuracy of a network.

    Attributes:
      role: a label such as "student", "teacher" or "teacher 2".
      model: name of the network.
      top1: top-1 accuracy in percent; None if unknown.
      agreement: agreement with the teacher in percent; None for a teacher, or if unknown.
      images: the images on which top1 was measured, such as "test split" or "500 test images".
      parameters: number of trained parameters.
      macs: multiply-adds per image.
      bytes: file sizes by kind, "float32" or "int8".
    """

    role: str
    model: str
    top1: float | None
    agreement: float | None
    images: str
    parameters: int
    macs: int
    bytes: Mapping[str, int] = dataclasses.field(default_factory=dict)


def costs(network: Exportable) -> tuple[int, int]:
    """Counts parameters and multiply-adds per image.

    The parameters include the classifier of an objective.

    Returns:
      (parameters, multiply-adds).
    """
    parameters = networks.count_parameters(network.variables["params"])
    if classifier := network.variables.get("classifier"):
        parameters += networks.count_parameters(classifier["params"])
    image = jax.ShapeDtypeStruct((1, *network.about.preprocessing.image_shape), jnp.float32)
    return parameters, networks.multiply_adds(network.apply, network.variables, image)


def saved(network: Exportable, dataset: str, *, raw: bool = False) -> dict[str, float]:
    """Returns `top1` and `agreement` on the test split, if the checkpoint contains them.

    Args:
      network: the network with its description.
      dataset: the data set; metrics of other data sets are ignored.
      raw: whether the network has raw weights. The metrics in a checkpoint are for averaged
        weights, so they are ignored.
    """
    about = network.about
    is_same = data.have_same_origin(about.training.get("dataset"), dataset)
    values = about.metrics if is_same and not raw else {}
    return {name: values[name] for name in ("top1", "agreement") if values.get(name) is not None}


def logits(network: Exportable, images: Images) -> np.ndarray:
    """Computes the logits of a network, [N, C]."""
    firsts = range(0, len(images.images), 100)
    return np.concatenate([network(images.images[i : i + 100])["logits"] for i in firsts])


def accuracy(
    logits: np.ndarray, images: Images, teacher: np.ndarray | None = None
) -> dict[str, Any]:
    """Computes `top1`, and `agreement` with a teacher's logits, in percent."""
    percentages = {}
    if images.labels is not None:
        percentages["top1"] = metrics.percent_equal(logits.argmax(-1), images.labels)
    if teacher is not None:
        percentages["agreement"] = metrics.percent_equal(logits.argmax(-1), teacher.argmax(-1))
    return percentages
