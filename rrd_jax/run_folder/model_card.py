"""The model card: README.md of a folder, with front matter as model hubs read it."""

import dataclasses
import json
import pathlib
import re
from collections.abc import Iterator
from typing import Any

from rrd_jax import errors
from rrd_jax.data.model_info import ModelInfo
from rrd_jax.run_folder import atomic_write

_FILE = "README.md"
_MARK = "<!-- Written by rrd_jax, again and again. Delete this line to keep what you change. -->"
_CLASSES = 1000  # that are listed
# The folders before the last part of a path; what stands behind :// is no path of this machine.
_FOLDERS = re.compile(r"(?<![\w./])(~[\w.-]*/|/(?=[^/\s]+/))(?:[^/\s,;:'\"=]+/)*")


def write(
    folder: pathlib.Path, about: ModelInfo, *, parameters: int = 0, timm: bool = False
) -> None:
    """Writes the model card of a folder, unless there is a README.md that is somebody else's.

    Args:
      folder: of a run, or as hubs have it.
      about: the network.
      parameters: of it; 0 where that is not known.
      timm: whether timm opens the folder.
    """
    path, text = folder / _FILE, render(folder.name, about, parameters=parameters, timm=timm)
    try:
        there = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        there = ""
    except (OSError, UnicodeDecodeError):  # a folder, or not text: not ours
        return
    if there != text and (not there or _is_ours(there)):
        atomic_write.write_text(path, text)


def _is_ours(text: str) -> bool:
    """Whether the mark is the first line behind the front matter."""
    body = re.sub(r"\A---\n.*?\n---\n", "", text, count=1, flags=re.DOTALL)
    return body.lstrip().startswith(_MARK)


def public(about: ModelInfo) -> ModelInfo:
    """What is known of a network, without the machine: its name, and the folders of paths."""
    start = dict(about.training.get("start") or {})
    start.pop("host", None)
    if "command" in start:
        start["command"] = without_folders(start["command"])
    teachers = [
        {**teacher, "checkpoint": without_folders(str(teacher.get("checkpoint", "")))}
        for teacher in about.training.get("teachers") or []
    ]
    training = {**about.training, "start": start, "teachers": teachers}
    training = {name: value for name, value in training.items() if name in about.training}
    return dataclasses.replace(about, training=training)


def without_folders(text: str) -> str:
    """Text in which absolute paths are their last part."""
    return _FOLDERS.sub("", text)


def render(name: str, about: ModelInfo, *, parameters: int = 0, timm: bool = False) -> str:
    """The text of a model card.

    Args:
      name: of the folder that it lies in.
      about: the network.
      parameters: of it; 0 where that is not known.
      timm: whether timm opens the folder.
    """
    about = public(about)
    if "dataset" in about.training:  # which may be named by its folder
        dataset = without_folders(str(about.training["dataset"]))
        about = dataclasses.replace(about, training={**about.training, "dataset": dataset})
    sections = [
        *_network(about, parameters),
        *_usage(name, about, timm),
        *_training(about),
        *_classes(about),
    ]
    front = "\n".join(_front_matter(about, timm))
    return _encodable(f"---\n{front}\n---\n{_MARK}\n\n" + "\n".join(sections) + "\n")


def _front_matter(about: ModelInfo, timm: bool) -> Iterator[str]:
    """Lines of YAML."""
    dataset = str(about.training.get("dataset", ""))
    task = "image-classification" if about.num_classes else "image-feature-extraction"
    tags = [task, *(["timm"] if timm else []), "rrd_jax", "jax"]
    if about.training.get("teachers"):
        tags.append("knowledge-distillation")
    yield f"library_name: {'timm' if timm else 'rrd_jax'}"
    yield f"pipeline_tag: {task}"
    yield f"tags: {_yaml(tags)}"
    kind = _slug(dataset)
    if kind:
        yield f"datasets: {_yaml([kind])}"
    if about.num_classes:
        yield "metrics: [accuracy]"
    top1 = about.metrics.get("top1")
    if isinstance(top1, int | float):
        result = {
            "task": {"type": "image-classification", "name": "Image classification"},
            "dataset": {"type": kind or "unknown", "name": dataset or "unknown"},
            "metrics": [{"type": "accuracy", "value": round(top1 / 100, 6), "name": "Top-1"}],
        }
        yield f"model-index: {_yaml([{'name': about.model, 'results': [result]}])}"


def _slug(dataset: str) -> str:
    """A data set's name as hubs have them: digits of digits/2.0.0."""
    first = re.split(r"[/ :]", dataset.strip().removeprefix("hf:"))[0]
    return re.sub(r"[^\w.-]+", "-", first, flags=re.ASCII).strip("-.")


def _yaml(value: Any) -> str:
    """JSON, which is YAML too once characters that YAML does not take are spelled out."""
    return errors.printable(_encodable(json.dumps(value, ensure_ascii=False)))


