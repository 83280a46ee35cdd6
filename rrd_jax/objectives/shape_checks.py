"""Checks of an objective on shapes, before arrays are computed."""

import functools
from collections.abc import Callable
from typing import Any, NoReturn

import jax
import jax.numpy as jnp

from rrd_jax import errors
from rrd_jax.objectives.base import Objective, ObjectiveState
from rrd_jax.objectives.batch import Batch, SecondView


def check(name: str, objective: Objective, student: Any, teacher: Any, batch: Batch) -> Any:
    """Traces all functions of an objective on shapes, without computing arrays.

    Args:
      name: name of the objective.
      objective: the objective of the run, `averaged` for several teachers.
      student: the student's Outputs as shapes, of any batch size.
      teacher: the teacher's Outputs or EnsembleOutputs as shapes; None without a teacher.
      batch: shapes or arrays of the batch that `loss` receives, a microbatch if gradients are
        accumulated; its label is None in a run without labels.

    Returns:
      The objective's state, as shapes.

    Raises:
      UserCodeError: a function raises an exception.
      InputError: a function returns a value that `Objective` does not allow, changes the shape of
        the memory, or reads a part that a network does not return.
    """
    size = len(batch.index)

    def init(key, head):
        classified = teacher if teacher is None else teacher._replace(head=head)
        return objective.init(key, *_guarded(name, sized(student, 1), sized(classified, 1)))

    head = teacher.head if teacher is not None else ()
    state = _traced(name, "init", init, jax.random.key(0), head)
    _check_state(name, state)
    student, teacher = sized(student, size), sized(teacher, size)
    losses = {"loss": objective.loss}
    if objective.stage:
        losses["stage.loss"] = objective.stage.loss
    for function_name, loss in losses.items():
        # A stage's loss may read all outputs: `needs_teacher` and `needs_maps` restrict `loss`.
        declared = objective if function_name == "loss" else None

        def traced(state, student, teacher, batch, loss=loss, declared=declared):
            outputs = _guarded(name, student, teacher, declared)
            return loss(state, *outputs, with_second(objective, *outputs, batch))

        result = _traced(name, function_name, traced, state, student, teacher, batch)
        _check_loss(f"{function_name} of objective '{name}'", result, state, size)
    if objective.predict:
        _check_predict(name, objective, state, student)
    if objective.taps:
        with errors.user_code("calling taps of", f"objective '{name}'"):
            objective.taps(*_guarded(name, student, teacher))
    return state


def reads(
    field: str,
    name: str,
    objective: Objective,
    state: ObjectiveState,
    student: Any,
    teacher: Any,
    batch: Batch,
) -> bool:
    """Returns True if the loss of an objective, or of its stage, reads a field of the batch.

    Args:
      field: field of the batch, such as "label" or "index".
      name: name of the objective.
      objective: the objective of the run, as in `check`.
      state: the objective's state, as shapes.
      student: the student's Outputs as shapes, of any batch size.
      teacher: the teacher's Outputs as shapes, of any batch size.
      batch: shapes of a batch that has the field.
    """
    student, teacher = sized(student, len(batch.index)), sized(teacher, len(batch.index))

    def loss_of(loss, value, state, student, teacher, rest):
        batch = with_second(objective, student, teacher, rest._replace(**{field: value}))
        return loss(state, student, teacher, batch)

    rest = batch._replace(**{field: None})
    return _uses(name, objective, loss_of, getattr(batch, field), state, student, teacher, rest)


def reads_logits(
    name: str, objective: Objective, state: ObjectiveState, student: Any, teacher: Any, batch: Batch
) -> bool:
    """Returns True if the loss of an objective, or of its stage, reads the student's logits.

    The arguments are those of `reads`.
    """
    student, teacher = sized(student, len(batch.index)), sized(teacher, len(batch.index))

    def loss_of(loss, logits, state, student, teacher, batch):
        student = student._replace(logits=logits)
        return loss(state, student, teacher, with_second(objective, student, teacher, batch))

    return _uses(name, objective, loss_of, student.logits, state, student, teacher, batch)


