"""The memory of a run on each device, estimated from shapes before weights are read."""

import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rrd_jax import data, errors, networks, parallel
from rrd_jax.cpu import footprint
from rrd_jax.jobs import memory_advice, program
from rrd_jax.teacher import ensemble, fold
from rrd_jax.training.recipe import Recipe
from rrd_jax.training.state import TrainState

# The share of the values for the backward pass that XLA keeps: measured from 0.28 (ResNet-50) to
# 0.67 (ViT-L). A run is refused with the least memory, in which gradients replace values for the
# backward pass, and a mesh is recommended with the most memory.
_LEAST, _MOST = 0.25, 0.75
# Runs that need less than this share of a device's memory by a rough estimate are not examined.
_EXAMINED = 0.25
# The rough estimate: arrays per parameter, and values for the backward pass per value of the maps.
_ARRAYS, _VALUES = 6, 100
# The number of images that are traced. No layer has an axis of this size.
_TRACED = 7


class Estimate(NamedTuple):
    """The memory of a train step on each device, in bytes."""

    state: float
    teacher: float
    images: float
    activations: float

    @property
    def total(self) -> float:
        """The sum of all parts."""
        return sum(self)


class _Layout(NamedTuple):
    """A mesh without devices, and whether weights are sharded over all of its axes."""

    mesh: Any
    fully: bool

    @property
    def fields(self) -> str:
        """The config fields that select the layout."""
        if self.fully:
            return "shard_parameters=True"
        return "mesh=" + ",".join(f"{name}:{size}" for name, size in self.mesh.shape.items())


class _Shapes(NamedTuple):
    """The shapes of a run's arrays, without shardings.

    Attributes:
      state: the train state.
      teacher: the teacher's variables, as steps apply them; () without a teacher.
      images: bytes of the resident images, which are replicated.
      activations: bytes per image that the backward pass reads.
      gathered: bytes of the largest weights that are gathered at once.
    """

    state: TrainState
    teacher: Any
    images: int
    activations: float
    gathered: int


def check(
    recipe: Recipe,
    teachers: Sequence[networks.Network],
    dataset: data.Dataset,
    mesh: jax.sharding.Mesh,
) -> None:
    """Checks that a run fits into the memory of its devices.

    Args:
      recipe: recipe of the run.
      teachers: networks of the teachers, with their preprocessing and classifiers.
      dataset: the data set.
      mesh: the devices.

    Raises:
      InputError: the run does not fit; the message recommends a mesh or a number of devices.
    """
    available, training = parallel.device_bytes(mesh), recipe.training
    if _rough_bytes(recipe, teachers, dataset, mesh) < _EXAMINED * available:
        return
    shapes = _shapes(recipe, teachers, dataset, mesh)
    layout = _Layout(mesh.abstract_mesh, training.shard_parameters)
    needed = _estimate(recipe, shapes, layout, _LEAST)
    if needed.total <= available:
        return
    size = footprint.format_size
    parts = ", ".join(f"{name} {size(part)}" for name, part in needed._asdict().items() if part)
    devices = f"each of {mesh.size} devices" if mesh.size > 1 else "one device"
    raise errors.InputError(
        f"not enough device memory: a step needs at least {size(needed.total)} of"
        f" {size(available)} on {devices} ({parts});"
        f" {_remedy(recipe, shapes, mesh.size, available)}"
    )


def _rough_bytes(
    recipe: Recipe,
    teachers: Sequence[networks.Network],
    dataset: data.Dataset,
    mesh: jax.sharding.Mesh,
) -> float:
    summaries = [networks.summarize(n, dataset.image_shape) for n in (recipe.student, *teachers)]
    maps = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(summaries[0].outputs.maps))
    share = recipe.training.batch_size / recipe.training.accumulate / mesh.size
    parameters = _ARRAYS * summaries[0].parameters + sum(s.parameters for s in summaries[1:])
    return 4.0 * (parameters + _VALUES * maps * share) + _image_bytes(dataset)


def _shapes(
    recipe: Recipe,
    teachers: Sequence[networks.Network],
    dataset: data.Dataset,
    mesh: jax.sharding.Mesh,
) -> _Shapes:
    shape, teacher = dataset.image_shape, None
    if teachers:
        weights = recipe.training.teacher_weights
        several = ensemble.Ensemble(tuple(teachers), tuple(weights))
        teacher = several if len(teachers) > 1 else teachers[0]
    state = program.abstract_state(recipe, mesh, shape, teacher)
    student = networks.summarize(recipe.student, shape).variables
    folded = [
        jax.eval_shape(
            functools.partial(fold.fold, network, image_shape=shape),
            networks.summarize(network, shape).variables,
        )
        for network in teachers
    ]
    largest = [_largest(recipe.student, student["params"])]
    largest += [_largest(n, v["params"]) for n, v in zip(teachers, folded, strict=True)]
    return _Shapes(state, folded, _image_bytes(dataset), _activations(recipe, shape), max(largest))


