"""Writes a network as a file for other programs, reads it back there, and compares.

    python -m rrd_jax.export --workdir=runs/digits --format=onnx
    python -m rrd_jax.export --workdir=runs/digits@best --format=onnx,litert --output=files
    python -m rrd_jax.export --workdir=runs/digits --format=litert --quantize=int8
    python -m rrd_jax.export --workdir=weights.pth --network=resnet18 --format=onnx \
        --mean=0.485,0.456,0.406 --std=0.229,0.224,0.225
    python -m rrd_jax.export --workdir=runs/digits --report

Formats: safetensors, torch, hub, stablehlo, onnx, litert, openvino, coreml; all for those whose
libraries are installed, and that can hold the network. Each file is opened at once in the library
that it is for, and computes some test images: one that is off by more than 1e-4 of the largest
logit, or puts an image into another class, is not written. Of a network without a classifier the
embeddings are compared. Class names and preprocessing are in the file, or beside it.

--report measures what was won: accuracy, size and latency of the student beside its teacher, as a
table, WORKDIR/gains.json and WORKDIR/gains.png.

The exit code is 0 if all is well, 1 for a bad flag, 2 for other bad input and a file that was
refused, 69 for a library that is not installed, 70 for an error of this program, 74 for a full
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
    from rrd_jax.exports import Exportable, Format, Options, several

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Not on import: tests import several programs, whose flags have the same names."""
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


class Asked(NamedTuple):
    """What the flags say, by their names; `given` is what they say of the network."""

    workdir: pathlib.Path
    format: Sequence[str]
    output: str | None = None
    teacher: bool = False
    given: Mapping[str, Any] = {}
    names: str = "ours"
    quantize: str = ""
    embed_preprocessing: bool = False
    fold: bool = True
    images: str = ""
    check_images: int = 500
    overwrite: bool = False


_OF_NETWORK = ("network", "image_size", "resize", "class_names", "head")
_OF_FILES = [name for name in Asked._fields if name not in ("workdir", "given")]


def run(asked: Asked) -> list["several.Outcome"]:
    """Writes what is asked for, and prints a line a file.

    Raises:
      InputError: bad input, a file that is not what it is to be, or no format holds the network.
      UnavailableError: a library is not installed, and nothing was written.
      DiskError: the disk takes no more.
    """
    from rrd_jax import exports
    from rrd_jax.comparison import subjects
    from rrd_jax.exports import several, trial, writing
    from rrd_jax.terminal import console

    forms, options = _forms(asked)
    absent = [several.Outcome(form, error=several.missing(form)) for form in forms]
    if all(outcome.error for outcome in absent):
        several.close(absent)  # which raises
    if stated := _stated_place(asked, forms):  # before a network is loaded
        writing.check_place(stated, forms[0], overwrite=asked.overwrite)
    exportable = _subject(asked)
    places = [(form, stated or _place(asked, exportable.about, form, options)) for form in forms]
    for (form, place), outcome in zip(places, absent, strict=True):
        if not outcome.error and not stated:
            writing.check_place(place, form, overwrite=asked.overwrite)
    source = subjects.source_of(asked.workdir)
    images = trial.images_for(exportable.about, source, asked.images or None, asked.check_images)
    tried = exports.Trial(exportable, images)
    outcomes = several.write(tried, places, options, overwrite=asked.overwrite)
    several.close(outcomes)
    if usable := [o.written.path for o in outcomes if o.written and o.form.open]:
        form = "" if exportable.about.num_classes else " --embeddings --format=jsonl"
        place = shlex.quote(str(usable[0]))
        console.say(f"try it: python -m rrd_jax.predict --workdir={place}{form} IMAGE...")
    return outcomes


def _forms(asked: Asked) -> tuple[list["Format"], "Options"]:
    """The formats that are asked for, and the options that they are given."""
    from rrd_jax import errors, exports
    from rrd_jax.exports import writing

    names = list(dict.fromkeys(name.strip() for name in asked.format or ()))
    if not names:
        raise errors.InputError(f"--format is missing; one of {', '.join(exports.FORMATS)}, or all")
    everything = names == ["all"]
    forms = [exports.get(name) for name in (exports.FORMATS if everything else names)]
    options = exports.Options(
        fold=asked.fold,
        embed_preprocessing=asked.embed_preprocessing,
        quantize=asked.quantize,
        names=asked.names,
    )
    for form in forms if not everything else ():
        writing.check_options(form, options)
    return forms, options


def _subject(asked: Asked) -> "Exportable":
    """The network that is asked for."""
    from rrd_jax import errors
    from rrd_jax.comparison import subjects

    if asked.teacher and asked.given:
        names = ["weights" if name == "raw" else name for name in asked.given]
        raise errors.InputError(
            f"--teacher is exported as the run has it: leave out --{' --'.join(names)}"
        )
    if asked.teacher:
        return subjects.load_teacher(asked.workdir)
    return subjects.load(asked.workdir, **asked.given)


def _stated_place(asked: Asked, forms: Sequence["Format"]) -> pathlib.Path | None:
    """The file that --output names, if it is no folder for files."""
    if asked.output is None or len(forms) > 1 or asked.output.endswith("/"):
        return None
    place = pathlib.Path(asked.output)
    is_file = not place.is_dir() or forms[0].recognizes(place)  # some files are folders
    return place if is_file else None


def _place(asked: Asked, about: "ModelInfo", form: "Format", options: "Options") -> pathlib.Path:
    """Where a format's file goes that --output does not name."""
    from rrd_jax.exports import writing
    from rrd_jax.weights import files

    suffix = "-teacher" if asked.teacher else ""
    name = writing.file_name(about, form, writing.known_options(form, options), suffix)
    if asked.output is not None:
        return pathlib.Path(asked.output) / name
    home, _ = files.split(asked.workdir)
    inside = home.is_file() or home.name == "checkpoints"
    return (home.parent if inside else home) / "exports" / name


def _asked() -> Asked:
    """What the flags say."""
    from rrd_jax import errors

    for name in ("workdir", "output"):
        if FLAGS[name].value is not None and not FLAGS[name].value.strip():
            raise errors.InputError(f"--{name} is empty")
    given = {name: FLAGS[name].value for name in _OF_NETWORK}
    given |= {name: _numbers(name) for name in ("mean", "std")}
    given["raw"] = FLAGS.weights == "raw"
    taken = {name: FLAGS[name].value for name in Asked._fields if name != "given"}
    taken["workdir"] = pathlib.Path(FLAGS.workdir)
    return Asked(**taken, given={name: value for name, value in given.items() if value})


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

    if not jax.config.jax_platforms:  # accelerators round, and files are for any machine
        jax.config.update("jax_platforms", "cpu")
    parallel.enable_compilation_cache()
    parallel.check_platform()
    parallel.check_jaxlib()
    asked = _asked()
    if not FLAGS.report:
        run(asked)
        return
    if others := [name for name in _OF_FILES if FLAGS[name].present]:
        raise errors.InputError(
            f"--report takes no --{others[0]}: it measures the run's networks in all formats that"
            " are installed, and keeps gains.json and gains.png in the workdir"
        )
    from rrd_jax.comparison import report

    report.run(asked.workdir, asked.given, seconds=FLAGS.seconds)


def main(argv: list[str]) -> None:
    """Writes the files, or the report."""
    del argv
    cli.guard(_job, stopped="stopped; nothing is left half written")


if __name__ == "__main__":
    define_flags()
    flags.mark_flags_as_required(["workdir"])
    app.run(main, flags_parser=cli.parse_flags)
