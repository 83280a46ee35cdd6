"""Digests of the user's code that a run executes, to tell changes between two starts."""

import ast
import functools
import hashlib
import importlib.util
import inspect
import pathlib
import sys
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rrd_jax import imports
from rrd_jax.terminal import console

# Packages whose objects wrap the user's functions and modules.
_WRAPPING = ("rrd_jax", "functools", "builtins", "collections")
# The number of wrappers around a user's function or module that are looked into.
_DEPTH = 6
# The number of elements of a list that are looked into.
_ITEMS = 16
_MAIN = "__main__"
# Changes that this process has reported.
_reported: set[tuple[tuple[str, str], ...]] = set()


def digests(parts: Iterable[Any]) -> dict[str, str]:
    """Returns the digests of the modules that define parts of a run, by name of the module.

    The digest of a module covers its file, and the files in its folder or package that it imports,
    directly or through each other. Files of installed packages are not covered, because their
    versions are recorded. Of a script or notebook, only the class or function itself is covered.

    Args:
      parts: import paths, and Python objects such as networks, objectives and optimizers; names
        without a colon are ignored.
    """
    result: dict[str, str] = {}
    for part in parts:
        if isinstance(part, str):
            name = part.partition(":")[0] if imports.is_path(part) else ""
            if isinstance(module := sys.modules.get(name), types.ModuleType):
                result[name] = _module_digest(module, is_named=True)
            continue
        for kind in _definitions(part, _DEPTH):
            name = kind.__module__
            if name == _MAIN:
                result[f"{_MAIN}:{kind.__qualname__}"] = _text_digest(kind)
            elif isinstance(module := sys.modules.get(name), types.ModuleType):
                result[name] = _module_digest(module, is_named=False)
    return {name: digest for name, digest in sorted(result.items()) if digest}


def warn_about_changes(
    subject: str, recorded: Mapping[str, str] | None, current: Mapping[str, str]
) -> None:
    """Warns in one line about modules whose code has changed.

    Args:
      subject: the weights that the recorded code produced, for messages.
      recorded: the result of an earlier `digests`; None if it was not recorded.
      current: the result of `digests`.
    """
    changed = [n for n, value in (recorded or {}).items() if current.get(n, value) != value]
    change = tuple((name, current[name]) for name in changed)
    # An export loads the weights twice.
    if changed and change not in _reported:
        _reported.add(change)
        files = {name: getattr(sys.modules.get(name), "__file__", None) for name in changed}
        places = [f"{name} ({file})" if file else name for name, file in files.items()]
        console.warn(
            f"the code of {' and '.join(places)} has changed since {subject}; restore the file if"
            " the change affects results"
        )


def _definitions(value: Any, depth: int) -> Iterator[type | types.FunctionType]:
    """Yields the user's classes and functions in an object, within wrappers of this package."""
    if isinstance(value, functools.partial):
        yield from _definitions((value.func, *value.args, *value.keywords.values()), depth)
        return
    if isinstance(value, types.MethodType):
        yield from _definitions(value.__self__, depth)
        return
    if isinstance(value, types.FunctionType):
        value = inspect.unwrap(value)
    is_definition = isinstance(value, type | types.FunctionType)
    kind = value if is_definition else type(value)
    if (getattr(kind, "__module__", None) or "builtins").split(".")[0] not in _WRAPPING:
        yield kind
    elif depth:
        for inner in _contents(value):
            yield from _definitions(inner, depth - 1)


def _contents(value: Any) -> list[Any]:
    """Returns the objects in a tuple, in the closure of a function or in an object's attributes."""
    if isinstance(value, tuple | list):
        return list(value[:_ITEMS])
    if isinstance(value, types.FunctionType):
        cells = value.__closure__ or ()
        return [c.cell_contents for c in cells if _is_set(c)]
    if isinstance(value, type) or not hasattr(value, "__dict__"):
        return []
    return list(vars(value).values())


def _is_set(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def _text_digest(kind: Any) -> str:
    """Returns the digest of the text of a class or function; "" if the text is unavailable."""
    try:
        return _hashed([inspect.getsource(kind).encode()])
    except (OSError, TypeError):
        return ""


def _module_digest(module: types.ModuleType, *, is_named: bool) -> str:
    """Returns the digest of a module and its neighbors; "" for code without a file.

    Args:
      module: the module.
      is_named: True for the module of an import path, whose file is covered even if the module is
        in an installed package.
    """
    file = _file(module)
    if file is None:
        return ""
    if _is_installed(file):
        return _hashed(_contents_of([module])) if is_named else ""
    package = module.__name__.partition(".")[0]
    is_alone = package == module.__name__ and file.name != "__init__.py"
    root = file.parent if is_alone else _root(package, file)
    return _hashed(_contents_of(_imported(module, root)))


def _root(package: str, file: pathlib.Path) -> pathlib.Path:
    home = _file(sys.modules.get(package))
    return home.parent if home else file.parent


def _imported(module: types.ModuleType, root: pathlib.Path) -> list[types.ModuleType]:
    """Returns a module, and the modules below a folder that it imports, by name."""
    modules, waiting = {module.__name__: module}, [module]
    while waiting:
        for name in _imported_names(waiting.pop()):
            other = sys.modules.get(name)
            file = _file(other)
            if file and name not in modules and root in file.parents and not _is_installed(file):
                modules[name] = other
                waiting.append(other)
    return [modules[name] for name in sorted(modules)]


def _imported_names(module: types.ModuleType) -> Iterator[str]:
    """Yields the names of the modules that a module may import."""
    try:
        tree = ast.parse(_file(module).read_bytes())
    except (OSError, ValueError, SyntaxError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            try:
                name = f"{'.' * node.level}{node.module or ''}"
                name = importlib.util.resolve_name(name, module.__package__ or "")
            except ImportError:
                continue
            yield name
            yield from (f"{name}.{alias.name}" for alias in node.names)


def _file(module: Any) -> pathlib.Path | None:
    """Returns the Python file of a module, or None."""
    file = getattr(module, "__file__", None)
    return pathlib.Path(file).resolve() if file and str(file).endswith(".py") else None


def _is_installed(file: pathlib.Path) -> bool:
    """Returns True for a file of an installed package or of Python itself."""
    libraries = pathlib.Path(ast.__file__).resolve().parent
    return (
        "site-packages" in file.parts or "dist-packages" in file.parts or libraries in file.parents
    )


def _contents_of(modules: Iterable[types.ModuleType]) -> Iterator[bytes]:
    for module in modules:
        try:
            yield module.__name__.encode() + b"\0" + _file(module).read_bytes()
        except OSError:
            continue


def _hashed(contents: Iterable[bytes]) -> str:
    sha = hashlib.sha256()
    for content in contents:
        sha.update(len(content).to_bytes(8, "big") + content)
    return sha.hexdigest()[:16]
