"""A decorator for functions of the Python API that hides logs and translates errors."""

import functools
from collections.abc import Callable

from absl import logging

from rrd_jax.terminal import runtime_errors


def quietly(function: Callable) -> Callable:
    """Hides the logs that libraries write with absl, and translates errors of JAX."""

    @functools.wraps(function)
    def run(*arguments, **options):
        verbosity = logging.get_verbosity()
        logging.set_verbosity(logging.ERROR)
        try:
            with runtime_errors.translated():
                return function(*arguments, **options)
        finally:
            logging.set_verbosity(verbosity)

    return run
