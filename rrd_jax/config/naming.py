"""Names of networks and repositories: canonical names, and the commits of revisions."""

from collections.abc import Collection, Mapping
from typing import Any

from rrd_jax import hub, networks, parallel, user_paths
from rrd_jax.data.sources import hub_tables
from rrd_jax.run_folder.config_fields import flatten
from rrd_jax.settings import Values
from rrd_jax.weights import files, hub_folder


def pin_repositories(values: Values, recorded: Mapping[str, Any] | None) -> None:
    """Adds the commits of revisions to the names of repositories of the Hugging Face Hub.

    Args:
      values: checked values; modified in place.
      recorded: the config of the workdir, whose commits a resumed run keeps; None for a new one.

    Raises:
      HubError: a repository is not available.
      InputError: a repository holds no network or data that is supported.
    """
    earlier = flatten(recorded or {})
    fields = dict.fromkeys(("data.name", "eval.labelled"), hub_tables.pin)
    sections = ["student", *values.labels]
    fields |= {f"{section}.checkpoint": hub_folder.pin for section in sections}
    commits = {}
    for path, pin in fields.items():
        if hub.is_name(values[path]):
            text = hub.pinned(values[path], earlier.get(path))
            values[path] = commits[path] = parallel.main_first(lambda: pin(text))  # noqa: B023
    # A revision can move between the requests of two processes.
    if commits:
        parallel.check_agreement(commits)


def resolve(values: Values, custom_networks: Collection[str]) -> None:
    """Replaces the names of networks by their canonical names, which include options.

    A missing name is read from the weights, which must be hf:FOLDER, a folder of timm, or a
    repository of the Hugging Face Hub.

    Args:
      values: checked values; modified in place.
      custom_networks: names of the networks that are Python objects.

    Raises:
      InputError: the weights contradict themselves, or belong to no supported network.
    """
    sections = (values["student"], *values.teachers)
    for label, section in zip(("student", *values.labels), sections, strict=True):
        if not section["model"] and section["checkpoint"]:
            section["model"] = files.network_of(user_paths.path_of(section["checkpoint"])) or ""
        if section["model"] not in custom_networks:
            section["model"] = networks.canonical(section["model"])
        if section["model"] in networks.MODELS:
            options = {n: value for n, value in section["options"].items() if value is not None}
            prefix = f"{label}.options."
            section["model"] = networks.with_options(section["model"], options, prefix)
            section["options"] = {}
