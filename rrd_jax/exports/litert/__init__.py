"""TFLite files, converted from StableHLO without TensorFlow, and their reader with LiteRT.

A file can be run without rrd_jax:

    interpreter = Interpreter(model_path="student.tflite")  # of ai_edge_litert.interpreter
    interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], images.shape)
    interpreter.get_signature_runner()(images=images)  # {"logits": [B, C], "embedding": [B, D]}
"""

import contextlib
import os
import pathlib

import numpy as np

from rrd_jax import errors
from rrd_jax.exports import headers
from rrd_jax.exports.interface import (
    Exportable,
    Format,
    Options,
    Outputs,
    normalized,
    require,
    run_batched_or_singly,
    version_of,
)
from rrd_jax.exports.library_output import reason, silence
from rrd_jax.exports.litert import conversion
from rrd_jax.exports.litert.conversion import convert

_MAGIC = b"TFL3"


def write(exportable: Exportable, path: pathlib.Path, options: Options) -> None:
    """Writes the network as TFLite, with its header appended.

    Raises:
      InputError: the network uses an operation that TFLite lacks.
      UnavailableError: the library that quantizes weights is not installed.
      DiskError: the file cannot be written.
    """
    if options.quantize:
        require(FORMAT.name, FORMAT.extra, ("litert_quantizer",))
    with silence():
        graph, outputs = convert(exportable, options)
        if options.quantize:
            graph = _quantized(graph)
        try:
            _interpreter(graph, 1)
        except (RuntimeError, ValueError) as error:
            raise conversion.unfit_error(exportable, reason(error)) from error
    headers.write_graph(path, graph, headers.header_of(exportable, options, FORMAT.name, outputs))


def recognizes(path: pathlib.Path) -> bool:
    """Returns True for a TFLite file."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        return file.read(8)[4:] == _MAGIC
    return False


def _quantized(graph: bytes) -> bytes:
    """Quantizes weights to 8 bits, with one scale per channel; activations stay float32."""
    from litert_quantizer import quantizer, recipe

    quantizing = quantizer.Quantizer(bytearray(graph), recipe.dynamic_wi8_afp32())
    result = quantizing.quantize(enable_progress_bar=False, enable_progress_report=False)
    return bytes(result.quantized_model)


def _interpreter(graph: bytes, threads: int):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=graph, num_threads=threads)
    interpreter.allocate_tensors()
    return interpreter


class _Runtime:
    """A file that runs in LiteRT; see `interface.Runtime`."""

    def __init__(self, path: pathlib.Path, threads: int):
        graph, header = headers.read_graph(path)
        self.about, self._header = header.about, header
        self.runtime = version_of("ai-edge-litert")
        try:
            with silence():
                self._interpreter = _interpreter(graph, threads or len(os.sched_getaffinity(0)))
        except (RuntimeError, ValueError) as error:
            raise errors.InputError(
                f"{path} cannot be read by LiteRT: {reason(error)}; export it again"
            ) from error
        (self._input,) = self._interpreter.get_input_details()
        self._outputs = self._interpreter.get_signature_runner().get_output_details()

    def __call__(self, images: np.ndarray) -> Outputs:
        """Computes `Outputs` from uint8 images [B, H, W, channels]."""
        if self._header.takes == "float32":
            images = normalized(self.about, images)
        any_batch = self._input["shape_signature"][0] < 0
        return run_batched_or_singly(self._run, images, any_batch=any_batch)

    def _run(self, images: np.ndarray) -> Outputs:
        index = self._input["index"]
        if images.shape != tuple(self._interpreter.get_input_details()[0]["shape"]):
            self._interpreter.resize_tensor_input(index, images.shape)
            with silence():
                self._interpreter.allocate_tensors()
        self._interpreter.set_tensor(index, images)
        self._interpreter.invoke()
        get_tensor = self._interpreter.get_tensor
        return {name: get_tensor(self._outputs[name]["index"]) for name in self._header.outputs}


FORMAT = Format(
    name="litert",
    extension=".tflite",
    extra="litert",
    modules=("litert_converter", "ai_edge_litert"),
    options=("fold", "embed_preprocessing", "quantize"),
    write=write,
    open=_Runtime,
    recognizes=recognizes,
)
