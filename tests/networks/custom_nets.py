"""Custom networks that tests load by import path."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from rrd_jax.networks.resnet import ResNet

resnet8 = functools.partial(ResNet, blocks=(1, 1, 1), widths=(16, 16, 32, 64))


class Copied(ResNet):
    """A copy of resnet8 in the style of rrd_jax."""

    blocks: tuple[int, ...] = (1, 1, 1)
    widths: tuple[int, ...] = (16, 16, 32, 64)


class Mixer(nn.Module):
    """A network with layer norm, dropout and `deterministic`, which returns only logits."""

    num_classes: int
    width: int = 8
    rate: float = 0.2

    @nn.compact
    def __call__(self, x, deterministic=True):
        x = nn.Conv(self.width, (4, 4), (4, 4), name="stem")(x)
        x = x.reshape(len(x), -1, self.width)
        y = nn.LayerNorm()(x).swapaxes(1, 2)
        y = nn.Dense(x.shape[1], name="tokens")(y).swapaxes(1, 2)
        x = x + nn.Dropout(self.rate)(y, deterministic=deterministic)
        x = nn.LayerNorm(name="norm")(x)
        return nn.Dense(self.num_classes, name="head")(x.mean(1))


class GroupNorm(nn.Module):
    """A network with group norm, maps and a counter, but without a training argument."""

    num_classes: int

    @nn.compact
    def __call__(self, x):
        calls = self.variable("counts", "calls", lambda: jnp.int32(0))
        if self.is_mutable_collection("counts") and not self.is_initializing():
            calls.value += 1
        x = nn.relu(nn.GroupNorm(2)(nn.Conv(8, (3, 3), strides=2)(x)))
        self.sow("probes", "map", x)
        embedding = x.mean((1, 2))
        head = nn.Dense(self.num_classes)
        logits = head(embedding)
        parts = {"logits": logits, "embedding": embedding, "maps": [x]}
        return parts | {"head": dict(head.variables["params"])}


class Norm(nnx.Module):
    """An NNX network with batch norm and dropout."""

    def __init__(self, num_classes: int, width: int = 8, *, rngs: nnx.Rngs):
        self.conv = nnx.Conv(1, width, (3, 3), strides=2, rngs=rngs)
        self.norm = nnx.BatchNorm(width, rngs=rngs)
        self.drop = nnx.Dropout(0.2, rngs=rngs)
        self.blocks = nnx.List([nnx.Linear(width, width, rngs=rngs) for _ in range(2)])
        self.head = nnx.Linear(width, num_classes, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.conv(x))).mean((1, 2))
        for block in self.blocks:
            x = x + block(x)
        return self.head(self.drop(x)), x


def _init(key: jax.Array, images: jax.Array) -> Any:
    keys = jax.random.split(key)
    sizes = ((images[0].size, 8), (8, 10))
    return [jax.random.normal(k, size) / 8 for k, size in zip(keys, sizes, strict=True)]


def _apply(params: Any, images: jax.Array) -> Any:
    x = jnp.tanh(images.reshape(len(images), -1) @ params[0])
    return x @ params[1], x


functions = (_init, _apply)
function_dict = {"init": _init, "apply": _apply}


def bare(num_classes: int):
    """Builds a network without an embedding."""
    return nn.Sequential([lambda x: x.reshape(len(x), -1), nn.Dense(num_classes)])


def not_a_network(num_classes: int):
    """Returns a list, which is not a network."""
    return [num_classes]


class TooMany(nn.Module):
    """A network that ignores `num_classes` and returns 1000 logits."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(1000)(x.mean((1, 2))), x.mean((1, 2))


def gives_class(num_classes: int):
    """Returns a class, although an instance is required."""
    return Mixer


def text_init(num_classes: int):
    """Returns a pair of functions whose variables are a string."""
    return (lambda key, images: "text"), _apply


class TrainField(nn.Module):
    """A network with a field `train` without a default."""

    num_classes: int
    train: bool

    @nn.compact
    def __call__(self, x):
        x = nn.BatchNorm(use_running_average=not self.train)(x.mean((1, 2)))
        return nn.Dense(self.num_classes)(x), x


class Sowing(nnx.Module):
    """An NNX network that sows an intermediate value."""

    def __init__(self, num_classes: int, *, rngs: nnx.Rngs):
        self.head = nnx.Linear(64, num_classes, rngs=rngs)

    def __call__(self, x):
        x = x.reshape(len(x), -1)
        self.sow(nnx.Intermediate, "flat", x)
        return self.head(x), x


sowing = Sowing(10, rngs=nnx.Rngs(0))


class AddsVariable(Norm):
    """A network that creates a variable when it is called."""

    def __call__(self, x):
        self.last = nnx.Variable(x)
        return super().__call__(x)


