"""Messages about a config file that cannot be run."""

import ast
import pathlib
import traceback
from collections.abc import Iterator

from rrd_jax import errors


def message(error: BaseException, path: str) -> str:
    """Returns what is wrong with a config file; "" for an error that does not come from it.

    Args:
      error: raised while flags were parsed.
      path: of the config file.
    """
    file, chain = pathlib.Path(path), [*_chain(error)]
    if any(type(link).__name__ == "RequiredValueError" for link in chain):  # ml_collections'
        return f"{path}: a required_placeholder has no value; give it one in get_config"
    for link in chain:
        frames = traceback.extract_tb(link.__traceback__)
        is_from_file = any(file.absolute() == pathlib.Path(f.filename).absolute() for f in frames)
        if isinstance(link, errors.InputError) and is_from_file:
            return str(link)
        if is_from_file or (isinstance(link, SyntaxError) and link.filename == str(file)):
            return f"running {path} failed:\n{errors.user_traceback(link)}"
    frames = [frame for link in chain for frame, _ in traceback.walk_tb(link.__traceback__)]
    reason = f"{type(chain[-1]).__name__}: {unquoted(str(chain[-1]))}"
    # Functions of ml_collections that import the file.
    if any(frame.f_code.co_name in ("_LoadConfigModule", "_ReportError") for frame in frames):
        if file.is_file():
            return f"--config={path} is not a Python file that can be read ({reason})"
        problem = "is no file" if file.exists() else "does not exist"
        return f"--config={path} {problem}; for example --config=configs/digits.py"
    if "get_config" in reason:
        return f"{path}: {reason}; it must define get_config(argument='')"
    return ""


def wrong_return(path: str, value: object) -> str:
    """Returns the message for a get_config that returns something else than a config."""
    return (
        f"get_config() in {path} returns {type(value).__name__}, but must return"
        " rrd_jax.config.defaults() with other values"
    )


def unquoted(text: str) -> str:
    """Returns the message of a KeyError, which is quoted as a whole, without the quotes."""
    try:
        inside = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    return inside if isinstance(inside, str) else text


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yields an error and its causes; the last one was raised first."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
