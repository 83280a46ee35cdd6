"""Exports a network to a file for another library, and verifies the file in that library.

    python -m rrd_jax.export --workdir=runs/digits --format=onnx
    python -m rrd_jax.export --workdir=runs/digits@best --format=onnx,litert --output=files
    python -m rrd_jax.export --workdir=runs/digits --format=litert --quantize=int8
    python -m rrd_jax.export --workdir=weights.pth --network=resnet18 --format=onnx \
        --mean=0.485,0.456,0.406 --std=0.229,0.224,0.225
    python -m rrd_jax.export --workdir=runs/digits --format=hub --push=ORG/NAME --license=mit
    python -m rrd_jax.export --workdir=runs/digits --report

Formats: safetensors, torch, hub, stablehlo, onnx, litert, openvino, coreml; `all` selects every
format whose libraries are installed and that can hold the network. Each file is opened in its
library and run on test images. The file is kept only if no logit differs by more than 1e-4 of the
largest logit and every image has the same top-1 class; for a network without a classifier,
embeddings are compared. Class names and preprocessing are stored in the file or next to it.

--report compares the accuracy, size and latency of the student and its teacher: as a table, in
WORKDIR/gains.json and in WORKDIR/gains.png; in exports/ for a WORKDIR in a bucket.

Exit codes: 0 for success, 1 for an invalid flag, 2 for other invalid input or a file that was not
written, 69 for a missing library, 70 for an error in this program, 74 for a full disk, 75 after
SIGTERM or SIGHUP, 130 after Ctrl-C.
"""

from rrd_jax.terminal import interrupts

if __name__ == "__main__":
    # A signal during the imports ends the program with its exit code.
    interrupts.install()

import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from absl import app, flags

from rrd_jax.terminal import cli, path_flags

