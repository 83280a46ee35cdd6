"""Choices for a term of the loss."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from rrd_jax import errors, imports, objectives
from rrd_jax.objectives import Objective
from rrd_jax.settings import kinds


@dataclasses.dataclass(frozen=True)
class ObjectiveChoice:
    """A term of the total loss by name.

    Attributes:
      name: a key of `objectives.OBJECTIVES`, or any name if `factory` is set.
      weight: factor of the loss in the total loss.
      warmup: number of epochs over which the factor grows linearly to `weight`; 0 for no warm-up.
      options: arguments of the objective's factory.
      factory: import path of a custom objective; "" for a built-in objective.
      objective: an Objective object, which replaces options and factory.
    """

    name: str
    weight: float
    warmup: int
    options: Mapping[str, Any]
    factory: str = ""
    objective: Objective | None = None

    @property
    def needs_classes(self) -> bool:
        """True if teacher and student must have the same classes; see `objectives.Record`."""
        if not self.weight:
            return False
        return (
            self.objective is not None or objectives.record(self.name, self.factory).needs_classes
        )

    def with_rows(self, pushed: int, recorded: int | None = None) -> "ObjectiveChoice":
        """Returns the term with the number of rows of a memory whose `queue_size` is "auto".

        The number is that of the publication, but at most the number of rows that an epoch pushes,
        because the rows that no epoch reaches are random. Banks have a row per image anyway.

        Args:
          pushed: number of rows that an epoch pushes to a memory.
          recorded: the number of rows at an earlier start of the run, which is kept; None for a new
            run.
        """
        if self.objective is not None or not kinds.is_auto(self.options.get("queue_size")):
            return self
        published = objectives.record(self.name, self.factory).rows
        if published is None:
            return self
        rows, is_queue = published(self.options), self.options.get("memory", "fifo") == "fifo"
        rows = recorded or (min(rows, pushed) if is_queue else rows)
        return dataclasses.replace(self, options={**self.options, "queue_size": rows})

    def create(self, **sizes: int) -> Objective:
        """Creates the objective; `sizes` of data and batch replace options that are None."""
        if self.objective is not None:
            return self.objective
        options = dict(self.options)
        subject, prefix = f"objective '{self.factory or self.name}'", f"objectives.{self.name}."
        factory = objectives.record(self.name, self.factory).factory
        imports.check_types(subject, factory, options, prefix=prefix)
        for option, value in sizes.items():
            is_accepted = objectives.takes(self.name, option, self.factory)
            if is_accepted and options.get(option) is None:
                options[option] = value
        try:
            return objectives.create(self.name, self.factory, **options)
        except errors.InputError as error:
            # Messages of a factory start with an option's name, without its section.
            if str(error).split()[0] in options:
                raise errors.InputError(f"{prefix}{error}") from error
            if prefix in str(error) or f"'{self.factory or self.name}'" in str(error):
                raise
            raise errors.InputError(f"{subject}: {error}") from error
