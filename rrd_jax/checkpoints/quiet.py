"""What Orbax and TensorStore print of a failed save, in hundreds of lines, beside raising it."""

import functools
import logging
import sys

from absl import logging as absl_logging


@functools.cache  # once a process: threads that write may complain after a run is over
def silence() -> None:
    """Leaves away what Orbax logs of its threads' errors, and TensorStore of a loop that ended."""
    for logger in (absl_logging.get_absl_logger(), logging.getLogger("asyncio")):
        logger.addFilter(_says_something_new)
    previous = sys.unraisablehook

    def hook(unraisable):
        if str(unraisable.exc_value) != "Event loop is closed":
            previous(unraisable)

    sys.unraisablehook = hook


def _says_something_new(record: logging.LogRecord) -> bool:
    """Whether a record is more than an error of Orbax or TensorStore, which is raised as well."""
    if record.levelno < logging.WARNING:
        return True
    trace = record.exc_info[2] if record.exc_info else None
    while trace and "orbax" not in trace.tb_frame.f_code.co_filename:
        trace = trace.tb_next
    return not (trace or "orbax" in record.pathname or "tensorstore" in record.getMessage())
