"""Calls of the compiled train step, and the memory of its programs."""

from collections.abc import Callable
from typing import Any

from rrd_jax import parallel
from rrd_jax.cpu import compiling, footprint
from rrd_jax.jobs import memory_advice
from rrd_jax.jobs.run import Position, Run
from rrd_jax.objectives.batch import Batch
from rrd_jax.run_folder import startup_time, tracing
from rrd_jax.terminal import console
from rrd_jax.training.step import Split


class Steps:
    """The train steps of a run.

    Args:
      run: the run.
    """

    def __init__(self, run: Run):
        self._run = run
        # `is_late` of the program that was compiled last.
        self._prepared: bool | None = None

    def prepare(self, step: int, count: int, teacher: Any, batch: Batch | Split) -> bool:
        """Compiles the program of the next call if necessary, and logs its memory.

        Args:
          step: updates made so far.
          count: number of steps of the call.
          teacher: the teacher's variables or cached embeddings.
          batch: the input of the call.

        Returns:
          True if a program was compiled.

        Raises:
          InputError: the program needs more memory than a device has.
        """
        program, label = self._run.program, self._run.training.label
        if self._prepared is program.is_late(step):
            return False
        if self._prepared is not None:
            console.progress(label, ["recompiling the train step with oneDNN"])
        memory = self._memory(program.train(step, count), teacher, batch)
        # The two programs of a run need almost the same memory.
        if self._prepared is None:
            console.say(f"[{label}] {memory}")
        self._prepared = program.is_late(step)
        startup_time.phase("compiling")
        return True

    def __call__(self, position: Position, count: int, teacher: Any, batch: Batch | Split) -> Any:
        """Runs `count` steps from a position, and returns their logged scalars."""
        train: Callable = self._run.program.train(position.step, count)
        with tracing.step(position.step):
            position.state, logged = train(position.state, teacher, batch)
        position.step += count
        return logged

    def _memory(self, train: Callable, teacher: Any, batch: Batch | Split) -> str:
        """Describes a program's memory; raises an InputError if a device has less memory."""
        run = self._run
        devices = run.mesh.size
        arguments = {
            "state": run.program.abstract,
            "teacher": teacher,
            "images": batch,
        }
        fields = {
            "state": memory_advice.for_state(run.recipe, devices),
            "teacher": ["teacher.cache=off"] if run.cache.place == "device" else [],
            "images": ["data.feed=streamed"] if run.dataset.train.on_device else [],
            footprint.ACTIVATIONS: memory_advice.for_activations(run.recipe, devices),
        }
        compiled = compiling.compiled_program(train, *arguments.values())
        return footprint.describe(compiled, arguments, parallel.device_bytes(run.mesh), fields)
