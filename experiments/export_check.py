"""Exports a run in every format, and judges each file without rrd_jax.

    python -m rrd_jax.main --config=configs/digits.py:resnet8x4,ce --config.data.image_size=32 \
        --config.train.epochs=3 --workdir=runs/resnet8x4
    python experiments/export_check.py runs/resnet8x4 --output=runs/judged

The run is one of configs/digits.py; what it predicts for the 797 test images, as
`python -m rrd_jax.predict` says, is the truth. Each file is then opened by onnxruntime, LiteRT,
OpenVINO, timm, torchvision, torch or, in a process that can see nothing else, jax alone. Images are
prepared here, with numpy, as each file itself says. A row a file is printed: the largest
difference of two logits by the largest logit, in batches of 1, 7 and 797 images, and how many of
these have another top-1. Libraries that are not installed are passed over, and so is what only
rrd_jax can open. The exit code is 1 if a file is off.
"""

import argparse
import importlib.util
import json
import pathlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator

import numpy as np

if __name__ == "__main__":  # torch imports Python's own `profile`, not that of this folder
    sys.path[0] = str(pathlib.Path(__file__).parents[1])

_TEST = 1000  # of sklearn's digits, in the order of data/builders, those behind are the test split
_BATCHES = {1: 100, 7: 100, 797: 797}  # images at once, of the first so many
_TOLERANCE, _TORCH = 1e-4, 1e-5  # of the largest logit; the second for timm and torchvision
_PROGRAMS = "onnx,stablehlo,litert,openvino"
_VARIANTS = {
    "plain": (f"--format={_PROGRAMS},hub,torch",),
    "uint8": (f"--format={_PROGRAMS}", "--embed_preprocessing"),
    "unfolded": (f"--format={_PROGRAMS}", "--nofold"),
    "torch": ("--format=safetensors", "--names=torch"),
    "int8": ("--format=litert", "--quantize=int8"),
}
_RUNNABLE = 0, 2, 69  # exit codes: all written, some refused, some without their library
_QUICK = ("--check_images=20",)  # which is all that the command itself looks at; here all are

# What a program does that has only jax: python -I sees neither this package nor this folder.
_XLA = """
import sys, numpy, jax.export
function = jax.export.deserialize(bytearray(open(sys.argv[1], "rb").read()))
images = numpy.load(sys.argv[2])
parts = [images[i : i + int(sys.argv[4])] for i in range(0, len(images), int(sys.argv[4]))]
numpy.save(sys.argv[3], numpy.concatenate([function.call(x)["logits"] for x in parts]))
assert "rrd_jax" not in sys.modules and "flax" not in sys.modules
"""

Call = Callable[[np.ndarray], np.ndarray]  # images, prepared, to logits
Opened = tuple[dict, Call]  # what a file says of itself, and how it is called


def digits() -> tuple[np.ndarray, np.ndarray]:
    """The test images [797, 8, 8] uint8, and their labels."""
    from sklearn import datasets

    found = datasets.load_digits()
    images = np.round(found.images * (255 / 16)).astype(np.uint8)
    chosen = np.random.RandomState(0).permutation(len(images))[_TEST:]
    return images[chosen], found.target[chosen]


def prepare(images: np.ndarray, says: dict) -> np.ndarray:
    """Small grey images, as a file says that it takes them."""
    form = says["about"]["preprocessing"]
    size, channels = form["image_size"], form["channels"]
    canvas = np.zeros((len(images), size, size, channels), np.uint8)
    top = (size - images.shape[1]) // 2
    canvas[:, top : top + images.shape[1], top : top + images.shape[2]] = images[..., None]
    if says["input"]["type"] == "float32":
        mean, std = (np.array(form[name], np.float32) for name in ("mean", "std"))
        canvas = (canvas.astype(np.float32) / 255 - mean) / std
    return canvas.transpose(0, 3, 1, 2) if says["input"]["layout"] == "NCHW" else canvas


def _sealed(path: pathlib.Path) -> dict:
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read("model.json"))


