"""Predicts the classes of images, and prints one line per image with the most probable classes.

    python -m rrd_jax.predict --workdir=runs/digits photo.jpg folder 'more/*.png'
    python -m rrd_jax.predict --workdir=runs/digits@best --format=csv --output=out.csv folder
    find . -name '*.jpg' -print0 | python -m rrd_jax.predict --workdir=student.onnx -
    python -m rrd_jax.predict --workdir=runs/digits --neighbours=a.jpg,b.jpg --picture=n.png folder
    python -m rrd_jax.predict --workdir=runs/digits --features=patches --picture=p.png folder
    python -m rrd_jax.predict --workdir=runs/digits --features=patches --format=npz \
        --output=patches.npz folder

Arguments are image files, folders (searched recursively), glob patterns, or - for a list on
standard input, separated by line ends or null bytes. Images are preprocessed like the run's test
images. With --neighbours, the command prints the images whose embeddings are nearest to those of
other images. Predictions are written batch by batch in the order of the images. Messages go to
standard error. The exit code is 0 if all images were read, 1 for an invalid flag, and 2 for invalid
input or unreadable images. Unreadable images are listed and skipped.
"""

from rrd_jax.terminal import interrupts

if __name__ == "__main__":
    # A signal during the imports ends the program with its exit code.
    interrupts.install()

import contextlib
import functools
import pathlib
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from absl import app, flags

from rrd_jax import errors
from rrd_jax.terminal import cli, console, path_flags, runtime_errors

if TYPE_CHECKING:
    from rrd_jax.library import Loaded, Predictions, Predictor
    from rrd_jax.predict.neighbours import QueryResult

# A copy of `writing.FORMATS`: `writing` imports JAX, which would slow down --help.
_FORMATS = ("text", "csv", "jsonl", "npz", "parquet")

_WORKDIR = path_flags.define_path(
    "workdir",
    None,
    "The network: a run, as RUN, RUN@best, RUN@last or RUN@STEP; an output of rrd_jax.export or"
    " rrd_jax.convert; or a PyTorch file, with --network, --mean, --std and --image_size; each also"
    " in a bucket, as gs://BUCKET/PATH or s3://BUCKET/PATH; or hf-hub:ORG/NAME.",
    bucket=True,
    repository=True,
)
_TEACHER = flags.DEFINE_bool("teacher", False, "Use the teacher of the run in --workdir.")
_WEIGHTS = flags.DEFINE_enum(
    "weights",
    "average",
    ["average", "raw"],
    "Use the averaged or the raw weights of a run that averages its weights.",
)
_HEAD = flags.DEFINE_string(
    "head",
    None,
    "The objective whose head is applied to embeddings, such as rrd, or rrd[0] for one of several"
    " teachers. Default: no head.",
)
_CLASS_VECTORS = flags.DEFINE_string(
    "class_vectors",
    None,
    "A file with a vector for each class: logits are the cosines between embeddings, after the"
    " head, and these vectors (zero-shot).",
)
_CLASS_VECTORS_SCALE = flags.DEFINE_float(
    "class_vectors_scale", None, "Factor of the cosines. Default: 100."
)
_NETWORK = flags.DEFINE_string(
    "network",
    None,
    "The name or import path of the network, for weights that do not include it.",
)
_MEAN = flags.DEFINE_list(
    "mean", None, "Mean per channel of pixel values in [0, 1]. Default: the run's."
)
_STD = flags.DEFINE_list(
    "std",
    None,
    "Standard deviation per channel of pixel values in [0, 1]. Default: the run's.",
)
_IMAGE_SIZE = flags.DEFINE_integer(
    "image_size",
    None,
    "Height and width of the network's input. Default: the run's.",
    lower_bound=1,
)
_RESIZE = flags.DEFINE_integer(
    "resize",
    None,
    "Shorter side of images before the center crop. Default: the run's, in proportion to"
    " --image_size, or no crop: images are padded or scaled to --image_size.",
    lower_bound=1,
)
_BACKGROUND = flags.DEFINE_string(
    "background",
    None,
    "Color behind transparent pixels: white, black or #rrggbb; none to drop transparency. Default:"
    " the run's, or white.",
)
_CLASS_NAMES = path_flags.define_path(
    "class_names",
    None,
    "A file of class names, one per line or in JSON. Default: the run's.",
)
_FORMAT = flags.DEFINE_enum(
    "format", "text", _FORMATS, "Format of the predictions; npz and parquet need --output."
)
_OUTPUT = path_flags.define_path(
    "output", None, "The file to write. Default: standard output.", special=True
)
_TOP = flags.DEFINE_integer(
    "top", 5, "Number of classes per image; with --neighbours, of images per query.", lower_bound=1
)
_LOGITS = flags.DEFINE_bool("logits", False, "Also write the logits of all classes.")
_EMBEDDINGS = flags.DEFINE_bool("embeddings", False, "Also write the network's embeddings.")
_LABELS = flags.DEFINE_bool(
    "labels",
    False,
    "Print the top-1 accuracy of images in folders named like their classes.",
)
_NEIGHBOURS = flags.DEFINE_string(
    "neighbours",
    None,
    "Files, folders or patterns, separated by commas. For each of these query images, find the"
    " --top nearest of the other images by the cosine similarity of the embeddings.",
)
_PICTURE = path_flags.define_path(
    "picture",
    None,
    "With --neighbours, draw a .png, .svg or .pdf file of the first queries and their neighbors,"
    " for the student and the teacher of a run; with --features=patches, the patches of the first"
    " images in colors.",
)
_FEATURES = flags.DEFINE_enum(
    "features",
    None,
    ["patches"],
    "Write the features of each position, with --format=npz; or show them, with --picture.",
)
_SHARD_SIZE = flags.DEFINE_integer(
    "shard_size",
    None,
    "With --format=npz, the number of images per file; --output names a folder of such files."
    " Default: one file.",
    lower_bound=1,
)
_POINT = flags.DEFINE_list(
    "point",
    None,
    "With --features=patches, also show the cosines of all patches with the patch at this point of"
    " the first image: x and y in [0, 1] from the left and the top, such as 0.5,0.25.",
)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 64, "Images per call of the network.", lower_bound=1
)