def _largest(network: networks.Network, params: Any) -> int:
    """Returns the bytes of a network's weights that are gathered at once."""
    sizes = [leaf.size * jnp.dtype(network.dtype).itemsize for leaf in jax.tree.leaves(params)]
    return sum(sizes) if isinstance(network, networks.CustomNetwork) else max(sizes)


def _image_bytes(dataset: data.Dataset) -> int:
    """Returns the bytes of the training images on each device, if they are resident."""
    split = dataset.train
    return len(split) * math.prod(dataset.image_shape) if split.on_device else 0


def _activations(recipe: Recipe, image_shape: tuple[int, int, int]) -> float:
    """Returns the bytes per image that the student's backward pass reads, before fusion."""
    student = networks.remat(recipe.student, recipe.training.remat)
    variables = networks.summarize(recipe.student, image_shape).variables

    def backward(variables, images):
        def forward(params):
            return student.apply(
                {**variables, "params": params},
                images,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": jax.random.key(0)},
            )[0]

        return jax.vjp(forward, variables["params"])[1]

    images = jax.ShapeDtypeStruct((_TRACED, *image_shape), jnp.float32)
    residuals = jax.tree.leaves(jax.eval_shape(backward, variables, images))
    return sum(
        leaf.size * leaf.dtype.itemsize / _TRACED
        for leaf in residuals
        if leaf.shape[:1] == (_TRACED,)
    )


def _estimate(recipe: Recipe, shapes: _Shapes, layout: _Layout, share: float) -> Estimate:
    """Estimates the memory of a step with a layout.

    Args:
      recipe: recipe of the run.
      shapes: the shapes of its arrays.
      layout: the mesh.
      share: the share of the values for the backward pass that is kept.
    """
    training, (mesh, fully) = recipe.training, layout
    images = training.batch_size / training.accumulate / mesh.size
    params, activations = shapes.state.params, share * shapes.activations * images
    gradients = _bytes(params, parallel.weight_shardings(mesh, params, fully=fully))
    temporaries = max(activations, gradients) if share == _LEAST else activations + gradients
    if parallel.weight_axes(mesh, fully=fully):
        temporaries += shapes.gathered
    return Estimate(
        _bytes(shapes.state, parallel.state_shardings(mesh, shapes.state, fully=fully)),
        _bytes(shapes.teacher, parallel.weight_shardings(mesh, shapes.teacher, fully=fully)),
        shapes.images,
        temporaries,
    )


def _bytes(tree: Any, shardings: Any) -> int:
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(shardings), strict=True)
    return sum(
        math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf, sharding in pairs
    )


def _remedy(recipe: Recipe, shapes: _Shapes, devices: int, available: int) -> str:
    """Returns the layouts, or the number of devices, with which a run fits."""

    def needs(layout):
        return _estimate(recipe, shapes, layout, _MOST).total

    size, training = footprint.format_size, recipe.training
    fitting = [layout for layout in _layouts(devices) if needs(layout) <= available]
    if fitting:
        # The layouts begin with the one that communicates least.
        chosen = dict.fromkeys((fitting[0], fitting[-1]))
        sizes = " or ".join(size(needs(layout)) for layout in chosen)
        fields = " or ".join(layout.fields for layout in chosen)
        return f"set {fields}, with about {sizes} on each"
    count = devices
    while training.batch_size % ((count := 2 * count) * training.accumulate) == 0:
        layout = _Layout(_mesh(count, 1), True)
        if (needed := needs(layout)) <= available:
            return f"use {count} devices with {layout.fields}, with about {size(needed)} on each"
    advice = [*memory_advice.for_state(recipe, devices)]
    advice += memory_advice.for_activations(recipe, devices)
    listed = ", ".join(dict.fromkeys(advice))
    return f"more devices are not enough; set {listed}, or use a smaller network"


def _layouts(devices: int) -> Iterator[_Layout]:
    """Yields the layouts of a number of devices that shard weights, the least sharded first."""
    for model in range(2, devices):
        if devices % model == 0:
            yield _Layout(_mesh(devices // model, model), False)
    if devices > 1:
        yield _Layout(_mesh(devices, 1), True)


def _mesh(data_size: int, model_size: int) -> Any:
    sizes = (data_size, model_size)[: 1 + (model_size > 1)]
    return jax.sharding.AbstractMesh(sizes, parallel.AXES[: len(sizes)])
