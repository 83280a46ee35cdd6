"""Custom networks, given by import path or as Python objects."""

import dataclasses
import functools
import importlib.util
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from rrd_jax import errors, imports
from rrd_jax.networks.contract import Network
from rrd_jax.networks.custom.conversion import mode_arguments
from rrd_jax.networks.custom.custom_network import CustomNetwork
from rrd_jax.networks.custom.functions import from_functions
from rrd_jax.networks.custom.linen import flagged_fields, from_linen


def _linen_options(*, embedding_of: str = "", patches_of: str = "") -> None:
    """Declares the options of `from_linen`; the network's own arguments take precedence."""
    del embedding_of, patches_of


def _equinox_options(*, batched: bool | None = None, channels_first: bool | None = None) -> None:
    """Declares the options of `from_equinox`."""
    del batched, channels_first


_ADAPTER_OPTIONS = {"linen": _linen_options, "equinox": _equinox_options}


def from_nnx(module: Any, *, name: str = "") -> CustomNetwork:
    """Converts a Flax NNX module to a Network; see `networks.custom.nnx`."""
    from rrd_jax.networks.custom import nnx

    return nnx.from_nnx(module, name=name)


def from_equinox(model: Any, **options: Any) -> CustomNetwork:
    """Converts an Equinox module to a Network; see `networks.custom.equinox`.

    Raises:
      InputError: Equinox is not installed.
    """
    if importlib.util.find_spec("equinox") is None:
        raise errors.InputError("this network needs Equinox; run pip install 'rrd_jax[equinox]'")
    from rrd_jax.networks.custom import equinox

    return equinox.from_equinox(model, **options)


def create(
    path: str, num_classes: int, dtype: jnp.dtype, options: Mapping[str, Any], prefix: str
) -> Network:
    """Creates the network of an import path.

    The import path leads to a module class, a factory of a module or of a pair of functions, or a
    network object. Classes and factories are called with `num_classes`, with `dtype` (the type of
    convolutions) if their signature contains `dtype`, and with the options.

    Args:
      path: MODULE:NAME.
      num_classes: number of classes C.
      dtype: the config's type of convolutions.
      options: arguments of the factory, and options of the adapter: `embedding_of` and
        `patches_of` for Linen; `batched` and `channels_first` for Equinox.
      prefix: prefix of the options' names in messages, such as "student.options.".

    Raises:
      InputError: nothing can be imported from the path, an option is unknown, or the object is not
        a network.
      UserCodeError: the module, class or factory raises.
    """
    value = imports.load("network", path)
    source = _Source((id(value), _frozen(options)), value, options)
    return _create(source, path, num_classes, dtype, prefix)


@dataclasses.dataclass(frozen=True)
class _Source:
    """The object of an import path and its options, which compare and hash as `key` does."""

    key: Hashable
    value: Any = dataclasses.field(compare=False)
    options: Mapping[str, Any] = dataclasses.field(compare=False)


def _frozen(value: Any) -> Hashable:
    # A ConfigDict is not a Mapping.
    if hasattr(value, "items"):
        return tuple(sorted((name, _frozen(part)) for name, part in value.items()))
    if isinstance(value, list | tuple):
        return tuple(map(_frozen, value))
    # The type distinguishes 1 from True.
    return type(value), value


