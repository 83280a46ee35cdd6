"""Notes on fields that were set, but are unused because of other fields."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from rrd_jax.config import methods
from rrd_jax.config.fields import FIELDS
from rrd_jax.config.validation import iterate_fields
from rrd_jax.objectives import RECORDS
from rrd_jax.objectives.rrd import MEMORIES, uses
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
# The parts of rrd's loss that read an option, see `rrd.uses`; options without an entry are always
# read.
_PARTS_BY_OPTION = {
    "memory": ("images",),
    "queue_size": ("images",),
    "dim": ("images",),
    "teacher_projection": ("images",),
    "momentum": ("images",),
    "temperature_bank": ("images",),
    "push_before": ("images", "memory"),
    "own_pair": ("images", "memory"),
    "initial": ("images", "memory"),
    "chunk": ("images", "memory"),
    "precision": ("images", "memory"),
    "weight_within": ("within", "memory"),
    "weight_memory": ("within", "memory"),
    "diagonal": ("within",),
    "patches_per_image": ("memory",),
    "patch_queue_size": ("memory",),
}
_PARTS = {
    "images": "embeddings of images",
    "within": "patches within an image",
    "memory": "patches with a memory",
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
        for option in options:
            if reason := _reason(name, options, option):
                yield f"objectives.{name}.{option}", reason


def _reason(name: str, options: Mapping[str, Any], option: str) -> str:
    """Returns the reason why an option of an objective is unused; "" if it is used."""
    if not options.get("weight", 1.0) and option != "weight":
        return f"objectives.{name}.weight is 0"
    if name not in ("crd", "rrd"):
        return ""
    memory = options.get("memory")
    parts = uses(options) if name == "rrd" else frozenset({"images"})
    readers = parts.intersection(_PARTS_BY_OPTION.get(option, parts))
    if not readers:
        return f"objectives.{name} compares only {' and '.join(_PARTS[p] for p in sorted(parts))}"
    is_read = memory in _MEMORIES_BY_OPTION.get(option, (memory,))
    return "" if is_read or "memory" in readers else f"objectives.{name}.memory is {memory}"
