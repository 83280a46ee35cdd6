"""What JAX's runtime and the host raise, as our errors: one line, and whether to try again."""

import contextlib
import errno
import os
import re
import sys
import time
from collections.abc import Iterator
from typing import NoReturn

from rrd_jax import errors

# What the same command may go on from, by the status that a message of XLA begins with.
_LOST = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED", "CANCELLED", "DATA_LOSS", "INTERNAL")
_SAYS = ("Gloo", "NCCL", "Barrier")  # how processes talk to each other, whatever the status
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE)
_TOGETHER = (0, 3)  # exit codes with which all processes end at the same step
_MOMENT = 3  # seconds for other processes to find the same error: without process 0 they are ended
_FULL = ("RESOURCE_EXHAUSTED", "Out of memory")  # of devices, and of a CPU


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """While it lasts, errors that say what a user can do something about become ours.

    Raises:
      UnavailableError: JAX has no such platform as was asked for.
      InputError: the memory of the devices, or of the host, is not enough.
      DiskError: a disk is full, or takes nothing else.
      LostError: a device or another process is gone. Where JAX waits for it in a collective,
        it ends this process itself after 100 seconds, with SIGABRT.
      DivergedError: JAX_DEBUG_NANS met a number that is not finite.
    """
    try:
        yield
    except (OSError, RuntimeError, ValueError, MemoryError, FloatingPointError) as error:
        if ours := _translate(error):
            raise ours from error
        raise


def _translate(error: Exception) -> Exception | None:
    """The error of ours that stands for one of JAX's; None where it is a bug, or ours already."""
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
        # JAX reads its environment variables as it is imported.
        told = (
            "JAX" in text and "jax" not in sys.modules and not isinstance(error, errors.InputError)
        )
        return errors.InputError(f"{text}; correct or unset that variable") if told else None
    if isinstance(error, OSError):
        return errors.DiskError(f"{text}; make room or mend that") if error.errno in DISK else None
    if "Unable to initialize backend" in text:
        return errors.UnavailableError(f"JAX cannot use what JAX_PLATFORMS asks for ({text})")
    jax = sys.modules.get("jax")  # which programs import late
    if jax is None or not isinstance(error, jax.errors.JaxRuntimeError):
        return None
    if any(said in text for said in _FULL):
        return errors.InputError(
            f"the devices' memory is not enough ({text}): a smaller train.batch_size or"
            " train.eval_batch_size, a larger train.accumulate, train.remat=all,"
            " teacher.cache=off, data.feed=streamed or a smaller queue of the objective needs less"
        )
    if "CpuCallback" in text:
        return _of_callback(str(error))
    if text.startswith(_LOST) or any(word in text for word in _SAYS):
        return errors.LostError(
            f"a device or another process is gone ({text}); the same command, started in all"
            " processes, goes on from the last checkpoint; if it ends so again at the same place,"
            " look at the devices"
        )
    return None


def _of_callback(text: str) -> errors.InputError | None:
    """What a user's callback raised in a step, which XLA tells with a traceback."""
    told = text.partition("\n----")[0].strip().splitlines()
    places = re.findall(r'File "(.+)", line (\d+)', text)
    if not places:
        return None
    file, line = places[-1]
    return errors.InputError(f"a callback fails in a step: {told[-1]} ({file}, line {line})")


def end(code: int) -> NoReturn:
    """Ends the program with an exit code.

    One of several processes that ends in an error leaves at once: at Python's exit JAX would wait
    for the others, minutes long, and end it with SIGABRT when they do not come.
    """
    jax = sys.modules.get("jax")
    alone = jax is None or not jax.distributed.is_initialized() or jax.process_count() == 1
    if alone or code in _TOGETHER:
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    time.sleep(_MOMENT)
    os._exit(code)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, where it is not too long."""
    lines = str(error).strip().split("\n")
    return lines[0] if len(lines[0]) <= 300 else f"{lines[0][:300]}..."
