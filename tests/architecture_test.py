"""The order of imports, and the packages that may import each library (docs/architecture.md)."""

import ast
import itertools
import pathlib

import pytest

from docs.making import drawings

_ROOT = pathlib.Path(__file__).parent.parent / "rrd_jax"
# A package may import packages on later lines only.
_ORDER = """
    main
    comparison predict runs
    library
    config jobs
    exports
    teacher
    weights
    evaluation
    run_folder
    checkpoints
    parallel
    training
    data
    objectives optim
    networks
    functional
    cpu
    settings
    imports terminal
    user_paths
    buckets hub
    deferred
    errors
"""
_LEVEL = {
    package: level
    for level, line in enumerate(_ORDER.strip().splitlines())
    for package in line.split()
}
# Packages with pure functions only: no files, no clocks, no flags, no output.
_PURE = [
    "training",
    "objectives",
    "networks",
    "optim",
    "functional",
    "settings",
    "jobs.memory_advice",
    "cpu.hlo",
    "cpu.scratch",
    "cpu.convolutions",
    "teacher.ensemble",
    "teacher.fold",
    "teacher.step_outputs",
    "teacher.wrappers",
    "data.augment",
]
_IMPURE_LIBRARIES = [
    "absl",
    "grain",
    "logging",
    "ml_collections",
    "os",
    "pathlib",
    "shutil",
    "sys",
    "tensorboardX",
    "time",
    "tqdm",
]
# Libraries, and the packages that may import them. TensorFlow is not allowed anywhere.
_LIBRARIES = {
    "ml_collections": ["config", "main", "library"],
    "orbax": ["checkpoints"],
    "torch": ["weights", "exports", "comparison"],
    "equinox": ["networks.custom"],
    "flax.linen": ["networks", "teacher.fold", "teacher.ensemble"],
    "cv2": ["data"],
    "datasets": ["data"],
    "grain": ["data"],
    "tensorflow_datasets": ["data"],
    "pyarrow": ["predict.parquet"],
    **{
        library: ["buckets"]
        for library in ("aiohttp", "botocore", "etils", "fsspec", "gcsfs", "google.auth", "s3fs")
    },
    "rich": ["terminal", "runs", "main"],
    "tensorboardX": ["run_folder.trackers.tensorboard"],
    "huggingface_hub": ["hub", "data.sources.hub_tables"],
    "wandb": ["run_folder.trackers.wandb_run"],
    "mlflow": ["run_folder.trackers.mlflow_run"],
    "trackio": ["run_folder.trackers.trackio_run"],
    **{
        library: [f"exports.{package}"]
        for library, package in {
            "onnx": "onnx",
            "onnxruntime": "onnx",
            "ai_edge_litert": "litert",
            "litert_converter": "litert",
            "litert_quantizer": "litert",
            "openvino": "openvino",
            "coremltools": "coreml",
            "stablehlo_coreml": "coreml",
        }.items()
    },
    "matplotlib": [
        "comparison",
        "predict.neighbour_figure",
        "predict.patch_figure",
        "terminal.drawing",
    ],
    "tensorflow": [],
}
_FILES = [
    path for path in sorted(_ROOT.rglob("*.py")) if path.parent != _ROOT or path.stem != "__init__"
]


def _module(path):
    """Returns the module of a file, such as teacher.cache, or "main" for a program."""
    parts = path.relative_to(_ROOT).with_suffix("").parts
    if parts[-1] == "__main__" or parts in _PROGRAMS:
        return "main"
    return ".".join(parts).removesuffix(".__init__")


_PROGRAMS = {("export",), ("convert",), ("data", "prepare")}


def _imports(path):
    """Yields all imported names of a file, such as rrd_jax.data or jax.numpy."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "deferred.Library":
            yield node.args[0].value


def _within(name, prefixes):
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def _name(path):
    return str(path.relative_to(_ROOT))


@pytest.mark.parametrize("path", _FILES, ids=_name)
def test_imports_follow_the_order_of_packages(path):
    package = _module(path).split(".")[0]
    for name in _imports(path):
        parts = name.split(".")
        assert parts[0] not in ("configs", "experiments", "tests")
        if parts[0] == "rrd_jax" and parts[1] not in (package, "__version__"):
            assert _LEVEL[package] < _LEVEL[parts[1]], f"{package} imports {name}"


@pytest.mark.parametrize("path", _FILES, ids=_name)
def test_libraries_stay_in_their_packages(path):
    module, names = _module(path), list(_imports(path))
    for library, packages in _LIBRARIES.items():
        if not _within(module, packages):
            assert not [name for name in names if _within(name, [library])], library
    if _within(module, _PURE):
        assert not [name for name in names if _within(name, _IMPURE_LIBRARIES)]


def test_every_package_is_in_the_order_and_in_the_documentation():
    packages = {_module(path).split(".")[0] for path in _FILES}
    assert packages == set(_LEVEL)
    text = (_ROOT.parent / "docs" / "architecture.md").read_text()
    assert not [package for package in packages if f"`{package}" not in text]


def test_the_figure_shows_packages_in_import_order_and_marks_pure_packages():
    bands = []
    for _, boxes in drawings.PACKAGES:
        packages = {name: kind for words, _, kind in boxes for name in words.split(", ")}
        for name, kind in packages.items():
            assert (kind == "pure") == (kind != "config" and name in _PURE), name
        bands.append(
            [_LEVEL["main" if name in ("export", "convert") else name] for name in packages]
        )
    for above, below in itertools.pairwise(bands):
        assert max(above) <= min(below)


@pytest.mark.parametrize(
    "path", sorted((_ROOT.parent / "configs").glob("*.py")), ids=lambda p: p.stem
)
def test_launch_files_import_only_rrd_jax_config(path):
    assert all(_within(name, ["rrd_jax.config"]) for name in _imports(path))
