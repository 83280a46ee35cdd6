"""Choices for a term of the loss."""

import dataclasses
import math
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

    def with_rows(
        self, pushed: int, examples: int, recorded: Mapping[str, int] | None = None
    ) -> "ObjectiveChoice":
        """Returns the term with the number of rows of each memory whose size is "auto".

        The number is that of the publication, but at most the number of rows that an epoch pushes,
        because the rows that no epoch reaches are random. Banks have a row per image anyway.

        Args:
          pushed: number of images that an epoch pushes to a memory.
          examples: number of training images.
          recorded: the numbers of rows at an earlier start of the run, by option, which are kept;
            None for a new run.
        """
        if self.objective is not None:
            return self
        record = objectives.record(self.name, self.factory)
        options = {**self.options, "examples": examples}
        is_queue = options.get("memory", "fifo") == "fifo"
        # Rows of the publication, and rows that an epoch pushes.
        sizes = {"queue_size": (record.rows, pushed if is_queue else math.inf)}
        per_image = options.get("patches_per_image", 1)
        sizes["patch_queue_size"] = (record.patch_rows, pushed * per_image)
        chosen = {}
        for option, (published, most) in sizes.items():
            rows = published(options) if published and kinds.is_auto(options.get(option)) else 0
            if rows:
                chosen[option] = (recorded or {}).get(option) or min(rows, most)
        if not chosen:
            return self
        return dataclasses.replace(self, options={**self.options, **chosen})

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