def _network(about: ModelInfo, parameters: int) -> Iterator[str]:
    yield f"# {_plain(about.model)}\n"
    parameters = about.training.get("parameters") or parameters
    size = f", {parameters:,} parameters" if parameters else ""
    if about.num_classes:
        yield f"A classifier of images: {_code(about.model)}{size}, {about.num_classes} classes."
    else:
        yield f"Embeddings of images: {_code(about.model)}{size}, without a classifier."
    for name, value in about.options.items():
        yield f"- option {_code(name)}: {_code(value)}"
    if about.classifier:
        yield f"\nIn the place of its own layer classifies what {_code(about.classifier)} trained."
    metrics = about.metrics
    figures = {
        "top-1": metrics.get("top1"),
        "top-5": metrics.get("top5"),
        "same class as the teacher": metrics.get("agreement"),
    }
    rows = [f"| {k} | {v:.2f} % |" for k, v in figures.items() if isinstance(v, int | float)]
    if rows:
        after = f", after epoch {metrics['epoch']}" if "epoch" in metrics else ""
        yield f"\nOn the test images{after}:\n\n| figure | value |\n|---|---|"
        yield from rows
    if about.preprocessing:
        yield f"\n## Images\n\n{_images(about.preprocessing.to_json())}"


def _images(wanted: dict[str, Any]) -> str:
    """How an image becomes what the network sees, in words."""
    size = f"{wanted['image_size']}x{wanted['image_size']} pixels"
    fit = f"centred on black where smaller, scaled to {size} where larger"
    if wanted["resize"]:
        fit = f"short side scaled to {wanted['resize']} pixels, then the centre cut out"
    return (
        f"{size}, {wanted['colour']}; {fit}; interpolation: {wanted['interpolation']}. The network"
        f" sees {wanted['values']} with mean {_numbers(wanted['mean'])} and std"
        f" {_numbers(wanted['std'])}."
    )


def _usage(name: str, about: ModelInfo, timm: bool) -> Iterator[str]:
    folder = without_folders(name) or "FOLDER"
    yield "\n## Use\n"
    lines = ["import rrd_jax", "", f"network = rrd_jax.load({folder!r})"]
    if about.num_classes:
        command = f"python -m rrd_jax.predict --workdir={_argument(folder)} IMAGE..."
        yield from _block(command, "sh")
    else:
        lines.append("embeddings = network.embed(IMAGES)")
    yield from _block("\n".join(lines), "python")
    if timm:
        call = f"network = timm.create_model({f'local-dir:{folder}'!r}, pretrained=True)"
        yield from _block(f"import timm\n\n{call}", "python")


def _argument(folder: str) -> str:
    return folder if re.fullmatch(r"[\w.@+-]+", folder) else json.dumps(folder, ensure_ascii=False)


def _training(about: ModelInfo) -> Iterator[str]:
    training, start = about.training, about.training.get("start") or {}
    origin = training.get("start_from") or {}
    facts = {
        "started from": origin.get("checkpoint"),
        "digest of these weights": origin.get("digest"),
        "classifier at the start": origin.get("head"),
        "data": training.get("dataset"),
        "training images": training.get("images"),
        "epochs": training.get("epochs"),
        "loss": " + ".join(
            f"{weight:g} {name}" for name, weight in (training.get("objectives") or {}).items()
        ),
        "seed": training.get("seed"),
        "weights": "average over the steps" if training.get("average") else None,
        "command": start.get("command"),
        "commit": start.get("commit"),
        "date": start.get("date"),
        "devices": start.get("devices"),
        "versions": ", ".join(
            f"{name} {version}"
            for name, version in (
                {"rrd_jax": start.get("version"), "Python": start.get("python")}
                | dict(start.get("libraries") or {})
            ).items()
            if version
        ),
    }
    lines = [
        f"- {name}: {_code(value)}" for name, value in facts.items() if value not in (None, "")
    ]
    for teacher in training.get("teachers") or []:
        parts = [f"{_code(teacher.get('model', ''))} from {_code(teacher.get('checkpoint', ''))}"]
        parts += [f"weights {_code(teacher['digest'])}"] if teacher.get("digest") else []
        parts += [f"logits: {teacher['classifier']}"] if teacher.get("classifier") else []
        lines.append(f"- teacher: {', '.join(parts)}")
    if lines:
        yield "\n## Training\n"
        yield from lines


def _classes(about: ModelInfo) -> Iterator[str]:
    if not about.class_names:
        return
    yield "\n## Classes\n"
    names = about.class_names[:_CLASSES]
    rows = [f"{label} {errors.printable(name)}" for label, name in enumerate(names)]
    rows += [f"and {len(about.class_names) - len(names)} more"] * (
        len(about.class_names) > len(names)
    )
    yield from _block("\n".join(rows), "text")


def _block(text: str, language: str) -> Iterator[str]:
    """A block of code, between more backticks than stand in it."""
    fence = "`" * max(3, _backticks(text) + 1)
    yield f"{fence}{language}\n{text}\n{fence}\n"


def _code(value: Any) -> str:
    """A value as code within a line, whatever it holds."""
    text = errors.printable(str(value))
    fence = "`" * (_backticks(text) + 1)
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{space}{text}{space}{fence}"


def _backticks(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)


def _plain(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>#|])", r"\\\1", errors.printable(text))


def _numbers(values: Any) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _encodable(text: str) -> str:
    """Text that UTF-8 takes: names of files may hold halves of characters."""
    return text.encode("utf-8", "replace").decode()