def main(argv: list[str]) -> None:
    """Predicts classes or finds neighbors."""
    if not _WORKDIR.value:
        cli.stop(
            1, "--workdir is missing; name a run or an exported file, as in --workdir=runs/digits"
        )
    if len(argv) < 2:
        cli.stop(1, "no images given; name files or folders, or - to read names from stdin")
    cli.guard(functools.partial(_run, argv[1:]), stopped="stopped", polls=True)


def _run(names: list[str]) -> None:
    stdout = sys.stdout
    # Standard output contains only predictions.
    with contextlib.redirect_stdout(sys.stderr):
        _check_flags()
        paths = _paths(names)
        if _NEIGHBOURS.value is not None:
            _search(paths, stdout)
            return
        if _FEATURES.value is not None and _PICTURE.value is not None:
            _draw_patches(paths)
            return
        # The import loads JAX, which --help and the check of flags do not need.
        from rrd_jax.predict import writing

        patches = _FEATURES.value is not None
        content = writing.Content(_TOP.value, _LOGITS.value, _EMBEDDINGS.value, patches)
        output = pathlib.Path(_OUTPUT.value) if _OUTPUT.value is not None else None
        with writing.open_writer(
            _FORMAT.value, content, output, stdout, _SHARD_SIZE.value
        ) as write:
            _prepare()
            predictor = _predictor()
            _check_classes(predictor)
            if _LABELS.value:
                _check_labels(predictor, paths)
            tally = _Tally(
                predictor, len(paths), show_progress=output is not None or not _is_terminal(stdout)
            )
            with (
                _memory_errors(predictor, len(paths)),
                contextlib.closing(
                    predictor.batches(paths, _BATCH_SIZE.value, patches=patches)
                ) as parts,
            ):
                for part in parts:
                    _check_embeddings(predictor, part)
                    write(part)
                    tally.add(part)
        tally.finish(output)


def _prepare() -> None:
    from rrd_jax import parallel

    parallel.enable_compilation_cache()
    parallel.check_platform()
    parallel.check_jaxlib()


def _search(paths: list[str], stdout: TextIO) -> None:
    """Finds the nearest images of the --neighbours queries, and writes them."""
    from rrd_jax.data.folder import file_listing
    from rrd_jax.predict import neighbour_figure, neighbours, writing

    picture_path = pathlib.Path(_PICTURE.value) if _PICTURE.value is not None else None
    if picture_path is not None:
        neighbour_figure.check(picture_path)
    queries = _paths(file_listing.split_names(_NEIGHBOURS.value))
    output = pathlib.Path(_OUTPUT.value) if _OUTPUT.value is not None else None
    with writing.open_stream(_FORMAT.value, output, stdout) as put:
        _prepare()
        predictor = _predictor()
        tally = _Tally(
            predictor, len(paths), show_progress=output is not None or not _is_terminal(stdout)
        )
        search = functools.partial(
            neighbours.search,
            queries=queries,
            files=paths,
            count=_TOP.value,
            batch_size=_BATCH_SIZE.value,
        )
        with _memory_errors(predictor, max(len(paths), len(queries))):
            results = search(predictor, on_batch=tally.add)
        for line in neighbours.lines(_FORMAT.value, results):
            put(line)
    if picture_path is not None:
        _draw(picture_path, predictor, results, search)
    tally.finish(output)


