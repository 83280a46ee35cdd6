"""Names of networks: those that their weights give, and our names for those of other libraries."""

import pathlib
from collections.abc import Collection

from rrd_jax import networks
from rrd_jax.settings import Values
from rrd_jax.weights import files


def complete(values: Values, custom_networks: Collection[str]) -> None:
    """Names networks as files and tables name them.

    A network without a name gets the one that its weights give: hf:FOLDER, timm's folders.

    Args:
      values: checked values, which are changed.
      custom_networks: names of networks that were made in Python.

    Raises:
      InputError: weights that contradict themselves, or belong to no network here.
    """
    for section in (values["student"], *values.teachers):
        if not section["model"] and section["checkpoint"]:
            section["model"] = files.network_of(pathlib.Path(section["checkpoint"])) or ""
        if section["model"] not in custom_networks:
            section["model"] = networks.canonical(section["model"])
