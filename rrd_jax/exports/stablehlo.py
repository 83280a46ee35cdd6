"""StableHLO, as `jax.export` serialises it: for any number of images, on CPUs, GPUs and TPUs.

A program that knows nothing of this package runs it:

    function = jax.export.deserialize(open("student.stablehlo", "rb").read())
    function.call(images)  # {"logits": [B, C], "embedding": [B, D]}
"""

import contextlib
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile
import weakref

import jax.export
import numpy as np

from rrd_jax import errors
from rrd_jax.exports import headers, lowering
from rrd_jax.exports.interface import Exportable, Format, Options, Outputs, normalized

_EXTENSION = ".stablehlo"
_PLATFORMS = ("cpu", "cuda", "tpu")
_MAGIC = b"ML\xefR"  # of MLIR's bytecode

# A process of its own shows that the file needs nothing of this one. It says how it started, and
# then answers images with arrays. Each message is a line of JSON, behind which arrays follow as
# bytes: {name: [type, shape]}.
_READER = """
import json, os, sys
path, threads = sys.argv[1], int(sys.argv[2])
images, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
os.dup2(2, 1)
if threads and hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])

def reply(**content):
    replies.write(json.dumps(content).encode() + b"\\n")
    replies.flush()

def attempt(function):
    try:
        return function()
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        reply(error=f"{type(error).__name__}: {lines[0][:200]}")
        sys.exit()

def start():
    global jax, np
    import jax, numpy as np
    from jax import export
    return export.deserialize(open(path, "rb").read())

function = attempt(start)
reply(jax=jax.__version__)
for line in images:
    kind, shape = json.loads(line)
    kind = np.dtype(kind)
    batch = np.frombuffer(images.read(int(np.prod(shape)) * kind.itemsize), kind).reshape(shape)
    outputs = attempt(lambda: {k: np.asarray(v) for k, v in function.call(batch).items()})
    reply(arrays={name: [str(y.dtype), y.shape] for name, y in outputs.items()})
    for output in outputs.values():
        replies.write(output.tobytes())
    replies.flush()
"""


def write(exportable: Exportable, path: pathlib.Path, options: Options) -> None:
    """Writes the network as StableHLO, followed by what is known of it.

    Raises:
      InputError: it computes something that has no form outside this process.
      DiskError: the file cannot be written.
    """
    (batch,) = jax.export.symbolic_shape("batch")
    exported = lowering.lower(exportable, options, _PLATFORMS, batch)
    outputs = lowering.outputs_of(exported)
    header = headers.header_of(exportable, options, FORMAT.name, outputs)
    headers.write_graph(path, bytes(exported.serialize()), header)


def recognizes(path: pathlib.Path) -> bool:
    """Whether it is such a file, or one of that name with a network of StableHLO in it."""
    if not path.is_file():
        return False
    if headers.format_of(path) == FORMAT.name:
        return True
    with contextlib.suppress(OSError):
        return path.suffix == _EXTENSION and _MAGIC in path.read_bytes()
    return False


class _Runtime:
    """See `interface.Runtime`; a process that imports jax and numpy reads the file and runs it."""

    def __init__(self, path: pathlib.Path, threads: int):
        _, header = headers.read_graph(path)
        self.about, self._takes, self._path = header.about, header.takes, path
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        environment = {**os.environ, "JAX_PLATFORMS": "cpu"}  # devices are this process's
        # -P, not -I: jax may lie where PYTHONPATH says.
        command = [sys.executable, "-P", "-c", _READER, str(path.resolve()), str(threads)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=self._errors, env=environment
        )
        weakref.finalize(self, _stop, self._process)
        start = self._reply()
        self.runtime = f"jax {start['jax']}"

    def __call__(self, images: np.ndarray) -> Outputs:
        """What it computes from uint8 images [B, H, W, channels]."""
        if self._takes == "float32":
            images = normalized(self.about, images)
        try:
            line = json.dumps([str(images.dtype), images.shape])
            self._process.stdin.write(f"{line}\n".encode() + images.tobytes())
            self._process.stdin.flush()
        except OSError as error:
            raise self._ended() from error
        arrays = self._reply()["arrays"]
        return {name: self._array(np.dtype(kind), shape) for name, (kind, shape) in arrays.items()}

    def _array(self, kind: np.dtype, shape: list[int]) -> np.ndarray:
        size = math.prod(shape) * kind.itemsize
        content = self._process.stdout.read(size)
        if len(content) < size:
            raise self._ended()
        return np.frombuffer(content, kind).reshape(shape)

    def _reply(self) -> dict:
        line = self._process.stdout.readline()
        if not line:
            raise self._ended()
        content = json.loads(line)
        if "error" in content:
            raise errors.InputError(
                f"{self._path} cannot be run by jax: {content['error']}; this is jax"
                f" {jax.__version__}: if a newer one wrote the file, update jax, or export again"
                " with this one"
            )
        return content

    def _ended(self) -> errors.InputError:
        code = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        last = f": {errors.printable(lines[-1][:200])}" if lines else ""
        return errors.InputError(
            f"the process that ran {self._path} has ended, with exit code {code}{last}"
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
)
