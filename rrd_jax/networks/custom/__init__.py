"""Networks that users bring: by import path, or as objects made in Python."""

import dataclasses
import functools
import importlib.util
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from rrd_jax import errors, imports
from rrd_jax.networks.contract import Network
from rrd_jax.networks.custom.base import Brought
from rrd_jax.networks.custom.functions import from_functions
from rrd_jax.networks.custom.linen import flagged_fields, from_linen
from rrd_jax.networks.custom.outputs import values


def _for_linen(*, embedding_of: str = "") -> None:
    """The signature of the border's options for Linen; a network's own argument goes first."""
    del embedding_of


def _for_equinox(*, batched: bool | None = None, channels_first: bool | None = None) -> None:
    """Likewise for Equinox."""
    del batched, channels_first


_BORDER = {"linen": _for_linen, "equinox": _for_equinox}


def from_nnx(module: Any, *, name: str = "") -> Brought:
    """A Flax NNX module as a Network; see `networks.brought.nnx`."""
    from rrd_jax.networks.custom import nnx

    return nnx.from_nnx(module, name=name)


def from_equinox(model: Any, **options: Any) -> Brought:
    """An Equinox module as a Network; see `networks.brought.equinox`.

    Raises:
      InputError: Equinox is not installed.
    """
    if importlib.util.find_spec("equinox") is None:
        raise errors.InputError(
            "this network needs Equinox: pip install 'rrd_jax[equinox]', or pip install equinox"
        )
    from rrd_jax.networks.custom import equinox

    return equinox.from_equinox(model, **options)


def create(
    path: str, num_classes: int, dtype: jnp.dtype, options: Mapping[str, Any], prefix: str
) -> Network:
    """The network of an import path.

    The attribute is a module class, a factory of a module or of a pair of functions, or such a
    thing itself. It is called with `num_classes`, with `dtype` (what convolutions should compute
    in) where its signature has it, and with the options.

    Args:
      path: MODULE:NAME.
      num_classes: C.
      dtype: what the config asks for.
      options: of the factory, and of the border: `embedding_of` for Linen; `batched` and
        `channels_first` for Equinox.
      prefix: of the options' names in messages, such as "student.options.".

    Raises:
      InputError: nothing is found, an option is unknown, or what is found is no network.
    """
    found = imports.load("network", path)
    asked = _Asked((id(found), _frozen(options)), found, options)
    return _create(asked, path, num_classes, dtype, prefix)


@dataclasses.dataclass(frozen=True)
class _Asked:
    """What a path leads to, and its options; the same if `key` is, hashable or not."""

    key: Hashable
    found: Any = dataclasses.field(compare=False)
    options: Mapping[str, Any] = dataclasses.field(compare=False)


def _frozen(value: Any) -> Hashable:
    if hasattr(value, "items"):  # a ConfigDict is no Mapping
        return tuple(sorted((name, _frozen(part)) for name, part in value.items()))
    if isinstance(value, list | tuple):
        return tuple(map(_frozen, value))
    return type(value), value  # 1 equals True


@functools.cache  # a network that is made twice would be traced twice
def _create(asked: _Asked, path: str, num_classes: int, dtype: Any, prefix: str) -> Any:
    ours = {"num_classes": num_classes, "dtype": dtype}
    found, what, options = asked.found, f"network '{path}'", dict(asked.options)
    kind = _kind(found)
    call = found if callable(found) and (isinstance(found, type) or kind is None) else None
    kind = kind or _kind_of_factory(call)
    border = _border(what, call, kind, options, prefix)
    if kind == "linen" and call:
        ours |= values(flagged_fields(call), train=False)  # `from_linen` sets them for each call

    def make(**keys):
        hidden = ("parent", "name") if kind == "linen" else ()  # fields of every Linen module
        return imports.call(what, call, options, {**ours, **keys}, prefix=prefix, hidden=hidden)

    with_key = {"nnx": lambda rngs: make(rngs=rngs), "equinox": lambda key: make(key=key)}
    if call is None:
        if kind and options:
            imports.check(what, lambda: None, options, prefix=prefix)
        made = found
    elif kind in with_key:
        made = with_key[kind]
    else:
        made = make()
        kind = _kind(made)
    with errors.user_code("using", what):
        return adapt(made, path, kind=kind, **border)


