"""OpenVINO's format, converted from TFLite: a folder with a graph, its weights and model.json.

A folder can be run without rrd_jax:

    model = openvino.compile_model("student/openvino_model.xml", "CPU")
    model(images)["logits"]
"""

import pathlib
import tempfile

import numpy as np

from rrd_jax import errors
from rrd_jax.exports import headers, litert
from rrd_jax.exports.interface import (
    Exportable,
    Format,
    Options,
    Outputs,
    normalized,
    run_batched_or_singly,
    version_of,
)
from rrd_jax.exports.library_output import reason, silence

# The file name that Hugging Face's Optimum uses.
_GRAPH = "openvino_model.xml"


def write(exportable: Exportable, path: pathlib.Path, options: Options) -> None:
    """Writes a folder with the network.

    Raises:
      InputError: the network uses an operation that TFLite or OpenVINO lacks.
      DiskError: the folder cannot be written.
    """
    with silence(), tempfile.TemporaryDirectory() as folder:
        import openvino

        graph, outputs = litert.convert(exportable, options)
        file = pathlib.Path(folder) / "graph.tflite"
        try:
            file.write_bytes(graph)
            model = openvino.Core().read_model(file)
            model.inputs[0].get_tensor().set_names({"images"})
            for output, name in zip(model.outputs, outputs, strict=True):
                output.get_tensor().set_names({name})
            path.mkdir()
            openvino.save_model(model, path / _GRAPH, compress_to_fp16=False)
        except OSError as error:
            raise errors.DiskError(
                f"{path} cannot be written ({error.strerror}); free disk space or write elsewhere"
            ) from error
        except RuntimeError as error:
            raise errors.UnfitError(
                f"network '{exportable.about.model}' cannot be read by OpenVINO: {_reason(error)};"
                " use --format=stablehlo"
            ) from error
    headers.write_folder(path, headers.header_of(exportable, options, FORMAT.name, outputs))


def recognizes(path: pathlib.Path) -> bool:
    """Returns True for a folder with OpenVINO's graph."""
    return (path / _GRAPH).is_file()


def _reason(error: RuntimeError) -> str:
    """Returns the last line of OpenVINO's message, which follows the source locations."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return reason(RuntimeError(lines[-1] if lines else ""))


class _Runtime:
    """A folder that runs in OpenVINO; see `interface.Runtime`."""

    def __init__(self, path: pathlib.Path, threads: int):
        import openvino

        header = headers.read_folder(path)
        self.about, self._header = header.about, header
        self.runtime = version_of("openvino")
        # By default, OpenVINO computes in bfloat16 on some processors.
        settings = {"INFERENCE_PRECISION_HINT": "f32"}
        if threads:
            settings["INFERENCE_NUM_THREADS"] = threads
        try:
            with silence():
                core = openvino.Core()
                self._model = core.compile_model(path / _GRAPH, "CPU", settings)
        except RuntimeError as error:
            raise errors.InputError(
                f"{path} cannot be read by OpenVINO: {_reason(error)}; export it again"
            ) from error

    def __call__(self, images: np.ndarray) -> Outputs:
        """Computes `Outputs` from uint8 images [B, H, W, channels]."""
        if self._header.takes == "float32":
            images = normalized(self.about, images)
        any_batch = self._model.inputs[0].partial_shape[0].is_dynamic
        return run_batched_or_singly(self._run, images, any_batch=any_batch)

    def _run(self, images: np.ndarray) -> Outputs:
        results = self._model({"images": images})
        return {name: np.array(results[name]) for name in self._header.outputs}


FORMAT = Format(
    name="openvino",
    extension="",
    extra="openvino",
    modules=("litert_converter", "openvino"),
    options=("fold", "embed_preprocessing"),
    write=write,
    open=_Runtime,
    recognizes=recognizes,
)
