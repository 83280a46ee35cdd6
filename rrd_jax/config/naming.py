"""Names of networks that a config leaves empty, where the weights say of which network they are."""

import pathlib

from ml_collections import ConfigDict

from rrd_jax.config import checks
from rrd_jax.weights import files


def named(config: ConfigDict) -> ConfigDict:
    """A config in which no network is empty whose weights name it: hf:FOLDER, timm's folders.

    Args:
      config: it is not changed.

    Raises:
      InputError: weights say of themselves what cannot be, or that they are of no network here.
    """
    try:
        given = [(at, fields) for at, fields in _networks(config) if not fields.model]
        paths = {at: fields.checkpoint for at, fields in given if fields.checkpoint}
        found = {at: files.network_of(pathlib.Path(path)) for at, path in paths.items()}
    except (AttributeError, KeyError, TypeError):  # `checks` says what is wrong
        return config
    if not any(found.values()):
        return config
    config = config.copy_and_resolve_references()
    for at, fields in _networks(config):
        if found.get(at):
            fields.model = found[at]
    return config


def _networks(config: ConfigDict) -> list[tuple[str, ConfigDict]]:
    return [("student", config.student), *checks.teachers(config)]
