"""Files of weights: shared by the formats safetensors, torch and hub."""

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
    """Returns the weights by the names of a file.

    Args:
      exportable: the network.
      names: see `Options`; with layouts of PyTorch for all but "ours".

    Raises:
      UnfitError: the network has no such names.
    """
    errors.lookup("names", names, dict.fromkeys(interface.NAMES))
    if isinstance(exportable.network, wrappers.Projected):
        raise errors.UnfitError(
            "files of weights do not hold the head of an objective: leave --head out, or use"
            " --format=onnx or stablehlo"
        )
    if names == "ours":
        return exported.flatten(exportable.variables)
    about = exportable.about
    if about.classifier:
        raise errors.UnfitError(
            f"the network was trained with '{about.classifier}', which classifies in its place by"
            f" layers that no {about.model} of PyTorch has: it has no names there; take"
            f" --format=safetensors without --names={names}, or --format=onnx"
        )
    if not is_ours(exportable):
        raise errors.UnfitError(
            f"'{about.model}' is a network of your own, which has no names in PyTorch: take"
            f" --format=safetensors without --names={names}, or --format=onnx"
        )
    layout = names if names in published.LIBRARIES else ""
    try:
        return to_torch(about.model, exportable.variables, layout=layout)
    except errors.InputError as error:
        raise errors.UnfitError(f"{error}; --names=torch has names for every network") from None


def is_exported(path: pathlib.Path, *, safetensors: bool) -> bool:
    """Returns True if a path is a file of weights with a header."""
    if not path.is_file() or file_formats.is_safetensors(path) != safetensors:
        return False
    try:
        return exported.read(path) is not None
    except errors.InputError:  # The header is damaged; `open_file` raises for it.
        return True


def is_ours(exportable: Exportable) -> bool:
    """Returns True for a built-in network, which has names in PyTorch."""
    is_named = networks.canonical(exportable.about.model) in networks.MODELS
    return is_named and not isinstance(exportable.network, networks.CustomNetwork)


def header(exportable: Exportable, form: str, names: str) -> dict[str, Any]:
    """Returns the header of a file as JSON."""
    layout = "NHWC" if names == "ours" else "NCHW"
    outputs = ("logits", "embedding") if exportable.about.num_classes else ("embedding",)
    text = headers.to_json(Header(exportable.about, form, layout, "float32", outputs))
    return json.loads(text) | exported.describe(exportable.variables, names)


@contextlib.contextmanager
def disk_errors(path: pathlib.Path) -> Iterator[None]:
    """Converts errors of libraries about a full disk to DiskErrors."""
    try:
        yield
    except OSError as error:
        raise errors.DiskError(f"{path} cannot be written ({error.strerror or error})") from error
    except Exception as error:  # safetensors raises its own class with the system's message.
        if "os error" not in str(error) and "write" not in str(error):
            raise
        raise errors.DiskError(f"{path} cannot be written ({error})") from error


@dataclasses.dataclass(frozen=True, eq=False)
class InJax:
    """Weights from a file in our network; see `interface.Runtime`."""

    about: ModelInfo
    runtime: str
    exportable: Exportable

    def __call__(self, images: np.ndarray) -> Outputs:
        """See `interface.Runtime`."""
        return self.exportable(images)


@dataclasses.dataclass(frozen=True, eq=False)
class InTorch:
    """Weights from a file in a network of torchvision or timm; see `interface.Runtime`."""

    about: ModelInfo
    runtime: str
    module: Any
    threads: int

    def __call__(self, images: np.ndarray) -> Outputs:
        """See `interface.Runtime`."""
        import torch

        before = torch.get_num_threads()
        if self.threads:
            torch.set_num_threads(self.threads)
        linear = [m for m in self.module.modules() if isinstance(m, torch.nn.Linear)]
        # DeiT's distilled networks average two classifiers.
        heads = linear[-2:] if hasattr(self.module, "head_dist") else linear[-1:]
        seen = []
        hooks = [
            head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].numpy()))
            for head in heads
        ]
        try:
            batch = interface.normalized(self.about, images).transpose(0, 3, 1, 2)
            with torch.inference_mode():
                outputs = self.module(torch.from_numpy(np.ascontiguousarray(batch))).numpy()
        finally:
            for hook in hooks:
                hook.remove()
            torch.set_num_threads(before)
        if not self.about.num_classes:
            return {"embedding": outputs}
        return {"logits": outputs, "embedding": sum(seen) / len(seen)}


