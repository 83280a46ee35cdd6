"""Reports of searches that take unexpectedly long."""

import time

from rrd_jax import errors
from rrd_jax.terminal import console, interrupts

# Seconds after which a search is reported for the first time.
_FIRST = 5.0


class LongSearch:
    """A search for files, which prints its progress after 5, 10, 20, 40, ... seconds.

    Args:
      folder: the folder that is searched.
    """

    def __init__(self, folder: str):
        self._folder = errors.printable(folder)
        self._start, self._next = time.monotonic(), _FIRST

    def report(self, counts: str) -> None:
        """Prints the counts if a report is due.

        Raises:
          KeyboardInterrupt: see `interrupts.check`.
          PreemptedError: see `interrupts.check`.
        """
        interrupts.check()
        seconds = time.monotonic() - self._start
        if seconds >= self._next:
            self._next = 2 * seconds
            console.note(
                f"searching {self._folder} for images since {seconds:.0f} s: {counts}; press"
                " Ctrl-C to stop, and name a smaller folder if this one holds other files"
            )
