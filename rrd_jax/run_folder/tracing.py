"""Traces of train steps for the viewers of the XLA profiler."""

import pathlib
from contextlib import AbstractContextManager
from typing import Any

import jax

from rrd_jax import buckets
from rrd_jax.terminal import console


def step(number: int) -> AbstractContextManager:
    """Returns a context manager that annotates a step in an active trace."""
    return jax.profiler.StepTraceAnnotation("train", step_num=number)


class Trace:
    """A trace of at least `steps` steps, after the first call, which compiles.

    A context manager: the trace ends with the run, also if the run fails.

    Args:
      folder: the folder that receives the trace.
      steps: number of steps to trace; 0 for no trace.
    """

    def __init__(self, folder: pathlib.Path, steps: int):
        self._target, self._folder, self._left = folder, buckets.local(folder), steps
        self._traced, self._running = 0, False

    def __enter__(self) -> "Trace":
        return self

    def __exit__(self, *exception: Any) -> None:
        self._end()

    def after(self, count: int, logged: Any) -> None:
        """Updates the trace; must be called after each call of the train step.

        Args:
          count: steps of the call.
          logged: the output of the call, awaited before the trace starts and ends.
        """
        if self._running:
            self._traced += count
            self._left -= count
            if self._left <= 0:
                jax.block_until_ready(logged)
                self._end()
        elif self._left > 0:
            jax.block_until_ready(logged)
            options = jax.profiler.ProfileOptions()
            # Events of Python functions would fill the trace.
            options.python_tracer_level = 0
            # Perfetto cannot open the profiler's own file. JAX converts the file only if a single
            # process writes to the folder.
            perfetto = jax.process_count() == 1
            jax.profiler.start_trace(
                self._folder, create_perfetto_trace=perfetto, profiler_options=options
            )
            self._running = True

    def _end(self) -> None:
        if self._running:
            jax.profiler.stop_trace()
            self._running = False
            if buckets.is_bucket(self._target):
                buckets.upload(self._folder, self._target)
            console.say(
                f"profile: {self._traced} steps traced in {self._folder}; {self._viewers()}"
            )
        elif self._left > 0:
            console.warn(
                "profile: no steps traced, because the run made only the first call, which compiles"
            )
        self._left = 0

    def _viewers(self) -> str:
        """Returns the commands that open the trace."""
        xprof = f"view with 'xprof --logdir={self._folder}' (pip install xprof)"
        files = list(self._folder.rglob("perfetto_trace.json.gz"))
        if not files:
            return xprof
        newest = max(files, key=lambda path: path.stat().st_mtime)
        return f"{xprof} or open {newest.relative_to(self._folder)} in https://ui.perfetto.dev"
