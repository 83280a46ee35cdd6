"""Libraries that narrate are silent while a function of ours runs."""

import functools
from collections.abc import Callable

from absl import logging


def quietly(function: Callable) -> Callable:
    """While it runs, libraries that narrate through absl's log are silent."""

    @functools.wraps(function)
    def run(*arguments, **options):
        verbosity = logging.get_verbosity()
        logging.set_verbosity(logging.ERROR)
        try:
            return function(*arguments, **options)
        finally:
            logging.set_verbosity(verbosity)

    return run
