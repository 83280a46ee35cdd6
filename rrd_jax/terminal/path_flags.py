"""Flags of paths, which are checked and expanded when the command line is parsed."""

from absl import flags

from rrd_jax import user_paths

# The help of a command lists its flags, which must not count as flags of this module.
flags.disclaim_key_flags()


class _PathParser(flags.ArgumentParser):
    """A parser of paths.

    Args:
      special: whether a pipe or device is accepted, as for output.
      bucket: whether the URL of a bucket is accepted.
      repository: whether the name of a repository of the Hugging Face Hub is accepted.
    """

    syntactic_help = "a path; ~ is the home folder"

    def __init__(self, special: bool, bucket: bool, repository: bool):
        super().__init__()
        self._accepted = {"special": special, "bucket": bucket, "repository": repository}

    def parse(self, argument: str) -> str:
        """Returns the path with the home folder in place of ~; "" is unchanged."""
        if not isinstance(argument, str):
            raise TypeError(f"{argument!r} is not a path")
        if problem := user_paths.problem(argument, **self._accepted):
            raise ValueError(problem)
        return user_paths.expanded(argument)


def checks(name: str) -> bool:
    """Returns True if a name is that of a flag for a path."""
    return name in flags.FLAGS and isinstance(flags.FLAGS[name].parser, _PathParser)


def define_path(
    name: str,
    default: str | None,
    help_text: str,
    *,
    special: bool = False,
    bucket: bool = False,
    repository: bool = False,
) -> flags.FlagHolder[str | None]:
    """Defines a flag for a path.

    Args:
      name: name of the flag.
      default: default value.
      help_text: help of the flag.
      special: whether a pipe or device is accepted, as for output.
      bucket: whether the URL of a bucket is accepted.
      repository: whether the name of a repository of the Hugging Face Hub is accepted.
    """
    return flags.DEFINE(
        _PathParser(special, bucket, repository),
        name,
        default,
        help_text,
        serializer=flags.ArgumentSerializer(),
    )
