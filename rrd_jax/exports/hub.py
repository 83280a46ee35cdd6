"""Folders for model hubs, in the layout of timm's save_for_hf and Hugging Face's save_pretrained.

config.json describes the network, its classes and its preprocessing. model.safetensors holds the
weights, by timm's names if timm has the network. README.md is the model card.
"""

import importlib.util
import json
import pathlib
from typing import Any

from rrd_jax import errors, hub, networks, user_paths
from rrd_jax.data.model_info import ModelInfo
from rrd_jax.exports import interface, weight_files
from rrd_jax.exports.interface import Exportable, Format, Options, Runtime
from rrd_jax.run_folder import atomic_write, model_card
from rrd_jax.terminal import console
from rrd_jax.weights import exported, published, sidecar

_CONFIG = "config.json"
# Prefix of the architecture name for networks that timm lacks.
_PREFIX = "rrd_jax:"


def _write(exportable: Exportable, path: pathlib.Path, options: Options) -> None:
    import safetensors.numpy

    about = exportable.about
    has_torch_names = weight_files.is_built_in(exportable) and not about.classifier
    names = "torch" if has_torch_names else "ours"
    timm = published.lookup(about.model).timm if has_torch_names else ""
    arrays = weight_files.entries(exportable, "timm" if timm else names)
    content = weight_files.header(exportable, "hub", names)
    metadata = {"format": "pt", exported.KEY: json.dumps(content)}
    with weight_files.disk_errors(path):
        path.mkdir()
        safetensors.numpy.save_file(arrays, path / exported.HUB_WEIGHTS, metadata)
    atomic_write.write_text(
        path / _CONFIG,
        json.dumps(_config(exportable, timm, content), indent=2) + "\n",
    )
    parameters = networks.count_parameters(exportable.variables["params"])
    # Without a license, the page of a repository says that it is unknown.
    license_name = options.license or ("unknown" if options.push else "")
    page = model_card.Page(f"{hub.PREFIX}{options.push}" if options.push else "", license_name)
    model_card.write(path, about, page, parameters=parameters, timm=bool(timm))
    if not timm:
        console.note(f"{path.name} can be read by rrd_jax.load only: {_skip_reason(about)}")


def _config(exportable: Exportable, timm: str, content: dict[str, Any]) -> dict[str, Any]:
    """Returns the content of config.json; the name of a network that timm lacks has a prefix."""
    about, record = exportable.about, published.lookup(exportable.about.model)
    shape = about.preprocessing.image_shape
    embedding = networks.summarize(exportable.network, shape).outputs.embedding
    width = 0 if isinstance(embedding, tuple) else embedding.shape[-1]
    # Hugging Face's transformers add the argument num_classes, which is therefore omitted.
    arguments = record.make_args(shape)
    images = sidecar.to_timm(about.preprocessing)
    if record.timm:
        stem, head = record.timm_ends
        images |= {"pool_size": None, "first_conv": stem, "classifier": head}
    if record.timm_tags:
        # timm has several networks of rrd_jax under one name, which the tag distinguishes.
        images["tag"] = record.timm_tags[0]
    config = {
        "architecture": timm or _PREFIX + "+".join(filter(None, (about.model, about.classifier))),
        "num_classes": about.num_classes,
        "num_features": width,
        "global_pool": record.timm_pool,
        "model_args": arguments,
        "pretrained_cfg": {**images, "num_classes": about.num_classes},
    }
    if about.class_names:
        config["label_names"] = list(about.class_names)
    return config | {exported.KEY: content}


def _skip_reason(about: ModelInfo) -> str:
    if about.classifier:
        return f"'{about.classifier}' replaces the classifier with layers that timm lacks"
    return f"timm lacks {about.model}"


def _open(path: pathlib.Path, threads: int) -> Runtime:
    architecture = str(_read_config(path).get("architecture"))
    if not (path / exported.HUB_WEIGHTS).is_file():
        raise errors.InputError(f"{path} has no {exported.HUB_WEIGHTS}; export or copy it again")
    # Raises an error for invalid class names.
    sidecar.read(path / exported.HUB_WEIGHTS)
    skip_reason = ""
    if architecture.startswith(_PREFIX):
        skip_reason = f"names not tested in torch: timm lacks {architecture.removeprefix(_PREFIX)}"
    elif not all(map(importlib.util.find_spec, ("torch", "timm"))):
        skip_reason = "names not tested in torch: timm is not installed"
    # If timm can open the folder, `opened` only provides the description of the network.
    opened = weight_files.open_file(
        path, threads, skip_reason=skip_reason or "timm opens the folder"
    )
    if skip_reason:
        return opened
    import timm

    try:
        module = timm.create_model(f"local-dir:{path}", pretrained=True)
    # timm raises many types.
    except Exception as error:
        reason = errors.printable(str(error))[:300]
        raise errors.InputError(f"timm cannot open {path}: {reason}; export it again") from error
    return weight_files.TorchRuntime(
        opened.about, interface.version_of("torch", "timm"), module.eval(), threads
    )


def _read_config(path: pathlib.Path) -> dict[str, Any]:
    try:
        content = user_paths.read_json(path / _CONFIG)
        if not isinstance(content, dict):
            raise ValueError("not a JSON object")
        return content
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise errors.InputError(
            f"{path / _CONFIG}, which names the network of {exported.HUB_WEIGHTS}, cannot be read"
            f" ({reason}); export or copy the folder again"
        ) from error


def _recognizes(path: pathlib.Path) -> bool:
    if not path.is_dir():
        return False
    if weight_files.is_exported(path / exported.HUB_WEIGHTS, safetensors=True):
        return True
    try:
        return exported.KEY in user_paths.read_json(path / _CONFIG)
    except (OSError, TypeError, ValueError):
        return False


FORMAT = Format(
    "hub",
    "",
    "",
    ("safetensors",),
    ("license", "push", "private"),
    _write,
    _open,
    _recognizes,
    backbones=True,
)
