"""What a network costs and how good it is."""

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
class Figures:
    """Of a network.

    Attributes:
      role: such as "student", "teacher" or "teacher 2".
      model: its name.
      top1: in per cent; None where it is not known.
      agreement: with the teacher in per cent; None for a teacher, or where it is not known.
      images: that top1 is of, such as "test split", or "500 test images".
      parameters: that were trained.
      macs: multiply-adds for an image.
      bytes: of its files, by kind, such as "float32" and "int8".
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
    """(Parameters, multiply-adds for an image), with an objective's that classifies for it."""
    parameters = networks.count_parameters(network.variables["params"])
    if classifier := network.variables.get("classifier"):
        parameters += networks.count_parameters(classifier["params"])
    image = jax.ShapeDtypeStruct((1, *network.about.preprocessing.image_shape), jnp.float32)
    return parameters, networks.multiply_adds(network.apply, network.variables, image)


def kept(network: Exportable, dataset: str, *, raw: bool = False) -> dict[str, float]:
    """`top1` and `agreement` on the whole test split, as far as the checkpoint knows them.

    Args:
      network: with what is known of it.
      dataset: that the figures must be of.
      raw: whether its weights are those that the figures, of their average, are not of.
    """
    about = network.about
    is_same = data.have_same_origin(about.training.get("dataset"), dataset)
    known = about.metrics if is_same and not raw else {}
    return {name: known[name] for name in ("top1", "agreement") if known.get(name) is not None}


def logits(network: Exportable, images: Images) -> np.ndarray:
    """[N, C] of a network."""
    firsts = range(0, len(images.images), 100)
    return np.concatenate([network(images.images[i : i + 100])["logits"] for i in firsts])


def accuracy(
    given: np.ndarray, images: Images, teacher: np.ndarray | None = None
) -> dict[str, Any]:
    """`top1`, and `agreement` with a teacher's logits, in per cent."""
    found = {}
    if images.labels is not None:
        found["top1"] = metrics.percent_equal(given.argmax(-1), images.labels)
    if teacher is not None:
        found["agreement"] = metrics.percent_equal(given.argmax(-1), teacher.argmax(-1))
    return found