def onnx(path: pathlib.Path) -> Opened:
    """By onnxruntime."""
    import onnx
    import onnxruntime

    onnx.checker.check_model(str(path), full_check=True)
    session = onnxruntime.InferenceSession(str(path))
    says = json.loads(session.get_modelmeta().custom_metadata_map["rrd_jax"])
    return says, lambda images: session.run(["logits"], {"images": images})[0]


def stablehlo(path: pathlib.Path) -> Opened:
    """By a process that has jax and numpy."""

    def call(images: np.ndarray, batch: int) -> np.ndarray:
        with tempfile.TemporaryDirectory() as folder:
            sent, answer = (pathlib.Path(folder) / name for name in ("x.npy", "y.npy"))
            np.save(sent, images)
            command = [sys.executable, "-I", "-c", _XLA, path, sent, answer, batch]
            subprocess.run(list(map(str, command)), check=True)
            return np.load(answer)

    call.has_batches = True  # a process a batch would take hours
    return _sealed(path), call


def litert(path: pathlib.Path) -> Opened:
    """By LiteRT."""
    from ai_edge_litert.interpreter import Interpreter

    run = Interpreter(str(path)).get_signature_runner()
    return _sealed(path), lambda images: run(images=images)["logits"]


def openvino(path: pathlib.Path) -> Opened:
    """By OpenVINO, in float32."""
    import openvino

    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    network = openvino.compile_model(path / "openvino_model.xml", "CPU", exact)
    says = json.loads((path / "model.json").read_text("utf-8"))
    return says, lambda images: network(images)["logits"]


