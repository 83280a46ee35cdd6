"""Flags, exit codes and signals, which all commands share.

An error that a user can mend is printed as a message with one of these exit codes:

| code | reason                                                                              |
|------|-------------------------------------------------------------------------------------|
| 0    | the command has finished, or --help was given                                       |
| 1    | a bad flag or config field, or a config file that cannot be run                     |
| 2    | other bad input: data, weights, the workdir of another run                          |
| 3    | the loss is not finite                                                              |
| 69   | a platform, device or library is not available                                      |
| 70   | an error of this program; the message names the file that has its traceback         |
| 74   | a disk, or the file of standard output, takes nothing more                          |
| 75   | the same command resumes: after SIGTERM, or a lost device or process                |
| 130  | Ctrl-C: a run saves its state first; a second Ctrl-C ends it at once                |
| 141  | the reader of standard output is gone, as after `| head -1`                         |

69 to 75 are those of sysexits.h, 130 and 141 those of a shell for SIGINT and SIGPIPE. Warnings and
logs of libraries are hidden unless PYTHONWARNINGS or -W asks for them.
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
from collections.abc import Callable, Iterator
from typing import NoReturn

from absl import app, flags, logging

from rrd_jax import errors
from rrd_jax.terminal import config_errors, console, crashes, runtime_errors

# The first class that fits counts.
_CODES: dict[type[Exception], int] = {
    errors.DiskError: 74,  # EX_IOERR
    errors.UnavailableError: 69,  # EX_UNAVAILABLE
    errors.InputError: 2,
    OSError: 2,
    errors.DivergedError: 3,
    errors.PreemptedError: 75,  # EX_TEMPFAIL: try again
    errors.LostError: 75,
}


def run_main() -> None:
    """Runs the command `rrd-jax`, which is `python -m rrd_jax.main`.

    The module runs as a program, because absl prints the flags and the docstring of the main module
    as help.
    """
    runpy.run_module("rrd_jax.main", run_name="__main__", alter_sys=True)


def parse_flags(
    argv: list[str],
    config: flags.FlagHolder | None = None,
    explain: Callable[[list[str]], str] = lambda argv: "",
    *,
    arguments: bool = False,
) -> list[str]:
    """Parses flags with absl; a bad flag or config file ends the program.

    Args:
      argv: the command.
      config: the flag of a config file.
      explain: returns a better message than absl's for a command that cannot be parsed, or "".
      arguments: whether the command takes arguments that are no flags.
    """
    _prepare_process()
    _print_help(argv)
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
    except BaseException as error:  # A config file is a program, which can raise anything.
        text = config_errors.message(error, path)
        if isinstance(error, SystemExit) and not text:  # absl's --helpxml exits, and so does stop.
            raise
        if text := text or explain(argv):
            stop(1, text)
        if not isinstance(error, flags.Error | AttributeError | KeyError | OSError | ValueError):
            stop(70, crashes.report(error))
        stop(1, _one_line(error))
    if len(rest) > 1 and not arguments:
        stop(1, f"unexpected argument '{rest[1]}'; flags are written --name=value")
    return rest


def guard(
    job: Callable[[], object],
    stopped: str = "stopped; the same command resumes from the last checkpoint",
    folder: Callable[[], pathlib.Path] | None = None,
) -> None:
    """Runs a job; an exception ends the program with a message and an exit code.

    Args:
      job: to run.
      stopped: the message for Ctrl-C, unless the job has its own.
      folder: returns the workdir, where the traceback of an unexpected error is kept.
    """
    _prepare_process()
    try:
        with _second_interrupt_ends(), runtime_errors.translated():
            try:
                job()
            except (OSError, errors.DiskError):
                console.flush()  # If standard output failed, this raises an error that says so.
                raise
            console.flush()
    except errors.UnreadError:
        sys.exit(141)
    except tuple(_CODES) as error:
        stop(next(code for kind, code in _CODES.items() if isinstance(error, kind)), error)
    except KeyboardInterrupt as error:
        stop(130, str(error) or stopped)
    except SystemExit:
        raise
    except BaseException as error:  # A user's code can raise anything.
        stop(70, crashes.report(error, folder))


def _prepare_process() -> None:
    """Replaces closed streams, and hides warnings and logs of libraries."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:  # Closed, as by `>&-`: the next opened file would get its number.
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))
        elif isinstance(stream, io.TextIOWrapper) and mode == "w":
            stream.reconfigure(errors="backslashreplace")  # File names can hold any bytes.
    logging.set_verbosity(logging.ERROR)
    # JAX logs what a user's callback raises, and raises it too.
    python_logging.getLogger("jax._src.callback").setLevel(python_logging.CRITICAL)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    # jaxlib 0.10 logs an error on each start on a CPU that reads a program from the cache.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    quiet_libtpu()


def quiet_libtpu() -> None:
    """Keeps libtpu quiet on a machine that has libtpu and no TPU.

    `parallel` calls this again after JAX is imported, because JAX sets the variable read here.
    """
    if "TPU_SKIP_MDS_QUERY" in os.environ:  # JAX sets it where it finds no chip.
        os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-8")  # Any known type will do.
        os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
        os.environ.setdefault("TPU_LOG_DIR", "disabled")


def stop(code: int, message: object) -> NoReturn:
    """Prints an error and ends the program."""
    console.error(str(message))
    runtime_errors.end(code)


def _print_help(argv: list[str]) -> None:
    """Prints help and exits with 0, if flags ask for it. absl would exit with 1."""
    names = {text.lstrip("-") for text in argv[1:] if text.startswith("-")}
    is_short = not names.isdisjoint(("h", "?", "help", "helpshort"))
    if is_short or "helpfull" in names:
        guard(lambda: app.usage(shorthelp=is_short, writeto_stdout=True))
        sys.exit(0)


@contextlib.contextmanager
def _second_interrupt_ends() -> Iterator[None]:
    """Lets a second Ctrl-C end the program at once, even during compilation or a device call.

    Python runs its signal handlers after such a call. A thread can react during the call.
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
            os.write(2, b"\nstopping; another Ctrl-C ends it at once\n")


def _config_path(argv: list[str]) -> str:
    """Returns the file that --config names, or ""."""
    for flag, following in zip(argv, [*argv[1:], ""], strict=True):
        name, sign, value = flag.partition("=")
        if name in ("--config", "-config"):
            return (value if sign else following).partition(":")[0]
    return ""


def _one_line(error: Exception) -> str:
    text = str(error)
    if isinstance(error, AttributeError | KeyError):
        text = config_errors.unquoted(text)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if any(line.startswith("Traceback") for line in lines):  # ml_collections quotes one.
        return lines[-1].removeprefix("rrd_jax.errors.InputError: ")
    return ": ".join(lines) or type(error).__name__