class Parts(nn.Module):
    """A network that returns one part of its outputs in an unusual or invalid form."""

    num_classes: int
    part: str

    @nn.compact
    def __call__(self, x):
        dense = nn.Dense(self.num_classes)
        embedding = x.mean((1, 2))
        logits = dense(embedding)
        head = dict(dense.variables["params"])
        other = {
            "nothing": {"logits": None},
            "integers": {"logits": logits.astype(jnp.int32)},
            "embedding": {"embedding": (embedding, embedding)},
            "map": {"maps": x},
            "maps": {"maps": [x], "preactivations": [x[:, :1]]},
            "head": {"head": tuple(head.values())},
            "width": {"embedding": jnp.tile(embedding, 3), "head": head},
            "square": {"head": {"kernel": jnp.zeros((3, 3)), "bias": jnp.zeros(3)}},
            "cosine": {"logits": dense(embedding / jnp.linalg.norm(embedding)), "head": head},
            "none": {"maps": None, "head": None, "patches": None},
            "patches": {"patches": embedding},
            "positions": {"patches": x.argmax(-1)},
            "dependent": {"patches": x - x.mean(0, keepdims=True)},
        }
        return {"logits": logits, "embedding": embedding} | other[self.part]


def unserializable(num_classes: int, what: str = "key"):
    """Returns a pair of functions whose variables cannot be trained or saved."""

    def init(key, images):
        extra = {"key": key} if what == "key" else {}
        params = {"w": jnp.ones((64, num_classes))}
        params |= {"steps": jnp.int32(3)} if what == "steps" else {}
        params |= {"empty": jnp.zeros((0, 3))} if what == "empty" else {}
        return {"params": params, "state": {"on": jnp.bool_(True), **extra}}

    def apply(variables, images, train):
        x = images.reshape(len(images), -1)
        outputs = x @ variables["params"]["w"], x
        return (outputs, {"state": variables["state"]}) if train else outputs

    return init, apply


class Merging(nn.Module):
    """A network with `deterministic` as a field or an argument, as in the layers of Flax."""

    num_classes: int
    deterministic: bool | None = None

    @nn.compact
    def __call__(self, x, deterministic=None):
        deterministic = nn.merge_param("deterministic", self.deterministic, deterministic)
        x = nn.Dropout(0.5)(x.mean((1, 2)), deterministic=deterministic)
        return nn.Dense(self.num_classes)(x), x


class TakesRngs(nnx.Module):
    """An NNX network that receives its random numbers as an argument."""

    def __init__(self, num_classes: int, *, rngs: nnx.Rngs):
        self.drop = nnx.Dropout(0.5)
        self.head = nnx.Linear(64, num_classes, rngs=rngs)

    def __call__(self, x, *, rngs=None):
        x = self.drop(x.reshape(len(x), -1), rngs=rngs)
        return self.head(x), x


def always_returns_state(num_classes: int):
    """Returns a pair of functions that return their collections also in evaluation."""
    init, apply = unserializable(num_classes, "nothing")

    def apply_in_training(variables, images):
        return apply(variables, images, train=True)

    return init, apply_in_training


class Positions(nn.Module):
    """A network with a parameter for each position of an image."""

    num_classes: int

    @nn.compact
    def __call__(self, x):
        positions = self.param("positions", nn.initializers.normal(), x.shape[1:3])
        x = nn.Dense(4, name="embed")(x + positions[None, :, :, None]).mean((1, 2))
        return nn.Dense(self.num_classes, name="head")(x), x


class Centered(nn.Module):
    """A network whose logits depend on the other images of the batch, from a classifier of 0."""

    num_classes: int

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(4, (3, 3), strides=2)(x)).mean((1, 2))
        logits = nn.Dense(self.num_classes, kernel_init=nn.initializers.zeros)(x)
        return logits - logits.mean(0)


class Positioned(Centered):
    """A network whose logits depend on the position of an image in the batch."""

    @nn.compact
    def __call__(self, x):
        logits = nn.Dense(self.num_classes)(x.mean((1, 2)))
        return logits + jnp.arange(len(x))[:, None] * jnp.eye(1, self.num_classes)


class Random(nn.Module):
    """A network whose logits are random in evaluation, from a generator outside JAX."""

    num_classes: int

    @nn.compact
    def __call__(self, x):
        logits = nn.Dense(self.num_classes)(x.mean((1, 2)))
        draw = lambda: np.float32(np.random.default_rng().random(logits.shape))  # noqa: E731
        return logits + jax.pure_callback(draw, logits)


class NotFinite(nn.Module):
    """A network with logits, and an embedding that is not finite."""

    num_classes: int

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(4, (3, 3), strides=2)(x)).mean((1, 2))
        return nn.Dense(self.num_classes)(x), jnp.log(-1 - x)


def compare_patches(student, teacher, batch):
    """Computes a custom loss that reads patches."""
    del batch
    return jnp.square(student.patches.mean((1, 2, 3)) - teacher.patches.mean((1, 2, 3)))
