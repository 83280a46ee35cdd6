"""Writes a data set as ArrayRecord, once, from what its authors publish.

    python -m rrd_jax.data.prepare --name=cifar100 --manual_dir=FOLDER

FOLDER holds the archives as they are published; which ones, the error says when one is missing. A
set that is not ours is left to TFDS, with TensorFlow, and then downloaded if it is not in FOLDER.
A folder of images needs no preparing: --name=image_folder looks at the images in FOLDER and lists
all that cannot be read. With --resize=256 the images of ImageNet, or of a folder, are stored with a
shorter side of 256 pixels, and take less time to read. The exit code is 0 when the set is prepared,
1 for a bad flag, 2 for bad input, 74 for a full disk, 130 after Ctrl-C.
"""

import pathlib
import signal
import sys
from typing import Any

from absl import app, flags

from rrd_jax import data, errors
from rrd_jax.data import folder
from rrd_jax.data.builders import registry, resized
from rrd_jax.data.source import Source
from rrd_jax.terminal import cli, console

_NAME = flags.DEFINE_string("name", None, f"{', '.join(registry.DATASETS)}, or any set of TFDS.")
_MANUAL_DIR = flags.DEFINE_string(
    "manual_dir",
    "",
    "Where the source files are. Default: downloads/manual in --data_dir; for"
    " fashion_mnist, Debian's folder.",
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", "", "Where prepared sets go. Default: TFDS_DATA_DIR or ~/tensorflow_datasets."
)
_NO_VERIFY = flags.DEFINE_bool(
    "no_verify", False, "Take archives whose checksum is not the published one."
)
_RESIZE = flags.DEFINE_integer(
    "resize",
    0,
    "Shorter side that larger images of imagenet2012 or image_folder are scaled to; 0: none is.",
    lower_bound=0,
)
_QUALITY = flags.DEFINE_integer("quality", 95, "Quality of the JPEGs that --resize makes.", 1, 100)


def main(argv: list[str]) -> None:
    """Prepares the set."""
    del argv
    if not _NAME.value:
        cli.stop(
            1, f"--name is missing; known: {', '.join(registry.DATASETS)} and every set of TFDS"
        )
    # A scheduler's SIGTERM, too, removes what is half written.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    cli.guard(
        lambda: _prepare(
            _NAME.value,
            _DATA_DIR.value,
            _MANUAL_DIR.value,
            verify=not _NO_VERIFY.value,
            resize=resized.Resize(_RESIZE.value, _QUALITY.value) if _RESIZE.value else None,
        ),
        stopped="stopped; nothing is prepared, the same command starts anew",
    )


def _prepare(
    name: str, data_dir: str, manual_dir: str, *, verify: bool, resize: resized.Resize | None
) -> None:
    kind = Source(name).kind
    if kind == "folder" and not resize:
        _look(data_dir, manual_dir)
        return
    if kind not in ("folder", "tfds"):
        raise errors.InputError(f"'{name}' is read as it is: there is nothing to prepare")
    with registry.quiet():
        if kind == "folder":
            splits, classes = folder.splits(data_dir, manual_dir)
            builder = resized.folder_builder(manual_dir, splits, classes, resize, data_dir)
        else:
            builder = registry.create_builder(name, data_dir, manual_dir)
        _write(builder.name if kind == "folder" else name, builder, resize, verify=verify)
    if kind == "folder":
        place = f" --config.data.dir={data_dir}" if data_dir else ""
        print(f"it is used with --config.data.name={builder.name}{place}")


def _write(name: str, builder: Any, resize: resized.Resize | None, *, verify: bool) -> None:
    if builder.is_prepared():
        resized.check_same(name, builder.data_dir, resize)
        print(f"{name} is prepared under {builder.data_dir} already")
        return
    path = pathlib.Path(builder.data_dir)
    for remains in sorted(path.parent.glob(f"incomplete.*_{path.name}")):
        _say(f"note: {remains} is left of a preparation that was killed; remove it")
    if not verify:
        _say("warning: archives are taken as they are, --no_verify is set")
    if resize:
        resized.check_possible(name, builder, resize)
        builder.change = lambda examples: resized.examples(examples, resize)
        builder.write_note = lambda place: resized.note(place, resize)
    registry.prepare(name, builder, verify=verify)
    counts = ", ".join(
        f"{split} {info.num_examples}" for split, info in builder.info.splits.items()
    )
    size = f", with {resize}" if resize else ""
    print(f"{name} is prepared under {builder.data_dir}{size}: {counts}")


def _look(data_dir: str, manual_dir: str) -> None:
    """Lists the files of a folder of images that cannot be read."""
    problems = folder.problems(data_dir, manual_dir)
    print("image_folder is read as it is: there is nothing to prepare")
    for path, reason in problems.items():
        print(f"{path}: {reason}")
    dataset = data.load(Source("image_folder", dir=data_dir, manual_dir=manual_dir))
    for line in dataset.summary.lines:
        print(line)
    for text in dataset.summary.warnings:
        console.warn(text)


def _say(text: str) -> None:
    print(text, file=sys.stderr)


if __name__ == "__main__":
    app.run(main, flags_parser=cli.parse_flags)