def _draw(
    path: pathlib.Path,
    predictor: "Predictor",
    results: "list[QueryResult]",
    search: "Callable[..., list[QueryResult]]",
) -> None:
    """Draws the neighbors; for a student, also those that its teacher finds."""
    from rrd_jax.predict import neighbour_figure, neighbours

    console.clear()
    rows = {"teacher" if _TEACHER.value else "network": results}
    if teacher := _teacher():
        teacher_results = search(teacher, on_batch=lambda part: None)
        rows = {"student": results, "teacher": teacher_results}
        share = 100 * neighbours.overlap(results, teacher_results)
        console.say(f"student and teacher share {share:.1f} % of these neighbors")
    neighbour_figure.draw(path, rows, predictor.about.preprocessing)
    console.say(f"picture: {path}")


def _draw_patches(paths: list[str]) -> None:
    """Draws the patches of the first images, for the student and the teachers of a run."""
    from rrd_jax import library
    from rrd_jax.predict import neighbour_figure, patch_figure

    picture_path = pathlib.Path(_PICTURE.value)
    neighbour_figure.check(picture_path)
    _prepare()
    networks: dict[str, Any] = {}
    if not _TEACHER.value:
        networks["network"] = _load()
        if isinstance(networks["network"], library.Predictor):
            raise errors.InputError(
                f"{_WORKDIR.value} is an exported file, which has no patches; name a run or weights"
            )
    teachers = patch_figure.load_teachers(_WORKDIR.value, is_required=_TEACHER.value)
    if teachers and networks:
        networks = {"student": networks["network"]}
    networks |= teachers
    preprocessing = next(iter(networks.values())).predictor.about.preprocessing
    files, images, unread = patch_figure.read_images(paths, preprocessing)
    for file, reason in unread.items():
        console.warn(f"{errors.printable(file)} cannot be used: {reason}")
    if len(paths) > len(files) + len(unread):
        console.note(f"the picture has the first {len(files)} of {len(paths):,} images")
    with _memory_errors(next(iter(networks.values())).predictor, len(files)):
        maps = {
            role: patch_figure.patches_of(network, images, role)
            for role, network in networks.items()
        }
    patch_figure.draw(picture_path, files, images, maps, _point())
    console.say(f"picture: {picture_path}")


def _teacher() -> "Predictor | None":
    """Returns the teacher of the run whose student predicts; None for a run without a teacher."""
    from rrd_jax import library
    from rrd_jax.weights import files

    if _TEACHER.value or not (files.split(_WORKDIR.value)[0] / "config.json").exists():
        return None
    try:
        return library.load_teacher(files.split(_WORKDIR.value)[0])
    except errors.InputError as error:
        console.note(f"the picture has no row for the teacher: {error}")
        return None


def _check_flags() -> None:
    if _FORMAT.value in ("npz", "parquet") and _OUTPUT.value is None:
        raise errors.InputError(f"--format={_FORMAT.value} is binary; name a file with --output")
    if _OUTPUT.value == "":
        raise errors.InputError(
            "--output is empty; name a file, or omit the flag for standard output"
        )
    if _NEIGHBOURS.value is not None:
        _check_search()
    elif _PICTURE.value is not None and _FEATURES.value is None:
        raise errors.InputError(
            "--picture needs --neighbours or --features=patches; name query images with"
            " --neighbours, or set --features=patches"
        )
    if _POINT.value is not None and _FEATURES.value is None:
        raise errors.InputError("--point needs --features=patches; set it, or omit --point")
    if _FEATURES.value is not None:
        _check_patches()
    if _SHARD_SIZE.value is not None and _FORMAT.value != "npz":
        raise errors.InputError("--shard_size needs --format=npz; set it, or omit --shard_size")
    if _FORMAT.value == "text" and (_LOGITS.value or _EMBEDDINGS.value):
        flag = "logits" if _LOGITS.value else "embeddings"
        raise errors.InputError(f"--{flag} needs --format=csv, jsonl, npz or parquet; set one")


