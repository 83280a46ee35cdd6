"""The process that measures latencies for `rrd_jax.export --report`.

`latency` starts this process; users run the report. The process reads a job as JSON from standard
input and writes the result to the file named by its argument.
"""

import json
import os
import pathlib
import sys


def main(result: pathlib.Path) -> None:
    """Measures latencies on the cores of the job, and writes them to `result`."""
    job = json.load(sys.stdin)
    if hasattr(os, "sched_setaffinity"):
        # Libraries count the available cores when they are imported.
        os.sched_setaffinity(0, job["cores"])
    from rrd_jax.comparison import latency

    result.write_text(json.dumps(latency.run_job(job)))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
