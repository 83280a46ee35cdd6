"""Exports a network to a file for another library, reads it back there, and compares.

    python -m rrd_jax.export --workdir=runs/digits --format=onnx
    python -m rrd_jax.export --workdir=runs/digits@best --format=onnx,litert --output=files
    python -m rrd_jax.export --workdir=runs/digits --format=litert --quantize=int8
    python -m rrd_jax.export --workdir=weights.pth --network=resnet18 --format=onnx \
        --mean=0.485,0.456,0.406 --std=0.229,0.224,0.225
    python -m rrd_jax.export --workdir=runs/digits --report

Formats: safetensors, torch, hub, stablehlo, onnx, litert, openvino, coreml; all for those whose
libraries are installed and that can hold the network. Each file is opened in the library that it is
for, which computes some test images. A file is not written if a logit differs by more than 1e-4 of
the largest, or an image gets another class; the embeddings are compared for a network without a
classifier. Class names and preprocessing are in the file, or beside it.

--report compares accuracy, size and latency of the student and its teacher: as a table, in
WORKDIR/gains.json and in WORKDIR/gains.png.

The exit code is 0 on success, 1 for a bad flag, 2 for other bad input and a file that was not
written, 69 for a library that is not installed, 70 for an error of this program, 74 for a full
disk, 130 after Ctrl-C.
"""

import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from absl import app, flags

from rrd_jax.terminal import cli

if TYPE_CHECKING:
    from rrd_jax.data.model_info import ModelInfo
    from rrd_jax.exports import Exportable, Format, Options, export_all

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines the flags. The import does not, because other commands have flags of these names."""
    flags.DEFINE_string(
        "workdir",
        None,
        "A run, RUN@best, RUN@last or RUN@STEP, a folder that rrd_jax.convert wrote, or a PyTorch"
        " file with --network.",
    )
    flags.DEFINE_list("format", None, "Formats of the files: one, several with commas, or all.")
    flags.DEFINE_string(
        "output", None, "The file, or a folder for it. Default: exports in the workdir."
    )
    flags.DEFINE_bool("teacher", False, "The run's teacher in place of its student.")
    flags.DEFINE_enum(
        "weights", "average", ["average", "raw"], "Which weights of a run that averages them."
    )
    flags.DEFINE_string(
        "head",
        "",
        "The objective whose head behind the embedding a run's network keeps, such as rrd; of"
        " several teachers rrd[0].",
    )
    flags.DEFINE_string(
        "network", "", "The network of a PyTorch file, a name of `python -m rrd_jax.networks`."
    )
    flags.DEFINE_list(
        "mean", None, "Mean of each channel, of values in [0, 1]. Default: the run's."
    )
    flags.DEFINE_list(
        "std", None, "Standard deviation of each channel, likewise. Default: the run's."
    )
    flags.DEFINE_integer("image_size", 0, "Height and width. Default: the run's.", lower_bound=0)
    flags.DEFINE_integer(
        "resize", 0, "Short side before the central crop. Default: the run's.", lower_bound=0
    )
    flags.DEFINE_string(
        "class_names", "", "A file of the classes' names, one a line, or JSON. Default: the run's."
    )
    flags.DEFINE_enum(
        "names",
        "ours",
        ["ours", "torch", "torchvision", "timm"],
        "Whose names weights get: a library's; torch: that of the one which has the network.",
    )
    flags.DEFINE_enum("quantize", "", ["", "int8"], "int8: weights of 8 bits.")
    flags.DEFINE_bool(
        "embed_preprocessing", False, "The file takes uint8 images and normalises them itself."
    )
    flags.DEFINE_bool("fold", True, "Batch norms become part of the convolutions before them.")
    flags.DEFINE_string("images", "", "A folder of images to compare on. Default: the test split.")
    flags.DEFINE_integer("check_images", 500, "The most images to compare on.", lower_bound=1)
    flags.DEFINE_bool("overwrite", False, "Replaces what was written there before.")
    flags.DEFINE_bool("report", False, "Measures the student beside its teacher instead.")
    flags.DEFINE_float(
        "seconds",
        4.0,
        "Seconds that --report measures each batch size, on one core and on all.",
        lower_bound=0,
    )


class Request(NamedTuple):
    """The values of the flags; `load_options` are those for `library.load`."""

    workdir: pathlib.Path
    format: Sequence[str]
    output: str | None = None
    teacher: bool = False
    load_options: Mapping[str, Any] = {}
    names: str = "ours"
    quantize: str = ""
    embed_preprocessing: bool = False
    fold: bool = True
    images: str = ""
    check_images: int = 500
    overwrite: bool = False


_LOAD_FLAGS = ("network", "image_size", "resize", "class_names", "head")
_FILE_FLAGS = [name for name in Request._fields if name not in ("workdir", "load_options")]


def run(request: Request) -> list["export_all.Outcome"]:
    """Writes the files, and prints a line for each.

    Raises:
      InputError: bad input, a file that computes other outputs, or no format can hold the network.
      UnavailableError: no library of the formats is installed.
      DiskError: the disk is full.
    """
    from rrd_jax import exports
    from rrd_jax.comparison import compared_networks
    from rrd_jax.exports import export_all, sample_images, writer
    from rrd_jax.terminal import console

    forms, options = _forms(request)
    absent = [export_all.Outcome(form, error=export_all.missing(form)) for form in forms]
    if all(outcome.error for outcome in absent):
        export_all.report(absent)  # This raises an error.
    # A bad --output is reported before a network is loaded.
    if stated := _stated_place(request, forms):
        writer.check_place(stated, forms[0], overwrite=request.overwrite)
    exportable = _load(request)
    places = [(form, stated or _place(request, exportable.about, form, options)) for form in forms]
    for (form, place), outcome in zip(places, absent, strict=True):
        if not outcome.error and not stated:
            writer.check_place(place, form, overwrite=request.overwrite)
    source = compared_networks.source_of(request.workdir)
    images = sample_images.load(
        exportable.about, source, request.images or None, request.check_images
    )
    tried = exports.Trial(exportable, images)
    outcomes = export_all.write(tried, places, options, overwrite=request.overwrite)
    export_all.report(outcomes)
    if usable := [o.written.path for o in outcomes if o.written and o.form.open]:
        form = "" if exportable.about.num_classes else " --embeddings --format=jsonl"
        place = shlex.quote(str(usable[0]))
        console.say(f"try it: python -m rrd_jax.predict --workdir={place}{form} IMAGE...")
    return outcomes


def _forms(request: Request) -> tuple[list["Format"], "Options"]:
    """Returns the formats, and their options."""
    from rrd_jax import errors, exports
    from rrd_jax.exports import writer

    names = list(dict.fromkeys(name.strip() for name in request.format or ()))
    if not names:
        raise errors.InputError(f"--format is missing; one of {', '.join(exports.FORMATS)}, or all")
    is_all = names == ["all"]
    forms = [exports.get(name) for name in (exports.FORMATS if is_all else names)]
    options = exports.Options(
        fold=request.fold,
        embed_preprocessing=request.embed_preprocessing,
        quantize=request.quantize,
        names=request.names,
    )
    for form in forms if not is_all else ():
        writer.check_options(form, options)
    return forms, options


def _load(request: Request) -> "Exportable":
    """Loads the student or the teacher."""
    from rrd_jax import errors
    from rrd_jax.comparison import compared_networks

    if request.teacher and request.load_options:
        names = ["weights" if name == "raw" else name for name in request.load_options]
        raise errors.InputError(
            f"--teacher exports the teacher of the run as it is: leave out --{' --'.join(names)}"
        )
    if request.teacher:
        return compared_networks.load_teacher(request.workdir)
    return compared_networks.load(request.workdir, **request.load_options)


def _stated_place(request: Request, forms: Sequence["Format"]) -> pathlib.Path | None:
    """Returns the file that --output names, None if it names a folder or is not set."""
    if request.output is None or len(forms) > 1 or request.output.endswith("/"):
        return None
    place = pathlib.Path(request.output)
    # Some formats write a folder.
    is_file = not place.is_dir() or forms[0].recognizes(place)
    return place if is_file else None


def _place(
    request: Request, about: "ModelInfo", form: "Format", options: "Options"
) -> pathlib.Path:
    """Returns the path of a format's file for an --output that names no file."""
    from rrd_jax.exports import writer
    from rrd_jax.weights import files

    suffix = "-teacher" if request.teacher else ""
    name = writer.file_name(about, form, writer.known_options(form, options), suffix)
    if request.output is not None:
        return pathlib.Path(request.output) / name
    home, _ = files.split(request.workdir)
    inside = home.is_file() or home.name == "checkpoints"
    return (home.parent if inside else home) / "exports" / name


