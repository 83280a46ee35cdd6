"""Weight files: code that the formats safetensors, torch and hub share."""

import contextlib
import dataclasses
import importlib
import importlib.util
import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

from rrd_jax import errors, networks, objectives
from rrd_jax.data.model_info import ModelInfo
from rrd_jax.exports import headers, interface
from rrd_jax.exports.headers import Header
from rrd_jax.exports.interface import Exportable, Outputs, Runtime
from rrd_jax.teacher import wrappers
from rrd_jax.training.choices import NetworkChoice
from rrd_jax.weights import exported, file_formats, files, published, to_torch


def entries(exportable: Exportable, names: str) -> dict[str, np.ndarray]:
    """Returns the weights by their names in a file.

    Args:
      exportable: the network.
      names: naming scheme, see `Options`; all schemes except "ours" use PyTorch's array layouts.

    Raises:
      UnfitError: the naming scheme does not cover the network.
    """
    errors.lookup("names", names, dict.fromkeys(interface.NAMES))
    if isinstance(exportable.network, wrappers.WithHeads):
        raise errors.UnfitError(
            "weight files cannot hold the head of an objective; omit --head, or use"
            " --format=onnx or --format=stablehlo"
        )
    if isinstance(exportable.network, wrappers.Wrapper):
        raise errors.UnfitError(
            "weight files cannot hold the preprocessing, probe or class vectors of a run's teacher;"
            " omit --teacher and pass --workdir=TEACHER, or use --format=onnx or --format=stablehlo"
        )
    if exportable.is_backbone and isinstance(exportable.network, networks.CustomNetwork):
        _check_headless(exportable)
    if names == "ours":
        return exported.flatten(exportable.variables)
    about = exportable.about
    if about.classifier:
        raise errors.UnfitError(
            f"the network was trained with '{about.classifier}', which replaces the classifier with"
            f" layers that {about.model} lacks in PyTorch libraries; use --format=safetensors"
            f" without --names={names}, or --format=onnx"
        )
    if not is_built_in(exportable):
        raise errors.UnfitError(
            f"'{about.model}' is a custom network, which has no names in PyTorch; use"
            f" --format=safetensors without --names={names}, or --format=onnx"
        )
    layout = names if names in published.LIBRARIES else ""
    if layout and not getattr(published.lookup(about.model), layout):
        raise errors.UnfitError(
            f"{layout} has no {about.model}, so --names={layout} is impossible; use --names=torch,"
            " which covers every built-in network"
        )
    return to_torch(about.model, exportable.variables, layout=layout)


def _check_headless(exportable: Exportable) -> None:
    """Raises an UnfitError if the weights include those of a classifier."""
    try:
        _make_ours(exportable.about, exportable.variables)
    except errors.InputError as error:
        raise errors.UnfitError(
            f"weight files cannot hold '{exportable.about.model}' without its classifier, because"
            " it is a custom network; omit --backbone, or use --format=onnx or --format=stablehlo"
        ) from error


def is_exported(path: pathlib.Path, *, safetensors: bool) -> bool:
    """Returns True if a path is a weight file with a header."""
    if not path.is_file() or file_formats.is_safetensors(path) != safetensors:
        return False
    try:
        return exported.read(path) is not None
    # `open_file` raises the error of a damaged header.
    except errors.InputError:
        return True


def is_built_in(exportable: Exportable) -> bool:
    """Returns True for a built-in network, whose weights have names in PyTorch."""
    is_named = networks.canonical(exportable.about.model) in networks.MODELS
    return is_named and not isinstance(exportable.network, networks.CustomNetwork)


def header(exportable: Exportable, format_name: str, names: str) -> dict[str, Any]:
    """Returns the header of a file as JSON."""
    layout = "NHWC" if names == "ours" else "NCHW"
    outputs = ("logits", "embedding") if exportable.about.num_classes else ("embedding",)
    text = headers.to_json(Header(exportable.about, format_name, layout, "float32", outputs))
    return json.loads(text) | exported.describe(exportable.variables, names)


@contextlib.contextmanager
def disk_errors(path: pathlib.Path) -> Iterator[None]:
    """Converts a library's errors about a full disk to `DiskError`."""
    try:
        yield
    except OSError as error:
        raise errors.DiskError(
            f"{path} cannot be written ({error.strerror or error}); free disk space or write"
            " elsewhere"
        ) from error
    # safetensors raises its own exception class with the system's message.
    except Exception as error:
        if "os error" not in str(error) and "write" not in str(error):
            raise
        raise errors.DiskError(
            f"{path} cannot be written ({error}); free disk space or write elsewhere"
        ) from error


@dataclasses.dataclass(frozen=True, eq=False)
class JaxRuntime:
    """Weights from a file in rrd_jax's network; see `interface.Runtime`."""

    about: ModelInfo
    runtime: str
    exportable: Exportable

    def __call__(self, images: np.ndarray) -> Outputs:
        """Computes `Outputs` from uint8 images [B, H, W, channels]."""
        return self.exportable(images)


@dataclasses.dataclass(frozen=True, eq=False)
class TorchRuntime:
    """Weights from a file in a network of torchvision or timm; see `interface.Runtime`."""

    about: ModelInfo
    runtime: str
    module: Any
    threads: int

    def __call__(self, images: np.ndarray) -> Outputs:
        """Computes `Outputs` from uint8 images [B, H, W, channels]."""
        import torch

        previous_threads = torch.get_num_threads()
        if self.threads:
            torch.set_num_threads(self.threads)
        linear = [m for m in self.module.modules() if isinstance(m, torch.nn.Linear)]
        # Distilled DeiT networks average two classifiers.
        heads = linear[-2:] if hasattr(self.module, "head_dist") else linear[-1:]
        features = []
        hooks = [
            head.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0].numpy()))
            for head in heads
        ]
        try:
            batch = interface.normalized(self.about, images).transpose(0, 3, 1, 2)
            with torch.inference_mode():
                outputs = self.module(torch.from_numpy(np.ascontiguousarray(batch))).numpy()
        finally:
            for hook in hooks:
                hook.remove()
            torch.set_num_threads(previous_threads)
        if not self.about.num_classes:
            return {"embedding": outputs}
        return {"logits": outputs, "embedding": sum(features) / len(features)}


