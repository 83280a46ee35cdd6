"""Variants of registered networks, with other widths, depths and further fields.

The name of a variant states the fields, such as `vit_small_patch16_224(depth=6,heads=4,width=256)`.
"""

import ast
import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn

from rrd_jax import errors, imports

_TYPES = (int, float, bool, tuple)
# The arguments of a factory that `networks.create` sets, and fields of Flax.
_OTHERS = ("num_classes", "dtype", "drop_path", "parent", "name")
Factory = Callable[..., nn.Module]


class Registry(dict[str, Factory]):
    """Factories of networks by name; contains variants of the networks, but does not list them."""

    def __contains__(self, name: Any) -> bool:
        if not isinstance(name, str) or "(" not in name:
            return super().__contains__(name)
        base, fields = split(name)
        return bool(fields) and super().__contains__(base)

    def __missing__(self, name: str) -> Factory:
        base, fields = split(name)
        if not fields or base not in self:
            raise KeyError(name)
        return _variant(self[base], tuple(fields.items()), base)


def split(name: str) -> tuple[str, dict[str, Any]]:
    """Returns the name of the registered network, and the fields of a variant; {} for none."""
    base, parenthesis, _ = name.partition("(")
    if not parenthesis:
        return name, {}
    try:
        call = ast.parse(name, mode="eval").body
        fields = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (SyntaxError, ValueError, AttributeError):
        return name, {}
    return base, fields


def join(name: str, options: Mapping[str, Any], factory: Factory, prefix: str = "") -> str:
    """Returns the name of a variant, without the fields that do not differ from the network.

    Args:
      name: name of a network or of a variant.
      options: further fields of the network.
      factory: factory of the network without fields.
      prefix: prefix of the fields' names in messages, such as "student.options.".

    Raises:
      InputError: the network has no such field, or a value has another type.
    """
    base, fields = split(name)
    fields |= _checked(base, factory, options, prefix)
    defaults = {n: p.default for n, p in inspect.signature(factory).parameters.items()}
    changed = sorted((n, value) for n, value in fields.items() if value != defaults[n])
    texts = [f"{n}={value!r}".replace(" ", "") for n, value in changed]
    return f"{base}({','.join(texts)})" if texts else base


@functools.cache
def _variant(factory: Factory, fields: tuple[tuple[str, Any], ...], name: str) -> Factory:
    """Returns the factory of a variant; the cache makes factories of equal variants equal."""
    return functools.partial(factory, **_checked(name, factory, dict(fields), ""))


def _checked(
    name: str, factory: Factory, options: Mapping[str, Any], prefix: str
) -> dict[str, Any]:
    """Returns the values of fields in the types of the fields."""
    network = getattr(factory, "func", factory)
    fields = dataclasses.fields(network) if dataclasses.is_dataclass(network) else ()
    accepted = {
        field.name
        for field in fields
        if (typing.get_origin(field.type) or field.type) in _TYPES and field.name not in _OTHERS
    }
    for option in options:
        if option not in accepted:
            raise errors.InputError(
                f"unknown option '{prefix}{option}' of network '{name}';"
                f" {errors.hint(option, accepted)}known: {', '.join(sorted(accepted)) or 'none'}"
            )
    return imports.check(f"network '{name}'", factory, options, _OTHERS, prefix=prefix)
