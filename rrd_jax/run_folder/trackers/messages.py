"""Messages between a run and the process of a tracker: JSON objects with one of these keys."""

import enum

# To the tracker: the run and its earlier rows, the row of an epoch, and the end of this start.
START, ROW, END = "start", "row", "end"
# From the tracker: the location of the run, or a problem.
NOTE, WARNING = "note", "warning"


class Status(enum.Enum):
    """The end of a start of a run."""

    FINISHED = "finished"
    STOPPED = "stopped"
    FAILED = "failed"