def _of_torch(module) -> Call:
    import torch

    module.eval()

    def call(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return module(torch.from_numpy(np.ascontiguousarray(images))).numpy()

    return call


def hub(path: pathlib.Path) -> Opened | None:
    """By timm, where it has the network; mean and std are those that timm has read."""
    says = json.loads((path / "config.json").read_text("utf-8"))
    if says["architecture"].startswith("rrd_jax:"):
        return None
    import timm

    module = timm.create_model(f"local-dir:{path}", pretrained=True)
    form, read = says["rrd_jax"]["about"]["preprocessing"], module.pretrained_cfg
    form |= {"mean": read["mean"], "std": read["std"], "image_size": read["input_size"][-1]}
    return says["rrd_jax"], _of_torch(module)


def _torchvision(says: dict, state_dict: dict) -> Opened | None:
    """By torchvision, where it has the network."""
    import torch
    import torchvision

    about = says["about"]
    name = {"mobilenetv2": "mobilenet_v2", "shufflenetv2_x1_0": "shufflenet_v2_x1_0"}
    make = getattr(torchvision.models, name.get(about["model"], about["model"]), None)
    if make is None:
        return None
    module = make(num_classes=about["num_classes"])
    for owner, key, layer in _first_convolution(module):
        if layer.in_channels != about["preprocessing"]["channels"]:
            made = torch.nn.Conv2d(
                about["preprocessing"]["channels"],
                layer.out_channels,
                layer.kernel_size,
                layer.stride,
                layer.padding,
                bias=False,
            )
            setattr(owner, key, made)
    module.load_state_dict(state_dict, strict=True)
    return says, _of_torch(module)


def _first_convolution(module) -> Iterator[tuple]:
    for name, layer in module.named_modules():
        if type(layer).__name__ == "Conv2d":
            owner, _, key = name.rpartition(".")
            yield module.get_submodule(owner), key, layer
            return


def safetensors(path: pathlib.Path) -> Opened | None:
    """By torchvision, if names are torch's."""
    import safetensors as library
    import safetensors.torch

    with library.safe_open(path, "np") as file:
        says = json.loads(file.metadata()["rrd_jax"])
        if any(name.startswith("params/") for name in file.keys()):  # noqa: SIM118
            return None
    return _torchvision(says | {"input": _NCHW}, safetensors.torch.load_file(path))


def torch(path: pathlib.Path) -> Opened | None:
    """By torchvision."""
    import torch

    says = json.loads(path.with_name(f"{path.name}.json").read_text("utf-8"))
    return _torchvision(says | {"input": _NCHW}, torch.load(path, weights_only=True))


_NCHW = {"layout": "NCHW", "type": "float32"}
# By the end of a file's name: how it is opened, what that needs, and what it may be off.
_OPEN = {
    ".onnx": (onnx, ("onnx", "onnxruntime"), _TOLERANCE),
    ".stablehlo": (stablehlo, ("jax",), _TOLERANCE),
    ".tflite": (litert, ("ai_edge_litert",), _TOLERANCE),
    "-openvino": (openvino, ("openvino",), _TOLERANCE),
    "-hub": (hub, ("torch", "timm"), _TORCH),
    ".safetensors": (safetensors, ("torch", "torchvision"), _TORCH),
    ".pth": (torch, ("torch", "torchvision"), _TORCH),
}


def judge(path: pathlib.Path, images: np.ndarray, truth: np.ndarray, names: list[str]) -> str:
    """What is to be said of a file; "" where nothing here but rrd_jax can open it."""
    end = next((end for end in _OPEN if path.name.endswith(end)), None)
    if end is None:
        return ""
    read, needs, tolerance = _OPEN[end]
    if not all(map(importlib.util.find_spec, needs)) or (opened := read(path)) is None:
        return ""
    says, call = opened
    prepared, largest = prepare(images, says), np.abs(truth).max()
    differences, other = [], 0
    for size, most in _BATCHES.items():
        logits = _in_batches(call, prepared[:most], size)
        differences.append(float(np.abs(logits - truth[:most]).max() / largest))
        other += int((logits.argmax(1) != truth[:most].argmax(1)).sum())
    is_rounded = "int8" in path.name
    faults = []
    if max(differences) > tolerance and not is_rounded:
        faults.append(f"off by more than {tolerance:.0e}")
    if other and not is_rounded:
        faults.append("another top-1")
    if says["about"]["class_names"] != names:
        faults.append("other class names")
    shown = " ".join(f"{difference:.1e}" for difference in differences)
    return f"{shown}  {other} in another class  {'WRONG: ' * bool(faults)}{', '.join(faults)}"


def _in_batches(call: Call, images: np.ndarray, size: int) -> np.ndarray:
    if getattr(call, "has_batches", False):
        return call(images, size)
    parts = [images[i : i + size] for i in range(0, len(images), size)]
    return np.concatenate([np.array(call(part)) for part in parts])


def predict(run: str, flags: list[str], images: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """The logits of the run itself, and the names of its classes."""
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder:
        for i, image in enumerate(images):
            Image.fromarray(image).save(pathlib.Path(folder) / f"{i:04}.png")
        file = pathlib.Path(folder) / "truth.npz"
        asked = [f"--workdir={run}", *flags, "--format=npz", "--logits", f"--output={file}", folder]
        subprocess.run([sys.executable, "-m", "rrd_jax.predict", *asked], check=True)
        with np.load(file) as arrays:
            return arrays["logits"], arrays["class_names"].tolist()


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", help="as --workdir of rrd_jax.export has it")
    parser.add_argument("--output", type=pathlib.Path, required=True, help="a folder for the files")
    parser.add_argument("--variants", default=",".join(_VARIANTS), help="default: all")
    parser.add_argument("flags", nargs="*", help="behind --: flags for both commands")
    asked = parser.parse_args()
    images, labels = digits()
    truth, names = predict(asked.run, asked.flags, images)
    print(f"{asked.run}: {100 * (truth.argmax(1) == labels).mean():.2f} % right", flush=True)
    wrong = False
    for variant in asked.variants.split(","):
        folder = asked.output / variant
        command = [
            "rrd_jax.export",
            f"--workdir={asked.run}",
            f"--output={folder}/",
            "--overwrite",
            *_QUICK,
        ]
        written = subprocess.run(
            [sys.executable, "-m", *command, *_VARIANTS[variant], *asked.flags],
            capture_output=True,
            text=True,
        )
        if written.returncode not in _RUNNABLE or not folder.is_dir():
            print(f"{variant}: not written\n{written.stdout}{written.stderr}")
            wrong = True
            continue
        for path in sorted(folder.iterdir()):
            if line := judge(path, images, truth, names):
                print(f"{variant:9} {path.name:35} {line}", flush=True)
                wrong = wrong or "WRONG" in line
    sys.exit(wrong)


if __name__ == "__main__":
    main()