def _uses(name: str, objective: Objective, function: Callable, value: Any, *rest: Any) -> bool:
    """Returns True if function(loss, value, *rest) reads `value` for any loss of the objective."""
    for loss in [objective.loss, *([objective.stage.loss] if objective.stage else [])]:
        with errors.user_code("calling loss of", f"objective '{name}'"):
            program = jax.make_jaxpr(functools.partial(function, loss))(value, *rest).jaxpr
        if any(program.invars[0] is v for e in program.eqns for v in e.invars):
            return True
    return False


def _traced(name: str, function_name: str, function: Callable, *arguments: Any) -> Any:
    """Traces a function of an objective and returns its result as shapes."""
    with errors.user_code(f"calling {function_name} of", f"objective '{name}'"):
        return jax.eval_shape(function, *arguments)


def with_second(objective: Objective, student: Any, teacher: Any, batch: Batch) -> Batch:
    """Returns the batch with the same outputs for a second view, if the objective reads it."""
    return batch._replace(second=SecondView(student, teacher)) if objective.needs_second else batch


def sized(outputs: Any, batch: int) -> Any:
    """Returns the Outputs as shapes for another batch size, with the classifier unchanged."""
    if outputs is None:
        return None
    resized = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((batch, *leaf.shape[1:]), leaf.dtype),
        outputs._replace(head=()),
    )
    return resized._replace(head=outputs.head)


def _check_state(name: str, state: Any) -> None:
    """Raises an InputError for a state that a checkpoint or the optimizer cannot hold."""
    if not isinstance(state, ObjectiveState):
        raise errors.InputError(
            f"init of objective '{name}' returns a {type(state).__name__}, but must return an"
            " ObjectiveState(params, frozen, memory)"
        )
    for path, leaf in jax.tree.leaves_with_path(state):
        part = jax.tree_util.keystr(path)[1:]
        if jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
            raise errors.InputError(
                f"init of objective '{name}' returns a PRNG key in {part}, but a checkpoint cannot"
                " store keys; store jax.random.key_data(key) instead"
            )
        if not leaf.size or jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            raise errors.InputError(
                f"init of objective '{name}' returns {_description(leaf)} in {part}, but a"
                " checkpoint stores only real numbers, and no arrays without elements"
            )
        if part.startswith("params") and not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise errors.InputError(
                f"objective '{name}' trains {part} of type {leaf.dtype}, which has no gradient;"
                " move it to frozen or memory"
            )


def _check_loss(function: str, result: Any, state: ObjectiveState, size: int) -> None:
    """Raises an InputError for a result that is not a pair of losses and memory."""
    if not isinstance(result, tuple) or len(result) != 2:
        raise errors.InputError(
            f"{function} returns {_description(result)}, but must return (loss [B], new memory);"
            " return state.memory if there is no memory"
        )
    losses, memory = result
    shape = getattr(losses, "shape", None)
    if shape not in ((), (size,)) or not jnp.issubdtype(losses.dtype, jnp.floating):
        raise errors.InputError(
            f"{function} returns {_description(losses)} for a batch of {size} images, but must"
            f" return float [{size}], a loss per image, or float []"
        )
    before, after = _forms(state.memory), _forms(memory)
    for part in {**before, **after}:
        if before.get(part) != after.get(part):
            raise errors.InputError(
                f"{function} changes the structure of its memory: memory{part} is"
                f" {before.get(part, 'absent')} in init, then {after.get(part, 'absent')}; return"
                " the same shapes and types as init"
            )
    structures = jax.tree.structure(state.memory), jax.tree.structure(memory)
    if structures[0] != structures[1]:
        raise errors.InputError(
            f"{function} changes the structure of its memory: {structures[0]} in init, then"
            f" {structures[1]}; return the same structure as init"
        )


def _check_predict(name: str, objective: Objective, state: ObjectiveState, student: Any) -> None:
    """Raises an InputError for a `predict` that does not return logits."""

    def predict(state, student):
        return objective.predict(state, _guarded(name, student, None)[0])

    result = _traced(name, "predict", predict, state, student)
    if getattr(result, "shape", None) != student.logits.shape:
        raise errors.InputError(
            f"predict of objective '{name}' returns {_description(result)}, but must return logits"
            f" {_description(student.logits)}"
        )


def _forms(tree: Any) -> dict[str, str]:
    """Returns type and shape of each leaf, by path."""
    leaves = jax.tree.leaves_with_path(tree)
    return {jax.tree_util.keystr(path): _description(leaf) for path, leaf in leaves}