def _kind_of_factory(call: Callable | None) -> str | None:
    """What the arguments of a factory show of what it makes."""
    known = imports.parameters(call) if call else {}
    return "nnx" if "rngs" in known else "equinox" if "key" in known else None


def _border(
    what: str, call: Callable | None, kind: str | None, options: dict[str, Any], prefix: str
) -> dict[str, Any]:
    """Takes the options of the border out of those of the network."""
    theirs = imports.parameters(call) if call else {}
    ours = _BORDER.get(kind or "linen", lambda: None)
    names = [n for n in imports.parameters(ours) if n in options and n not in theirs]
    return imports.check(what, ours, {n: options.pop(n) for n in names}, prefix=prefix)


def adapt(made: Any, name: str, *, kind: str | None = None, **border: Any) -> Network:
    """A user's object as a Network.

    Args:
      made: a Network; a Linen, NNX or Equinox module; a pair of functions (init, apply), or an
        object or a dict that has them.
      name: for messages.
      kind: "linen", "nnx", "equinox" or "functions"; None to look.
      **border: options of `from_linen` or `from_equinox`.

    Raises:
      InputError: it is none of these.
    """
    kind = kind or _kind(made)
    if isinstance(made, Brought):
        return made
    if isinstance(made, type):
        raise errors.InputError(
            f"network '{name}' gives the class {made.__name__}: call it, for example with"
            " num_classes"
        )
    if kind == "linen":
        return from_linen(made, name=name, **border)
    if border and kind != "equinox":
        raise errors.InputError(
            f"network '{name}' takes no option {', '.join(border)}, which is for Linen modules;"
            " return a pair (logits, embedding) from it"
        )
    if kind == "nnx":
        return from_nnx(made, name=name)
    if kind == "equinox":
        return from_equinox(made, name=name, **border)
    if kind == "functions":
        return from_functions(*_pair(made), name=name)
    raise errors.InputError(
        f"network '{name}' is of type {type(made).__name__}; wanted is a Flax Linen, NNX or Equinox"
        " module, a pair of functions (init, apply), or a class or factory of one"
    )


def is_network(found: Any) -> bool:
    """Whether an object is a network, its class or a factory of one, as far as can be seen."""
    if _kind(found) or isinstance(found, Brought):
        return True
    return callable(found) and "num_classes" in imports.parameters(found)


def _kind(found: Any) -> str | None:
    """What a network, or a class of networks, is made with; None for anything else."""
    classes = found if isinstance(found, type) else type(found)
    if issubclass(classes, nn.Module):
        return "linen"
    nnx, equinox = map(imports.loaded, ("flax.nnx", "equinox"))
    if nnx and issubclass(classes, nnx.Module):
        return "nnx"
    if equinox and issubclass(classes, equinox.Module):
        return "equinox"
    if equinox and isinstance(found, tuple) and len(found) == 2:
        kinds = zip(found, (equinox.Module, equinox.nn.State), strict=True)
        if all(isinstance(*pair) for pair in kinds):
            return "equinox"
    return "functions" if _pair(found) else None


def _pair(found: Any) -> tuple[Callable, Callable] | None:
    """The functions init and apply in an object, a dict or a pair."""
    if isinstance(found, Mapping):
        pair = found.get("init"), found.get("apply")
    elif hasattr(found, "init") and hasattr(found, "apply"):
        pair = found.init, found.apply
    elif isinstance(found, tuple | list) and len(found) == 2:
        pair = tuple(found)
    else:
        return None
    return pair if all(map(callable, pair)) else None


__all__ = [
    "Brought",
    "adapt",
    "create",
    "from_equinox",
    "from_functions",
    "from_linen",
    "from_nnx",
    "is_network",
]
