"""The costs and the accuracy of a network."""

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
    """The costs and the accuracy of a network.

    Attributes:
      role: such as "student", "teacher" or "teacher 2".
      model: its name.
      top1: in percent; None if unknown.
      agreement: with the teacher in percent; None for a teacher, or if unknown.
      images: on which top1 was measured, such as "test split" or "500 test images".
      parameters: how many are trained.
      macs: multiply-adds per image.
      bytes: of its files by kind, "float32" or "int8".
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
    """Returns parameters and multiply-adds per image, with those of an objective's classifier."""
    parameters = networks.count_parameters(network.variables["params"])
    if classifier := network.variables.get("classifier"):
        parameters += networks.count_parameters(classifier["params"])
    image = jax.ShapeDtypeStruct((1, *network.about.preprocessing.image_shape), jnp.float32)
    return parameters, networks.multiply_adds(network.apply, network.variables, image)


def saved(network: Exportable, dataset: str, *, raw: bool = False) -> dict[str, float]:
    """Returns `top1` and `agreement` on the test split, as far as the checkpoint holds them.

    Args:
      network: with its description.
      dataset: on which they must have been measured.
      raw: whether the weights are not the averaged ones, which the checkpoint was measured with.
    """
    about = network.about
    is_same = data.have_same_origin(about.training.get("dataset"), dataset)
    known = about.metrics if is_same and not raw else {}
    return {name: known[name] for name in ("top1", "agreement") if known.get(name) is not None}


def logits(network: Exportable, images: Images) -> np.ndarray:
    """Returns the logits of a network, [N, C]."""
    firsts = range(0, len(images.images), 100)
    return np.concatenate([network(images.images[i : i + 100])["logits"] for i in firsts])


def accuracy(
    logits: np.ndarray, images: Images, teacher: np.ndarray | None = None
) -> dict[str, Any]:
    """Returns `top1`, and `agreement` with a teacher's logits, in percent."""
    percentages = {}
    if images.labels is not None:
        percentages["top1"] = metrics.percent_equal(logits.argmax(-1), images.labels)
    if teacher is not None:
        percentages["agreement"] = metrics.percent_equal(logits.argmax(-1), teacher.argmax(-1))
    return percentages
