"""Traces some steps of a run, for the viewers of the XLA profiler."""

import pathlib
from contextlib import AbstractContextManager
from typing import Any

import jax

from rrd_jax.terminal import console


def step(number: int) -> AbstractContextManager:
    """Marks what is called inside as a step, in a trace that is being written; else it is free."""
    return jax.profiler.StepTraceAnnotation("train", step_num=number)


class Trace:
    """A trace of at least `steps` steps, after the first call, which compiles.

    A context manager; whatever ends the run ends the trace.

    Args:
      folder: to write to.
      steps: how many to trace; 0 for no trace.
    """

    def __init__(self, folder: pathlib.Path, steps: int):
        self._folder, self._left = folder, steps
        self._traced, self._running = 0, False

    def __enter__(self) -> "Trace":
        return self

    def __exit__(self, *exception: Any) -> None:
        self._end()

    def after(self, count: int, logged: Any) -> None:
        """To be called after each call of the train step.

        Args:
          count: steps that the call made.
          logged: what it returned; waited for where the trace begins or ends.
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
            options.python_tracer_level = 0  # calls of Python functions would fill the trace
            # Perfetto refuses the file that the profiler writes; of several processes, which write
            # to one folder, JAX can rewrite none for it.
            alone = jax.process_count() == 1
            jax.profiler.start_trace(
                self._folder, create_perfetto_trace=alone, profiler_options=options
            )
            self._running = True

    def _end(self) -> None:
        if self._running:
            jax.profiler.stop_trace()
            self._running = False
            console.say(f"a trace of {self._traced} steps is in {self._folder}: {self._viewers()}")
        elif self._left > 0:
            console.warn("nothing was traced; only the first call was made, which is compilation")
        self._left = 0

    def _viewers(self) -> str:
        """What opens the trace."""
        xprof = f"'xprof --logdir={self._folder}' shows it (pip install xprof)"
        files = list(self._folder.rglob("perfetto_trace.json.gz"))
        if not files:
            return xprof
        newest = max(files, key=lambda path: path.stat().st_mtime)
        return f"{xprof}; for https://ui.perfetto.dev open {newest.relative_to(self._folder)}"
