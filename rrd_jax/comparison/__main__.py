"""The process that measures latencies for `rrd_jax.export --report`; it is not called by hand.

The job comes as JSON on standard input, and the result goes to the file that is named.
"""

import json
import os
import pathlib
import sys


def main(result: pathlib.Path) -> None:
    """Measures on the cores that the job names."""
    job = json.load(sys.stdin)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, job["cores"])  # before any library counts them
    from rrd_jax.comparison import latency

    result.write_text(json.dumps(latency.run_job(job)))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
