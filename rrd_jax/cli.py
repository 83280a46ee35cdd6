"""What the programs share: what their users can mend becomes one line and an exit code.

0 at the end of the job, 1 for a bad flag or config field, 2 for other bad input, 3 when the loss is
not finite, 130 after Ctrl-C. Others are those of sysexits.h: 69 for a platform or device that is
not there, 70 for an error of this program, 74 for a disk that takes nothing more, 75 for what the
same command goes on from as it is: SIGTERM, a lost device or process.
"""

import os
import re
import runpy
import sys
from collections.abc import Callable

from absl import flags, logging

from rrd_jax import errors, failures

# The first kind that fits counts.
_CODES: dict[type[Exception], int] = {
    errors.DiskError: 74,  # EX_IOERR
    errors.UnavailableError: 69,  # EX_UNAVAILABLE
    errors.InputError: 2,
    OSError: 2,
    errors.DivergedError: 3,
    errors.PreemptedError: 75,  # EX_TEMPFAIL: try again
    errors.LostError: 75,
}


def run_main() -> None:
    """The command `rrd-jax`: what `python -m rrd_jax.main` does.

    It runs the module as Python's -m does, since absl prints the flags and the docstring of the
    program's main module as help.
    """
    runpy.run_module("rrd_jax.main", run_name="__main__", alter_sys=True)


def parse_flags(argv: list[str], config: flags.FlagHolder | None = None) -> list[str]:
    """absl's parser; whatever is wrong with flags, or the config file, ends the program."""
    try:
        rest = flags.FLAGS(argv)
        if config is not None:
            if config.value is None:
                stop(1, "--config is missing; for example --config=configs/digits.py")
            config.value.items()  # a config file that cannot be read fails here
    except (flags.Error, AttributeError, KeyError, OSError, ValueError) as error:
        stop(1, _one_line(error, argv))
    except KeyboardInterrupt:
        stop(130, "stopped")
    if len(rest) > 1:
        stop(1, f"unexpected argument '{rest[1]}'; flags are written --name=value")
    return rest


def guard(
    job: Callable[[], object],
    stopped: str = "stopped; the same command goes on from the last checkpoint",
) -> None:
    """Runs a job; `stopped` is what Ctrl-C says."""
    logging.set_verbosity(logging.ERROR)  # libraries narrate below that
    _quiet_libtpu()
    try:
        with failures.translated():
            job()
    except tuple(_CODES) as error:
        stop(next(code for kind, code in _CODES.items() if isinstance(error, kind)), error)
    except KeyboardInterrupt:
        stop(130, stopped)


def _quiet_libtpu() -> None:
    """Where libtpu is installed and no TPU is, JAX tries it, and libtpu complains in five lines."""
    if "TPU_SKIP_MDS_QUERY" in os.environ:  # JAX sets it where it sees no chip
        os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-8")  # any that it knows
        os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
        os.environ.setdefault("TPU_LOG_DIR", "disabled")  # instead of /tmp/tpu_logs


def stop(code: int, message: object) -> None:
    """Ends the program."""
    print(f"error: {message}", file=sys.stderr)
    failures.end(code)


def _one_line(error: Exception, argv: list[str]) -> str:
    text = str(error)
    if isinstance(error, AttributeError | KeyError):  # a quoted message, in quotes again
        text = text.replace("\\n", "\n").replace("\\'", "'").strip("'\"")
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    if any(line.startswith("Traceback") for line in lines):  # ml_collections keeps it as text
        return lines[-1].removeprefix("rrd_jax.errors.InputError: ")
    if isinstance(error, AttributeError | KeyError):
        return _unknown_field(" ".join(lines), argv)
    return ": ".join(lines)


def _unknown_field(text: str, argv: list[str]) -> str:
    """The flag of a message that begins with a field that there is not, and what is close to it."""
    name, _, hint = text.partition("'")
    close = re.search('Did you mean "(.*?)"', hint)
    for flag in (argument.partition("=")[0] for argument in argv):
        if name in flag.split("."):
            way_out = (
                f"did you mean '{close[1]}'?" if close else "rrd_jax/config/fields.py lists them"
            )
            return f"{flag}: there is no field '{name}'; {way_out}"
    return text
