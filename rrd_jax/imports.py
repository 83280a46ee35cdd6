"""Import paths of custom objects, such as my_nets:Small, and options of custom functions."""

import importlib
import inspect
import math
import os
import re
import sys
import types
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Any

from rrd_jax import errors

# The types that a config field can have.
_SIMPLE = (bool, int, float, str, tuple)
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_MISSING = object()


def is_path(name: str) -> bool:
    """Returns True for an import path MODULE:ATTRIBUTE, False for a registered name."""
    return ":" in name


def load(kind: str, path: str) -> Any:
    """Imports the object of an import path; the search includes the working directory.

    Args:
      kind: the kind of object for messages, such as "network".
      path: MODULE:ATTRIBUTE; both may contain dots.

    Raises:
      InputError: the path is malformed, its module is missing, or it has no such attribute.
      UserCodeError: the module raises while it is imported.
    """
    module_name, _, attribute = str(path).partition(":")
    if not re.fullmatch(r"\w+(\.\w+)*:\w+(\.\w+)*", str(path)) or module_name.endswith(".py"):
        raise errors.InputError(
            f"invalid import path '{path}' of the {kind}; write MODULE:NAME, such as"
            " my_module:name for `name` in my_module.py"
        )
    value: Any = _module(kind, path, module_name)
    place = f"module {module_name} ({getattr(value, '__file__', None) or 'built in'})"
    for name in attribute.split("."):
        holder, value = value, attribute_of(f"{kind} '{path}'", value, name, _MISSING)
        if value is _MISSING:
            public_names = [key for key in vars(holder) if not key.startswith("_")]
            reason = f"{place} has no '{name}'; {errors.hint(name, public_names)}"
            raise errors.InputError(f"{kind} '{path}': {reason.rstrip('; ')}")
        place = f"{module_name}:{getattr(value, '__qualname__', name)}"
    return value


def attribute_of(subject: str, holder: Any, name: str, default: Any = None) -> Any:
    """Returns an attribute of a user's object, or the default if the attribute is missing.

    Raises:
      UserCodeError: the object's code raised.
    """
    with errors.user_code(f"reading '{name}' of", subject):
        return getattr(holder, name, default)


def _module(kind: str, path: str, name: str) -> types.ModuleType:
    if os.getcwd() not in sys.path and "" not in sys.path:
        # Console scripts do not search the working directory.
        sys.path.append(os.getcwd())
    try:
        with errors.user_code("importing", f"{kind} '{path}'"):
            return importlib.import_module(name)
    except errors.UserCodeError as error:
        cause = error.__cause__
        if isinstance(cause, ModuleNotFoundError) and f"{name}.".startswith(f"{cause.name}."):
            raise errors.InputError(
                f"{kind} '{path}': there is no module '{cause.name}' in {os.getcwd()}, on"
                " PYTHONPATH or among the installed packages; correct the path, or set PYTHONPATH"
            ) from cause
        raise


def imported_module(name: str) -> types.ModuleType | None:
    """Returns a module if it is already imported, else None; then no objects of its types exist."""
    return sys.modules.get(name)


def parameters(function: Callable) -> dict[str, inspect.Parameter]:
    """Returns the parameters of a function or constructor, with annotations resolved."""
    if isinstance(function, type) and type(function).__call__ is not type.__call__:
        # A custom metaclass, such as that of NNX, hides the signature of the constructor.
        init_parameters = parameters(function.__init__)
        return dict(list(init_parameters.items())[1:])
    try:
        signature = inspect.signature(function, eval_str=True)
        if any(isinstance(p.annotation, str) for p in signature.parameters.values()):
            # jax.jit copies the signature with unevaluated annotations.
            signature = inspect.signature(inspect.unwrap(function), eval_str=True)
    except Exception:
        # An annotation may refer to a module that is not imported.
        try:
            signature = inspect.signature(function)
        except (TypeError, ValueError):
            # Some builtins have no signature.
            return {}
    return dict(signature.parameters)


def options(function: Callable, inputs: Collection[str] = ()) -> dict[str, inspect.Parameter]:
    """Returns the parameters that a config can set: keywords of simple types, except `inputs`."""
    excluded = (*_VARIADIC, inspect.Parameter.POSITIONAL_ONLY)
    return {
        name: parameter
        for name, parameter in parameters(function).items()
        if name not in inputs and not name.startswith("_")
        if parameter.kind not in excluded and option_type(parameter) is not None
    }


