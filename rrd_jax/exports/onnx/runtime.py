"""The reader of ONNX files, with onnxruntime."""

import pathlib

import numpy as np

from rrd_jax import errors
from rrd_jax.exports import interface
from rrd_jax.exports.onnx import model

# The lowest severity that onnxruntime logs.
_LOG_ERRORS = 3


class Session:
    """A network in onnxruntime, on the CPU.

    Args:
      path: a file that was written by this package.
      threads: number of threads per operator; 0 for all cores.

    Raises:
      InputError: the file is damaged, or has no header.
    """

    def __init__(self, path: pathlib.Path, threads: int = 0):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _LOG_ERRORS
        try:
            content = path.read_bytes()
            self._session = onnxruntime.InferenceSession(
                content, options, providers=["CPUExecutionProvider"]
            )
        except OSError as error:
            raise errors.InputError(f"{path} cannot be read ({error.strerror or error})") from error
        # onnxruntime's exceptions have no other common base class.
        except Exception as error:
            raise errors.InputError(
                f"{path} cannot be read as ONNX: {_first_line(error)}; export it again"
            ) from error
        properties = self._session.get_modelmeta().custom_metadata_map
        self._header = model.header_of(properties, content, str(path))
        self.about = self._header.about
        self.runtime = interface.version_of("onnxruntime")

    def __call__(self, images: np.ndarray) -> interface.Outputs:
        """Computes `Outputs` from uint8 images [B, H, W, channels]."""
        if self._header.takes != "uint8":
            images = interface.normalized(self.about, images)
        if self._header.layout == "NCHW":
            images = images.transpose(0, 3, 1, 2)
        names = list(self._header.outputs)
        results = self._session.run(names, {"images": np.ascontiguousarray(images)})
        return {
            name: x.transpose(0, 2, 3, 1) if x.ndim == 4 else x
            for name, x in zip(names, results, strict=True)
        }


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return errors.printable(lines[0])
