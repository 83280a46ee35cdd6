"""Weight files and folders of `rrd_jax.exports`, which describe their content.

The description of a .safetensors file is in its metadata, under "rrd_jax"; the description of a
file of torch.save is FILE.json in the same folder. A folder for a model hub holds
model.safetensors.
"""

import json
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy
from flax import traverse_util

from rrd_jax import checkpoints, errors
from rrd_jax.data import model_info as abouts
from rrd_jax.data.model_info import ModelInfo
from rrd_jax.weights import file_formats, transformers_folder

KEY, HUB_WEIGHTS = "rrd_jax", "model.safetensors"
# Texts in a description that other files with the name FILE.json do not contain.
_MARKS = ('"digest":', '"names":')
_COLLECTIONS = ("params", "batch_stats")


class WeightsInfo(NamedTuple):
    """The description of an exported file of weights.

    Attributes:
      about: the network and its weights.
      names: origin of the entry names: "ours", "torch", "torchvision" or "timm".
      digest: digest of the variables.
      tree: the variables with names instead of arrays; None if the names determine the tree.
    """

    about: ModelInfo
    names: str
    digest: str
    tree: Any = None


def weights_file(path: pathlib.Path) -> pathlib.Path:
    """Returns the weight file of a model hub folder, or any other path unchanged."""
    if (path / "checkpoints").exists():
        return path
    file = path / HUB_WEIGHTS
    return file if file.is_file() else transformers_folder.weights_file(path) or path


def read(file: pathlib.Path) -> WeightsInfo | None:
    """Reads the description of a weight file; None for a file that was not exported.

    Raises:
      InputError: the description is damaged.
    """
    text, location = _text(file)
    if text is None:
        return None
    try:
        content = json.loads(text)
        about = abouts.from_json(content["about"], location)
        names, digest = content["names"], content["digest"]
        if names not in ("ours", "torch", "torchvision", "timm") or not isinstance(digest, str):
            raise ValueError(f"unknown names {names!r}")
        if about.preprocessing is None:
            raise ValueError("the preprocessing is missing")
        return WeightsInfo(about, names, digest, content.get("tree"))
    except errors.InputError:
        raise
    except (KeyError, RecursionError, TypeError, ValueError) as error:
        raise errors.InputError(
            f"the description of the weights in {location} is damaged ({error!r}); export or copy"
            " it again"
        ) from error


def metadata(file: pathlib.Path) -> dict[str, str]:
    """Reads the metadata of a .safetensors file, even if its arrays are incomplete; else {}."""
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
    """Returns the content of the JSON that `read` reads, without "about"."""
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
    """Returns the digest of variables, which runs also record for their teachers."""
    return checkpoints.host_digest(variables)


def check(file: pathlib.Path, variables: dict[str, Any], expected: WeightsInfo) -> None:
    """Raises an InputError if the digest of weights differs from the recorded digest."""
    if digest(variables) != expected.digest:
        remedy = "export or copy it again"
        if not file_formats.is_safetensors(file):
            remedy += f", or remove {_sidecar_of(file)} if the weights are new"
        raise errors.InputError(
            f"{file} is damaged: its weights do not match their digest; {remedy}"
        )


def flatten(variables: dict[str, Any]) -> dict[str, np.ndarray]:
    """Returns the arrays of variables by names such as params/conv1/kernel."""
    return dict(_leaves(variables, _tree(variables, ())))


def unflatten(arrays: dict[str, np.ndarray], tree: Any = None) -> dict[str, Any]:
    """Inverts `flatten`; the result has "params" and "batch_stats" even if they are empty.

    Raises:
      KeyError: arrays are missing.
    """
    variables = (
        traverse_util.unflatten_dict(arrays, sep="/") if tree is None else _filled(tree, arrays)
    )
    return {**{name: {} for name in _COLLECTIONS}, **variables}


def read_native(
    file: pathlib.Path, description: WeightsInfo, *, lazy: bool = False
) -> dict[str, Any]:
    """Reads the variables of a file with native names, or returns them as `networks.Stored`.

    Raises:
      InputError: the file is damaged.
    """
    try:
        arrays = file_formats.stored(file) if lazy else safetensors.numpy.load_file(file)
        return unflatten(arrays, description.tree)
    # safetensors raises errors of several types.
    except Exception as error:
        raise errors.InputError(
            f"{file} cannot be read ({errors.printable(str(error))[:200]}); it is damaged; export"
            " or copy it again"
        ) from error


def _tree(node: Any, path: tuple[str, ...]) -> Any:
    """Returns variables with names instead of arrays."""
    if isinstance(node, dict):
        return {str(key): _tree(value, (*path, str(key))) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_tree(value, (*path, str(index))) for index, value in enumerate(node)]
    return "/".join(part.replace("%", "%25").replace("/", "%2F") for part in path)


def _leaves(node: Any, tree: Any) -> Iterator[tuple[str, np.ndarray]]:
    if isinstance(tree, str):
        yield tree, np.ascontiguousarray(node).reshape(np.shape(node))
        return
    parts = (node.values(), tree.values()) if isinstance(tree, dict) else (node, tree)
    for pair in zip(*parts, strict=True):
        yield from _leaves(*pair)


def _filled(tree: Any, arrays: dict[str, Any]) -> Any:
    """Returns a tree with arrays instead of their names."""
    if isinstance(tree, dict):
        return {key: _filled(node, arrays) for key, node in tree.items()}
    if isinstance(tree, list):
        return [_filled(node, arrays) for node in tree]
    return arrays[tree]
