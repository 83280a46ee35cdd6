"""Around functions of ours that programs call: other libraries are silent, and errors are ours."""

import functools
from collections.abc import Callable

from absl import logging

from rrd_jax.terminal import failures


def quietly(function: Callable) -> Callable:
    """While it runs, libraries that narrate through absl's log are silent, and errors are ours."""

    @functools.wraps(function)
    def run(*arguments, **options):
        verbosity = logging.get_verbosity()
        logging.set_verbosity(logging.ERROR)
        try:
            with failures.translated():
                return function(*arguments, **options)
        finally:
            logging.set_verbosity(verbosity)

    return run
