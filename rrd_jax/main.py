"""Runs the job of a config.

    python -m rrd_jax.main --config=configs/digits.py --workdir=runs/digits
    python -m rrd_jax.main --config=configs/digits.py --config.optimizer.learning_rate=0.1

A second start of the same command goes on where the first one stopped. The exit code is 0 at the
end of the job, 1 for a bad flag or config field, 2 for other bad input, 3 when the loss is not
finite, 130 after Ctrl-C.
"""

import sys
from collections.abc import Callable

from absl import app, flags, logging
from ml_collections import config_flags

from rrd_jax import errors, parallel, train

CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "A file of configs/, with the options its docstring names behind a colon. Fields are set with"
    " --config.<field>=<value>; configs/common.py says what each one means.",
)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where checkpoints and figures go. Default: runs/<config.name>."
)


def main(argv: list[str]) -> None:
    """Runs the job."""
    check_arguments(argv)
    config = CONFIG.value
    guard(lambda: train.run(config, WORKDIR.value or f"runs/{config.name}"))


def guard(job: Callable[[], object]) -> None:
    """Runs a job; what its user can mend becomes one line and an exit code."""
    logging.set_verbosity(logging.ERROR)  # libraries narrate below that
    parallel.enable_compilation_cache()
    try:
        job()
    except (errors.InputError, OSError) as error:
        _exit(2, error)
    except errors.DivergedError as error:
        _exit(3, error)
    except KeyboardInterrupt:
        _exit(130, "stopped; the same command goes on from the last checkpoint")


def check_arguments(argv: list[str]) -> None:
    """Exits when words are left that are no flags."""
    if len(argv) > 1:
        _exit(1, f"unexpected argument '{argv[1]}'; flags are written --name=value")


def parse_flags(argv: list[str]) -> list[str]:
    """absl's parser; whatever is wrong with flags, fields and config file becomes one line."""
    try:
        rest = flags.FLAGS(argv)
        if CONFIG.value is None:
            _exit(1, "--config is missing; for example --config=configs/digits.py")
        CONFIG.value.items()  # a config file that cannot be read fails here
        return rest
    except (flags.Error, AttributeError, KeyError, OSError, errors.InputError) as error:
        _exit(1, _one_line(error))


def _one_line(error: Exception) -> str:
    text = str(error)
    if isinstance(error, AttributeError | KeyError):  # a quoted message, in quotes again
        text = text.replace("\\n", "\n").replace("\\'", "'").strip("'\"")
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    if any(line.startswith("Traceback") for line in lines):  # ml_collections keeps it as text
        return lines[-1].removeprefix("rrd_jax.errors.InputError: ")
    return ": ".join(lines)


def _exit(code: int, message: object) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
