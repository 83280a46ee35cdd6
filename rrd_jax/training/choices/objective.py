"""A term of the loss, as it is chosen."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from rrd_jax import errors, imports, objectives
from rrd_jax.objectives import Objective


@dataclasses.dataclass(frozen=True)
class ObjectiveChoice:
    """A term of the total loss by name.

    Attributes:
      name: a key of `objectives.OBJECTIVES`, or any other with a `factory`.
      weight: factor in the total loss.
      warmup: epochs over which the weight grows to that; 0 for none.
      options: of the objective's factory.
      factory: import path of a user's objective; "" for one of ours.
      objective: one that was made in Python, which takes the place of options and factory.
    """

    name: str
    weight: float
    warmup: int
    options: Mapping[str, Any]
    factory: str = ""
    objective: Objective | None = None

    @property
    def needs_classes(self) -> bool:
        """True if the teacher's classes must be the student's; see `objectives.Record`."""
        if not self.weight:
            return False
        return (
            self.objective is not None or objectives.record(self.name, self.factory).needs_classes
        )

    def create(self, **known: int) -> Objective:
        """The objective; options that are None take what is known of the data and the batch."""
        if self.objective is not None:
            return self.objective
        options = dict(self.options)
        what, prefix = f"objective '{self.factory or self.name}'", f"objectives.{self.name}."
        factory = objectives.record(self.name, self.factory).factory
        imports.check_types(what, factory, options, prefix=prefix)
        for option, value in known.items():
            takes = objectives.takes(self.name, option, self.factory)
            if takes and options.get(option) is None:
                options[option] = value
        try:
            return objectives.create(self.name, self.factory, **options)
        except errors.InputError as error:
            if str(error).split()[0] in options:  # a factory does not know whose they are
                raise errors.InputError(f"{prefix}{error}") from error
            if prefix in str(error) or f"'{self.factory or self.name}'" in str(error):
                raise
            raise errors.InputError(f"{what}: {error}") from error
