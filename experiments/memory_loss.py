"""Times RRD's loss with its gradient beside PyTorch's, over sizes of batch and memory, on a CPU.

    python experiments/memory_loss.py --torch_python=PYTHON

PYTHON is an interpreter with torch; without one, PyTorch is left out. Both libraries are processes
that take turns, round by round. The table goes to <workdir>/memory_loss.md, and every figure to
<workdir>/memory_loss.json.
"""

import collections
import contextlib
import datetime
import os
import pathlib
import platform
import sys

from absl import app, flags

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # for a start by path, without -m

from experiments import machine
from experiments.memory_loss_table import cases, size, table
from experiments.speed_reader import Reader, ReaderError, first_cores
from rrd_jax import errors
from rrd_jax.run_folder import report
from rrd_jax.terminal import cli

_TORCH = flags.DEFINE_string("torch_python", "", "An interpreter with torch.")
_SIZES = flags.DEFINE_list(
    "sizes",
    ["32x1024", "32x16384", "32x131072", "256x1024", "256x16384", "256x131072", "256x1048576"],
    "Images and rows of the memory, as BxK.",
)
_DIM = flags.DEFINE_integer("dim", 128, "Length of an embedding.", lower_bound=1)
_REPEATS = flags.DEFINE_integer("repeats", 5, "Rounds over all.", lower_bound=1)
_CORES = flags.DEFINE_integer("cores", 1, "That both libraries use; 0 for all.", lower_bound=0)
_CPU_TIME = flags.DEFINE_bool(
    "cpu_time", False, "Time of the processor instead of the wall's, where others use it too."
)
_WORKDIR = flags.DEFINE_string("workdir", "runs/memory-loss", "Results, and what readers say.")


def _measure(sizes, workdir):
    """Seconds of each round by case, and what the readers say of themselves."""
    task = {"dim": _DIM.value, "cpu_time": _CPU_TIME.value}
    scripts = {"ours": (sys.executable, "memory_loss_ours.py")}
    if _TORCH.value:
        scripts["torch"] = (_TORCH.value, "memory_loss_torch.py")
    seconds, readers = collections.defaultdict(list), {}
    with contextlib.ExitStack() as stack:
        for name, (python, script) in scripts.items():
            log = workdir / f"{name}.log"
            try:
                readers[name] = Reader(python, script, task, log, first_cores(_CORES.value))
            except ReaderError as error:
                raise errors.InputError(f"{name} failed: {error}") from error
            stack.callback(readers[name].close)
        for i in range(_REPEATS.value):
            for pair in sizes:
                turns = [("ours", "peak 0 0")]
                turns += [(name, case) for name in readers for case in cases(pair, name)]
                for name, case in turns:
                    try:
                        taken = readers[name].round(case)
                    except ReaderError as error:
                        raise errors.InputError(f"{name}, {case} failed: {error}") from error
                    seconds[case].append(taken)
                    print(f"[round {i + 1}] {name}, {case}: {1e3 * taken:.4g} ms", flush=True)
                report.write_json(workdir / "memory_loss.json", dict(seconds))
        return seconds, [reader.ready for reader in readers.values()]


def _text(seconds, sizes, readers) -> str:
    versions = dict(pair for ready in readers for pair in ready["versions"].items())
    return "\n".join([
        table(seconds, sizes, _DIM.value),
        "",
        f"{datetime.date.today()}, {machine.processor()}, {_CORES.value or os.cpu_count()} cores"
        f" used of {os.cpu_count()}; D = {_DIM.value}, float32; Python {platform.python_version()},"
        f" {', '.join(f'{name} {version}' for name, version in versions.items())}.",
        f"{_REPEATS.value} rounds in turns, {'processor' if _CPU_TIME.value else 'wall'} time,"
        " medians. PyTorch's columns: how many times as fast ours is, median of the rounds' ratios"
        " (smallest to largest). `eager`, `compiled`: softmax and log-softmax, differentiated;"
        " `compiled, lse`: with a log-sum-exp; `chunks`, `attention`: our two attentions in"
        " PyTorch's operations. GFLOP/s: of 8 B K D operations; the peak: of a product of matrices"
        " of 1 024 rows.",
    ])  # fmt: skip


def _job() -> None:
    sizes = [size(text) for text in _SIZES.value]
    workdir = pathlib.Path(_WORKDIR.value)
    workdir.mkdir(parents=True, exist_ok=True)
    seconds, readers = _measure(sizes, workdir)
    text = _text(seconds, sizes, readers)
    report.write_whole(workdir / "memory_loss.md", text + "\n")
    print(f"\n{text}\n\nkept in {workdir / 'memory_loss.md'}")


def _main(argv: list[str]) -> None:
    del argv
    cli.guard(_job, stopped="stopped; what was measured is in memory_loss.json of the workdir")


if __name__ == "__main__":
    app.run(_main, flags_parser=cli.parse_flags)
