"""Conversion of a custom network's results to Outputs, of its mode arguments, and of its trees."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from rrd_jax import errors, imports
from rrd_jax.networks.contract import Outputs

_PARTS = Outputs._fields
# Arguments that are True in training, and arguments that are True in evaluation.
_TRUE_IN_TRAINING = ("train", "training", "is_training")
_TRUE_IN_EVALUATION = ("deterministic", "inference", "use_running_average")


def as_outputs(returned: Any) -> Outputs:
    """Converts the result of a custom network to Outputs.

    Logits and embedding become float32. An embedding with spatial axes, [B, ..., D], is averaged
    over them.

    Args:
      returned: Outputs; a mapping, or an object, with `logits` and any other fields of Outputs; a
        mapping with an `embedding` alone; a pair (logits, embedding); or the logits alone.

    Raises:
      InputError: `returned` is none of these.
    """
    outputs = parse(returned)
    embedding = outputs.embedding
    if not isinstance(embedding, tuple):
        embedding = embedding.astype(jnp.float32)
        if embedding.ndim > 2:
            embedding = jnp.mean(embedding, axis=tuple(range(1, embedding.ndim - 1)))
    logits = outputs.logits
    if not isinstance(logits, tuple):
        logits = logits.astype(jnp.float32)
    return outputs._replace(logits=logits, embedding=embedding)


def parse(returned: Any) -> Outputs:
    """Returns the parts of a custom network's result, without changing their types and shapes.

    Parts that are None or () count as missing. See `as_outputs` for the accepted results.
    """
    if isinstance(returned, Mapping):
        parts = {part: returned[part] for part in _PARTS if part in returned}
    elif hasattr(returned, "logits"):
        parts = {part: getattr(returned, part) for part in _PARTS if hasattr(returned, part)}
    elif isinstance(returned, tuple | list) and len(returned) == 2:
        parts = dict(zip(_PARTS, returned, strict=False))
    else:
        parts = {"logits": returned}
    parts = {part: value for part, value in parts.items() if not _is_missing(value)}
    if not hasattr(parts.get("logits", parts.get("embedding")), "shape"):
        raise errors.InputError(
            f"the result is {_describe(returned)}; return logits, a pair (logits, embedding), or a"
            f" dict with 'logits', 'embedding' and optionally {', '.join(_PARTS[2:])}"
        )
    return _checked(Outputs(**{"logits": (), "embedding": (), **parts}))


def _checked(outputs: Outputs) -> Outputs:
    """Returns the outputs with maps as tuples.

    Raises:
      InputError: a part is not made of arrays of floats, or the head is not a dict.
    """
    several = {part: getattr(outputs, part) for part in ("maps", "preactivations")}
    for part, values in several.items():
        if not isinstance(values, tuple | list):
            raise errors.InputError(
                f"the returned {part} are {_describe(values)}; return a list of arrays"
            )
        several[part] = tuple(values)
    single = {part: (getattr(outputs, part),) for part in ("logits", "embedding", "patches")}
    for part, values in (single | several).items():
        for value in values:
            if _is_missing(value):
                continue
            kind = getattr(value, "dtype", None) or type(value).__name__
            if not (hasattr(value, "dtype") and jnp.issubdtype(kind, jnp.floating)):
                raise errors.InputError(
                    f"the returned {part} {'is' if part == 'embedding' else 'are'} of type {kind};"
                    " return arrays of floats"
                )
    if not isinstance(outputs.head, Mapping) and outputs.head != ():
        raise errors.InputError(
            f"the returned head is {_describe(outputs.head)}; return a dict of kernel and bias"
        )
    return outputs._replace(**several)


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, tuple) and not value)


def _describe(returned: Any) -> str:
    if isinstance(returned, Mapping):
        return f"a dict of {', '.join(map(str, returned)) or 'nothing'}"
    if isinstance(returned, tuple | list):
        return f"a {type(returned).__name__} of {len(returned)}"
    if hasattr(returned, "shape"):
        return f"an array of shape {returned.shape}"
    return f"an object of type {type(returned).__name__}"


def mode_flags(function: Callable) -> dict[str, bool]:
    """Returns {argument: its value in training} for mode arguments such as `train`."""
    parameters = imports.parameters(function)
    return {name: True for name in _TRUE_IN_TRAINING if name in parameters} | {
        name: False for name in _TRUE_IN_EVALUATION if name in parameters
    }


def mode_arguments(flags: Mapping[str, bool], train: bool) -> dict[str, bool]:
    """Returns the values of the arguments of `mode_flags` for training or for evaluation."""
    return {name: value == train for name, value in flags.items()}


def accepts(function: Callable, name: str) -> bool:
    """Returns True if a function has a parameter of that name, or accepts any keyword."""
    parameters = imports.parameters(function)
    return name in parameters or any(
        parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()
    )


class LeafNames:
    """The names of a tree's leaves, for conversion to nested dicts with string keys and back.

    Checkpoints store nested dicts, regardless of the containers in the tree.

    Args:
      tree: of arrays or shapes.
    """

    def __init__(self, tree: Any):
        leaves, self._treedef = jax.tree_util.tree_flatten_with_path(tree)
        self._paths = [_path(path) for path, _ in leaves]

    def to_dict(self, tree: Any) -> dict[str, Any]:
        """Returns the leaves of a tree of the same structure as nested dicts.

        Raises:
          InputError: the structure of the tree is different.
        """
        leaves, treedef = jax.tree_util.tree_flatten_with_path(tree)
        if treedef != self._treedef:
            odd = {_path(path) for path, _ in leaves}.symmetric_difference(self._paths)
            listed = ", ".join(sorted(map(".".join, odd))) or "the static parts of its modules"
            raise errors.InputError(
                f"a call of the network adds or removes {listed}; create all variables with the"
                " network"
            )
        nested: dict[str, Any] = {}
        for path, (_, leaf) in zip(self._paths, leaves, strict=True):
            node = nested
            for name in path[:-1]:
                node = node.setdefault(name, {})
            node[path[-1]] = leaf
        return nested

    def to_tree(self, nested: Mapping[str, Any]) -> Any:
        """Returns the tree with the leaves of nested dicts."""
        leaves = []
        for path in self._paths:
            node: Any = nested
            for name in path:
                node = node[name]
            leaves.append(node)
        return self._treedef.unflatten(leaves)


def _path(path: tuple[Any, ...]) -> tuple[str, ...]:
    """Returns the keys of a leaf as strings, without the `value` that NNX appends to each path."""
    names = [str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path]
    return tuple(names[:-1] if len(names) > 1 and names[-1] == "value" else names)
