"""Custom Equinox networks that tests load by import path."""

import equinox as eqx
import jax
import jax.numpy as jnp


class Stateful(eqx.Module):
    """A network with stateful batch norm and dropout."""

    conv: eqx.nn.Conv2d
    norm: eqx.nn.BatchNorm
    drop: eqx.nn.Dropout
    head: eqx.nn.Linear

    def __init__(self, num_classes: int, width: int = 8, *, key: jax.Array):
        keys = jax.random.split(key)
        self.conv = eqx.nn.Conv2d(1, width, 3, stride=2, padding=1, key=keys[0])
        self.norm = eqx.nn.BatchNorm(width, axis_name="images", mode="batch")
        self.drop = eqx.nn.Dropout(0.2)
        self.head = eqx.nn.Linear(width, num_classes, key=keys[1])

    def __call__(self, x, state, *, key=None):
        x, state = self.norm(self.conv(x), state)
        x = jax.nn.relu(x)
        embedding = self.drop(x.mean((1, 2)), key=key)
        parts = {"logits": self.head(embedding), "embedding": embedding, "maps": (x,)}
        return parts, state


class Plain(eqx.Module):
    """A network without state that takes batches with the channels last."""

    head: eqx.nn.Linear
    batched = True
    channels_first = False

    def __init__(self, num_classes: int, *, key: jax.Array):
        self.head = eqx.nn.Linear(1, num_classes, key=key)

    def __call__(self, images):
        x = images.mean((1, 2))
        return jax.vmap(self.head)(x), jnp.tile(x, 4)


class Averaged(Stateful):
    """A network with a batch norm whose state has a flag."""

    def __init__(self, num_classes: int, width: int = 8, *, key: jax.Array):
        super().__init__(num_classes, width, key=key)
        self.norm = eqx.nn.BatchNorm(width, axis_name="images", mode="ema")


instance = Plain(10, key=jax.random.key(0))


def sequential(num_classes: int, *, key: jax.Array):
    """Builds a network without the attributes `batched` and `channels_first`."""
    mean = eqx.nn.Lambda(lambda image: image.mean((0, 1)))
    return eqx.nn.Sequential([mean, eqx.nn.Linear(1, num_classes, key=key)])


class Keywords(Plain):
    """A network without state that takes arbitrary keyword arguments."""

    def __call__(self, images, **options):
        del options
        return super().__call__(images)
