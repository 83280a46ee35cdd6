"""What is said where an objective reads what a network does not return."""

from rrd_jax import errors


def missing(name: str, network: str, part: str) -> errors.InputError:
    """The error of an objective that reads an empty part of Outputs.

    Args:
      name: the objective's.
      network: "student" or "teacher".
      part: such as "maps".
    """
    way_out = f"return {part} in its Outputs"
    if part == "head":
        way_out = "one teacher can return head in its Outputs, several have none together"
    elif part == "embedding":
        way_out = (
            "return a pair (logits, embedding), or, for a Linen module, name what computes"
            f" it with --config.{network}.options.embedding_of=NAME, in Python"
            " networks.from_linen(module, embedding_of=NAME)"
        )
    return errors.InputError(
        f"objective '{name}' reads {network}.{part}, but the {network}'s network returns none:"
        f" {way_out}, or choose another objective"
    )
