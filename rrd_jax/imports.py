"""What users bring by import path, such as my_nets:Small: found, and called with their options."""

import importlib
import inspect
import math
import os
import re
import sys
import traceback
import types
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Any

from rrd_jax import errors

# What a user's code may raise that is told in a line. Ctrl-C is not among it.
ERRORS = (Exception, SystemExit)
_SIMPLE = (bool, int, float, str, tuple)  # the types that a config field can have
_MISSING = object()


def is_path(name: str) -> bool:
    """Whether a name is an import path MODULE:ATTRIBUTE, instead of a name of ours."""
    return ":" in name


def load(kind: str, path: str) -> Any:
    """The object of an import path, looked for in the working directory too.

    Args:
      kind: what it is to be, for the message of an error, such as "network".
      path: MODULE:ATTRIBUTE, both may be dotted.

    Raises:
      InputError: the path is malformed, its module is missing or raises while it is imported, or
        it has no such attribute.
    """
    module_name, _, attribute = str(path).partition(":")
    if not re.fullmatch(r"\w+(\.\w+)*:\w+(\.\w+)*", str(path)) or module_name.endswith(".py"):
        raise errors.InputError(
            f"{kind} '{path}' is no import path; write MODULE:NAME, such as my_module:name for"
            " `name` in my_module.py"
        )
    found: Any = _module(kind, path, module_name)
    for name in attribute.split("."):
        holder, found = found, attribute_of(f"{kind} '{path}'", found, name, _MISSING)
        if found is _MISSING:
            known = [key for key in vars(holder) if not key.startswith("_")]
            reason = f"{_place(holder, module_name)} has no '{name}'; {errors.hint(name, known)}"
            raise errors.InputError(f"{kind} '{path}': {reason.rstrip('; ')}")
    return found


def attribute_of(what: str, holder: Any, name: str, default: Any = None) -> Any:
    """An attribute of a user's object, or the default where there is none.

    Raises:
      InputError: the object's own code raised for it; it begins with `what`.
    """
    try:
        return getattr(holder, name, default)
    except ERRORS as error:
        raise raised(what, f"raises for its attribute '{name}'", error) from error


def _module(kind: str, path: str, name: str) -> types.ModuleType:
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())  # a console script does not look there by itself
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise errors.InputError(
                f"{kind} '{path}': there is no module '{error.name}' in {os.getcwd()}, on"
                " PYTHONPATH or among the installed packages"
            ) from error
        raise raised(f"{kind} '{path}'", "cannot be imported", error) from error
    except ERRORS as error:
        raise raised(f"{kind} '{path}'", "cannot be imported", error) from error


def loaded(name: str) -> types.ModuleType | None:
    """The module of that name, if anybody has imported it: else no object is of its types."""
    return sys.modules.get(name)


def raised(what: str, failed: str, error: BaseException) -> errors.InputError:
    """The InputError for an exception in a user's code: its own last line, file and line number.

    Args:
      what: whose code it is, such as "network 'my_nets:Small'".
      failed: what could not be done with it.
      error: what was raised.
    """
    if isinstance(error, errors.InputError):
        return error if what in str(error) else errors.InputError(f"{what} {failed}: {error}")
    text, where = " ".join(str(error).split()), _user_frame(error)
    if isinstance(error, SyntaxError) and error.filename:
        text, where = error.msg, f"{error.filename}, line {error.lineno}"
    place = f" ({where})" if where else ""
    name = type(error).__name__
    return errors.InputError(f"{what} {failed}: {f'{name}: {text}' if text else name}{place}")


def _user_frame(error: BaseException) -> str:
    """File and line of the last frame that is neither a library's nor ours.

    Where there is none, the last one of a library; "" where only ours are left.
    """
    ours = os.path.dirname(__file__)
    frames = traceback.extract_tb(error.__traceback__)
    users = [
        frame
        for frame in frames
        if not frame.filename.startswith(("<", ours)) and "site-packages" not in frame.filename
        if os.path.dirname(os.__file__) not in frame.filename
    ]
    if not users and frames[-1].filename.startswith(("<", ours)):
        return ""
    frame = (users or frames)[-1]
    return f"{frame.filename}, line {frame.lineno}"


def _place(found: Any, module_name: str) -> str:
    if isinstance(found, types.ModuleType):
        return f"module {found.__name__} ({getattr(found, '__file__', None) or 'built in'})"
    return f"{module_name}:{getattr(found, '__qualname__', found)}"


def parameters(function: Callable) -> dict[str, inspect.Parameter]:
    """The parameters of a function or of a class's constructor, annotations resolved."""
    if isinstance(function, type) and type(function).__call__ is not type.__call__:
        # The metaclass hides them, as NNX's does.
        known = parameters(function.__init__)
        return dict(list(known.items())[1:])
    try:
        signature = inspect.signature(function, eval_str=True)
        if any(isinstance(p.annotation, str) for p in signature.parameters.values()):
            # jax.jit's copy of a signature is taken as it is.
            signature = inspect.signature(inspect.unwrap(function), eval_str=True)
    except Exception:  # an annotation that names what is not imported
        try:
            signature = inspect.signature(function)
        except (TypeError, ValueError):  # a builtin
            return {}
    return dict(signature.parameters)


