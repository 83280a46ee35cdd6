"""Runs the job of a config.

    python -m rrd_jax.main --config=configs/digits.py --workdir=runs/digits
    python -m rrd_jax.main --config=configs/digits.py --config.optimizer.learning_rate=0.1

A second start of the same command goes on where the first one stopped. Exit code 0 at the end of
the job, 1 for a bad flag or config, 2 for bad input, 3 for a loss that is not finite.
"""

import sys

from absl import app, flags, logging
from ml_collections import config_flags

from rrd_jax import errors, train

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "A file of configs/, with the options its docstring names behind a colon. Fields are set with"
    " --config.<field>=<value>; configs/common.py says what each one means.",
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where checkpoints and figures go. Default: runs/<config.name>."
)


def main(argv: list[str]) -> None:
    """Runs the job; turns what the user can mend into one line and an exit code."""
    if len(argv) > 1:
        _exit(1, f"unexpected argument '{argv[1]}'; flags are written --name=value")
    logging.set_verbosity(logging.ERROR)  # libraries narrate below that
    config = _CONFIG.value
    try:
        train.run(config, _WORKDIR.value or f"runs/{config.name}")
    except errors.InputError as error:
        _exit(2, error)
    except errors.DivergedError as error:
        _exit(3, error)


def parse_flags(argv: list[str]) -> list[str]:
    """absl's parser, with a misspelt config field or config file as one line too."""
    try:
        flags.mark_flag_as_required("config")
        return app.parse_flags_with_usage(argv)
    except (AttributeError, KeyError) as error:
        _exit(1, str(error).strip("'\"").replace("\\n", ": ").replace("\n", ": "))
    except (errors.InputError, OSError) as error:
        _exit(1, error)


def _exit(code: int, message: object) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
