"""A decorator for functions of the Python API: logs, errors and Ctrl-C."""

import contextlib
import functools
import signal
from collections.abc import Callable

from absl import logging

from rrd_jax.terminal import interrupts, runtime_errors


def quietly(function: Callable) -> Callable:
    """Hides the logs that libraries write with absl, and translates errors of JAX.

    Ctrl-C raises a KeyboardInterrupt between two parts of the work, and a second Ctrl-C at once.
    Other handlers of SIGINT than Python's are not replaced.
    """

    @functools.wraps(function)
    def run(*arguments, **options):
        verbosity = logging.get_verbosity()
        logging.set_verbosity(logging.ERROR)
        try:
            with _recorded_interrupts(), runtime_errors.translated():
                return function(*arguments, **options)
        finally:
            logging.set_verbosity(verbosity)

    return run


def _recorded_interrupts() -> contextlib.AbstractContextManager[None]:
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return contextlib.nullcontext()
    return interrupts.handled(interrupts.Mode.RECORD, [signal.SIGINT])