def open_file(path: pathlib.Path, threads: int, *, why_not: str = "") -> Runtime:
    """Opens a file or folder of weights in its network, of PyTorch if possible.

    Args:
      path: of the file or folder, see `exported.read`.
      threads: of PyTorch, 0 for all cores.
      why_not: the reason not to try a network of PyTorch; "" to try one.

    Raises:
      InputError: the file is damaged, or not an exported one.
    """
    file = exported.weights_of(path)
    said = exported.read(file)
    if said is None:
        raise errors.InputError(f"{path} does not say which network its weights are of")
    variables, _ = files.load(file, "")
    if said.names == "ours":
        why_not = why_not or "its names are those of rrd_jax"
    library, made = ("", None) if why_not else _make(said.about, said.names)
    if made:
        fill(file, made, _tensors(file, library, said))
        return InTorch(said.about, interface.version_of("torch", library), made.eval(), threads)
    why_not = why_not or library
    return InJax(
        said.about, f"{interface.version_of('jax')} ({why_not})", _ours(said.about, variables)
    )


def _ours(about: ModelInfo, variables: dict[str, Any]) -> Exportable:
    choice = NetworkChoice(about.model, jnp.float32, options=about.options)
    network = choice.create(about.num_classes)
    networks.check_weights("the file", variables, network, about.preprocessing.image_shape)
    terms = {about.classifier: objectives.create(about.classifier)} if about.classifier else None
    return Exportable(network, variables, about, terms)


def _tensors(file: pathlib.Path, library: str, said: exported.WeightsInfo) -> dict[str, Any]:
    """Reads the state dict of a file, as users of the library do."""
    import torch

    if file_formats.is_safetensors(file):
        state_dict = importlib.import_module("safetensors.torch").load_file(file)
    else:
        state_dict = torch.load(file, map_location="cpu", weights_only=True)
    if said.names == library:
        return state_dict
    model = said.about.model
    if renaming := published.renaming(model, "timm"):  # Folders for hubs have timm's names.
        state_dict = {renaming.to_ours(name): tensor for name, tensor in state_dict.items()}
    return published.respell(state_dict, model, library)


def _make(about: ModelInfo, names: str) -> tuple[str, Any]:
    """Returns (library, its network without these weights), or (reason, None).

    Args:
      about: of the network.
      names: of the entries, see `Options`.
    """
    makers = {k: make for k, make in _makers(about).items() if names in (k, "torch")}
    if not makers:
        lacks = about.model if about.num_classes else f"{about.model} without a classifier"
        return f"names not tried in torch: torchvision and timm have no {lacks}", None
    for library, make in makers.items():
        if all(importlib.util.find_spec(module) for module in ("torch", library)):
            return library, make()
    return f"names not tried in torch: {' or '.join(makers)} is not installed", None


def _makers(about: ModelInfo) -> dict[str, Callable[[], Any]]:
    """Returns functions that build the network, by library."""
    known, channels = published.of(about.model), about.preprocessing.channels

    def torchvision():
        models = importlib.import_module("torchvision.models")
        sizes = {"image_size": about.preprocessing.image_size} if known.is_sized else {}
        options = {"weights": None, "num_classes": about.num_classes, **sizes}
        made = getattr(models, known.torchvision)(**options)
        return _with_channels(made, channels)

    def timm():
        sizes = known.make_args(about.preprocessing.image_shape)
        create = importlib.import_module("timm").create_model
        return create(known.timm, num_classes=about.num_classes, **sizes)

    makers = {"torchvision": torchvision, "timm": timm}
    if not about.num_classes:
        del makers["torchvision"]  # torchvision has no networks without a classifier.
    return {library: make for library, make in makers.items() if getattr(known, library)}


def _with_channels(module: Any, channels: int) -> Any:
    """Replaces the first convolution of a torchvision network for another number of channels."""
    import torch

    name, first = next(
        pair for pair in module.named_modules() if isinstance(pair[1], torch.nn.Conv2d)
    )
    if first.in_channels != channels:
        parent, _, last = name.rpartition(".")
        options = {"kernel_size": first.kernel_size, "stride": first.stride}
        options |= {"padding": first.padding, "bias": first.bias is not None}
        made = torch.nn.Conv2d(channels, first.out_channels, **options)
        setattr(module.get_submodule(parent), last, made)
    return module


def fill(file: pathlib.Path, module: Any, state_dict: dict[str, Any]) -> None:
    """Loads a state dict strictly; raises an InputError if it does not fit."""
    try:
        module.load_state_dict(state_dict, strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise errors.InputError(
            f"{file} does not load in {type(module).__module__}: {reason}"
        ) from error
