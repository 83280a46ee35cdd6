"""Files and folders of weights that `rrd_jax.exports` wrote, which describe their content.

The description of a .safetensors file is in its metadata, under "rrd_jax"; that of a file of
torch.save is FILE.json in the same folder. A folder for a hub holds model.safetensors.
"""

import json
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
import safetensors.numpy
from flax import traverse_util

from rrd_jax import checkpoints, errors
from rrd_jax.data import model_info as abouts
from rrd_jax.data.model_info import ModelInfo
from rrd_jax.weights import file_formats, transformers_folder

KEY, HUB_WEIGHTS = "rrd_jax", "model.safetensors"
_MARKS = ('"digest":', '"names":')  # what other files of this name do not hold
_COLLECTIONS = ("params", "batch_stats")


class WeightsInfo(NamedTuple):
    """The description of an exported file of weights.

    Attributes:
      about: the network and its weights.
      names: whose names the entries have: "ours", "torch", "torchvision" or "timm".
      digest: digest of the variables.
      tree: the variables with the name of each array in its place; None if the names tell it.
    """

    about: ModelInfo
    names: str
    digest: str
    tree: Any = None


def weights_of(path: pathlib.Path) -> pathlib.Path:
    """Returns the file of weights in a folder for a hub; any other path, as a run's, as it is."""
    if (path / "checkpoints").exists():
        return path
    file = path / HUB_WEIGHTS
    return file if file.is_file() else transformers_folder.weights_of(path) or path


def read(file: pathlib.Path) -> WeightsInfo | None:
    """Returns the description of a file's weights; None for a file that was not exported.

    Raises:
      InputError: the description is damaged.
    """
    text, where = _text(file)
    if text is None:
        return None
    try:
        content = json.loads(text)
        about = abouts.from_json(content["about"], where)
        names, digest = content["names"], content["digest"]
        if names not in ("ours", "torch", "torchvision", "timm") or not isinstance(digest, str):
            raise ValueError(f"its names are {names!r}")
        if about.preprocessing is None:
            raise ValueError("it does not say what images it takes")
        return WeightsInfo(about, names, digest, content.get("tree"))
    except errors.InputError:
        raise
    except (KeyError, RecursionError, TypeError, ValueError) as error:
        raise errors.InputError(
            f"what {where} says of its weights is damaged ({error!r})"
        ) from error


def metadata(file: pathlib.Path) -> dict[str, str]:
    """Returns the metadata of a .safetensors file, even if its arrays are cut off; else {}."""
    try:
        with file.open("rb") as opened:
            if not file_formats.is_safetensors(file):
                return {}
            length = int.from_bytes(opened.read(8), "little")
            content = json.loads(opened.read(length))["__metadata__"]
    except (KeyError, OSError, RecursionError, TypeError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _text(file: pathlib.Path) -> tuple[str | None, str]:
    """Returns the text of a file's description, and the path that holds it."""
    if file_formats.is_safetensors(file):
        return metadata(file).get(KEY), str(file)
    sidecar = _sidecar_of(file)
    try:
        text = sidecar.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None, ""
    return (text, str(sidecar)) if all(mark in text for mark in _MARKS) else (None, "")


def _sidecar_of(file: pathlib.Path) -> pathlib.Path:
    return file.with_name(f"{file.name}.json")


def describe(variables: dict[str, Any], names: str) -> dict[str, Any]:
    """Returns the JSON that `read` reads, without "about"."""
    content: dict[str, Any] = {"names": names, "digest": digest(variables)}
    tree = _tree(variables, ())
    if (
        names == "ours"
        and traverse_util.unflatten_dict({name: name for name in flatten(variables)}, sep="/")
        != tree
    ):
        content["tree"] = tree
    return content


def digest(variables: dict[str, Any]) -> str:
    """Returns the digest of variables, as runs record it for their teachers."""
    return checkpoints.host_digest(jax.device_get(variables))


def check(file: pathlib.Path, variables: dict[str, Any], wanted: WeightsInfo) -> None:
    """Raises an InputError if weights are not those that were written."""
    if digest(variables) != wanted.digest:
        way_out = "export or copy it again"
        if not file_formats.is_safetensors(file):
            way_out += f", or remove {_sidecar_of(file)} if they are new"
        raise errors.InputError(
            f"{file} is damaged: its weights are not those that were written, by their digest;"
            f" {way_out}"
        )


def flatten(variables: dict[str, Any]) -> dict[str, np.ndarray]:
    """Returns {name: array} of variables, with names such as params/conv1/kernel."""
    return dict(_leaves(variables, _tree(variables, ())))


def unflatten(arrays: dict[str, np.ndarray], tree: Any = None) -> dict[str, Any]:
    """Returns the variables of `flatten`, with "params" and "batch_stats" even if empty.

    Raises:
      KeyError: arrays are missing.
    """
    variables = (
        traverse_util.unflatten_dict(arrays, sep="/") if tree is None else _filled(tree, arrays)
    )
    return {**{name: {} for name in _COLLECTIONS}, **variables}


def read_ours(file: pathlib.Path, wanted: WeightsInfo) -> dict[str, Any]:
    """Returns the variables of a file with our names; raises an InputError if it is damaged."""
    try:
        arrays = safetensors.numpy.load_file(file)
        return unflatten(arrays, wanted.tree)
    except Exception as error:  # of the library
        raise errors.InputError(
            f"{file} cannot be read ({errors.printable(str(error))[:200]}); it is damaged"
        ) from error


def _tree(node: Any, path: tuple[str, ...]) -> Any:
    """Returns variables with the name of each array in its place."""
    if isinstance(node, dict):
        return {str(key): _tree(value, (*path, str(key))) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_tree(value, (*path, str(place))) for place, value in enumerate(node)]
    return "/".join(part.replace("%", "%25").replace("/", "%2F") for part in path)


def _leaves(node: Any, tree: Any) -> Iterator[tuple[str, np.ndarray]]:
    if isinstance(tree, str):
        yield tree, np.ascontiguousarray(node).reshape(np.shape(node))
        return
    parts = (node.values(), tree.values()) if isinstance(tree, dict) else (node, tree)
    for pair in zip(*parts, strict=True):
        yield from _leaves(*pair)


def _filled(tree: Any, arrays: dict[str, Any]) -> Any:
    """Returns a tree with arrays in the places of their names."""
    if isinstance(tree, dict):
        return {key: _filled(node, arrays) for key, node in tree.items()}
    if isinstance(tree, list):
        return [_filled(node, arrays) for node in tree]
    return arrays[tree]
