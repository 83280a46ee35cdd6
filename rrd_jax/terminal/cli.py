"""Flags, exit codes and signals of all commands.

A command prints an error as a message and ends with one of these exit codes:

| code | reason                                                                                    |
|------|-------------------------------------------------------------------------------------------|
| 0    | the command finished, or --help was passed                                                |
| 1    | invalid flag or value of a config field, or a config file that cannot be run              |
| 2    | other invalid input: data, weights, the workdir of another run                            |
| 3    | the loss is not finite                                                                    |
| 69   | a platform, device or library is not available                                            |
| 70   | unexpected error; the message names the file with the traceback                           |
| 74   | a disk, a bucket or the file of standard output is full or cannot be written or reached   |
| 75   | stopped by SIGTERM, SIGHUP or a lost device or process; run the same command again        |
| 130  | Ctrl-C: a run first saves its state; a second Ctrl-C ends it immediately                  |
| 141  | the reader of standard output closed the pipe, as after `| head -1`                       |

Codes 69 to 75 follow sysexits.h; 130 and 141 are a shell's codes for SIGINT and SIGPIPE. Warnings
and logs of libraries are hidden unless PYTHONWARNINGS or -W enables them.
"""

import contextlib
import io
import logging as python_logging
import os
import pathlib
import runpy
import select
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

from absl import app, flags, logging

from rrd_jax import errors, user_paths
from rrd_jax.terminal import (
    config_errors,
    console,
    crashes,
    interrupts,
    path_flags,
    peers,
    runtime_errors,
)

# The first class that matches an error determines the exit code. Of sysexits.h, 74 is EX_IOERR, 69
# is EX_UNAVAILABLE, and 75 is EX_TEMPFAIL.
_CODES: dict[type[Exception], int] = {
    errors.DiskError: 74,
    errors.BucketError: 74,
    errors.UnavailableError: 69,
    errors.FieldError: 1,
    errors.InputError: 2,
    OSError: 2,
    errors.DivergedError: 3,
    errors.PreemptedError: 75,
    errors.LostError: 75,
}

# Errors with which all processes of a run end at the same step.
_JOINT = (errors.DivergedError, errors.PreemptedError)
# Seconds for the other processes of a run to end by themselves after one ended with an error. They
# may have to complete a checkpoint after a joint error.
_SECONDS, _JOINT_SECONDS = 2.0, 90.0
# Flags of files that are read while the command line is parsed.
_FILE_FLAGS = ("config", "study", "flagfile")


def run_main() -> None:
    """Runs the command `rrd-jax`, which is `python -m rrd_jax.main`.

    The module runs as a program, because the help of absl consists of the docstring and flags of
    the main module.
    """
    runpy.run_module("rrd_jax.main", run_name="__main__", alter_sys=True)


def parse_flags(
    argv: list[str],
    config: flags.FlagHolder | None = None,
    explain: Callable[[list[str]], str] = lambda argv: "",
    *,
    arguments: bool = False,
) -> list[str]:
    """Parses flags with absl; an invalid flag or config file ends the program.

    Args:
      argv: the command line.
      config: the flag of the config file, for commands that require one.
      explain: returns a more helpful message than absl's for an invalid command line, or "".
      arguments: whether the command accepts positional arguments.

    Returns:
      The program name and the positional arguments.
    """
    _prepare_process()
    _print_help(argv)
    argv = command_line(argv)
    path = _config_path(argv)
    try:
        if arguments:
            flags.FLAGS.set_gnu_getopt(True)
        rest = flags.FLAGS(argv)
        if config is not None and config.value is None and not path:
            stop(1, "--config is missing; for example --config=configs/digits.py")
        if config is not None and not hasattr(config.value, "train"):
            stop(1, config_errors.wrong_return(path, config.value))
    except KeyboardInterrupt:
        stop(130, "stopped")
    # A config file is a program and can raise any exception.
    except BaseException as error:
        text = config_errors.message(error, path)
        # `stop` and absl's --helpxml exit.
        if isinstance(error, SystemExit) and not text:
            raise
        if text := text or explain(argv):
            stop(1, text)
        if not isinstance(error, flags.Error | AttributeError | KeyError | OSError | ValueError):
            stop(70, crashes.report(error))
        stop(1, _one_line(error))
    if len(rest) > 1 and not arguments:
        stop(1, f"unexpected argument '{rest[1]}'; write flags as --name=value")
    return rest


def guard(
    job: Callable[[], object],
    stopped: str = "stopped; run the same command again to resume from the last checkpoint",
    folder: Callable[[], pathlib.Path] | None = None,
    *,
    polls: bool = False,
) -> None:
    """Runs a job; an exception ends the program with a message and an exit code.

    Args:
      job: the function to run.
      stopped: the message for Ctrl-C; a KeyboardInterrupt with a message replaces it.
      folder: returns the workdir, where the traceback of an unexpected error is written.
      polls: whether the job calls `interrupts.check` between its parts. Otherwise, a signal raises
        an exception at once.
    """
    _prepare_process()
    mode = interrupts.Mode.RECORD if polls else interrupts.Mode.RAISE
    try:
        with (
            interrupts.handled(mode),
            _second_interrupt_ends(),
            runtime_errors.translated(),
        ):
            try:
                job()
            except (OSError, errors.DiskError):
                # If writing to standard output failed, this raises a more specific error.
                console.flush()
                raise
            console.flush()
        peers.goodbye(0)
    except errors.UnreadError:
        peers.goodbye(141)
        runtime_errors.end(141)
    except tuple(_CODES) as error:
        code = next(code for kind, code in _CODES.items() if isinstance(error, kind))
        stop(code, error, is_joint=isinstance(error, _JOINT))
    except KeyboardInterrupt as error:
        stop(130, str(error) or stopped)
    except SystemExit:
        raise
    # A user's code can raise any exception.
    except BaseException as error:
        stop(70, crashes.report(error, folder))


