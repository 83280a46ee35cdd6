"""The networks of a run, ready to be exported and measured, and its test images."""

import dataclasses
import pathlib
from typing import Any, NamedTuple

from rrd_jax import config as configs
from rrd_jax import errors, exports, imports, library, networks, workdir
from rrd_jax.about import About, Preprocessing
from rrd_jax.convert import files
from rrd_jax.data.source import Source
from rrd_jax.exports import Exportable


class Said(NamedTuple):
    """What a user says of a network that its file does not, or says otherwise.

    Attributes:
      network: name or import path; "" for what the folder keeps.
      mean: of each channel; None for what is known.
      std: likewise.
      image_size: height and width; 0 for what is known.
      resize: short side before the central crop; 0 for what is known.
      class_names: in the order of labels; () for what is known.
      raw: of averaged weights, whether these themselves are wanted.
    """

    network: str = ""
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    image_size: int = 0
    resize: int = 0
    class_names: tuple[str, ...] = ()
    raw: bool = False


NOTHING = Said()


class Teacher(NamedTuple):
    """Where a run's teacher is: `model`, `path` of its weights, and `weight` of its logits."""

    model: str
    path: pathlib.Path
    weight: float


def load(path: pathlib.Path, said: Said = NOTHING) -> Exportable:
    """A network from a run, a converted folder or a PyTorch file.

    Raises:
      InputError: it is not there or damaged, or it is not known what images it takes.
    """
    loaded = library.load(
        path, network=said.network or None, mean=said.mean, std=said.std, raw=said.raw
    )
    about = loaded.about or About(loaded.name, loaded.num_classes)
    about = dataclasses.replace(about, preprocessing=_preprocessing(loaded, about, said))
    if said.class_names:
        if len(said.class_names) != about.num_classes:
            raise errors.InputError(
                f"--class_names has {len(said.class_names)} names, but '{about.model}' has"
                f" {about.num_classes} classes"
            )
        about = dataclasses.replace(about, class_names=said.class_names)
    return exports.exportable(loaded.network, loaded.variables, about, loaded.terms)


def _preprocessing(loaded: library.Loaded, about: About, said: Said) -> Preprocessing | None:
    known = about.preprocessing
    if known is None and loaded.mean and loaded.std:
        size = said.image_size or (loaded.image_shape or (0,))[0]
        if not size and not imports.is_path(loaded.name):
            size = networks.image_size(loaded.name)
        if size:
            known = Preprocessing(size, len(loaded.mean), loaded.mean, loaded.std)
    changed = {"image_size": said.image_size, "resize": said.resize}
    return known and dataclasses.replace(known, **{k: v for k, v in changed.items() if v})


def fields_of(path: pathlib.Path) -> dict[str, Any] | None:
    """The config of a run; None for anything else."""
    folder, _ = files.split(path)
    return workdir.read_fields(folder.parent if folder.name == "checkpoints" else folder)


def teachers(path: pathlib.Path) -> list[Teacher]:
    """The teachers of a run; none for anything else."""
    folder, _ = files.split(path)
    fields = fields_of(path) or {}
    listed = fields.get("teacher") or []
    listed = listed if isinstance(listed, list) else [listed]
    listed = [given for given in listed if given.get("model")]
    total = sum(given.get("weight", 1.0) for given in listed)
    return [
        Teacher(
            given["model"],
            pathlib.Path(given.get("checkpoint") or folder / f"teacher{i or ''}"),
            given.get("weight", 1.0) / total,
        )
        for i, given in zip([0, *range(2, len(listed) + 1)], listed, strict=False)
    ]


def load_teacher(teacher: Teacher, path: pathlib.Path, said: Said = NOTHING) -> Exportable:
    """A teacher of a run; of a file without further words the run's images are its images.

    Args:
      teacher: where it is.
      path: of the run.
      said: as `load` has it.

    Raises:
      InputError: it is gone, damaged, or another.
    """
    if not files.split(teacher.path)[0].exists():
        raise errors.InputError(f"the teacher {teacher.path} ('{teacher.model}') is not there")
    student = load(path, Said(raw=True)).about
    is_file = files.split(teacher.path)[0].is_file()
    form = student.preprocessing
    if is_file or not fields_of(teacher.path):
        said = said._replace(
            network=said.network or teacher.model,
            mean=said.mean or form.mean,
            std=said.std or form.std,
            image_size=said.image_size or form.image_size,
            resize=said.resize or form.resize or 0,
            class_names=said.class_names or student.class_names,
        )
    return load(teacher.path, said._replace(raw=False))


def source_of(path: pathlib.Path) -> Source | None:
    """The images of a run; None where there are none."""
    fields = fields_of(path)
    return configs.source_of(fields) if fields and fields["data"]["name"] else None
