"""An optimizer and its schedule, as they are chosen."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from rrd_jax import networks, optim
from rrd_jax.settings import field, kinds, unless

_IF_MILESTONES = unless("optimizer.schedule", "milestones")


@dataclasses.dataclass(frozen=True)
class OptimizerChoice:
    """An optimizer and its schedule, as names and numbers.

    Attributes:
      learning_rate: The learning rate after the warm-up.
      milestones: When the rate falls, as fractions of the run: epochs 150, 180, 210 of 240.
      decay: Factor of the learning rate at each milestone.
      momentum: Momentum of sgd; other optimizers have theirs in optimizer.options.
      weight_decay: This times the parameters is added to their gradient, or decoupled where the
        optimizer does that (adamw, lamb, lion, muon).
      clip_norm: Above 0: gradients are shortened to this length; 0: never.
      name: sgd (as PyTorch's); adam, adamw, lamb, lion, rmsprop, muon or any other factory of optax
        and optax.contrib; or an import path MODULE:NAME of a function learning_rate, options ->
        GradientTransformation.
      options: The optimizer's own arguments, such as b1 and b2 of adamw.
      nesterov: Nesterov's momentum, of sgd.
      decay_norm_and_bias: False: scales of norms, and biases, do not decay.
      layer_decay: Below 1: blocks of the student learn more slowly the earlier they come, each at
        this times the rate of the next, as in timm.
      schedule_name: milestones, cosine, linear, constant, wsd, exponential; or an import path
        MODULE:NAME of a function learning_rate, steps, options -> (step -> rate).
      schedule_options: Of wsd: decay_epochs (None: a fifth), decay_shape (linear, cosine); of
        exponential: decay_rate (0.97), every_epochs (1), staircase.
      warmup_epochs: Epochs in which the rate grows linearly, before any schedule.
      warmup_start: Rate of the first step of the warm-up.
      final_learning_rate: The rate at the end of cosine, linear, wsd and exponential.
      transform: an optimizer made in Python, which replaces the name and its numbers: a function of
        the schedule, or a transformation that has its own rates.
    """

    learning_rate: float = field("optimizer.learning_rate", 0.05, kinds.RATE)
    milestones: tuple[float, ...] = field(
        "optimizer.milestones",
        (0.625, 0.75, 0.875),
        kinds.Numbers(kinds.Real(above=0, below=1), ascending=True, unit=", fractions of the run,"),
        unused=_IF_MILESTONES,
    )
    decay: float = field(
        "optimizer.decay",
        0.1,
        kinds.FACTOR,
        unused=(_IF_MILESTONES, unless("optimizer.milestones")),
    )
    momentum: float = field("optimizer.momentum", 0.9, kinds.PART)
    weight_decay: float = field("optimizer.weight_decay", 5e-4, kinds.Real(minimum=0, maximum=1e6))
    clip_norm: float = field("optimizer.clip_norm", 0.0, kinds.Real(minimum=0, maximum=1e6))
    name: str = field("optimizer.name", "sgd", kinds.Text())
    options: Mapping[str, Any] = field("optimizer.options", {}, kinds.Mapped())
    nesterov: bool = field("optimizer.nesterov", False, kinds.Flag())
    decay_norm_and_bias: bool = field(
        "optimizer.decay_norm_and_bias", True, kinds.Flag(), unused=unless("optimizer.weight_decay")
    )
    layer_decay: float = field("optimizer.layer_decay", 1.0, kinds.FACTOR)
    schedule_name: str = field("optimizer.schedule", "milestones", kinds.Text())
    schedule_options: Mapping[str, Any] = field("optimizer.schedule_options", {}, kinds.Mapped())
    warmup_epochs: float = field("optimizer.warmup_epochs", 0.0, kinds.Real(minimum=0))
    warmup_start: float = field("optimizer.warmup_start", 0.0, kinds.Real(minimum=0))
    final_learning_rate: float = field("optimizer.final_learning_rate", 0.0, kinds.Real(minimum=0))
    transform: Callable | optax.GradientTransformation | None = None

    def schedule(self, epochs: int, steps_per_epoch: int) -> optax.Schedule:
        """Learning rate by step; NaN where a transformation keeps it for itself."""
        if isinstance(self.transform, optax.GradientTransformation):
            return optax.constant_schedule(math.nan)
        return optim.create_schedule(
            self.schedule_name,
            learning_rate=self.learning_rate,
            epochs=epochs,
            steps_per_epoch=steps_per_epoch,
            warmup_epochs=self.warmup_epochs,
            warmup_start=self.warmup_start,
            final_learning_rate=self.final_learning_rate,
            milestones=self.milestones,
            decay=self.decay,
            options=self.schedule_options,
        )

    def first_rate(self, schedule: optax.Schedule, steps_per_epoch: int) -> float | jax.Array:
        """The rate after the warm-up, for what is trained at one rate."""
        rate = schedule(optim.warmup_length(self.warmup_epochs, steps_per_epoch))
        return rate if rate > 0 else self.learning_rate  # a user's schedule may warm up by itself

    def transformation(self, schedule: optax.Schedule) -> optax.GradientTransformation:
        """What moves the parameters, at the rates of a schedule; without layer decay."""
        if self.transform is not None:
            return optim.checked(self.transform, schedule)
        return optim.create(
            self.name,
            schedule,
            options=self.options,
            momentum=self.momentum,
            nesterov=self.nesterov,
            weight_decay=self.weight_decay,
            decay_norm_and_bias=self.decay_norm_and_bias,
            clip_norm=self.clip_norm,
        )

    def block_scales(
        self, name: str, network: networks.Network, image_shape: tuple[int, int, int]
    ) -> Any:
        """The factor of the rate of each of a network's parameters; None for no layer decay.

        Args:
          name: of the network.
          network: the network.
          image_shape: (H, W, channels).

        Raises:
          InputError: the network has no numbered blocks.
        """
        if self.layer_decay == 1:
            return None
        variables = jax.eval_shape(lambda: networks.init(network, jax.random.key(0), image_shape))
        rest = {key: value for key, value in variables.items() if key != "params"}

        def apply(params, given):
            rest, images = given
            outputs = network.apply({"params": params, **rest}, images, train=False)
            return outputs.embedding if isinstance(outputs.logits, tuple) else outputs.logits

        images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
        params = variables["params"]
        return optim.block_scales(self.layer_decay, apply, params, (rest, images), name)
