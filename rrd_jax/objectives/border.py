"""What an objective returns and reads, checked on shapes before anything costly."""

import functools
from collections.abc import Callable
from typing import Any, NoReturn

import jax
import jax.numpy as jnp

from rrd_jax import errors, imports
from rrd_jax.objectives.base import Objective, ObjectiveState
from rrd_jax.objectives.batch import Batch
from rrd_jax.objectives.parts.missing import missing


def check(name: str, objective: Objective, student: Any, teacher: Any, batch: Batch) -> Any:
    """Runs all functions of an objective on shapes; no array is computed.

    Args:
      name: the objective's.
      objective: as a run has it, so `averaged` where there are several teachers.
      student: the network's Outputs as shapes, of any batch.
      teacher: likewise, or an EnsembleOutputs; None where there is no teacher.
      batch: shapes or arrays of what `loss` sees at once, so of a part where batches are
        accumulated; its label is None where a run has none.

    Returns:
      The objective's state, as shapes.

    Raises:
      InputError: a function raises, returns something else than `Objective` says, rewrites the
        memory in another shape, or reads a part that a network does not return.
    """
    head = teacher.head if teacher is not None else ()
    one, size = 1, len(batch.index)

    def init(key, head):
        heading = teacher if teacher is None else teacher._replace(head=head)
        return objective.init(key, *_shown(name, _sized(student, one), _sized(heading, one)))

    state = _traced(name, "init", init, jax.random.key(0), head)
    _check_state(name, state)
    outputs = _sized(student, size), _sized(teacher, size)
    _check_loss(name, "loss", objective.loss, state, outputs, batch, objective)
    if objective.stage:
        _check_loss(name, "stage.loss", objective.stage.loss, state, outputs, batch)
    if objective.predict:
        _check_predict(name, objective, state, outputs[0])
    if objective.taps:
        _check_taps(name, _guarded(name, "taps", objective.taps, *_shown(name, *outputs)))
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
    """Whether the loss of an objective, or of its stage, reads a field of the batch.

    Args:
      field: such as "label" or "index".
      name: the objective's.
      objective: as `check` has it.
      state: its state, as shapes.
      student: the network's Outputs as shapes, of any batch.
      teacher: likewise.
      batch: shapes, with that field.
    """
    outputs = [_sized(given, len(batch.index)) for given in (student, teacher)]

    def of_field(loss, value, state, outputs, rest):
        return loss(state, *outputs, rest._replace(**{field: value}))

    rest = batch._replace(**{field: None})
    return _uses(name, objective, of_field, getattr(batch, field), state, outputs, rest)


def reads_logits(
    name: str, objective: Objective, state: ObjectiveState, student: Any, teacher: Any, batch: Batch
) -> bool:
    """Whether the loss of an objective, or of its stage, reads the student's logits.

    Args:
      name: the objective's.
      objective: as `check` has it.
      state: its state, as shapes.
      student: the network's Outputs as shapes, of any batch.
      teacher: likewise.
      batch: shapes.
    """
    student, teacher = (_sized(given, len(batch.index)) for given in (student, teacher))

    def of_logits(loss, logits, state, student, teacher, batch):
        return loss(state, student._replace(logits=logits), teacher, batch)

    return _uses(name, objective, of_logits, student.logits, state, student, teacher, batch)


def _uses(name: str, objective: Objective, function: Callable, value: Any, *rest: Any) -> bool:
    """Whether function(loss, value, *rest) computes with the value, for a loss of an objective."""
    for loss in [objective.loss, *([objective.stage.loss] if objective.stage else [])]:
        of_loss = functools.partial(function, loss)
        program = _guarded(name, "loss", jax.make_jaxpr(of_loss), value, *rest).jaxpr
        if any(program.invars[0] is v for e in program.eqns for v in e.invars):
            return True
    return False


def _traced(name: str, function_name: str, function: Callable, *arguments: Any) -> Any:
    """What a function of an objective returns, as shapes."""
    return _guarded(name, function_name, jax.eval_shape, function, *arguments)


def _guarded(name: str, function_name: str, function: Callable, *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except imports.ERRORS as error:
        what = f"objective '{name}'"
        if isinstance(error, errors.InputError) and what not in str(error):
            raise errors.InputError(f"{what}: {error}") from error
        raise imports.raised(what, f"fails in its {function_name}", error) from error


def _sized(outputs: Any, batch: int) -> Any:
    """The same Outputs as shapes of a batch of that size, but for the classifier."""
    if outputs is None:
        return None
    resized = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((batch, *leaf.shape[1:]), leaf.dtype),
        outputs._replace(head=()),
    )
    return resized._replace(head=outputs.head)


def _check_state(name: str, state: Any) -> None:
    if not isinstance(state, ObjectiveState):
        raise errors.InputError(
            f"init of objective '{name}' gives a {type(state).__name__}, but must give an"
            " ObjectiveState(params, frozen, memory)"
        )
    for path, leaf in jax.tree.leaves_with_path(state):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
            raise errors.InputError(
                f"init of objective '{name}' gives a key in {jax.tree_util.keystr(path)[1:]}, which"
                " no checkpoint holds; keep jax.random.key_data(key) there"
            )
    for path, leaf in jax.tree.leaves_with_path(state.params):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise errors.InputError(
                f"objective '{name}' trains params{jax.tree_util.keystr(path)} of type"
                f" {leaf.dtype}; what has no gradient belongs to frozen or memory"
            )


