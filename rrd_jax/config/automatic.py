"""Fields that are "auto": the values of an earlier start in the same workdir, or new ones."""

from collections.abc import Mapping
from typing import Any

from rrd_jax import errors
from rrd_jax.config.fields import FIELDS
from rrd_jax.run_folder.config_fields import flatten
from rrd_jax.settings import Values
from rrd_jax.settings.kinds import Auto, is_auto

_FIELDS = tuple(field for field in FIELDS.values() if isinstance(field.kind, Auto))


def resolve(values: Values, recorded: Mapping[str, Any] | None) -> None:
    """Replaces "auto" in fields of the kind `Auto` and in options of objectives.

    Values that depend on the data set remain "auto" in a new workdir; see `settings.field`.

    Args:
      values: checked values; modified in place.
      recorded: the config that the workdir records, see `workdir.recorded_fields`; None for a new
        workdir.

    Raises:
      InputError: a recorded value is invalid.
    """
    stored = flatten(recorded or {})
    for field in _FIELDS:
        for view in values.each_teacher() if field.section == "teacher" else [values]:
            value = view[field.path]
            if is_auto(value) and recorded is not None:
                value = stored.get(view.labelled(field.path), field.legacy)
            if is_auto(value) and field.choose:
                value = field.choose(view)
            if problem := field.kind.problem(view.labelled(field.path), value):
                if recorded is None:
                    raise errors.InputError(problem)
                raise errors.InputError(
                    f"config.json of the workdir is damaged: {problem}; correct it, or delete it to"
                    " resume with the current config"
                )
            view[field.path] = field.kind.value(value)
    for name, options in values["objectives"].items():
        for option, value in options.items():
            if is_auto(value):
                options[option] = stored.get(f"objectives.{name}.{option}", value)
