"""Backbones: networks without classifier, for detection, segmentation and retrieval."""

import dataclasses
import math
from typing import Any

from rrd_jax import errors, networks
from rrd_jax.exports import interface
from rrd_jax.exports.interface import Exportable, Format
from rrd_jax.teacher import wrappers
from rrd_jax.terminal import console


def make_backbone(exportable: Exportable) -> Exportable:
    """Returns a network without its classifier, with the outputs of `interface.stages`.

    The embedding is an output too, projected if the network projects it. Wrapped teachers and
    custom networks keep the weights of their classifiers, which the outputs do not depend on.

    Raises:
      InputError: the network returns neither feature maps with strides 4 to 32 nor patches, or no
        embedding.
    """
    about = dataclasses.replace(exportable.about, num_classes=0, class_names=(), classifier="")
    shape = about.preprocessing.image_shape
    network = exportable.network
    if isinstance(network, wrappers.WithHeads):
        network = dataclasses.replace(network, network=_without_classifier(network.network))
    else:
        network = _without_classifier(network)
    summary = networks.summarize(network, shape)
    outputs = summary.outputs
    if isinstance(outputs.embedding, tuple) or not interface.stages(outputs, shape[0]):
        raise errors.InputError(
            f"--backbone needs an embedding, and feature maps with strides 4 to 32 or patches, but"
            f" '{about.model}' does not return both in its Outputs; omit --backbone, or choose"
            " another network"
        )
    if rounded := interface.rounded_sides(outputs, shape[0]):
        maps = " and ".join(f"{side}x{side}" for side in rounded)
        console.note(
            f"feature maps of {maps} are not exported, because their stride does not divide"
            f" images of {shape[0]} pixels; for all stages, set --image_size to a multiple of 32,"
            f" such as {32 * math.ceil(shape[0] / 32)}"
        )
    variables = {
        name: _part(exportable.variables[name], summary.variables[name])
        for name in ("params", "batch_stats")
    }
    return Exportable(network, variables, about, is_backbone=True)


def check_format(fmt: Format) -> None:
    """Raises an InputError for a format that does not support backbones."""
    if not fmt.backbones:
        raise errors.InputError(
            f"--backbone is not supported by format '{fmt.name}', which cannot return feature maps;"
            " use onnx, stablehlo, safetensors, torch or hub, or omit --backbone"
        )


def _without_classifier(network: networks.Network) -> networks.Network:
    is_custom = isinstance(network, networks.CustomNetwork | wrappers.Wrapper)
    return network if is_custom else network.clone(num_classes=0)


def _part(variables: Any, template: Any) -> Any:
    """Returns the part of nested dicts that a template has."""
    if not isinstance(template, dict):
        return variables
    return {name: _part(variables[name], part) for name, part in template.items()}
