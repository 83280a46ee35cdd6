"""The library huggingface_hub, and its errors in one line."""

import errno
import importlib.util
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rrd_jax import errors

# Seconds before the second, third, ... attempt of a download that the hub answers with a status of
# `_TRANSIENT`. The library repeats only some requests.
PAUSES = (1.0, 3.0, 9.0)
_TRANSIENT = {408, 429, 500, 502, 503, 504}


def library(subject: str) -> Any:
    """Imports huggingface_hub.

    Args:
      subject: the name that needs the library, for messages.

    Raises:
      UnavailableError: the library is not installed.
    """
    if importlib.util.find_spec("huggingface_hub") is None:
        raise errors.UnavailableError(
            f"{subject} needs huggingface_hub, which is not installed; run"
            " `pip install 'rrd_jax[hub]'`"
        )
    import huggingface_hub
    import huggingface_hub.constants
    import huggingface_hub.errors
    import huggingface_hub.utils

    # A log file cannot overwrite the lines of a progress bar.
    if not (sys.stderr and sys.stderr.isatty()):
        huggingface_hub.utils.disable_progress_bars()
    huggingface_hub.utils.logging.set_verbosity_error()
    return huggingface_hub


@contextmanager
def one_line(subject: str, revision: str = "", *, writes: bool = False) -> Iterator[None]:
    """Converts the errors of the library inside the `with` block to an HubError.

    The errors of the library can contain headers, so that they are not chained.

    Args:
      subject: the repository, for messages.
      revision: its revision.
      writes: whether the block writes to the repository.

    Raises:
      HubError: the repository cannot be read or written.
      DiskError: the disk is full.
    """
    try:
        yield
    except errors.InputError:
        raise
    # The library raises errors of its own and of several HTTP libraries.
    except Exception as error:
        problem = _problem(error, subject, revision, writes=writes)
    else:
        return
    raise problem from None


def retried(download: Callable[[], str]) -> str:
    """Returns the result of a download, which is repeated if the hub is overloaded or fails."""
    for pause in PAUSES:
        try:
            return download()
        # The library raises errors of several HTTP libraries.
        except Exception as error:
            if _status(error) not in _TRANSIENT:
                raise
        time.sleep(pause)
    return download()


def _problem(error: Exception, subject: str, revision: str, *, writes: bool) -> errors.InputError:
    import huggingface_hub.errors as hub_errors

    status = _status(error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return errors.DiskError(
            f"{subject} cannot be downloaded ({error.strerror}); free disk space, or set HF_HOME to"
            " a folder on another disk"
        )
    # Errors of the network have no file name.
    if isinstance(error, OSError) and error.filename and not status:
        return errors.HubError(
            f"{subject} cannot be kept in the cache ({error.strerror}:"
            f" {errors.printable(str(error.filename))}); set HF_HOME to a folder that you can write"
        )
    if isinstance(error, hub_errors.GatedRepoError):
        text = "is gated: request access on its page, and set HF_TOKEN to a token of the account"
    elif isinstance(error, hub_errors.RevisionNotFoundError):
        text = f"has no revision '{revision}'; use a branch, a tag or a commit of its page"
    elif isinstance(error, hub_errors.RepositoryNotFoundError):
        text = (
            "does not exist, or is private; check the name, or set HF_TOKEN to a token with access"
        )
    elif status == 401:
        text = "is not accessible: the token is not valid; set HF_TOKEN to a valid token"
    elif status == 403:
        action = "written" if writes else "read"
        text = f"cannot be {action} with this token; set HF_TOKEN to a token with this permission"
    elif status:
        text = f"is not available: the hub answers with status {status}; try again later"
    elif _is_offline(error):
        text = (
            "is not in the cache, and HF_HUB_OFFLINE is set; download it once without this variable"
        )
    elif isinstance(error, OSError | hub_errors.LocalEntryNotFoundError) or _is_network(error):
        endpoint = errors.redacted(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
        text = (
            f"cannot be reached at {endpoint} ({_describe(error)}); check the network, or pass a"
            " local folder"
        )
    else:
        text = f"cannot be {'written' if writes else 'read'} ({_describe(error)}); check the name"
    return errors.HubError(f"{subject} {text}")


def _causes(error: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__


def _status(error: Exception) -> int:
    """Returns the status of the hub's answer that led to an error; 0 without an answer."""
    for cause in _causes(error):
        if status := getattr(getattr(cause, "response", None), "status_code", 0):
            return status
    return 0


def _is_offline(error: Exception) -> bool:
    return any(type(cause).__name__ == "OfflineModeIsEnabled" for cause in _causes(error))


def _is_network(error: Exception) -> bool:
    return any(type(cause).__module__.startswith("httpx") for cause in _causes(error))


def _describe(error: Exception) -> str:
    """Returns the name of the first error, and of its message the first line without secrets."""
    *_, first = _causes(error)
    line = next(iter(str(first).strip().splitlines()), "")
    return errors.printable(errors.redacted(f"{type(first).__name__}: {line}"))[:200].rstrip(": ")