def _check_patches() -> None:
    is_drawn = _PICTURE.value is not None
    excluded = dict.fromkeys(("neighbours", "head"), "--features=patches")
    if is_drawn:
        names = ("logits", "embeddings", "labels", "output")
        excluded |= dict.fromkeys(names, "--features=patches and --picture")
    for name, others in excluded.items():
        if flags.FLAGS[name].value:
            raise errors.InputError(f"--{name} cannot be combined with {others}; omit one")
    if not is_drawn and _POINT.value is not None:
        raise errors.InputError("--point needs --picture=FILE; name a .png file, or omit --point")
    if not is_drawn and _FORMAT.value != "npz":
        raise errors.InputError(
            "--features=patches needs --format=npz with --output=FILE, or --picture=FILE; set one"
        )
    _point()


def _point() -> tuple[float, float] | None:
    """Returns the coordinates of --point; None without the flag."""
    if _POINT.value is None:
        return None
    try:
        x, y = map(float, _POINT.value)
        if 0 <= x <= 1 and 0 <= y <= 1:
            return x, y
    except ValueError:
        pass
    raise errors.InputError(
        f"--point={','.join(_POINT.value)} must be two numbers in [0, 1], such as 0.5,0.25"
    )


def _check_search() -> None:
    for flag in (_LOGITS, _EMBEDDINGS, _LABELS):
        if flag.value:
            raise errors.InputError(f"--{flag.name} cannot be combined with --neighbours; omit one")
    if _FORMAT.value in ("npz", "parquet"):
        raise errors.InputError(
            f"--neighbours cannot write --format={_FORMAT.value}; set --format=text, csv or jsonl"
        )


def _paths(names: list[str]) -> list[str]:
    from rrd_jax.data.folder import file_listing

    paths: list[str] = []
    for name in names:
        paths += file_listing.parse_names(_read_list()) if name == "-" else [name]
    return file_listing.files(paths)


def _read_list() -> bytes:
    """Returns the list of names on standard input, at most one byte more than is accepted."""
    from rrd_jax import user_paths

    with interrupts.immediate():
        return sys.stdin.buffer.read(user_paths.LARGEST_TEXT + 1)


def _predictor() -> "Predictor":
    from rrd_jax import library

    if _TEACHER.value:
        if options := _options():
            raise errors.InputError(
                f"--teacher uses the network of the run unchanged; omit --{' --'.join(options)}"
            )
        return library.load_teacher(_WORKDIR.value)
    loaded = _load()
    predictor = loaded if isinstance(loaded, library.Predictor) else loaded.predictor
    if predictor.num_classes and not predictor.about.class_names:
        console.note("the classes have no names; set them with --class_names=FILE")
    return predictor


def _load() -> "Loaded | Predictor":
    from rrd_jax import library

    return library.load(_WORKDIR.value, **_options())


def _options() -> dict[str, Any]:
    """Returns the arguments of `library.load` that are set by flags."""
    if "," in (_HEAD.value or ""):
        raise errors.InputError(
            f"--head={_HEAD.value} names several heads, but predictions have one; name one of them,"
            " or write all with python -m rrd_jax.export"
        )
    options = {
        "network": _NETWORK.value,
        "mean": _numbers("mean", _MEAN.value),
        "std": _numbers("std", _STD.value),
        "image_size": _IMAGE_SIZE.value,
        "resize": _RESIZE.value,
        "background": _BACKGROUND.value,
        "class_names": _CLASS_NAMES.value,
        "raw": _WEIGHTS.value == "raw" or None,
        "head": _HEAD.value,
        "class_vectors": _CLASS_VECTORS.value,
        "class_vectors_scale": _CLASS_VECTORS_SCALE.value,
    }
    return {name: value for name, value in options.items() if value is not None}


def _numbers(name: str, texts: list[str] | None) -> tuple[float, ...] | None:
    try:
        return texts and tuple(map(float, texts))
    except ValueError as error:
        raise errors.InputError(
            f"--{name}={','.join(texts)} must be numbers separated by commas, one per channel"
        ) from error


def _check_classes(predictor: "Predictor") -> None:
    """Raises an InputError if the network has no classifier and no embeddings are requested."""
    has_features = _EMBEDDINGS.value or _FEATURES.value is not None
    if not predictor.num_classes and (_LOGITS.value or not has_features):
        raise errors.InputError(
            f"'{predictor.name}' has no classifier; use --embeddings with --format=csv, jsonl, npz"
            " or parquet, or --neighbours"
        )


