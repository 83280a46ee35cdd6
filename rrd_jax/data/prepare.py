"""Prepares a data set: converts the published archives to ArrayRecord once.

    python -m rrd_jax.data.prepare --name=cifar100 --manual_dir=FOLDER

FOLDER holds the published archives; if an archive is missing, the error names the file. Data sets
without a builder in this package are prepared by TFDS with TensorFlow, and downloaded unless they
are in FOLDER. A folder of images needs no preparation: --name=image_folder checks the images in
FOLDER and lists all files that cannot be read, as does --name=mask_folder for images with masks.
With --resize=256, the images of ImageNet or of a folder are stored with a shorter side of 256
pixels, which makes reading faster. The exit code is 0 on success, 1 for an invalid flag, 2 for
invalid input, 74 for a full disk, 75 after SIGTERM or SIGHUP, and 130 after Ctrl-C.
"""

from rrd_jax.terminal import interrupts

if __name__ == "__main__":
    # A signal during the imports ends the program with its exit code.
    interrupts.install()

import pathlib
import sys
from typing import Any

from absl import app, flags

from rrd_jax import data, errors
from rrd_jax.data import folder, masks
from rrd_jax.data.builders import registry, resized
from rrd_jax.data.source import Source
from rrd_jax.terminal import cli, console, path_flags

_NAME = flags.DEFINE_string(
    "name", None, f"{', '.join(registry.DATASETS)}, or any data set of TFDS."
)
_MANUAL_DIR = path_flags.define_path(
    "manual_dir",
    "",
    "Folder of the source files. Default: downloads/manual in --data_dir; for fashion_mnist,"
    " Debian's folder.",
)
_DATA_DIR = path_flags.define_path(
    "data_dir",
    "",
    "Folder of prepared data sets. Default: TFDS_DATA_DIR or ~/tensorflow_datasets.",
)
_NO_VERIFY = flags.DEFINE_bool(
    "no_verify", False, "Accept archives whose checksum differs from the published checksum."
)
_RESIZE = flags.DEFINE_integer(
    "resize",
    0,
    "Shorter side that larger images of imagenet2012 or image_folder are scaled to; 0 for no"
    " scaling.",
    lower_bound=0,
)
_QUALITY = flags.DEFINE_integer("quality", 95, "Quality of the JPEGs that --resize writes.", 1, 100)


def main(argv: list[str]) -> None:
    """Prepares the data set."""
    del argv
    if not _NAME.value:
        cli.stop(
            1,
            f"--name is missing; known: {', '.join(registry.DATASETS)} and every data set of TFDS",
        )
    cli.guard(
        lambda: _prepare(
            _NAME.value,
            _DATA_DIR.value,
            _MANUAL_DIR.value,
            verify=not _NO_VERIFY.value,
            resize=resized.Resize(_RESIZE.value, _QUALITY.value) if _RESIZE.value else None,
        ),
        stopped="stopped; nothing is prepared; run the same command to start again",
    )


def _prepare(
    name: str, data_dir: str, manual_dir: str, *, verify: bool, resize: resized.Resize | None
) -> None:
    kind = Source(name).kind
    if kind == "masks" or (kind == "folder" and not resize):
        _inspect_folder(name, data_dir, manual_dir)
        return
    if kind not in ("folder", "tfds"):
        raise errors.InputError(f"data set '{name}' needs no preparation; train with it directly")
    with registry.quiet():
        if kind == "folder":
            splits, classes = folder.open_splits(data_dir, manual_dir)
            builder = resized.folder_builder(manual_dir, splits, classes, resize, data_dir)
        else:
            builder = registry.create_builder(name, data_dir, manual_dir)
        _write(builder.name if kind == "folder" else name, builder, resize, verify=verify)
    if kind == "folder":
        place = f" --config.data.dir={data_dir}" if data_dir else ""
        print(f"to train with it, use --config.data.name={builder.name}{place}")


def _write(name: str, builder: Any, resize: resized.Resize | None, *, verify: bool) -> None:
    if builder.is_prepared():
        resized.check_same(name, builder.data_dir, resize)
        print(f"{name} is already prepared under {builder.data_dir}")
        return
    path = pathlib.Path(builder.data_dir)
    for remains in sorted(path.parent.glob(f"incomplete.*_{path.name}")):
        _say(f"note: {remains} is left over from an interrupted preparation; remove it")
    if not verify:
        _say("warning: checksums of archives are not verified, because --no_verify is set")
    if resize:
        resized.check_possible(name, builder, resize)
        builder.change = lambda examples: resized.resize_examples(examples, resize)
        builder.write_note = lambda folder: resized.write_note(folder, resize)
    registry.prepare(name, builder, verify=verify)
    counts = ", ".join(
        f"{split} {info.num_examples}" for split, info in builder.info.splits.items()
    )
    size = f", with {resize}" if resize else ""
    print(f"{name} is prepared under {builder.data_dir}{size}: {counts}")


def _inspect_folder(name: str, data_dir: str, manual_dir: str) -> None:
    """Prints the files of a folder of images that are not used, and a summary."""
    module = masks if name == "mask_folder" else folder
    problems = module.problems(data_dir, manual_dir)
    print(f"{name} needs no preparation: images are read in place")
    for path, reason in problems.items():
        print(f"{path}: {reason}")
    use_labels = name == "image_folder"
    source = Source(name, dir=data_dir, manual_dir=manual_dir, use_labels=use_labels)
    dataset = data.load(source)
    for line in dataset.summary.lines:
        print(line)
    for text in dataset.summary.warnings:
        console.warn(text)


def _say(text: str) -> None:
    print(text, file=sys.stderr)


if __name__ == "__main__":
    app.run(main, flags_parser=cli.parse_flags)
