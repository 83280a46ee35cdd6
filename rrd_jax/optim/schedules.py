"""Builds learning rate schedules from names and numbers."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from rrd_jax import errors, imports


def step_schedule(
    learning_rate: float, boundaries: Sequence[int], decay: float = 0.1
) -> optax.Schedule:
    """Builds the schedule learning_rate * decay^n, where n is the number of boundaries reached.

    Args:
      learning_rate: the rate before the first boundary.
      boundaries: 0-based indices of the first steps at a lower rate, in any order.
      decay: factor at each boundary.

    Raises:
      InputError: learning_rate or decay is not above 0.
    """
    errors.check_positive(learning_rate=learning_rate, decay=decay)
    scales: dict[int, float] = {}
    for boundary in boundaries:
        # In a short run, two boundaries can fall on one step.
        scales[int(boundary)] = scales.get(int(boundary), 1.0) * decay
    return optax.piecewise_constant_schedule(learning_rate, scales)


def boundaries(
    milestones: Sequence[float], epochs: int, steps_per_epoch: int, *, half_to_even: bool = False
) -> list[int]:
    """Returns the steps at which the milestones' epochs end.

    Milestones are fractions of the run. For 240 epochs, (0.625, 0.75, 0.875) are the epochs 150,
    180 and 210 of the literature: epochs 151, 181 and 211, counted from 1, are the first at a lower
    rate. A milestone halfway between two ends of epochs is the second one, or with `half_to_even`
    the even one.

    Raises:
      InputError: a milestone is not in (0, 1].
    """
    for milestone in milestones:
        if not (isinstance(milestone, int | float) and 0 < milestone <= 1):
            raise errors.InputError(
                f"optimizer.milestones has {milestone!r}, but must hold fractions of the run,"
                " each in (0, 1]"
            )
    ends = [milestone * epochs for milestone in milestones]
    ends = map(round, ends) if half_to_even else (math.floor(end + 0.5) for end in ends)
    return [end * steps_per_epoch for end in ends]


def _milestones(
    learning_rate, milestones, decay, epochs, steps_per_epoch, warmup_steps, half_to_even
):
    errors.check_positive(**{"optimizer.decay": decay})
    ends = boundaries(milestones, epochs, steps_per_epoch, half_to_even=half_to_even)
    schedule = step_schedule(learning_rate, ends, decay)
    # Milestones are fractions of the whole run, including its warm-up.
    return (lambda step: schedule(step + warmup_steps)) if warmup_steps else schedule


def _cosine(learning_rate, final_learning_rate, steps):
    return optax.cosine_decay_schedule(learning_rate, steps, final_learning_rate / learning_rate)


def _linear(learning_rate, final_learning_rate, steps):
    return optax.linear_schedule(learning_rate, final_learning_rate, steps)


def _constant(learning_rate):
    return optax.constant_schedule(learning_rate)


def _wsd(
    learning_rate,
    final_learning_rate,
    steps,
    steps_per_epoch,
    epochs,
    decay_epochs: float | None = None,
    decay_shape: str = "linear",
):
    """Builds warmup-stable-decay: the last epochs, by default a fifth, decay to the final rate."""
    length = epochs / 5 if decay_epochs is None else decay_epochs
    if not 0 < length <= epochs:
        raise errors.InputError(
            f"optimizer.schedule_options.decay_epochs is {length}, but must be above 0 and at most"
            f" the {epochs} epochs of the training"
        )
    shapes = {"linear": _linear, "cosine": _cosine}
    shape = errors.lookup("optimizer.schedule_options.decay_shape", decay_shape, shapes)
    decay_steps = min(max(1, round(length * steps_per_epoch)), steps)
    decay = shape(learning_rate, final_learning_rate, decay_steps)
    constant = optax.constant_schedule(learning_rate)
    return optax.join_schedules([constant, decay], [steps - decay_steps])


def _exponential(
    learning_rate,
    final_learning_rate,
    steps_per_epoch,
    decay_rate: float = 0.97,
    every_epochs: float = 1.0,
    staircase: bool = False,
):
    """Builds a decay by decay_rate every `every_epochs` epochs, bounded by the final rate."""
    # Outside this range, the rate leaves float32's range within a few steps.
    for name, value in (("decay_rate", decay_rate), ("every_epochs", every_epochs)):
        if not 1e-6 <= value <= 1e6:
            raise errors.InputError(f"{_PREFIX}{name} is {value:g}, but must be from 1e-6 to 1e6")
    every = max(1, round(every_epochs * steps_per_epoch))
    schedule = optax.exponential_decay(learning_rate, every, decay_rate, staircase=staircase)
    # Optax's end_value is a lower bound only for a decay_rate below 1.
    return lambda step: jnp.maximum(schedule(step), final_learning_rate)


_SCHEDULES: dict[str, Callable[..., optax.Schedule]] = {
    "milestones": _milestones,
    "cosine": _cosine,
    "linear": _linear,
    "constant": _constant,
    "wsd": _wsd,
    "exponential": _exponential,
}
_PREFIX = "optimizer.schedule_options."
# The maximum of the config field optimizer.learning_rate.
_HIGHEST_RATE = 1e6
# Number of steps at which a custom schedule is checked.
_SAMPLES = 9


def create_schedule(
    name: str,
    *,
    learning_rate: float,
    epochs: int,
    steps_per_epoch: int,
    warmup_epochs: float = 0.0,
    warmup_start: float = 0.0,
    final_learning_rate: float = 0.0,
    milestones: Sequence[float] = (),
    decay: float = 0.1,
    half_to_even: bool = False,
    options: Mapping[str, Any] | None = None,
) -> optax.Schedule:
    """Builds a linear warm-up followed by a schedule by name.

    Args:
      name: milestones, cosine, linear, constant, wsd, exponential, or the import path of a
        schedule, step -> rate, or of a factory that returns a schedule. A factory is called with
        the options, and with any of learning_rate, final_learning_rate, steps, steps_per_epoch,
        epochs and warmup_steps in its signature. Step 0 is the first step after the warm-up, and
        `steps` does not include the warm-up.
      learning_rate: the rate after the warm-up.
      epochs: length of the run, including the warm-up.
      steps_per_epoch: updates per epoch.
      warmup_epochs: length of the warm-up.
      warmup_start: the rate at the first step of the warm-up.
      final_learning_rate: the last rate of cosine, linear, wsd and exponential.
      milestones: milestones of the schedule 'milestones', see `boundaries`.
      decay: factor of the rate at each milestone.
      half_to_even: see `boundaries`.
      options: other arguments of the schedule.

    Raises:
      InputError: a number is out of range, or a name or an option is unknown.
    """
    _check(learning_rate, epochs, warmup_epochs, warmup_start, final_learning_rate)
    warmup_steps = warmup_length(warmup_epochs, steps_per_epoch)
    arguments = {
        "learning_rate": learning_rate,
        "final_learning_rate": final_learning_rate,
        "steps": max(1, epochs * steps_per_epoch - warmup_steps),
        "steps_per_epoch": steps_per_epoch,
        "epochs": epochs,
        "warmup_steps": warmup_steps,
    }
    if imports.is_path(name):
        subject, factory = f"schedule '{name}'", imports.load("schedule", name)
        schedule = _custom(subject, factory, options or {}, arguments)
        _check_rates(subject, schedule, arguments["steps"])
    else:
        factory = errors.lookup("optimizer.schedule", name, _SCHEDULES)
        if name == "milestones":
            arguments |= {
                "milestones": milestones,
                "decay": decay,
                "half_to_even": half_to_even,
            }
        subject = f"schedule '{name}'"
        schedule = imports.call(subject, factory, options or {}, arguments, prefix=_PREFIX)
        # Without options, all rates are between the first and the last one.
        if options:
            _check_rates(subject, schedule, arguments["steps"])
    _check_final(name, factory, learning_rate, final_learning_rate)
    if not warmup_steps:
        return schedule
    warmup = optax.linear_schedule(warmup_start, learning_rate, warmup_steps)
    return optax.join_schedules([warmup, schedule], [warmup_steps])


def _check_final(name: str, factory: Callable, first: float, final: float) -> None:
    """Raises an InputError for a final rate that is unused or above the first rate."""
    if final and "final_learning_rate" not in imports.parameters(factory):
        raise errors.InputError(
            f"optimizer.final_learning_rate is {final}, but schedule '{name}' does not use it; set"
            " it to 0"
        )
    if final > first:
        raise errors.InputError(
            f"optimizer.final_learning_rate is {final:g}, but must be at most"
            f" optimizer.learning_rate, {first:g}"
        )


def warmup_length(warmup_epochs: float, steps_per_epoch: int) -> int:
    """Returns the number of warm-up steps."""
    return round(warmup_epochs * steps_per_epoch)


def _check(learning_rate, epochs, warmup_epochs, warmup_start, final_learning_rate):
    errors.check_positive(**{"optimizer.learning_rate": learning_rate})
    numbers = {
        "warmup_epochs": warmup_epochs,
        "warmup_start": warmup_start,
        "final_learning_rate": final_learning_rate,
    }
    for name, value in numbers.items():
        if not 0 <= value < math.inf:
            raise errors.InputError(f"optimizer.{name} is {value}, but must be at least 0")
    if warmup_start > (learning_rate if warmup_epochs else 0):
        limit = f"but must be at most optimizer.learning_rate, {learning_rate:g}"
        raise errors.InputError(
            f"optimizer.warmup_start is {warmup_start:g}, "
            + (limit if warmup_epochs else "but optimizer.warmup_epochs is 0; set a warm-up")
        )
    if warmup_epochs > epochs:
        raise errors.InputError(
            f"optimizer.warmup_epochs is {warmup_epochs:g}, but must be at most the {epochs} epochs"
            " of the training"
        )


def _custom(
    subject: str, function: Callable, options: Mapping[str, Any], arguments: dict[str, Any]
):
    """Returns a custom schedule: the function itself, or the schedule that it returns."""
    if not callable(function):
        raise errors.InputError(
            f"{subject} is not a function; name a function step -> rate, or a factory of one"
        )
    schedule = function
    if not {"step", "count"} & imports.parameters(function).keys():
        schedule = imports.call(subject, function, options, arguments, prefix=_PREFIX)
    elif options:
        raise errors.InputError(
            f"{subject} is a function of the step, which takes no options; remove"
            f" {_PREFIX}{next(iter(options))}"
        )
    if not callable(schedule):
        raise errors.InputError(
            f"{subject} returns {type(schedule).__name__}, but must return a function step -> rate"
        )
    return schedule


def _check_rates(subject: str, schedule: Callable, steps: int) -> None:
    """Raises an InputError for a schedule with an invalid rate at one of the sampled steps."""
    samples = sorted({round(i * (steps - 1) / (_SAMPLES - 1)) for i in range(_SAMPLES)})
    # The train step calls the schedule with a tracer, the console calls it with a number.
    with errors.user_code("calling", subject):
        rate = jax.eval_shape(schedule, jax.ShapeDtypeStruct((), jnp.int32))
        is_real = rate.shape == () and not jnp.issubdtype(rate.dtype, jnp.complexfloating)
        rates = {step: float(schedule(step)) for step in samples} if is_real else {}
    if not is_real:
        raise errors.InputError(
            f"{subject} returns {rate.dtype} of shape {rate.shape}, but must return a real number"
        )
    for step, value in rates.items():
        if not 0 <= value <= _HIGHEST_RATE:
            raise errors.InputError(
                f"{subject} returns {value} for step {step}, but must return a rate from 0 to"
                f" {_HIGHEST_RATE:g}"
            )
    if len(rates) > 1 and not any(rates.values()):
        raise errors.InputError(
            f"{subject} returns 0 for every step, but must return a rate above 0"
        )