if TYPE_CHECKING:
    from rrd_jax.data.model_info import ModelInfo
    from rrd_jax.exports import Exportable, Format, Options, export_all

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags, in a function because other commands define flags with the same names."""
    path_flags.define_path(
        "workdir",
        None,
        "A run, RUN@best, RUN@last or RUN@STEP; a folder written by rrd_jax.convert; or, with"
        " --network, a PyTorch file; in a bucket, gs://BUCKET/PATH or s3://BUCKET/PATH; or"
        " hf-hub:ORG/NAME.",
        bucket=True,
        repository=True,
    )
    flags.DEFINE_list("format", None, "One format, several separated by commas, or all.")
    path_flags.define_path(
        "output",
        None,
        "The file, or the folder for files. Default: WORKDIR/exports; exports in the current folder"
        " for hf-hub:ORG/NAME and for a WORKDIR in a bucket.",
    )
    flags.DEFINE_bool("teacher", False, "Export the run's teacher instead of its student.")
    flags.DEFINE_enum(
        "weights", "average", ["average", "raw"], "The weights of a run with weight averaging."
    )
    flags.DEFINE_string(
        "head",
        "",
        "The objective whose head follows the embedding in the exported network, such as rrd; with"
        " several teachers, such as rrd[0]. Several names, separated by commas, add an output for"
        " each head, such as embed_0 for embed[0].",
    )
    flags.DEFINE_string(
        "class_vectors",
        "",
        "A file with a vector for each class: logits are the cosines between embeddings, after the"
        " head, and these vectors (zero-shot).",
    )
    flags.DEFINE_float("class_vectors_scale", None, "Factor of the cosines. Default: 100.")
    flags.DEFINE_bool(
        "backbone",
        False,
        "Export the network without its classifier: feature maps stage2 to stage5 with strides 4 to"
        " 32, patches and the embedding; with --head, projected patches and embedding.",
    )
    flags.DEFINE_string(
        "network", "", "The network of a PyTorch file, as listed by `python -m rrd_jax.networks`."
    )
    flags.DEFINE_list("mean", None, "Mean per channel, for pixels in [0, 1]. Default: the run's.")
    flags.DEFINE_list(
        "std", None, "Standard deviation per channel, for pixels in [0, 1]. Default: the run's."
    )
    flags.DEFINE_integer(
        "image_size", 0, "Image height and width. Default: the run's.", lower_bound=0
    )
    flags.DEFINE_integer(
        "resize", 0, "Shorter side before the center crop. Default: the run's.", lower_bound=0
    )
    flags.DEFINE_string(
        "background",
        "",
        "Color behind transparent pixels, for predictions with the files: white, black, #rrggbb or"
        " none. Default: the run's, or white.",
    )
    path_flags.define_path(
        "class_names", "", "A file with one class name per line, or JSON. Default: the run's."
    )
    flags.DEFINE_enum(
        "names",
        "ours",
        ["ours", "torch", "torchvision", "timm"],
        "Naming scheme of the weights: ours is rrd_jax's; torch is the scheme of the PyTorch"
        " library that has the network.",
    )
    flags.DEFINE_string(
        "license", "", "With --format=hub, the license in the model card, such as apache-2.0."
    )
    flags.DEFINE_string(
        "push",
        "",
        "With --format=hub, the repository ORG/NAME of the Hugging Face Hub to which the verified"
        " folder is uploaded. It is created if missing; HF_TOKEN needs write permission.",
    )
    flags.DEFINE_bool("private", False, "Create the repository of --push as a private one.")
    flags.DEFINE_enum("quantize", "", ["", "int8"], "int8 for 8-bit weights.")
    flags.DEFINE_bool(
        "embed_preprocessing", False, "Include the normalization; the file then takes uint8 images."
    )
    flags.DEFINE_bool("fold", True, "Fold batch norms into the preceding convolutions.")
    path_flags.define_path(
        "images", "", "A folder of images for the verification. Default: the test split."
    )
    flags.DEFINE_integer(
        "check_images", 500, "Maximum number of images for the verification.", lower_bound=1
    )
    flags.DEFINE_bool("overwrite", False, "Replace earlier exports.")
    flags.DEFINE_bool(
        "report", False, "Compare the student with its teacher instead of exporting files."
    )
    flags.DEFINE_float(
        "seconds",
        4.0,
        "Seconds that --report spends on each batch size, on one core and on all cores.",
        lower_bound=0,
    )


class Request(NamedTuple):
    """The values of the flags; `load_options` are arguments of `library.load`."""

    workdir: pathlib.Path
    format: Sequence[str]
    output: str | None = None
    teacher: bool = False
    load_options: Mapping[str, Any] = {}
    names: str = "ours"
    license: str = ""
    push: str = ""
    private: bool = False
    quantize: str = ""
    embed_preprocessing: bool = False
    fold: bool = True
    images: str = ""
    check_images: int = 500
    overwrite: bool = False
    backbone: bool = False


_LOAD_FLAGS = (
    *("network", "image_size", "resize", "background", "class_names", "head"),
    *("class_vectors", "class_vectors_scale"),
)
_FILE_FLAGS = [name for name in Request._fields if name not in ("workdir", "load_options")]


def run(request: Request) -> list["export_all.Outcome"]:
    """Writes the files, and prints one line per file.

    Raises:
      InputError: the input is invalid, the outputs of a file differ from the network's, or no
        format can hold the network.
      UnavailableError: the libraries of all formats are missing.
      DiskError: the disk is full.
    """
    from rrd_jax import exports
    from rrd_jax.comparison import compared_networks
    from rrd_jax.exports import export_all, sample_images, writer
    from rrd_jax.terminal import console

    formats, options = _formats(request)
    absent = [export_all.Outcome(fmt, error=export_all.missing(fmt)) for fmt in formats]
    # `report` raises an error if all libraries are missing.
    if all(outcome.error for outcome in absent):
        export_all.report(absent)
    # An invalid --output is reported before a network is loaded.
    if explicit := _explicit_path(request, formats):
        writer.check_path(explicit, formats[0], overwrite=request.overwrite)
    exportable = _load(request)
    if request.backbone:
        exportable = exports.make_backbone(exportable)
    about = exportable.about
    targets = [(fmt, explicit or _default_path(request, about, fmt, options)) for fmt in formats]
    for (fmt, path), outcome in zip(targets, absent, strict=True):
        if not outcome.error and not explicit:
            writer.check_path(path, fmt, overwrite=request.overwrite)
    source = compared_networks.source_of(request.workdir)
    images = sample_images.load(
        exportable.about,
        source,
        request.images or None,
        exportable.max_images(request.check_images),
    )
    trial = exports.Trial(exportable, images)
    outcomes = export_all.write(trial, targets, options, overwrite=request.overwrite)
    export_all.report(outcomes)
    if usable := [o.written.path for o in outcomes if o.written and o.fmt.open]:
        extra = "" if exportable.about.num_classes else " --embeddings --format=jsonl"
        path = shlex.quote(str(usable[0]))
        console.say(f"try it: python -m rrd_jax.predict --workdir={path}{extra} IMAGE...")
    return outcomes


def _formats(request: Request) -> tuple[list["Format"], "Options"]:
    """Returns the requested formats and options."""
    from rrd_jax import errors, exports
    from rrd_jax.exports import backbone, writer

    names = list(dict.fromkeys(name.strip() for name in request.format or ()))
    if not names:
        raise errors.InputError(
            f"--format is missing; set it to one of {', '.join(exports.FORMATS)}, or all"
        )
    is_all = names == ["all"]
    formats = [exports.get_format(name) for name in (exports.FORMATS if is_all else names)]
    options = exports.Options(
        fold=request.fold,
        embed_preprocessing=request.embed_preprocessing,
        quantize=request.quantize,
        names=request.names,
        license=request.license,
        push=request.push,
        private=request.private,
    )
    if is_all and request.backbone:
        formats = [fmt for fmt in formats if fmt.backbones]
    for fmt in formats if not is_all else ():
        writer.check_options(fmt, options)
        if request.backbone:
            backbone.check_format(fmt)
    writer.check_push(options)
    return formats, options


def _load(request: Request) -> "Exportable":
    """Loads the student or the teacher."""
    from rrd_jax import errors
    from rrd_jax.comparison import compared_networks

    if request.teacher and request.load_options:
        names = ["weights" if name == "raw" else name for name in request.load_options]
        raise errors.InputError(
            f"--teacher exports the run's teacher without changes; omit --{' --'.join(names)}"
        )
    if request.backbone and "class_vectors" in request.load_options:
        raise errors.InputError(
            "--class_vectors is set, but --backbone omits the classifier; omit one of them"
        )
    if request.backbone and "class_names" in request.load_options:
        raise errors.InputError(
            "--class_names is set, but --backbone omits the classifier; omit --class_names"
        )
    if request.teacher:
        return compared_networks.load_teacher(request.workdir)
    return compared_networks.load(request.workdir, **request.load_options)


def _explicit_path(request: Request, formats: Sequence["Format"]) -> pathlib.Path | None:
    """Returns the path that --output names; None for a parent folder or without --output."""
    if request.output is None or len(formats) > 1 or request.output.endswith("/"):
        return None
    path = pathlib.Path(request.output)
    # An existing folder may be an earlier export, because some formats write a folder.
    is_file = not path.is_dir() or formats[0].recognizes(path)
    return path if is_file else None


def _default_path(
    request: Request, about: "ModelInfo", fmt: "Format", options: "Options"
) -> pathlib.Path:
    """Returns the path of a format's file if --output does not name a file."""
    from rrd_jax.exports import writer
    from rrd_jax.weights import files

    suffix = ("-teacher" if request.teacher else "") + ("-backbone" if request.backbone else "")
    name = writer.file_name(about, fmt, writer.supported_options(fmt, options), suffix)
    if request.output is not None:
        return pathlib.Path(request.output) / name
    return (files.home_of(request.workdir) or pathlib.Path()) / "exports" / name


