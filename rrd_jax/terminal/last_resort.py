"""What is said of an error that nobody foresaw, in a config file or in the program."""

import ast
import contextlib
import os
import pathlib
import sys
import sysconfig
import tempfile
import textwrap
import time
import traceback
from collections.abc import Callable, Iterator

from rrd_jax import errors

_PACKAGE = pathlib.Path(__file__).parent.parent


def of_program(error: BaseException, folder: Callable[[], pathlib.Path] | None = None) -> str:
    """Keeps the traceback in a file; returns the kind of the error, whose it is, and the file.

    Args:
      error: that nothing of ours foresees.
      folder: returns the workdir, which takes the file if it is there.
    """
    text = f"{' '.join(sys.argv)}\n\n{''.join(traceback.format_exception(error))}"
    name = f"crash-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    where = "no file, for none can be written"
    for place in filter(None, (folder, tempfile.gettempdir)):
        with contextlib.suppress(Exception):
            path = pathlib.Path(place()).absolute() / name
            path.write_text(text, errors="backslashreplace")
            where = path
            break
    frames = traceback.extract_tb(error.__traceback__)
    inside = [i for i, frame in enumerate(frames) if _PACKAGE in _path(frame).parents]
    brought = [frame for frame in frames[inside[-1] + 1 if inside else 0 :] if _is_brought(frame)]
    if brought:
        whose = f"it comes from {brought[-1].filename}, line {brought[-1].lineno}"
    else:
        whose = "this is an error of rrd_jax: please report it"
    return f"{_kind(error)}\n{whose}; the traceback is in {where}"


def of_config(error: BaseException, path: str) -> str:
    """Says what is wrong with a config file; "" for an error that does not come from it.

    Args:
      error: raised while flags were parsed.
      path: of the config file.
    """
    file, chain = pathlib.Path(path), [*_chain(error)]
    if any(type(link).__name__ == "RequiredValueError" for link in chain):  # of ml_collections
        return f"{path}: a required_placeholder has no value; give it one in get_config"
    for link in chain:
        frames = traceback.extract_tb(link.__traceback__)
        raised = any(_same(frame.filename, file) for frame in frames)
        if raised and isinstance(link, errors.InputError):
            return str(link)
        if raised or (isinstance(link, SyntaxError) and _same(link.filename or "", file)):
            return f"running {path} failed:\n{errors.user_traceback(link)}"
    frames = [frame for link in chain for frame, _ in traceback.walk_tb(link.__traceback__)]
    loads = any(frame.f_code.co_name in ("_LoadConfigModule", "_ReportError") for frame in frames)
    if loads and not file.is_file():
        kind = "is no file" if file.exists() else "does not exist"
        return f"--config={path} {kind}; for example --config=configs/digits.py"
    if loads:
        return f"--config={path} is not a Python file that can be read ({_kind(chain[-1])})"
    if "get_config" in str(chain[-1]):
        return f"{path}: {_kind(chain[-1])}; it must define get_config(argument='')"
    return ""


def returns(path: str, value: object) -> str:
    """Says that a config file returns what is no config."""
    return (
        f"get_config() in {path} returns {type(value).__name__}, but must return what"
        " rrd_jax.config.defaults() does, with other values"
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what it was raised from, the last of which came first."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _kind(error: BaseException) -> str:
    """The class of an error and the first line of what it says."""
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    if isinstance(error, AttributeError | KeyError):
        text = unquoted(text)
    line = next(iter(text.strip().splitlines()), "")
    name = type(error).__name__
    return f"{name}: {textwrap.shorten(line, 300)}" if line else name


def unquoted(text: str) -> str:
    """A message that is quoted as a whole, as that of a KeyError is, without the quotes."""
    try:
        inside = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    return inside if isinstance(inside, str) else text


def _path(frame: traceback.FrameSummary) -> pathlib.Path:
    return pathlib.Path(frame.filename)


def _same(name: str, file: pathlib.Path) -> bool:
    return bool(name) and os.path.abspath(name) == os.path.abspath(file)


def _is_brought(frame: traceback.FrameSummary) -> bool:
    """Whether a call is in a file that is neither ours, nor a library's, nor Python's."""
    paths = sysconfig.get_paths()
    known = {paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    libraries = [_PACKAGE, *map(pathlib.Path, known)]
    path = _path(frame)
    return path.is_file() and not any(folder in path.parents for folder in libraries)
