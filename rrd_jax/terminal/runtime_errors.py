"""Translates errors of JAX's runtime and of the host into errors of this package."""

import contextlib
import errno
import os
import re
import sys
import time
from collections.abc import Iterator
from typing import NoReturn

from rrd_jax import errors

# The status at the start of a message of XLA, for errors after which a run can be resumed.
_LOST_STATUS = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED", "CANCELLED", "DATA_LOSS", "INTERNAL")
_LOST_WORDS = ("Gloo", "NCCL", "Barrier")  # Communication of processes, with any status.
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE)
_JOINT_CODES = (0, 3)  # Exit codes with which all processes end at the same step.
# Seconds for other processes to report the same error. They are killed when process 0 ends.
_DELAY = 3
_OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "Out of memory")  # Of accelerators, and of a CPU.


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Translates the errors in a `with` block that a user can do something about.

    Raises:
      UnavailableError: JAX does not have the requested platform.
      InputError: the memory of the devices or of the host is not enough.
      DiskError: a disk is full or cannot be written.
      LostError: a device or another process is gone. If JAX waits for it in a collective, JAX
        ends this process after 100 seconds with SIGABRT.
      DivergedError: JAX_DEBUG_NANS found a number that is not finite.
    """
    try:
        yield
    except (OSError, RuntimeError, ValueError, MemoryError, FloatingPointError) as error:
        if ours := _translate(error):
            raise ours from error
        raise


def _translate(error: Exception) -> Exception | None:
    """Returns the translated error; None for a bug, and for an error of this package."""
    text = first_line(error)
    if isinstance(error, MemoryError):
        return errors.InputError(
            f"this machine's memory is not enough ({text or 'MemoryError'}): stream the images with"
            " data.feed=streamed, use fewer data.workers, or set teacher.cache=off"
        )
    if isinstance(error, FloatingPointError):
        return errors.DivergedError(
            f"a number is not finite, and JAX_DEBUG_NANS stops there ({text}); unset it to see"
            " which loss and step"
        )
    if isinstance(error, ValueError):
        # JAX reads its environment variables when it is imported.
        is_import = "jax" not in sys.modules and not isinstance(error, errors.InputError)
        is_variable = is_import and "JAX" in text
        return errors.InputError(f"{text}; correct or unset that variable") if is_variable else None
    if isinstance(error, OSError):
        return errors.DiskError(f"{text}; make room or mend that") if is_disk_error(error) else None
    if "Unable to initialize backend" in text:
        return errors.UnavailableError(f"JAX cannot use what JAX_PLATFORMS asks for ({text})")
    jax = sys.modules.get("jax")
    if jax is None or not isinstance(error, jax.errors.JaxRuntimeError):
        return None
    if is_out_of_memory(error):
        return errors.InputError(
            f"the devices' memory is not enough ({text}): a smaller train.batch_size or"
            " train.eval_batch_size, a larger train.accumulate, train.remat=all,"
            " teacher.cache=off, data.feed=streamed or a smaller queue of the objective needs less"
        )
    if "CpuCallback" in text:
        return _callback_error(str(error))
    if text.startswith(_LOST_STATUS) or any(word in text for word in _LOST_WORDS):
        return errors.LostError(
            f"a device or another process is gone ({text}); the same command, started in all"
            " processes, resumes from the last checkpoint; if it fails again at the same place,"
            " check the devices"
        )
    return None


def _callback_error(text: str) -> errors.InputError | None:
    """Returns the error of a user's callback in a step; XLA reports it with a traceback."""
    lines = text.partition("\n----")[0].strip().splitlines()
    places = re.findall(r'File "(.+)", line (\d+)', text)
    if not places:
        return None
    file, line = places[-1]
    return errors.InputError(f"a callback fails in a step: {lines[-1]} ({file}, line {line})")


def end(code: int) -> NoReturn:
    """Ends the program with an exit code.

    With an error, one of several processes ends at once: at Python's exit JAX would wait minutes
    for the others, and then end the process with SIGABRT.
    """
    jax = sys.modules.get("jax")
    is_single = jax is None or not jax.distributed.is_initialized() or jax.process_count() == 1
    if is_single or code in _JOINT_CODES:
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    time.sleep(_DELAY)
    os._exit(code)


def is_out_of_memory(error: Exception) -> bool:
    """Returns True if the memory of the host or of a device is exhausted."""
    if isinstance(error, MemoryError):
        return True
    jax = sys.modules.get("jax")
    is_runtime_error = jax is not None and isinstance(error, jax.errors.JaxRuntimeError)
    return is_runtime_error and any(words in first_line(error) for words in _OUT_OF_MEMORY)


def is_disk_error(error: Exception) -> bool:
    """Returns True if a disk is full or cannot be written."""
    return getattr(error, "errno", None) in _DISK


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's message, at most 300 characters."""
    lines = str(error).strip().split("\n")
    return lines[0] if len(lines[0]) <= 300 else f"{lines[0][:300]}..."