def _description(result: Any) -> str:
    """Returns text such as "float32[8,3]" for an array, the type's name for any other object."""
    if isinstance(result, jax.ShapeDtypeStruct):
        return f"{result.dtype}[{','.join(map(str, result.shape))}]"
    return f"a {type(result).__name__}"


def _guarded(
    name: str, student: Any, teacher: Any, objective: Objective | None = None
) -> tuple[Any, Any]:
    """Returns the networks' Outputs with parts that raise an InputError if missing and read.

    With `objective`, the parts of the teacher that `needs_teacher` and `needs_maps` exclude are
    missing too.
    """
    excluded = {}
    if teacher is not None and objective and not objective.needs_teacher:
        reason = "but declares needs_teacher=False; declare needs_teacher=True"
        excluded = dict.fromkeys(teacher._fields, reason)
    elif teacher is not None and objective and not objective.needs_maps:
        reason = "but declares {0}=False, for a cached teacher; declare {0}=True"
        excluded = dict.fromkeys(("maps", "preactivations"), reason.format("needs_maps"))
        if not objective.needs_patches:
            excluded["patches"] = reason.format("needs_patches")
    return (
        _guarded_outputs(name, "student", student, {}),
        _guarded_outputs(name, "teacher", teacher, excluded),
    )


def _guarded_outputs(name: str, network: str, outputs: Any, excluded: dict[str, str]) -> Any:
    """Returns the Outputs with a `_Missing` for each empty or excluded part."""
    if outputs is None:
        return None
    parts = {}
    for part, value in outputs._asdict().items():
        if part in excluded:
            reason = f"objective '{name}' reads {network}.{part}, {excluded[part]}"
            parts[part] = _Missing(errors.InputError(reason))
        elif part == "members":
            parts[part] = tuple(
                _guarded_outputs(name, network, member, excluded) for member in value
            )
        elif value is None or (isinstance(value, tuple | dict) and not value):
            parts[part] = _Missing(_missing_part(name, network, part))
    return outputs._replace(**parts)


def _missing_part(name: str, network: str, part: str) -> errors.InputError:
    """Returns the error of an objective that reads a part that a network does not return."""
    remedy = f"return {part} in its Outputs"
    if part == "head":
        remedy = "return head in the Outputs of a single teacher; several teachers share no head"
    elif part == "embedding":
        remedy = (
            "return a pair (logits, embedding), or, for a Linen module, name the submodule that"
            f" computes it with --config.{network}.options.embedding_of=NAME, in Python"
            " networks.from_linen(module, embedding_of=NAME)"
        )
    elif part == "patches":
        remedy = (
            "return patches [B, h, w, D] in its Outputs, or, for a Linen module, name the submodule"
            f" that computes them with --config.{network}.options.patches_of=NAME, in Python"
            " networks.from_linen(module, patches_of=NAME)"
        )
    return errors.InputError(
        f"objective '{name}' reads {network}.{part}, but the {network}'s network returns none;"
        f" {remedy}, or choose another objective"
    )


@jax.tree_util.register_pytree_node_class
class _Missing:
    """A missing part of Outputs: false, equal to (), and raising its error on any other use."""

    def __init__(self, error: errors.InputError):
        self._error = error

    def tree_flatten(self) -> tuple[tuple[()], "_Missing"]:
        """Returns the leaves of an empty tuple, and the object itself as structure."""
        return (), self

    @classmethod
    def tree_unflatten(cls, part: "_Missing", leaves: Any) -> "_Missing":
        """Returns the same object."""
        return part

    def __bool__(self) -> bool:
        return False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Missing) or other == ()

    def __hash__(self) -> int:
        return hash(())

    def __getattr__(self, name: str) -> NoReturn:
        raise self._error


def _raise_missing(self: _Missing, *arguments: Any) -> NoReturn:
    raise self._error


# Python looks operators up on the class, not through __getattr__ of the instance.
for _operator in (
    *("len", "iter", "getitem", "contains", "array", "neg", "abs"),
    *(f"{side}{name}" for side in ("", "r") for name in ("add", "sub", "mul", "matmul")),
    *(f"{side}{name}" for side in ("", "r") for name in ("truediv", "floordiv", "pow", "mod")),
):
    setattr(_Missing, f"__{_operator}__", _raise_missing)