# Traces are cached per network object, so equal requests must return the same object.
@functools.cache
def _create(source: _Source, path: str, num_classes: int, dtype: Any, prefix: str) -> Any:
    arguments = {"num_classes": num_classes, "dtype": dtype}
    value, subject, options = source.value, f"network '{path}'", dict(source.options)
    kind = _kind(value)
    call = value if callable(value) and (isinstance(value, type) or kind is None) else None
    parameters = imports.parameters(call) if call else {}
    if kind is None:
        kind = "nnx" if "rngs" in parameters else "equinox" if "key" in parameters else None
    declared = _ADAPTER_OPTIONS.get(kind or "linen", lambda: None)
    names = [n for n in imports.parameters(declared) if n in options and n not in parameters]
    adapter_options = imports.check(
        subject, declared, {name: options.pop(name) for name in names}, prefix=prefix
    )
    if kind == "linen" and call:
        # `from_linen` sets these fields again in each call.
        arguments |= mode_arguments(flagged_fields(call), train=False)

    def create_module(**keys):
        # Every Linen module has the fields `parent` and `name`.
        hidden = ("parent", "name") if kind == "linen" else ()
        return imports.call(
            subject, call, options, {**arguments, **keys}, prefix=prefix, hidden=hidden
        )

    if call is None:
        if kind and options:
            imports.check(subject, lambda: None, options, prefix=prefix)
        network = value
    elif kind in ("nnx", "equinox"):

        def network(key):
            return create_module(**{"rngs" if kind == "nnx" else "key": key})

    else:
        network = create_module()
        kind = _kind(network)
    with errors.user_code("using", subject):
        return adapt(network, path, kind=kind, **adapter_options)


def adapt(network: Any, name: str, *, kind: str | None = None, **options: Any) -> Network:
    """Converts a user's object to a Network.

    Args:
      network: a CustomNetwork, which is returned unchanged; a Linen, NNX or Equinox module; a pair
        of functions (init, apply), or an object or a dict that contains them.
      name: the network's name in messages.
      kind: "linen", "nnx", "equinox" or "functions"; None to detect the kind.
      **options: options of `from_linen` or `from_equinox`.

    Raises:
      InputError: the object is none of these.
    """
    kind = kind or _kind(network)
    if isinstance(network, CustomNetwork):
        return network
    if isinstance(network, type):
        raise errors.InputError(
            f"network '{name}' is the class {network.__name__}, but must be an instance; call the"
            " class, for example with num_classes"
        )
    if kind == "linen":
        return from_linen(network, name=name, **options)
    if options and kind != "equinox":
        raise errors.InputError(
            f"network '{name}' has the option {', '.join(options)}, which only Linen modules have;"
            " return a pair (logits, embedding) from the network"
        )
    if kind == "nnx":
        return from_nnx(network, name=name)
    if kind == "equinox":
        return from_equinox(network, name=name, **options)
    if kind == "functions":
        return from_functions(*_pair(network), name=name)
    raise errors.InputError(
        f"network '{name}' is of type {type(network).__name__}, but must be a Flax Linen, NNX or"
        " Equinox module, a pair of functions (init, apply), or a class or factory of these"
    )


def is_network(value: Any) -> bool:
    """Returns True if the object looks like a network, a network class or a factory."""
    if _kind(value) or isinstance(value, CustomNetwork):
        return True
    return callable(value) and "num_classes" in imports.parameters(value)


def _kind(value: Any) -> str | None:
    """Returns the library of a network or of a network class; None for any other object."""
    kind = value if isinstance(value, type) else type(value)
    if issubclass(kind, nn.Module):
        return "linen"
    nnx, equinox = map(imports.imported_module, ("flax.nnx", "equinox"))
    if nnx and issubclass(kind, nnx.Module):
        return "nnx"
    if equinox and issubclass(kind, equinox.Module):
        return "equinox"
    if equinox and isinstance(value, tuple) and len(value) == 2:
        types = equinox.Module, equinox.nn.State
        if all(isinstance(part, kind) for part, kind in zip(value, types, strict=True)):
            return "equinox"
    return "functions" if _pair(value) else None


def _pair(value: Any) -> tuple[Callable, Callable] | None:
    """Returns the functions init and apply of an object, a dict or a pair, or None."""
    if isinstance(value, Mapping):
        pair = value.get("init"), value.get("apply")
    elif hasattr(value, "init") and hasattr(value, "apply"):
        pair = value.init, value.apply
    elif isinstance(value, tuple | list) and len(value) == 2:
        pair = tuple(value)
    else:
        return None
    return pair if all(map(callable, pair)) else None


__all__ = [
    "CustomNetwork",
    "adapt",
    "create",
    "from_equinox",
    "from_functions",
    "from_linen",
    "from_nnx",
    "is_network",
]
