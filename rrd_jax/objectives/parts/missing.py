"""What is said where an objective reads what a network does not return."""

from rrd_jax import errors


def missing(name: str, network: str, part: str) -> errors.InputError:
    """The error of an objective that reads an empty part of Outputs.

    Args:
      name: the objective's.
      network: "student" or "teacher".
      part: such as "maps".
    """
    several = "; several teachers have none together" if part == "head" else ""
    return errors.InputError(
        f"objective '{name}' reads {network}.{part}, but the {network}'s network returns"
        f" none{several}: return {part} in its Outputs, or choose another objective"
    )