def _check_loss(
    name: str,
    function_name: str,
    function: Callable,
    state: ObjectiveState,
    outputs: tuple[Any, Any],
    batch: Batch,
    objective: Objective | None = None,
) -> None:
    """Checks the loss of an objective, or of its stage, which sees whatever the networks return."""

    def loss(state, student, teacher, batch):
        return function(state, *_shown(name, student, teacher, objective), batch)

    result = _traced(name, function_name, loss, state, *outputs, batch)
    if not isinstance(result, tuple) or len(result) != 2:
        raise errors.InputError(
            f"{function_name} of objective '{name}' gives {_description(result)}, but must give"
            " (loss [B], new memory); where there is none that is state.memory"
        )
    losses, memory = result
    shape = getattr(losses, "shape", None)
    size = len(batch.index)
    if shape not in ((), (size,)) or not jnp.issubdtype(losses.dtype, jnp.floating):
        raise errors.InputError(
            f"{function_name} of objective '{name}' gives {_description(losses)} for a batch of"
            f" {size} images, but must give float [{size}], a loss of each image, or float []"
        )
    if change := _change(state.memory, memory):
        raise errors.InputError(
            f"{function_name} of objective '{name}' changes the form of its memory: {change}"
        )


def _description(result: Any) -> str:
    """Such as "float32[8,3]" for an array, and the type's name for other things."""
    if isinstance(result, jax.ShapeDtypeStruct):
        return f"{result.dtype}[{','.join(map(str, result.shape))}]"
    return f"a {type(result).__name__}"


def _change(before: Any, after: Any) -> str:
    """The first difference in the form of two trees, "" for none."""
    described = [
        {jax.tree_util.keystr(path): _description(leaf) for path, leaf in leaves}
        for leaves in map(jax.tree.leaves_with_path, (before, after))
    ]
    for path in [*described[0], *described[1]]:
        was, is_now = (leaves.get(path, "absent") for leaves in described)
        if was != is_now:
            return f"memory{path} is {was} in init, then {is_now}"
    structures = [jax.tree.structure(tree) for tree in (before, after)]
    return "" if structures[0] == structures[1] else "{} in init, then {}".format(*structures)


def _check_predict(name: str, objective: Objective, state: ObjectiveState, student: Any) -> None:
    def predict(state, student):
        return objective.predict(state, _shown(name, student, None)[0])

    result = _traced(name, "predict", predict, state, student)
    if getattr(result, "shape", None) != student.logits.shape:
        wanted = _description(student.logits)
        raise errors.InputError(
            f"predict of objective '{name}' gives {_description(result)}, but must give logits"
            f" {wanted}"
        )


def _check_taps(name: str, pairs: Any) -> None:
    """Raises an InputError for what are no pairs of maps."""
    try:
        shapes = [tap.shape for pair in pairs for tap in pair]
        are_pairs = all(len(pair) == 2 for pair in pairs) and all(len(s) == 4 for s in shapes)
    except (AttributeError, TypeError):
        are_pairs = False
    if not are_pairs:
        raise errors.InputError(
            f"taps of objective '{name}' gives {_description(pairs)}, but must give pairs of maps"
            " [B, H, W, channels]"
        )


def _shown(
    name: str, student: Any, teacher: Any, objective: Objective | None = None
) -> tuple[Any, Any]:
    """The networks' Outputs, which say so where an objective reads an empty part.

    With `objective`, parts of the teacher that it says it does not read are empty too.
    """
    hidden = {}
    if teacher is not None and objective and not objective.needs_teacher:
        hidden = dict.fromkeys(teacher._fields, "but says needs_teacher=False; say True")
    elif teacher is not None and objective and not objective.needs_maps:
        reason = "but says needs_maps=False, so a cached teacher would have none; say True"
        hidden = dict.fromkeys(("maps", "preactivations"), reason)
    return _speaking(name, "student", student, {}), _speaking(name, "teacher", teacher, hidden)


def _speaking(name: str, network: str, outputs: Any, hidden: dict[str, str]) -> Any:
    """Outputs whose empty and hidden parts raise an InputError when they are used."""
    if outputs is None:
        return None
    values, reasons = {}, {}
    for part, value in outputs._asdict().items():
        if part == "members":
            value = tuple(_speaking(name, network, member, hidden) for member in value)
        if part in hidden:
            value = ()
            reasons[part] = errors.InputError(
                f"objective '{name}' reads {network}.{part}, {hidden[part]}"
            )
        elif isinstance(value, tuple | dict) and not value:
            reasons[part] = missing(name, network, part)
        values[part] = value
    speaking = _speaking_type(type(outputs))(**values)
    speaking.reasons = reasons
    return speaking


@functools.cache
def _speaking_type(kind: type) -> type:
    """A subclass of a NamedTuple with `reasons`, {part: the error of whoever uses it}.

    Trees of the two are mapped as those of `kind` are.
    """

    class Speaking(kind):
        reasons: Any = None

        def __getattribute__(self, name):
            value = super().__getattribute__(name)
            if name in kind._fields and name in (self.reasons or {}):
                return _Missing(self.reasons[name])
            return value

    Speaking.__name__ = Speaking.__qualname__ = kind.__name__  # for messages of a user's errors
    return Speaking


class _Missing:
    """An empty part: it is false, equals (), and raises its error at any other use."""

    def __init__(self, error: errors.InputError):
        self._error = error

    def __bool__(self) -> bool:
        return False

    def __eq__(self, other: object) -> bool:
        return other == ()

    __hash__ = None

    def __getattr__(self, name: str) -> NoReturn:
        raise self._error


def _refuse(self: _Missing, *arguments: Any) -> NoReturn:
    raise self._error


# Python looks these up on the class only.
for _operator in (
    *("len", "iter", "getitem", "contains", "array", "neg", "abs"),
    *(f"{side}{name}" for side in ("", "r") for name in ("add", "sub", "mul", "matmul")),
    *(f"{side}{name}" for side in ("", "r") for name in ("truediv", "floordiv", "pow", "mod")),
):
    setattr(_Missing, f"__{_operator}__", _refuse)
