"""Messages for errors in config files."""

import ast
import pathlib
import re
import traceback
from collections.abc import Iterator

from rrd_jax import errors


def message(error: BaseException, path: str) -> str:
    """Returns a message for an error in a config file; "" if the error has another origin.

    Args:
      error: the exception raised while flags were parsed.
      path: the path of the config file.
    """
    file, chain = pathlib.Path(path), [*_chain(error)]
    # The exception class of ml_collections is recognized by its name.
    if any(type(link).__name__ == "RequiredValueError" for link in chain):
        return f"{path}: a required_placeholder has no value; set the value in get_config"
    for link in chain:
        # JAX, which a config file imports, reads its environment variables on import.
        if variable := re.search(
            r"invalid .* for (JAX flag|environment) .*jax_.*", str(link), re.I
        ):
            return f"{variable[0]}; correct or unset the variable"
        frames = traceback.extract_tb(link.__traceback__)
        is_from_file = any(file.absolute() == pathlib.Path(f.filename).absolute() for f in frames)
        if isinstance(link, errors.InputError) and is_from_file:
            return str(link)
        if is_from_file or (isinstance(link, SyntaxError) and link.filename == str(file)):
            return f"running {path} failed:\n{errors.user_traceback(link)}"
    frames = [frame for link in chain for frame, _ in traceback.walk_tb(link.__traceback__)]
    reason = f"{type(chain[-1]).__name__}: {unquoted(str(chain[-1]))}"
    # These functions of ml_collections import the file.
    if any(frame.f_code.co_name in ("_LoadConfigModule", "_ReportError") for frame in frames):
        if file.is_file():
            return f"--config={path} cannot be read as a Python file ({reason})"
        problem = "is not a file" if file.exists() else "does not exist"
        return f"--config={path} {problem}; for example --config=configs/digits.py"
    if "get_config" in reason:
        return f"{path}: {reason}; the file must define get_config(argument='')"
    return ""


def wrong_return(path: str, value: object) -> str:
    """Returns the message for a get_config that does not return a config."""
    return (
        f"get_config() in {path} returns {type(value).__name__}, but must return the object of"
        " rrd_jax.config.defaults() after changing its values"
    )


def unquoted(text: str) -> str:
    """Returns the message of a KeyError without the quotes that Python adds."""
    try:
        inside = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    return inside if isinstance(inside, str) else text


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yields an error and its causes, from the last raised to the first."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