def open_file(path: pathlib.Path, threads: int, *, skip_reason: str = "") -> Runtime:
    """Opens a weight file or folder, in PyTorch if a PyTorch library has the network.

    Args:
      path: the file or folder, see `exported.read`.
      threads: number of PyTorch's threads; 0 for all cores.
      skip_reason: the reason to skip PyTorch, for `Runtime.runtime`; "" to try PyTorch.

    Raises:
      InputError: the file is damaged, or is not an exported file.
    """
    file = exported.weights_file(path)
    info = exported.read(file)
    if info is None:
        raise errors.InputError(
            f"{path} has no header that names the network of the weights; export it again"
        )
    variables, _ = files.load(file, "")
    if info.names == "ours":
        skip_reason = skip_reason or "the weights have rrd_jax's names"
    library, module = ("", None) if skip_reason else _make(info.about, info.names)
    if module:
        fill(file, module, _tensors(file, library, info))
        runtime = interface.version_of("torch", library)
        return TorchRuntime(info.about, runtime, module.eval(), threads)
    skip_reason = skip_reason or library
    runtime = f"{interface.version_of('jax')} ({skip_reason})"
    return JaxRuntime(info.about, runtime, _make_ours(info.about, variables))


def _make_ours(about: ModelInfo, variables: dict[str, Any]) -> Exportable:
    choice = NetworkChoice(about.model, jnp.float32, options=about.options)
    network = choice.create(about.num_classes)
    networks.check_weights("the file", variables, network, about.preprocessing.image_shape)
    terms = {about.classifier: objectives.create(about.classifier)} if about.classifier else None
    return Exportable(network, variables, about, terms)


def _tensors(file: pathlib.Path, library: str, info: exported.WeightsInfo) -> dict[str, Any]:
    """Reads the state dict of a file the way a user of the library does."""
    import torch

    if file_formats.is_safetensors(file):
        state_dict = importlib.import_module("safetensors.torch").load_file(file)
    else:
        state_dict = torch.load(file, map_location="cpu", weights_only=True)
    if info.names == library:
        return state_dict
    model = info.about.model
    # Folders for model hubs have timm's names.
    if renaming := published.renaming(model, "timm"):
        state_dict = {renaming.to_native(name): tensor for name, tensor in state_dict.items()}
    return published.rename_entries(state_dict, model, library)


def _make(about: ModelInfo, names: str) -> tuple[str, Any]:
    """Returns (library, network without the file's weights), or (reason, None).

    Args:
      about: the network's description.
      names: naming scheme of the entries, see `Options`.
    """
    makers = {k: make for k, make in _makers(about).items() if names in (k, "torch")}
    if not makers:
        return f"names not tested in torch: torchvision and timm lack {about.model}", None
    for library, make in makers.items():
        if all(importlib.util.find_spec(module) for module in ("torch", library)):
            return library, make()
    return f"names not tested in torch: {' or '.join(makers)} is not installed", None


def _makers(about: ModelInfo) -> dict[str, Callable[[], Any]]:
    """Returns functions that build the network, by library."""
    record, channels = published.lookup(about.model), about.preprocessing.channels

    def torchvision():
        models = importlib.import_module("torchvision.models")
        sizes = {"image_size": about.preprocessing.image_size} if record.is_sized else {}
        options = {"weights": None, "num_classes": about.num_classes or 1, **sizes}
        module = _with_channels(getattr(models, record.torchvision)(**options), channels)
        return module if about.num_classes else _without_classifier(module)

    def timm():
        sizes = record.make_args(about.preprocessing.image_shape)
        create = importlib.import_module("timm").create_model
        return create(record.timm, num_classes=about.num_classes, **sizes)

    makers = {"torchvision": torchvision, "timm": timm}
    return {library: make for library, make in makers.items() if getattr(record, library)}


def _with_channels(module: Any, channels: int) -> Any:
    """Replaces the first convolution of a torchvision network to take a number of channels."""
    import torch

    name, first = next(
        pair for pair in module.named_modules() if isinstance(pair[1], torch.nn.Conv2d)
    )
    if first.in_channels != channels:
        parent, _, last = name.rpartition(".")
        options = {"kernel_size": first.kernel_size, "stride": first.stride}
        options |= {"padding": first.padding, "bias": first.bias is not None}
        replacement = torch.nn.Conv2d(channels, first.out_channels, **options)
        setattr(module.get_submodule(parent), last, replacement)
    return module


def _without_classifier(module: Any) -> Any:
    """Replaces the classifier of a torchvision network, its last linear layer, by the identity."""
    import torch

    linear = [name for name, layer in module.named_modules() if isinstance(layer, torch.nn.Linear)]
    parent, _, last = linear[-1].rpartition(".")
    setattr(module.get_submodule(parent), last, torch.nn.Identity())
    return module


def fill(file: pathlib.Path, module: Any, state_dict: dict[str, Any]) -> None:
    """Loads a state dict strictly; raises an InputError if the state dict does not fit."""
    try:
        module.load_state_dict(state_dict, strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise errors.InputError(
            f"{file} cannot be loaded by {type(module).__module__}: {reason}"
        ) from error
