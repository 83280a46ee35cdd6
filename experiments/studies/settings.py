"""What the studies share: how their argument is read, and the methods."""

import dataclasses

from rrd_jax import objectives

# Each objective as published, and the paper's own combinations (arXiv 2407.12073, tables 1 and 2).
ALL_METHODS = (*objectives.RECORDS, "crd+kd", "dcd+kd", "rrd+kd")


@dataclasses.dataclass(frozen=True)
class Options:
    """What stands behind the colon of --study, separated by commas.

    Attributes:
      smoke: "smoke", which config strings know too, or "".
      named: all others, such as methods.
    """

    smoke: str
    named: tuple[str, ...]

    def name(self, name: str) -> str:
        """Of the study: smoke has a folder of its own."""
        return f"{name}-smoke" if self.smoke else name

    def seeds(self, number: int) -> tuple[int, ...]:
        """0 to a number less one; for smoke, two."""
        return tuple(range(2 if self.smoke else number))


def read(argument: str) -> Options:
    """Reads what stands behind the colon."""
    options = [option for option in argument.split(",") if option]
    named = tuple(option for option in options if option != "smoke")
    return Options("smoke" if "smoke" in options else "", named)
