"""Core ML packages for Apple's devices, converted from StableHLO.

Packages run on Apple's platforms only, so rrd_jax verifies their structure without running them. A
package takes one image at a time, as normalized float32 [1, H, W, channels].
"""

import pathlib
import tempfile
from typing import Any

import jax.numpy as jnp

from rrd_jax import errors
from rrd_jax.exports import headers, lowering
from rrd_jax.exports.interface import Exportable, Format, Options
from rrd_jax.exports.library_output import reason, silence

# Key of the header in the package's metadata.
_RECORD = "rrd_jax"
_MODEL = pathlib.Path("Data", "com.apple.CoreML")


def write(exportable: Exportable, path: pathlib.Path, options: Options) -> None:
    """Writes the network as a package for iOS 18, macOS 15 and later.

    Raises:
      InputError: the network uses an operation that Core ML lacks.
      DiskError: the package cannot be written.
    """
    with silence():
        import coremltools
        import stablehlo_coreml

        module, outputs = lowering.module(exportable, options, "tpu")
        try:
            _drop_dilations_of_one(module.operation)
            model = _convert(coremltools, stablehlo_coreml, module, outputs)
        # The converters raise many types for missing operations.
        except Exception as error:
            # The converters write the weights to a temporary folder first.
            if "writing data" in str(error):
                folder = tempfile.gettempdir()
                raise errors.DiskError(
                    f"the weights cannot be written to {folder}, which may be full; free disk"
                    " space, or set TMPDIR"
                ) from error
            raise errors.UnfitError(
                f"network '{exportable.about.model}' cannot be written for Core ML:"
                f" {reason(error)}; use --format=stablehlo"
            ) from error
        about = exportable.about
        record = headers.header_of(exportable, options, FORMAT.name, outputs)
        model.user_defined_metadata[_RECORD] = headers.to_json(record)
        classes = f"{about.num_classes} classes" if about.num_classes else "embeddings"
        model.short_description = f"{about.model}, {classes}"
        model.input_description["images"] = "images, (pixel / 255 - mean) / std"
        try:
            model.save(str(path))
        except OSError as error:
            raise errors.DiskError(
                f"{path} cannot be written ({error.strerror}); free disk space or write elsewhere"
            ) from error


def _drop_dilations_of_one(operation: Any) -> None:
    """Removes dilations of one, the default, because the converter rejects explicit dilations."""
    for region in operation.regions:
        for block in region.blocks:
            for inner in block.operations:
                _drop_dilations_of_one(inner.operation)
                for name in ("window_dilations", "base_dilations"):
                    attributes = inner.operation.attributes
                    if name in attributes and set(attributes[name]) == {1}:
                        del attributes[name]


def _convert(coremltools, stablehlo_coreml, module, outputs):
    target = coremltools.target.iOS18
    model = coremltools.convert(
        stablehlo_coreml.convert(module, minimum_deployment_target=target),
        source="milinternal",
        minimum_deployment_target=target,
        pass_pipeline=stablehlo_coreml.build_pass_pipeline(),
        compute_precision=coremltools.precision.FLOAT32,
        skip_model_load=True,
    )
    spec = model.get_spec()
    names = [spec.description.input[0].name, *(output.name for output in spec.description.output)]
    for old, new in zip(names, ("images", *outputs), strict=True):
        coremltools.utils.rename_feature(spec, old, new)
    return coremltools.models.MLModel(spec, weights_dir=model.weights_dir, skip_model_load=True)


def check(exportable: Exportable, path: pathlib.Path) -> None:
    """Compares the inputs, outputs and metadata of a package with the network, without a run.

    Raises:
      InputError: the package cannot be read, or holds another network.
    """
    with silence():
        import coremltools

        try:
            spec = coremltools.utils.load_spec(str(path))
            weights = (path / _MODEL / "weights" / "weight.bin").stat().st_size
        # Reading a package raises errors of files and of protocol buffers.
        except Exception as error:
            raise errors.InputError(
                f"{path} is damaged, or not a Core ML package: {reason(error)}; export it again"
            ) from error
    record = spec.description.metadata.userDefined[_RECORD]
    batch = jnp.zeros((1, *exportable.about.preprocessing.image_shape))
    expected_shapes = {name: y.shape for name, y in lowering.shapes(exportable, batch).items()}
    expected_shapes["images"] = batch.shape
    features = [*spec.description.input, *spec.description.output]
    shapes = {feature.name: tuple(feature.type.multiArrayType.shape) for feature in features}
    outputs = [output.name for output in spec.description.output]
    header = headers.to_json(headers.header_of(exportable, Options(), FORMAT.name, outputs))
    if shapes != expected_shapes or record != header or not weights:
        raise errors.InputError(
            f"{path} does not match the network: its shapes are {shapes}, not {expected_shapes}, or"
            " its header differs; export it again"
        )


def recognizes(path: pathlib.Path) -> bool:
    """Returns True for a Core ML package."""
    return (path / "Manifest.json").is_file() and any((path / _MODEL).glob("*.mlmodel"))


FORMAT = Format(
    name="coreml",
    extension=".mlpackage",
    extra="coreml",
    modules=("coremltools", "stablehlo_coreml"),
    options=("fold",),
    write=write,
    open=None,
    recognizes=recognizes,
    check=check,
)
