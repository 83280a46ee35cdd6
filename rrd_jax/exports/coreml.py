"""Core ML packages for Apple's devices, made from StableHLO.

They are written anywhere and run only there: nothing here runs one, so only its structure is
checked. A package takes one image at a time, as float32 [1, H, W, channels] that is normalised.
"""

import pathlib
import tempfile
from typing import Any

import jax.numpy as jnp

from rrd_jax import errors
from rrd_jax.exports import headers, lowering
from rrd_jax.exports.interface import Exportable, Format, Options
from rrd_jax.exports.library_output import reason, silence

_RECORD = "rrd_jax"  # the key of what is known of the network, in the package's metadata
_MODEL = pathlib.Path("Data", "com.apple.CoreML")


def write(exportable: Exportable, path: pathlib.Path, options: Options) -> None:
    """Writes the network as a package for iOS 18, macOS 15 and later.

    Raises:
      InputError: it computes something that Core ML has no operation for.
      DiskError: the package cannot be written.
    """
    with silence():
        import coremltools
        import stablehlo_coreml

        module, outputs = lowering.module(exportable, options, "tpu")
        try:
            _drop_dilations_of_one(module.operation)
            model = _convert(coremltools, stablehlo_coreml, module, outputs)
        except Exception as error:  # of any kind: it has many ways to find nothing for an operation
            if "writing data" in str(error):  # its weights, which it first keeps where drafts are
                folder = tempfile.gettempdir()
                raise errors.DiskError(f"weights cannot be written ({folder} is full?)") from error
            raise errors.UnfitError(
                f"network '{exportable.about.model}' cannot be written for Core ML: {reason(error)}"
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
            raise errors.DiskError(f"{path} cannot be written ({error.strerror})") from error


def _drop_dilations_of_one(operation: Any) -> None:
    """Dilations of one are those of a pooling that says nothing; said, they are refused."""
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
    """Compares what a package says of itself with the network; it is not run.

    Raises:
      InputError: it cannot be read, or its inputs, outputs or metadata are of another network.
    """
    with silence():
        import coremltools

        try:
            spec = coremltools.utils.load_spec(str(path))
            weights = (path / _MODEL / "weights" / "weight.bin").stat().st_size
        except Exception as error:  # of any kind: of files, and of protocol buffers
            raise errors.InputError(
                f"{path} is damaged, or no Core ML package: {reason(error)}"
            ) from error
    record = spec.description.metadata.userDefined[_RECORD]
    batch = jnp.zeros((1, *exportable.about.preprocessing.image_shape))
    wanted = {name: y.shape for name, y in lowering.shapes(exportable, batch).items()}
    wanted["images"] = batch.shape
    features = [*spec.description.input, *spec.description.output]
    shapes = {feature.name: tuple(feature.type.multiArrayType.shape) for feature in features}
    outputs = [output.name for output in spec.description.output]
    expected = headers.to_json(headers.header_of(exportable, Options(), FORMAT.name, outputs))
    if shapes != wanted or record != expected or not weights:
        raise errors.InputError(
            f"{path} is not what was to be written: it has {shapes}, not {wanted}, or is of another"
            " network"
        )


def recognizes(path: pathlib.Path) -> bool:
    """Whether it is a Core ML package."""
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
