"""Fields that are "auto": the values of an earlier start in the same workdir, or new ones."""

from collections.abc import Mapping
from typing import Any

from rrd_jax.config.validation import iterate_fields
from rrd_jax.run_folder.config_fields import flatten
from rrd_jax.settings import Values
from rrd_jax.settings.kinds import Auto, is_auto


def resolve(values: Values, recorded: Mapping[str, Any] | None) -> None:
    """Replaces "auto" in fields of the kind `Auto` and in options of objectives.

    Values that depend on the data set remain "auto" in a new workdir; see `settings.field`.

    Args:
      values: checked values; modified in place.
      recorded: the config that the workdir records, see `workdir.recorded_fields`; None for a new
        workdir.
    """
    stored = flatten(recorded or {})
    for path, field, value in list(iterate_fields(values)):
        if not isinstance(field.kind, Auto):
            continue
        if is_auto(value) and recorded is not None:
            value = stored.get(path, field.legacy)
        if is_auto(value) and field.choose:
            value = field.choose(values)
        values[path] = field.kind.value(value)
    for name, options in values["objectives"].items():
        for option, value in options.items():
            if is_auto(value):
                options[option] = stored.get(f"objectives.{name}.{option}", value)
