"""Names of networks, from their weights or from the names that other libraries use."""

import pathlib
from collections.abc import Collection

from rrd_jax import networks
from rrd_jax.settings import Values
from rrd_jax.weights import files


def resolve(values: Values, custom_networks: Collection[str]) -> None:
    """Replaces the names of networks by their canonical names.

    A missing name is read from the weights, which must be hf:FOLDER or a folder of timm.

    Args:
      values: checked values; modified in place.
      custom_networks: names of the networks that are Python objects.

    Raises:
      InputError: the weights contradict themselves, or belong to no supported network.
    """
    for section in (values["student"], *values.teachers):
        if not section["model"] and section["checkpoint"]:
            section["model"] = files.network_of(pathlib.Path(section["checkpoint"])) or ""
        if section["model"] not in custom_networks:
            section["model"] = networks.canonical(section["model"])