def _check_labels(predictor: "Predictor", paths: Sequence[str]) -> None:
    """Raises an InputError for --labels if classes have no names, or no folder has such a name."""
    from rrd_jax.data.folder import layout

    names = set(predictor.about.class_names)
    if not names:
        raise errors.InputError("--labels needs class names; set --class_names=FILE")
    if paths and not any(_label(path, names) for path in paths):
        folders = {layout.class_name(pathlib.Path(path).absolute().parent.name) for path in paths}
        raise errors.InputError(
            "--labels: no image is in a folder with the name of a class; the folders are"
            f" {layout.abbreviate(sorted(map(errors.printable, folders)))}, the classes"
            f" {layout.abbreviate(sorted(map(errors.printable, names)))}; rename the folders, or"
            " omit --labels"
        )


def _label(path: str, names: Collection[str]) -> str | None:
    """Returns the nearest folder of a path that has the name of a class; None for none."""
    from rrd_jax.data.folder import layout

    parts = pathlib.Path(path).absolute().parts[:-1]
    return next((name for name in map(layout.class_name, reversed(parts)) if name in names), None)


def _check_embeddings(predictor: "Predictor", part: "Predictions") -> None:
    if _EMBEDDINGS.value and len(part) and part.embeddings is None:
        raise errors.InputError(f"'{predictor.name}' has no embedding; omit --embeddings")


@contextlib.contextmanager
def _memory_errors(predictor: "Predictor", count: int) -> Iterator[None]:
    """Converts memory errors to an InputError with the flags that reduce memory.

    Args:
      predictor: the predictor that runs in the `with` block.
      count: number of images.

    Raises:
      InputError: a batch is larger than the memory of the host, or the memory is exhausted.
    """
    from rrd_jax import parallel

    height, width, channels = predictor.image_shape
    size = min(count, _BATCH_SIZE.value)
    remedies = ["--image_size"] if _IMAGE_SIZE.value is not None else []
    remedies += ["--batch_size"] if size > 1 or not remedies else []
    problem = f"a batch of shape [{size}, {height}, {width}, {channels}] does not fit into memory"
    remedy = f"use a smaller {' or '.join(remedies)}"
    # The network's input is float32.
    if 4 * size * height * width * channels > parallel.host_bytes():
        raise errors.InputError(f"{problem}; {remedy}")
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not runtime_errors.is_out_of_memory(error):
            raise
        reason = runtime_errors.first_line(error) or "MemoryError"
        raise errors.InputError(f"{problem} ({reason}); {remedy}") from error


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    # A closed stream raises a ValueError.
    except ValueError:
        return False


class _Tally:
    """Counts of predicted, unreadable and correctly classified images, with a progress line.

    Args:
      predictor: the predictor whose images are counted.
      total: the number of images.
      show_progress: whether to show a progress line.
    """

    def __init__(self, predictor: "Predictor", total: int, *, show_progress: bool):
        self._total, self._show_progress = total, show_progress
        self._start = self._last = time.monotonic()
        self._done = self._unread = self._labeled = self._correct = 0
        self._names = set(predictor.about.class_names)

    def add(self, part: "Predictions") -> None:
        """Counts the images of a batch, and warns about unreadable ones."""
        for file, reason in part.unread:
            console.warn(f"{errors.printable(file)}: {reason}")
        self._done += len(part) + len(part.unread)
        self._unread += len(part.unread)
        if _LABELS.value:
            self._compare(part)
        if self._show_progress and time.monotonic() - self._last > 0.2:
            self._last = time.monotonic()
            rate = self._done / (self._last - self._start)
            parts = [f"{self._done:,} of {self._total:,} images", f"{rate:,.0f} images/s"]
            console.progress("predict", parts)

    def _compare(self, part: "Predictions") -> None:
        for file, name in zip(part.files, part.names, strict=True):
            label = _label(file, self._names)
            self._labeled += label is not None
            self._correct += label == name

    def finish(self, output: Any) -> None:
        """Prints a summary; raises an InputError if images could not be read."""
        from rrd_jax.data.folder.layout import image_count

        console.clear()
        if output is not None:
            console.say(f"{image_count(self._done - self._unread)}: {output}")
        if self._labeled:
            share = 100 * self._correct / self._labeled
            console.say(f"top-1 {share:.2f} % of {image_count(self._labeled)} with a label")
        if self._unread:
            subject = "nothing is" if self._unread == self._done else "the other images are"
            raise errors.InputError(
                f"{self._unread:,} of {image_count(self._total)} cannot be read; repair or omit the"
                f" files listed above; {subject} predicted"
            )


if __name__ == "__main__":
    app.run(main, flags_parser=functools.partial(cli.parse_flags, arguments=True))
