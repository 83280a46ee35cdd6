"""Choices of an optimizer and its schedule."""

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
RULES = ("timm", "0.2.0")


@dataclasses.dataclass(frozen=True)
class OptimizerChoice:
    """An optimizer and its schedule, as names and numbers.

    Attributes:
      learning_rate: Learning rate after the warm-up.
      milestones: Times at which the learning rate is decayed, as fractions of the run; by default
        epochs 150, 180 and 210 of 240.
      decay: Factor of the learning rate at each milestone.
      momentum: Momentum of sgd. Set that of other optimizers in optimizer.options.
      weight_decay: Factor by which parameters are added to their gradient; decoupled for
        optimizers with decoupled weight decay (adamw, lamb, lion, muon).
      clip_norm: Maximum global norm of the gradients; 0 for no clipping.
      name: sgd (as in PyTorch); adam, adamw, lamb, lion, rmsprop, muon or any other factory of
        optax and optax.contrib; or an import path MODULE:NAME of a function learning_rate, options
        -> GradientTransformation.
      options: Further arguments of the optimizer, such as b1 and b2 of adamw.
      nesterov: Uses Nesterov momentum; for sgd.
      decay_norm_and_bias: Applies weight decay to biases and to the scales of norms, too.
      layer_decay: Layer-wise learning rate decay, as in timm: the learning rate of each block is
        this factor times that of the next block. 1 for none.
      rules: How decays apply. timm: layer decay groups the parameters of DeiT, SigLIP, RegNetY,
        RepVGG, ConvMixer and MobileNets as timm does, decay_norm_and_bias=False also excludes class
        tokens, register tokens, position embeddings and biases of relative positions, and
        milestones are rounded half up to epochs. 0.2.0: as in version 0.2.0, whose workdirs keep
        these rules. auto: timm.
      schedule_name: milestones, cosine, linear, constant, wsd, exponential; or an import path
        MODULE:NAME of a function learning_rate, steps, options -> (step -> rate).
      schedule_options: Options of the schedule. wsd: decay_epochs (None: a fifth of the epochs),
        decay_shape (linear, cosine); exponential: decay_rate (0.97), every_epochs (1), staircase.
      warmup_epochs: Number of epochs over which the learning rate grows linearly, before any
        schedule.
      warmup_start: Learning rate of the first step of the warm-up.
      final_learning_rate: Learning rate at the end of cosine, linear, wsd and exponential.
      transform: an optimizer object, which replaces the name and its numbers: a function of the
        schedule, or a transformation with its own learning rates.
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
    rules: str = field(
        "optimizer.rules",
        kinds.AUTO,
        kinds.Auto(kinds.Choice(RULES)),
        legacy="0.2.0",
        choose=lambda values: "timm",
    )
    schedule_name: str = field("optimizer.schedule", "milestones", kinds.Text())
    schedule_options: Mapping[str, Any] = field("optimizer.schedule_options", {}, kinds.Mapped())
    warmup_epochs: float = field("optimizer.warmup_epochs", 0.0, kinds.Real(minimum=0))
    warmup_start: float = field("optimizer.warmup_start", 0.0, kinds.Real(minimum=0))
    final_learning_rate: float = field("optimizer.final_learning_rate", 0.0, kinds.Real(minimum=0))
    transform: Callable | optax.GradientTransformation | None = None

    def schedule(self, epochs: int, steps_per_epoch: int) -> optax.Schedule:
        """Returns the learning rate by step; NaN for a transformation with its own rates."""
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
            half_to_even=self._is_old,
            options=self.schedule_options,
        )

    def first_rate(self, schedule: optax.Schedule, steps_per_epoch: int) -> float | jax.Array:
        """Returns the learning rate after the warm-up, for stages with a constant rate."""
        rate = schedule(optim.warmup_length(self.warmup_epochs, steps_per_epoch))
        # A custom schedule may start at 0, with a warm-up of its own.
        return rate if rate > 0 else self.learning_rate

    def transformation(self, schedule: optax.Schedule) -> optax.GradientTransformation:
        """Creates the optimizer with the rates of a schedule, without layer decay."""
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
            decay_tokens=self._is_old,
            clip_norm=self.clip_norm,
        )

    def keeps_average(self) -> bool:
        """Returns True for a schedule-free optimizer; see `optim.averages`."""
        optimizer = self.transformation(optax.constant_schedule(self.learning_rate))
        params = {"kernel": jax.ShapeDtypeStruct((2, 3), jnp.float32)}
        return bool(optim.schedule_free(jax.eval_shape(optimizer.init, params)))

    @property
    def _is_old(self) -> bool:
        return self.rules == "0.2.0"

    def block_scales(
        self, name: str, network: networks.Network, image_shape: tuple[int, int, int]
    ) -> Any:
        """Returns the learning rate factor of each parameter; None for no layer decay.

        Args:
          name: name of the network.
          network: the network.
          image_shape: (H, W, channels).

        Raises:
          InputError: the network has no numbered blocks.
        """
        if self.layer_decay == 1:
            return None
        variables = jax.eval_shape(lambda: networks.init(network, jax.random.key(0), image_shape))
        rest = {key: value for key, value in variables.items() if key != "params"}

        def apply(params, inputs):
            rest, images = inputs
            outputs = network.apply({"params": params, **rest}, images, train=False)
            return outputs.embedding if isinstance(outputs.logits, tuple) else outputs.logits

        images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
        params = variables["params"]
        inputs = (rest, images)
        if self._is_old:
            return optim.block_scales(self.layer_decay, apply, params, inputs, name)
        pattern, head = networks.decay_groups(network)
        return optim.block_scales(
            self.layer_decay, apply, params, inputs, name, pattern=pattern, head=head
        )