def _request() -> Request:
    """Returns the values of the flags; raises an InputError for an invalid value."""
    from rrd_jax import errors, user_paths

    for name in ("workdir", "output"):
        if FLAGS[name].value is not None and not FLAGS[name].value.strip():
            raise errors.InputError(f"--{name} is empty; set it to a path")
    options = {name: FLAGS[name].value for name in _LOAD_FLAGS}
    options |= {name: _numbers(name) for name in ("mean", "std")}
    options["raw"] = FLAGS.weights == "raw"
    return Request(
        user_paths.path_of(FLAGS.workdir),
        load_options={name: value for name, value in options.items() if value},
        format=FLAGS.format,
        output=FLAGS.output,
        teacher=FLAGS.teacher,
        names=FLAGS.names,
        license=FLAGS.license,
        push=FLAGS.push,
        private=FLAGS.private,
        quantize=FLAGS.quantize,
        embed_preprocessing=FLAGS.embed_preprocessing,
        fold=FLAGS.fold,
        images=FLAGS.images,
        check_images=FLAGS.check_images,
        overwrite=FLAGS.overwrite,
        backbone=FLAGS.backbone,
    )


def _numbers(name: str) -> tuple[float, ...] | None:
    from rrd_jax import errors

    values = FLAGS[name].value
    try:
        return tuple(map(float, values)) if values else None
    except ValueError as error:
        raise errors.InputError(
            f"--{name}={','.join(values)}, but must be numbers separated by commas"
        ) from error


def _job() -> None:
    import jax

    from rrd_jax import errors, parallel

    # Accelerators compute with lower precision, and the files must be valid on any machine.
    if not jax.config.jax_platforms:
        jax.config.update("jax_platforms", "cpu")
    parallel.enable_compilation_cache()
    parallel.check_platform()
    parallel.check_jaxlib()
    request = _request()
    if not FLAGS.report:
        run(request)
        return
    if others := [name for name in _FILE_FLAGS if FLAGS[name].present]:
        raise errors.InputError(
            f"--report cannot be combined with --{others[0]}: it measures the run's networks in all"
            " installed formats, and writes gains.json and gains.png to the workdir; omit"
            f" --{others[0]}"
        )
    from rrd_jax.comparison import compare

    compare.run(request.workdir, request.load_options, seconds=FLAGS.seconds)


def main(argv: list[str]) -> None:
    """Writes the files, or the report."""
    del argv
    if FLAGS.workdir is None:
        cli.stop(1, "--workdir is missing; name the workdir of a run")
    cli.guard(_job, stopped="stopped; no partial file remains", polls=True)


if __name__ == "__main__":
    define_flags()
    app.run(main, flags_parser=cli.parse_flags)
