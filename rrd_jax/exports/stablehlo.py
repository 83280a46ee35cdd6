"""StableHLO, serialized by `jax.export`: for any number of images, on CPUs, GPUs and TPUs.

A file can be run without rrd_jax:

    function = jax.export.deserialize(open("student.stablehlo", "rb").read())
    function.call(images)  # {"logits": [B, C], "embedding": [B, D]}
"""

import contextlib
import os
import pathlib
import pickle
import subprocess
import sys
import tempfile
import weakref
from typing import Any

import jax.export
import numpy as np

from rrd_jax import errors
from rrd_jax.exports import headers, lowering
from rrd_jax.exports.interface import Exportable, Format, Options, Outputs, normalized

_EXTENSION = ".stablehlo"
_PLATFORMS = ("cpu", "cuda", "tpu")
# The first bytes of MLIR bytecode.
_MAGIC = b"ML\xefR"

# The program that runs a file, in a process without rrd_jax. Requests are images; replies are the
# version of jax, outputs by name, or the text of an error. All messages are pickled.
_READER = """
import os, pickle, sys
path, threads = sys.argv[1], int(sys.argv[2])
requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
os.dup2(2, 1)
if threads and hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])

def reply(kind, content):
    pickle.dump((kind, content), replies)
    replies.flush()

try:
    import jax, numpy as np
    from jax import export
    function = export.deserialize(open(path, "rb").read())
    reply("version", jax.__version__)
    while requests.peek(1):
        outputs = function.call(pickle.load(requests))
        reply("outputs", {name: np.asarray(value) for name, value in outputs.items()})
except Exception as error:
    lines = str(error).strip().splitlines() or [""]
    reply("error", f"{type(error).__name__}: {lines[0][:200]}")
"""


def write(exportable: Exportable, path: pathlib.Path, options: Options) -> None:
    """Writes the network as StableHLO, with its header appended.

    Raises:
      InputError: the network cannot be lowered, for example because of a Python callback.
      DiskError: the file cannot be written.
    """
    (batch,) = jax.export.symbolic_shape("batch")
    exported = lowering.lower(exportable, options, _PLATFORMS, batch)
    outputs = lowering.outputs_of(exported)
    header = headers.header_of(exportable, options, FORMAT.name, outputs)
    headers.write_graph(path, bytes(exported.serialize()), header)


def recognizes(path: pathlib.Path) -> bool:
    """Returns True for a file with the format's header, or with its extension and MLIR bytecode."""
    if not path.is_file():
        return False
    if headers.format_of(path) == FORMAT.name:
        return True
    with contextlib.suppress(OSError):
        return path.suffix == _EXTENSION and _MAGIC in path.read_bytes()
    return False


class _Runtime:
    """A file that runs in a process with only jax and numpy; see `interface.Runtime`."""

    def __init__(self, path: pathlib.Path, threads: int):
        _, header = headers.read_graph(path)
        self.about, self._takes, self._path = header.about, header.takes, path
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        # The subprocess runs on the CPU because this process may hold the accelerators.
        environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
        # -P instead of -I, because jax may be on PYTHONPATH.
        command = [sys.executable, "-P", "-c", _READER, str(path.resolve()), str(threads)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=self._errors, env=environment
        )
        weakref.finalize(self, _stop, self._process)
        self.runtime = f"jax {self._reply()}"

    def __call__(self, images: np.ndarray) -> Outputs:
        """Computes `Outputs` from uint8 images [B, H, W, channels]."""
        if self._takes == "float32":
            images = normalized(self.about, images)
        try:
            pickle.dump(images, self._process.stdin)
            self._process.stdin.flush()
        except OSError as error:
            raise self._exit_error() from error
        return self._reply()

    def _reply(self) -> Any:
        try:
            kind, content = pickle.load(self._process.stdout)
        except (EOFError, pickle.UnpicklingError) as error:
            raise self._exit_error() from error
        if kind == "error":
            raise errors.InputError(
                f"{self._path} cannot be run by jax: {content}; this is jax {jax.__version__}: if a"
                " newer version wrote the file, update jax or export the network again"
            )
        return content

    def _exit_error(self) -> errors.InputError:
        code = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        last = f": {errors.printable(lines[-1][:200])}" if lines else ""
        return errors.InputError(
            f"the process that ran {self._path} has stopped with exit code {code}{last}"
        )


def _stop(process: subprocess.Popen) -> None:
    for pipe in (process.stdin, process.stdout):
        with contextlib.suppress(OSError):
            pipe.close()
    process.kill()
    process.wait()


FORMAT = Format(
    name="stablehlo",
    extension=_EXTENSION,
    extra="",
    modules=("jax",),
    options=("fold", "embed_preprocessing"),
    write=write,
    open=_Runtime,
    recognizes=recognizes,
    backbones=True,
)