def options(function: Callable, given_by_us: Collection[str] = ()) -> dict[str, inspect.Parameter]:
    """The parameters that a config can set: by keyword, of simple types, not given by us."""
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {
        name: parameter
        for name, parameter in parameters(function).items()
        if name not in given_by_us and not name.startswith("_")
        if parameter.kind not in (*variadic, inspect.Parameter.POSITIONAL_ONLY)
        if option_type(parameter) is not None
    }


def fields(function: Callable, given_by_us: Collection[str] = ()) -> dict[str, Any]:
    """The options of a function that have a default which is not None: {name: default}."""
    return {
        name: parameter.default
        for name, parameter in options(function, given_by_us).items()
        if isinstance(parameter.default, _SIMPLE)
    }


def call(
    what: str,
    function: Callable,
    given: Mapping[str, Any],
    ours: Mapping[str, Any],
    *,
    prefix: str = "",
    hidden: Collection[str] = (),
) -> Any:
    """Calls a user's function with the options of a config.

    Args:
      what: whose code it is, such as "network 'my_nets:Small'".
      function: a factory or a class.
      given: options of a config; typed by the function's signature.
      ours: arguments that it gets where its signature has them.
      prefix: of the options' names in a message, such as "student.options.".
      hidden: arguments that nobody gives.

    Raises:
      InputError: an option is unknown, missing or of another type, or the function raised.
    """
    arguments = check(what, function, given, (*ours, *hidden), prefix=prefix)
    known = parameters(function)
    catches_all = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in known.values())
    passed = {k: v for k, v in ours.items() if k in known or (catches_all and k == "num_classes")}
    try:
        return function(**passed, **arguments)
    except errors.InputError:
        raise
    except ERRORS as error:
        raise raised(what, "cannot be made", error) from error


def check(
    what: str,
    function: Callable,
    given: Mapping[str, Any],
    ours: Collection[str] = (),
    *,
    prefix: str = "",
) -> dict[str, Any]:
    """The options of a config with the types that a function's signature wants; see `call`."""
    known = options(function, ours)
    open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters(function).values())
    arguments = {}
    for name, value in given.items():
        if value is None:
            continue
        if name in known:
            arguments[name] = _typed(f"{prefix}{name}", what, value, known[name])
        elif open_ended and name not in ours:
            arguments[name] = value
        else:
            listed = ", ".join(known) or "it takes none"
            raise errors.InputError(
                f"unknown option '{prefix}{name}' of {what}; {errors.hint(name, known)}"
                f"known: {listed}"
            )
    for name, parameter in parameters(function).items():
        required = parameter.default is inspect.Parameter.empty and parameter.kind not in (
            inspect.Parameter.VAR_POSITIONAL,
            inspect.Parameter.VAR_KEYWORD,
        )
        if required and name not in arguments and name not in ours:
            raise errors.InputError(
                f"{what} needs a value for '{name}': set it with --config.{prefix}{name}=..."
                if prefix
                else f"{what} needs a value for '{name}'"
            )
    return arguments


def option_type(parameter: inspect.Parameter) -> type | None:
    """The simple type of an option; object where anything goes, None where no config can say it."""
    annotation = parameter.annotation
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    members = [m for m in typing.get_args(annotation) if m is not type(None)] if union else []
    if len(members) == 1:
        annotation = members[0]
    annotation = typing.get_origin(annotation) or annotation
    if annotation in _SIMPLE:
        return annotation
    if annotation in (list, typing.Sequence) or getattr(annotation, "__name__", "") == "Sequence":
        return tuple
    default = parameter.default
    if isinstance(default, _SIMPLE):
        return type(default)
    if default is None or default is inspect.Parameter.empty:
        return object
    return None


def check_types(
    what: str, function: Callable, given: Mapping[str, Any], *, prefix: str = ""
) -> None:
    """Raises an InputError for the first option of another type than its function's signature says.

    Unlike `check`, it lets unknown and missing ones pass; so do placeholders that are None.
    """
    known = options(function)
    for name, value in given.items():
        if name in known and value is not None:
            _typed(f"{prefix}{name}", what, value, known[name])


def _typed(name: str, what: str, value: Any, parameter: inspect.Parameter) -> Any:
    wanted = option_type(parameter)
    if isinstance(value, float) and not math.isfinite(value) and value != parameter.default:
        raise errors.InputError(
            f"option '{name}' of {what} is {value}, but must be a finite number"
        )
    if wanted is object or (type(value) is wanted):
        return value
    if wanted is float and type(value) is int:
        return float(value)
    if wanted is tuple and isinstance(value, list | tuple):
        return tuple(value)
    shown = dict(value.items()) if hasattr(value, "items") else value  # a ConfigDict's has lines
    raise errors.InputError(
        f"option '{name}' of {what} is {shown!r}, but must be of type {wanted.__name__}"
    )
