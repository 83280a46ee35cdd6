"""Networks in repositories of the Hugging Face Hub: only configs and .safetensors files are read.

A network is in the layout of timm, of transformers or of `rrd_jax.export --format=hub`.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

from rrd_jax import errors, hub, networks, user_paths
from rrd_jax.terminal import console
from rrd_jax.weights import exported, published, sidecar, transformers_config, transformers_folder

_CONFIGS = (
    *("config.json", "preprocessor_config.json"),
    *("adapter_config.json", "model_index.json"),
)
_INDEX = f"{exported.HUB_WEIGHTS}.index.json"
_WEIGHTS = (exported.HUB_WEIGHTS, _INDEX, "model-*-of-*.safetensors")


def pin(text: str) -> str:
    """Returns a name of a repository with the current commit of its revision.

    Raises:
      HubError: see `hub.snapshot`.
      InputError: the repository holds no supported network.
    """
    name = hub.parse(text)
    return str(name._replace(commit=hub.commit_of(_described(name))))


def network(text: str) -> str:
    """Returns the network that a repository's config.json names; downloads no weights.

    Raises:
      HubError: see `hub.snapshot`.
      InputError: the repository holds no supported network.
    """
    name = hub.parse(text)
    folder = _described(name)
    content = user_paths.read_object(folder / "config.json") or {}
    if _is_own(content):
        return str(content[exported.KEY]["about"]["model"])
    return sidecar.read(folder / exported.HUB_WEIGHTS).model


def download(text: str) -> pathlib.Path:
    """Downloads a network; returns its folder in the cache.

    Raises:
      HubError: see `hub.snapshot`.
      InputError: the repository holds no supported network, or no .safetensors file.
    """
    name = hub.parse(text)
    described = _described(name)
    name = name._replace(commit=hub.commit_of(described))
    if transformers_folder.weights_file(described) is None:
        console.progress("hub", [f"downloading {name}"])
    folder = hub.snapshot(name, _WEIGHTS)
    if not (folder / exported.HUB_WEIGHTS).is_file():
        _check_index(name, folder)
    return folder


def _described(name: hub.Name) -> pathlib.Path:
    """Downloads the configs of a network, and checks that they describe a supported one."""
    folder = hub.snapshot(name, _CONFIGS)
    try:
        _check_configs(folder)
    except errors.InputError as error:
        text = str(error).removeprefix(f"{folder / 'config.json'}: ").removeprefix(f"{folder} ")
        text = text.replace(str(folder), str(name))
        text = text if str(name) in text else f"{name} {text}"
        raise errors.InputError(text) from None
    return folder


def _check_configs(folder: pathlib.Path) -> None:
    content = user_paths.read_object(folder / "config.json")
    if content is None:
        transformers_folder.check_unsupported(folder)
        if (folder / "config.json").is_file():
            raise errors.InputError(
                f"{folder} has a config.json that is not a JSON object; use another repository or"
                " revision"
            )
        raise errors.InputError(
            f"{folder} has no config.json, which names the network; download the weights, and pass"
            " their file with the name of the network"
        )
    architecture = content.get("architecture")
    if _is_own(content):
        return
    if architecture and isinstance(architecture, str):
        model = architecture.split(".")[0]
        if not published.from_timm(model) and model not in networks.MODELS:
            raise errors.InputError(
                f"{folder} holds timm's {errors.printable(architecture)}, which is not supported;"
                " `python -m rrd_jax.networks` lists the networks"
            )
        sidecar.read(folder / exported.HUB_WEIGHTS)
    elif "model_type" in content:
        transformers_config.names(content, str(folder))
    else:
        raise errors.InputError(
            f"{folder} has a config.json without timm's architecture or transformers' model_type;"
            " use another repository"
        )


def _is_own(content: Mapping[str, Any]) -> bool:
    """Returns True for the config.json of an exported network."""
    about = content.get(exported.KEY)
    about = about.get("about") if isinstance(about, Mapping) else None
    return isinstance(about, Mapping) and isinstance(about.get("model"), str)


def _check_index(name: hub.Name, folder: pathlib.Path) -> None:
    """Raises an InputError unless an index names .safetensors files."""
    index = user_paths.read_object(folder / _INDEX) or {}
    shards = index.get("weight_map")
    files = set(map(str, shards.values())) if isinstance(shards, Mapping) else set()
    if not files or not all(file.endswith(".safetensors") for file in files):
        raise errors.InputError(
            f"{name} has no {exported.HUB_WEIGHTS}; files of PyTorch, which can execute code, are"
            " not read from the hub: use a revision with safetensors, or download the file and pass"
            " its path"
        )
