"""What a user's network returns, as Outputs; and how it is told whether it is trained."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from rrd_jax import errors, imports
from rrd_jax.networks.contract import Outputs

_PARTS = Outputs._fields
# Arguments that say whether a network is trained, and those that say the contrary.
_TRAINED = ("train", "training", "is_training")
_NOT_TRAINED = ("deterministic", "inference", "use_running_average")


def as_outputs(returned: Any) -> Outputs:
    """The Outputs in what a network returned.

    Logits and embedding become float32. An embedding with places, [B, ..., D], is averaged over
    them.

    Args:
      returned: Outputs; a mapping, or an object, with `logits` and any of Outputs' other parts, or
        a mapping with an `embedding` alone; a pair (logits, embedding); or the logits alone.

    Raises:
      InputError: it is none of these.
    """
    outputs = parsed(returned)
    embedding = outputs.embedding
    if not isinstance(embedding, tuple):
        embedding = embedding.astype(jnp.float32)
        if embedding.ndim > 2:
            embedding = jnp.mean(embedding, axis=tuple(range(1, embedding.ndim - 1)))
    logits = outputs.logits
    if not isinstance(logits, tuple):
        logits = logits.astype(jnp.float32)
    return outputs._replace(logits=logits, embedding=embedding)


def parsed(returned: Any) -> Outputs:
    """The parts of what a network returned, as they are; see `as_outputs`.

    A part that is None is taken as missing.
    """
    if isinstance(returned, Mapping):
        parts = {part: returned[part] for part in _PARTS if part in returned}
    elif hasattr(returned, "logits"):
        parts = {part: getattr(returned, part) for part in _PARTS if hasattr(returned, part)}
    elif isinstance(returned, tuple | list) and len(returned) == 2:
        parts = dict(zip(_PARTS, returned, strict=False))
    else:
        parts = {"logits": returned}
    parts = {part: value for part, value in parts.items() if value is not None}
    if not hasattr(parts.get("logits", parts.get("embedding")), "shape"):
        raise errors.InputError(
            f"it returned {_described(returned)}; wanted are logits, a pair (logits, embedding), or"
            f" a dict with 'logits', 'embedding' and, if it has them, {', '.join(_PARTS[2:])}"
        )
    return _checked(Outputs(**{"logits": (), "embedding": (), **parts}))


def _checked(outputs: Outputs) -> Outputs:
    """The same with tuples of maps; raises an InputError for parts that are no arrays of floats."""
    several = {part: getattr(outputs, part) for part in ("maps", "preactivations")}
    for part, values in several.items():
        if not isinstance(values, tuple | list):
            raise errors.InputError(
                f"it returned {part} as {_described(values)}; wanted is a list of arrays"
            )
        several[part] = tuple(values)
    single = {"logits": (outputs.logits,), "embedding": (outputs.embedding,)}
    for part, values in (single | several).items():
        for value in values:
            if isinstance(value, tuple) and not value:
                continue
            kind = getattr(value, "dtype", None) or type(value).__name__
            if not (hasattr(value, "dtype") and jnp.issubdtype(kind, jnp.floating)):
                raise errors.InputError(
                    f"it returned {part} of type {kind}; wanted are arrays of floats"
                )
    if not isinstance(outputs.head, Mapping) and outputs.head != ():
        raise errors.InputError(
            f"it returned a head as {_described(outputs.head)}; wanted is a dict of kernel and bias"
        )
    return outputs._replace(**several)


def _described(returned: Any) -> str:
    if isinstance(returned, Mapping):
        return f"a dict of {', '.join(map(str, returned)) or 'nothing'}"
    if isinstance(returned, tuple | list):
        return f"a {type(returned).__name__} of {len(returned)}"
    if hasattr(returned, "shape"):
        return f"an array of shape {returned.shape}"
    return f"an object of type {type(returned).__name__}"


def flags(function: Callable) -> dict[str, bool]:
    """{argument: its value in training} of the arguments that say whether a network is trained."""
    known = imports.parameters(function)
    return {name: True for name in _TRAINED if name in known} | {
        name: False for name in _NOT_TRAINED if name in known
    }


def values(given: Mapping[str, bool], train: bool) -> dict[str, bool]:
    """The arguments of `flags` for training, or else for evaluation."""
    return {name: value == train for name, value in given.items()}


def takes(function: Callable, name: str) -> bool:
    """Whether a function has a parameter of that name, or takes any keyword."""
    known = imports.parameters(function)
    return name in known or any(p.kind is inspect.Parameter.VAR_KEYWORD for p in known.values())


class Names:
    """The leaves of a tree by name, as nested dicts of strings.

    Such dicts are what checkpoints hold, whatever the tree is made of.

    Args:
      tree: of arrays or shapes.
    """

    def __init__(self, tree: Any):
        leaves, self._treedef = jax.tree_util.tree_flatten_with_path(tree)
        self._paths = [_path(path) for path, _ in leaves]

    def to_dict(self, tree: Any) -> dict[str, Any]:
        """The leaves of a tree of the same structure.

        Raises:
          InputError: it has another one.
        """
        given, treedef = jax.tree_util.tree_flatten_with_path(tree)
        if treedef != self._treedef:
            odd = {_path(path) for path, _ in given}.symmetric_difference(self._paths)
            listed = ", ".join(sorted(map(".".join, odd))) or "the static parts of its modules"
            raise errors.InputError(
                f"it makes or drops {listed} when it is called; make them with the network"
            )
        nested: dict[str, Any] = {}
        for path, (_, leaf) in zip(self._paths, given, strict=True):
            at = nested
            for name in path[:-1]:
                at = at.setdefault(name, {})
            at[path[-1]] = leaf
        return nested

    def to_tree(self, nested: Mapping[str, Any]) -> Any:
        """The tree with the leaves of nested dicts."""
        leaves = []
        for path in self._paths:
            at: Any = nested
            for name in path:
                at = at[name]
            leaves.append(at)
        return self._treedef.unflatten(leaves)


def _path(path: tuple[Any, ...]) -> tuple[str, ...]:
    """The keys of a leaf as strings; the `value` that NNX wraps around each is left out."""
    names = [str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path]
    return tuple(names[:-1] if len(names) > 1 and names[-1] == "value" else names)
