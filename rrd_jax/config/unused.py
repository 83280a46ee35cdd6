"""Notes on fields that were set, but have no effect together with the others."""

from collections.abc import Collection, Iterator

from rrd_jax.config import methods
from rrd_jax.config.fields import FIELDS
from rrd_jax.config.validation import iterate_fields
from rrd_jax.objectives import RECORDS
from rrd_jax.objectives.rrd import MEMORIES
from rrd_jax.settings import Values, first_reason, kinds
from rrd_jax.terminal import console

# Options of rrd and crd that only some of their memories have.
_OF_MEMORIES = {
    "initial": ("fifo",),
    "chunk": ("fifo", "momentum"),
    "precision": ("fifo", "momentum"),
    "momentum": ("bank", "momentum", "momentum_reference"),
    "temperature_bank": ("momentum_reference",),
}


def note(values: Values, explicit: Collection[str] | None = None) -> None:
    """Prints a line with all fields that were set, but have no effect, if there are any.

    Warns if test images are trained on.

    Args:
      values: checked values.
      explicit: the paths of the fields that a user set; None for those that are not at their
        default.
    """
    changed = set(_changed(values) if explicit is None else explicit)
    unused = [
        f"{path} ({reason})"
        for path, reason in iterate_unused(values)
        if any(f"{name}.".startswith(f"{path}.") for name in changed)
    ]
    if unused:
        console.note(f"without effect here: {', '.join(unused)}")
    preset = values["objectives"].get("rrd", {}).get("preset")
    if preset in MEMORIES:
        console.note(
            f"objectives.rrd.preset is '{preset}', which is an objective of its own: write"
            f" '{preset}' in place of 'rrd' for its published head, memory and temperatures"
        )
    train, test = values["data.train_split"], values["data.test_split"]
    name, test_name = train.partition("[")[0], test.partition("[")[0]
    if name == test_name and (train == test or name in (train, test)):
        console.warn(
            f"data.test_split is {kinds.short_repr(test)} and data.train_split is"
            f" {kinds.short_repr(train)}: the student is tested on training images; choose disjoint"
            " splits, such as train[:90%] and train[90%:]"
        )


def _changed(values: Values) -> Iterator[str]:
    for path, field, value in iterate_fields(values):
        if value != field.default:
            yield path
    for name, options in values["objectives"].items():
        usual = methods.fields(RECORDS[name]) if name in RECORDS else {}
        for option, value in options.items():
            if option in usual and value != methods.default_value(usual[option]):
                yield f"objectives.{name}.{option}"


def iterate_unused(values: Values) -> Iterator[tuple[str, str]]:
    """Yields every field that has no effect, set or not, and the reason."""
    for field in FIELDS.values():
        views = values.each_teacher() if field.section == "teacher" else [values]
        for view in views:
            if reason := first_reason(field, view):
                yield view.labelled(field.path), reason
    for name, options in values["objectives"].items():
        memory = options.get("memory")
        for option in options:
            path = f"objectives.{name}.{option}"
            if not options.get("weight", 1.0) and option != "weight":
                yield path, f"objectives.{name}.weight is 0"
            elif name in ("crd", "rrd") and memory not in _OF_MEMORIES.get(option, (memory,)):
                yield path, f"objectives.{name}.memory is {memory}"
