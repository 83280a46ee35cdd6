"""Translation of errors of JAX's runtime and of the host into errors of this package."""

import contextlib
import errno
import os
import re
import sys
import time
from collections.abc import Iterator
from typing import NoReturn

from rrd_jax import errors

# A message of XLA starts with a status. After errors with these statuses, a run can be resumed.
_LOST_STATUS = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED", "CANCELLED", "DATA_LOSS", "INTERNAL")
# Errors in the communication between processes contain one of these words, with any status. The
# last is the name of a barrier of JAX, which on busy CPUs fails with a false mismatch of its names.
_LOST_WORDS = (
    *("Gloo", "NCCL", "Barrier", "barrier", "coordination service", "CoordinationService"),
    "sync_global_devices",
)
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE)
# Exit codes with which all processes end at the same step.
_JOINT_CODES = (0, 3)
# Seconds in which other processes can report the same error. The end of process 0 kills them.
_DELAY = 3
# Values of JAX's settings with which programs can be compiled and arrays placed, the default first.
_GUARDS = (None, "allow", "log", "log_explicit")
_ACCEPTED: dict[str, tuple] = {
    "jax_enable_x64": (False,),
    "jax_disable_jit": (False,),
    "jax_no_tracing": (False,),
    "jax_numpy_dtype_promotion": ("standard",),
    "jax_array_garbage_collection_guard": _GUARDS,
    "jax_transfer_guard": _GUARDS,
    "jax_transfer_guard_host_to_device": _GUARDS,
    "jax_transfer_guard_device_to_device": _GUARDS,
    "jax_transfer_guard_device_to_host": _GUARDS,
}
_TRACEBACK = "Traceback (most recent call last):"
# Messages of accelerators contain the first text, messages of a CPU the second.
_OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "Out of memory")


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Translates errors in a `with` block into errors that name a remedy.

    Raises:
      UnavailableError: JAX does not support the requested platform.
      InputError: the memory of the devices or of the host is exhausted, or JAX has a setting that
        `check_settings` refuses.
      DiskError: a disk is full or cannot be written.
      LostError: a device or another process was lost, also if this error led to another one.
      DivergedError: JAX_DEBUG_NANS found a number that is not finite.
    """
    try:
        yield
    except Exception as error:
        if translation := _translate(error):
            raise translation from error
        raise


def _translate(error: Exception) -> Exception | None:
    """Returns the translated error; None for a bug or an error of this package."""
    if lost := lost_error(error):
        return lost
    text = first_line(error)
    if isinstance(error, MemoryError):
        return errors.InputError(
            f"this machine's memory is exhausted ({text or 'MemoryError'}); stream the images with"
            " data.feed=streamed, use fewer data.workers, or set teacher.cache=off"
        )
    if isinstance(error, FloatingPointError):
        return errors.DivergedError(
            f"JAX_DEBUG_NANS or JAX_DEBUG_INFS found a number that is not finite ({text}); unset it"
            " for a message that names the loss and the step"
        )
    if refusal := _settings_error(error):
        return refusal
    if isinstance(error, ValueError):
        # On import, JAX reads its environment variables and raises a ValueError for invalid ones.
        is_import = "jax" not in sys.modules and not isinstance(error, errors.InputError)
        is_variable = is_import and "JAX" in text
        return errors.InputError(f"{text}; correct or unset the variable") if is_variable else None
    if isinstance(error, OSError):
        message = f"{text}; free disk space, or write to another disk"
        return errors.DiskError(message) if is_disk_error(error) else None
    if "Unable to initialize backend" in text:
        return errors.UnavailableError(f"JAX cannot use the platform in JAX_PLATFORMS ({text})")
    jax = sys.modules.get("jax")
    if jax is None or not isinstance(error, jax.errors.JaxRuntimeError):
        return None
    if is_out_of_memory(error):
        return errors.InputError(
            f"the devices' memory is exhausted ({text}); use a smaller train.batch_size or"
            " train.eval_batch_size, a larger train.accumulate, train.remat=all,"
            " teacher.cache=off, data.feed=streamed or a smaller queue of the objective"
        )
    # Only callbacks put a traceback of Python into an error of the runtime.
    if _TRACEBACK in str(error) or "CpuCallback" in text:
        return _callback_error(str(error))
    if text.startswith(_LOST_STATUS) or any(word in text for word in _LOST_WORDS):
        return _lost(text)
    return None


def lost_error(error: BaseException | None) -> errors.LostError | None:
    """Returns the error for the loss of another process; None for errors with other causes.

    Libraries raise many types of errors if they cannot reach another process, and wrap these errors
    in others. An error of this package is examined for its cause only.
    """
    if not _has_peers():
        return None
    while error:
        text = first_line(error)
        is_ours = type(error).__module__ == errors.__name__
        if not is_ours and any(word in text for word in _LOST_WORDS):
            return _lost(text)
        error = error.__cause__ or error.__context__
    return None


def _lost(text: str) -> errors.LostError:
    return errors.LostError(
        f"a device or another process was lost ({text}); start the same command in all processes"
        " to resume from the last checkpoint; if the error occurs again at the same step, check the"
        " devices"
    )


def _has_peers() -> bool:
    # After the loss of a process, `jax.process_count` may wait for that process.
    distributed = sys.modules.get("jax._src.distributed")
    state = distributed and distributed.global_state
    return bool(state and state.client is not None and (state.num_processes or 1) > 1)


def check_settings() -> None:
    """Raises an InputError for a setting of JAX with which rrd_jax cannot compute."""
    jax = sys.modules.get("jax")
    for setting, values in _ACCEPTED.items() if jax else ():
        value = getattr(jax.config, setting, values[0])
        if value not in values:
            raise errors.InputError(
                f"{setting} is {value}, but rrd_jax needs {values[0]}; unset {setting.upper()}, or"
                f" call jax.config.update('{setting}', {values[0]!r})"
            )


def _settings_error(error: Exception) -> errors.InputError | None:
    """Returns the error for a setting that `check_settings` refuses, the likely cause of a bug."""
    if isinstance(error, OSError) or type(error).__module__ == errors.__name__:
        return None
    try:
        check_settings()
    except errors.InputError as refusal:
        return refusal
    return None


def _callback_error(text: str) -> errors.UserCodeError | None:
    """Returns the error of a user's callback in a step, which XLA reports with a traceback."""
    traceback = text.partition(_TRACEBACK)[2].partition("\n----")[0].strip("\n")
    frames = list(re.finditer(r'^  File "(.+)", line .*(?:\n    .*)*\n?', traceback, re.MULTILINE))
    if not frames:
        return None
    selected = [frame for frame in frames if errors.is_user_file(frame[1])] or frames[-1:]
    lines = "".join(frame[0] for frame in selected)
    message = traceback[frames[-1].end() :]
    return errors.UserCodeError(f"a callback failed in a step:\n{_TRACEBACK}\n{lines}{message}")


def end(code: int) -> NoReturn:
    """Ends the program with an exit code.

    If one of several processes fails, it ends immediately: at Python's exit, JAX would wait for the
    other processes for minutes, and then end this process with SIGABRT.
    """
    if not _has_peers() or code in _JOINT_CODES:
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