def call(
    subject: str,
    function: Callable,
    config_options: Mapping[str, Any],
    arguments: Mapping[str, Any],
    *,
    prefix: str = "",
    hidden: Collection[str] = (),
) -> Any:
    """Calls a user's function with the options of a config.

    Args:
      subject: the user's object, for messages, such as "network 'my_nets:Small'".
      function: a factory or a class.
      config_options: options, which are converted to the types in the function's signature.
      arguments: other arguments; only those in the signature are passed.
      prefix: prefix of the options' names in messages, such as "student.options.".
      hidden: parameters that are neither options nor passed.

    Raises:
      InputError: an option is unknown, missing or of another type.
      UserCodeError: the function raised.
    """
    typed = check(subject, function, config_options, (*arguments, *hidden), prefix=prefix)
    accepted = parameters(function)
    if _takes_any(accepted) and "num_classes" in arguments:
        accepted["num_classes"] = None
    inputs = {name: value for name, value in arguments.items() if name in accepted}
    with errors.user_code("calling", subject):
        return function(**inputs, **typed)


def check(
    subject: str,
    function: Callable,
    config_options: Mapping[str, Any],
    inputs: Collection[str] = (),
    *,
    prefix: str = "",
) -> dict[str, Any]:
    """Returns the options of a config in the types of a function's signature; see `call`."""
    accepted, all_parameters = options(function, inputs), parameters(function)
    typed = {}
    for name, value in config_options.items():
        if value is None:
            continue
        if name in accepted:
            typed[name] = _typed(f"{prefix}{name}", subject, value, accepted[name])
        elif _takes_any(all_parameters) and name not in inputs:
            typed[name] = value
        else:
            raise errors.InputError(
                f"unknown option '{prefix}{name}' of {subject}; {errors.hint(name, accepted)}"
                f"known: {', '.join(accepted) or 'none'}"
            )
    for name, parameter in all_parameters.items():
        is_required = parameter.default is parameter.empty and parameter.kind not in _VARIADIC
        if is_required and name not in typed and name not in inputs:
            remedy = f"; set it with --config.{prefix}{name}=..." if prefix else ""
            raise errors.InputError(f"{subject} needs a value for '{name}'{remedy}")
    return typed


def _takes_any(signature: Mapping[str, inspect.Parameter]) -> bool:
    """Returns True if a signature has **keywords."""
    return any(p.kind is inspect.Parameter.VAR_KEYWORD for p in signature.values())


def option_type(parameter: inspect.Parameter) -> type | None:
    """Returns the simple type of an option; object for any type, None if unsupported."""
    annotation = parameter.annotation
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        members = [m for m in typing.get_args(annotation) if m is not type(None)]
        # A union of simple types, such as int | str, accepts any value.
        several = object if all(member in _SIMPLE for member in members) else annotation
        annotation = members[0] if len(members) == 1 else several
    annotation = typing.get_origin(annotation) or annotation
    if annotation in (*_SIMPLE, object):
        return annotation
    if annotation in (list, typing.Sequence) or getattr(annotation, "__name__", "") == "Sequence":
        return tuple
    default = parameter.default
    if isinstance(default, _SIMPLE):
        return type(default)
    return object if default is None or default is parameter.empty else None


def check_types(
    subject: str, function: Callable, config_options: Mapping[str, Any], *, prefix: str = ""
) -> None:
    """Raises an InputError for the first option whose type differs from the function's signature.

    Unlike `check`, this function accepts unknown options, missing options and placeholders.
    """
    accepted = options(function)
    for name, value in config_options.items():
        if name in accepted and value is not None:
            _typed(f"{prefix}{name}", subject, value, accepted[name])


def _typed(name: str, subject: str, value: Any, parameter: inspect.Parameter) -> Any:
    """Returns the value in the type of its parameter."""
    kind = option_type(parameter)
    if isinstance(value, float) and not math.isfinite(value) and value != parameter.default:
        raise errors.InputError(
            f"option '{name}' of {subject} is {value}, but must be a finite number"
        )
    if kind is object or type(value) is kind:
        return value
    if kind is float and type(value) is int:
        return float(value)
    if kind is tuple and isinstance(value, list | tuple):
        return tuple(value)
    # The text of a ConfigDict has several lines.
    plain = dict(value.items()) if hasattr(value, "items") else value
    raise errors.InputError(
        f"option '{name}' of {subject} is {plain!r}, but must be of type {kind.__name__}"
    )