def _request() -> Request:
    """Reads the flags."""
    from rrd_jax import errors

    for name in ("workdir", "output"):
        if FLAGS[name].value is not None and not FLAGS[name].value.strip():
            raise errors.InputError(f"--{name} is empty")
    options = {name: FLAGS[name].value for name in _LOAD_FLAGS}
    options |= {name: _numbers(name) for name in ("mean", "std")}
    options["raw"] = FLAGS.weights == "raw"
    return Request(
        pathlib.Path(FLAGS.workdir),
        load_options={name: value for name, value in options.items() if value},
        **{name: FLAGS[name].value for name in _FILE_FLAGS},
    )


def _numbers(name: str) -> tuple[float, ...] | None:
    from rrd_jax import errors

    values = FLAGS[name].value
    try:
        return tuple(map(float, values)) if values else None
    except ValueError as error:
        raise errors.InputError(
            f"--{name}={','.join(values)}, but must be numbers with commas between them"
        ) from error


def _job() -> None:
    import jax

    from rrd_jax import errors, parallel

    # Accelerators round more, and files are for any machine.
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
            f"--report takes no --{others[0]}: it measures the run's networks in all formats that"
            " are installed, and writes gains.json and gains.png into the workdir"
        )
    from rrd_jax.comparison import compare

    compare.run(request.workdir, request.load_options, seconds=FLAGS.seconds)


def main(argv: list[str]) -> None:
    """Writes the files, or the report."""
    del argv
    cli.guard(_job, stopped="stopped; nothing is left half written")


if __name__ == "__main__":
    define_flags()
    flags.mark_flags_as_required(["workdir"])
    app.run(main, flags_parser=cli.parse_flags)