def _prepare_process() -> None:
    """Replaces closed streams, and hides warnings and logs of libraries."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        # A stream closed by `>&-` is replaced, because the next opened file would get its number.
        if stream is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))
        elif isinstance(stream, io.TextIOWrapper) and mode == "w":
            # File names can contain any bytes.
            stream.reconfigure(errors="backslashreplace")
    logging.set_verbosity(logging.ERROR)
    # JAX both logs and raises the exceptions of a user's callback.
    for name in ("callback", "debugging"):
        python_logging.getLogger(f"jax._src.{name}").setLevel(python_logging.CRITICAL)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    # On a CPU, jaxlib 0.10 logs an error whenever it reads a program from the compilation cache.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    quiet_libtpu()


def quiet_libtpu() -> None:
    """Silences libtpu on a machine that has libtpu but no TPU.

    `parallel` calls this function again after it has imported JAX, because JAX sets
    TPU_SKIP_MDS_QUERY if it finds no TPU.
    """
    if "TPU_SKIP_MDS_QUERY" in os.environ:
        # The value has no effect without a TPU, but must be a valid type.
        os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-8")
        os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
        os.environ.setdefault("TPU_LOG_DIR", "disabled")


def stop(code: int, message: object, *, is_joint: bool = False) -> NoReturn:
    """Prints an error and ends the program.

    Args:
      code: the exit code.
      message: the error.
      is_joint: whether the other processes of a run usually end by themselves with the same code.
    """
    peers.settle()
    peers.goodbye(code, _JOINT_SECONDS if is_joint else _SECONDS)
    console.error(str(message))
    runtime_errors.end(code)


def _print_help(argv: list[str]) -> None:
    """Prints the help and exits with code 0 if a help flag is set. absl would exit with 1."""
    names = {text.lstrip("-") for text in argv[1:] if text.startswith("-")}
    is_short = not names.isdisjoint(("h", "?", "help", "helpshort"))
    if is_short or "helpfull" in names:
        guard(lambda: app.usage(shorthelp=is_short, writeto_stdout=True))
        sys.exit(0)


@contextlib.contextmanager
def _second_interrupt_ends() -> Iterator[None]:
    """Ends the program immediately at a second Ctrl-C, even during compilation or a device call.

    Python runs signal handlers only after such a call returns. A thread can react during the call.
    """
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or handler == signal.SIG_IGN:
        yield
        return
    read, write = os.pipe()
    os.set_blocking(write, False)
    before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    thread = threading.Thread(target=_watch, args=(read,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(write)
        thread.join()
        os.close(read)


def _watch(signals: int) -> None:
    """Ends the program at the second SIGINT; returns when the pipe is closed."""
    is_second = False
    while number := os.read(signals, 1):
        if number[0] != signal.SIGINT:
            continue
        if is_second:
            os._exit(130)
        is_second = True
        if not select.select([signals], [], [], 1)[0]:
            os.write(2, b"\nstopping; press Ctrl-C again to end the program immediately\n")


def command_line(argv: Sequence[str]) -> list[str]:
    """Returns a command line with ~ expanded in the names of files that are read with it.

    A flag file that cannot be read, a URL, and a file whose read may never end, such as a pipe, end
    the program. A config flag reads flag files when it is defined.
    """
    argv = list(argv)
    for i, flag, text in list(_file_flags(argv)):
        if path_flags.checks(flag.lstrip("-")):
            continue
        path, colon, argument = text.partition(":")
        problem = user_paths.url_problem(text) or user_paths.problem(path)
        if problem:
            stop(1, f"{flag}={text}: {problem}")
        sign = argv[i].partition("=")[1]
        argv[i] = (f"{flag}=" if sign else "") + user_paths.expanded(path) + colon + argument
    try:
        flags.FLAGS.read_flags_from_files(argv)
    except (flags.Error, OSError, ValueError) as error:
        stop(1, _one_line(error).removeprefix("ERROR:: "))
    return argv


def _config_path(argv: list[str]) -> str:
    """Returns the file named by --config, or ""."""
    files = (text for _, flag, text in _file_flags(argv) if flag.lstrip("-") == "config")
    return next(files, "").partition(":")[0]


def _file_flags(argv: list[str]) -> Iterator[tuple[int, str, str]]:
    """Yields the position, the flag and the value of each flag in `_FILE_FLAGS`."""
    for i, word in enumerate(argv):
        flag, sign, value = word.partition("=")
        if not flag.startswith("-") or flag.lstrip("-") not in _FILE_FLAGS:
            continue
        if sign:
            yield i, flag, value
        elif i + 1 < len(argv):
            yield i + 1, flag, argv[i + 1]


def _one_line(error: Exception) -> str:
    text = str(error)
    if isinstance(error, AttributeError | KeyError):
        text = config_errors.unquoted(text)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    # Messages of ml_collections can contain a traceback.
    if any(line.startswith("Traceback") for line in lines):
        return lines[-1].removeprefix("rrd_jax.errors.InputError: ")
    return ": ".join(lines) or type(error).__name__
