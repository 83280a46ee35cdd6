"""Flags of paths, which are checked and expanded when the command line is parsed."""

from absl import flags

from rrd_jax import user_paths

# The help of a command lists its flags, which must not count as flags of this module.
flags.disclaim_key_flags()


class _PathParser(flags.ArgumentParser):
    """A parser of paths.

    Args:
      special: whether a pipe or device is accepted, as for output.
    """

    syntactic_help = "a path; ~ is the home folder"

    def __init__(self, special: bool):
        super().__init__()
        self._special = special

    def parse(self, argument: str) -> str:
        """Returns the path with the home folder in place of ~; "" is unchanged."""
        if not isinstance(argument, str):
            raise TypeError(f"{argument!r} is not a path")
        if problem := user_paths.problem(argument, special=self._special):
            raise ValueError(problem)
        return user_paths.expanded(argument)


def define_path(
    name: str, default: str | None, help_text: str, *, special: bool = False
) -> flags.FlagHolder[str | None]:
    """Defines a flag for a path.

    Args:
      name: name of the flag.
      default: default value.
      help_text: help of the flag.
      special: whether a pipe or device is accepted, as for output.
    """
    return flags.DEFINE(
        _PathParser(special),
        name,
        default,
        help_text,
        serializer=flags.ArgumentSerializer(),
    )
