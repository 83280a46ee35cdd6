"""Notes on fields that were set, but are unused because of other fields."""

from collections.abc import Collection, Iterator

from rrd_jax.config import methods
from rrd_jax.config.fields import FIELDS
from rrd_jax.config.validation import iterate_fields
from rrd_jax.objectives import RECORDS
from rrd_jax.objectives.rrd import MEMORIES
from rrd_jax.settings import Values, first_reason, kinds
from rrd_jax.terminal import console

# The values of `memory` for which rrd and crd use an option.
_MEMORIES_BY_OPTION = {
    "initial": ("fifo",),
    "chunk": ("fifo", "momentum"),
    "precision": ("fifo", "momentum"),
    "momentum": ("bank", "momentum", "momentum_reference"),
    "temperature_bank": ("momentum_reference",),
}


def note(values: Values, changed: Collection[str]) -> None:
    """Prints one note that lists the unused fields, and warns if the splits overlap.

    Args:
      values: checked values.
      changed: paths of the fields that the user set, or those of `iterate_changed`.
    """
    unused = [
        f"{path} ({reason})"
        for path, reason in iterate_unused(values)
        if any(f"{name}.".startswith(f"{path}.") for name in changed)
    ]
    if unused:
        console.note(f"unused config fields: {', '.join(unused)}")
    preset = values["objectives"].get("rrd", {}).get("preset")
    if preset in MEMORIES:
        console.note(
            f"objectives.rrd.preset is '{preset}', which is also an objective: for its published"
            f" head, memory and temperatures, use the method '{preset}' instead of 'rrd'"
        )
    train, test = values["data.train_split"], values["data.test_split"]
    name, test_name = train.partition("[")[0], test.partition("[")[0]
    if name == test_name and (train == test or name in (train, test)):
        console.warn(
            f"data.test_split is {kinds.short_repr(test)} and data.train_split is"
            f" {kinds.short_repr(train)}: the test metrics include training images; use disjoint"
            " splits, such as train[:90%] and train[90%:]"
        )


def iterate_changed(values: Values) -> Iterator[str]:
    """Yields the paths of the fields that differ from their default."""
    for path, field, value in iterate_fields(values):
        if value != field.default:
            yield path
    for name, options in values["objectives"].items():
        defaults = methods.fields(RECORDS[name]) if name in RECORDS else {}
        for option, value in options.items():
            if option in defaults and value != methods.default_value(defaults[option]):
                yield f"objectives.{name}.{option}"


def iterate_unused(values: Values) -> Iterator[tuple[str, str]]:
    """Yields the path of every unused field, set or not, and the reason."""
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
            elif name in ("crd", "rrd") and memory not in _MEMORIES_BY_OPTION.get(
                option, (memory,)
            ):
                yield path, f"objectives.{name}.memory is {memory}"
