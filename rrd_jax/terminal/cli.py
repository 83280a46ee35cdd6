"""What the programs share: what their users can mend becomes one line and an exit code.

| code | why                                                                                      |
|------|------------------------------------------------------------------------------------------|
| 0    | the job is done, or --help was asked for                                                 |
| 1    | a bad flag or config field, or a config file that cannot be run                          |
| 2    | other bad input: data, weights, a workdir of another run                                 |
| 3    | the loss is not finite                                                                   |
| 69   | a platform, device or library that was asked for is not on this machine                  |
| 70   | an error of this program; its traceback is kept in a file, which the message names       |
| 74   | a disk, or the file that standard output goes to, takes nothing more                     |
| 75   | the same command goes on as it is: SIGTERM, a lost device or process                     |
| 130  | Ctrl-C: a run saves its state first; a second Ctrl-C ends it at once                     |
| 141  | nobody reads standard output any more, as after `| head -1`; the last checkpoint is kept |

69 to 75 are those of sysexits.h, 130 and 141 those of a shell for SIGINT and SIGPIPE. What Python
libraries warn of and narrate is not shown, unless PYTHONWARNINGS or -W asks for it.
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
from rrd_jax.terminal import console, failures, last_resort

_UNREAD = 141  # as SIGPIPE ends other programs
# The first kind that fits counts.
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
    """The command `rrd-jax`: what `python -m rrd_jax.main` does.

    It runs the module as Python's -m does, since absl prints the flags and the docstring of the
    program's main module as help.
    """
    runpy.run_module("rrd_jax.main", run_name="__main__", alter_sys=True)


def parse_flags(
    argv: list[str],
    config: flags.FlagHolder | None = None,
    explain: Callable[[list[str]], str] = lambda argv: "",
    *,
    arguments: bool = False,
) -> list[str]:
    """absl's parser; whatever is wrong with flags, or the config file, ends the program.

    Args:
      argv: the command.
      config: the flag of a config file.
      explain: what it says better than absl does about a command that cannot be read; "" where it
        knows nothing.
      arguments: whether it takes some that are no flags, before, between or behind these; what
        follows `--` is none.
    """
    _prepare_streams()
    _quiet_libraries()
    _help(argv)
    try:
        if arguments:
            flags.FLAGS.set_gnu_getopt(True)
        rest = flags.FLAGS(argv)
        if config is not None:
            _check_config(config, _config_path(argv))
    except KeyboardInterrupt:
        stop(130, "stopped")
    except BaseException as error:  # a config file is a program, and can raise anything
        text = last_resort.of_config(error, _config_path(argv))
        if isinstance(error, SystemExit) and not text:  # of absl's --helpxml
            raise
        if text := text or explain(argv):
            stop(1, text)
        if not isinstance(error, flags.Error | AttributeError | KeyError | OSError | ValueError):
            stop(70, last_resort.of_program(error))
        stop(1, _one_line(error))
    if len(rest) > 1 and not arguments:
        stop(1, f"unexpected argument '{rest[1]}'; flags are written --name=value")
    return rest


def guard(
    job: Callable[[], object],
    stopped: str = "stopped; the same command goes on from the last checkpoint",
    folder: Callable[[], pathlib.Path] | None = None,
) -> None:
    """Runs a job; whatever it raises ends the program with a line and a code.

    Args:
      job: to run.
      stopped: what Ctrl-C says, where the job does not.
      folder: returns the workdir, which takes the traceback of an error of this program.
    """
    _prepare_streams()
    _quiet_libraries()
    try:
        with _second_interrupt_ends(), failures.translated():
            _run(job)
    except errors.UnreadError:
        sys.exit(_UNREAD)
    except tuple(_CODES) as error:
        stop(next(code for kind, code in _CODES.items() if isinstance(error, kind)), error)
    except KeyboardInterrupt as error:
        stop(130, str(error) or stopped)
    except SystemExit:
        raise
    except BaseException as error:  # a user's code can raise anything
        stop(70, last_resort.of_program(error, folder))


def _run(job: Callable[[], object]) -> None:
    try:
        job()
    except (OSError, errors.DiskError):
        console.flush()  # which fails, and says so, where it was standard output that failed
        raise
    console.flush()


def _prepare_streams() -> None:
    """Streams that are closed, as by `>&-`, lead nowhere: else the next file takes their number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))
        elif isinstance(stream, io.TextIOWrapper) and mode == "w":
            stream.reconfigure(errors="backslashreplace")  # any name of a file can be printed


def _quiet_libraries() -> None:
    logging.set_verbosity(logging.ERROR)
    # JAX's, of what a user's callback raises, which then comes as an exception.
    python_logging.getLogger("jax._src.callback").setLevel(python_logging.CRITICAL)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    # XLA's; what ends a program comes as an exception too. jaxlib 0.10 calls a compiled program
    # that it reads from the cache an error, at each start on a CPU.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    quiet_libtpu()


def quiet_libtpu() -> None:
    """Where libtpu is installed and no TPU is, JAX tries it, and libtpu complains in five lines.

    Where JAX is imported later, `parallel` calls this after that.
    """
    if "TPU_SKIP_MDS_QUERY" in os.environ:  # JAX sets it where it sees no chip
        os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-8")  # any that it knows
        os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
        os.environ.setdefault("TPU_LOG_DIR", "disabled")  # instead of /tmp/tpu_logs


def stop(code: int, message: object) -> NoReturn:
    """Ends the program."""
    console.error(str(message))
    failures.end(code)


def _help(argv: list[str]) -> None:
    """Prints the help that is asked for and ends the program; absl would end it as failed."""
    names = [text.lstrip("-") for text in argv[1:] if text.startswith("-")]
    short = any(name in ("h", "?", "help", "helpshort") for name in names)
    if not short and "helpfull" not in names:
        return
    with contextlib.suppress(OSError):  # which flush tells by its kind
        app.usage(shorthelp=short, writeto_stdout=True)
    try:
        console.flush()
    except errors.UnreadError:
        sys.exit(_UNREAD)
    except errors.DiskError as error:
        stop(74, error)
    sys.exit(0)


@contextlib.contextmanager
def _second_interrupt_ends() -> Iterator[None]:
    """A second Ctrl-C ends the program at once, even while it waits for a compiler or a device.

    Python's handlers wait until such a call returns, a thread does not.
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
    """Ends the program at the second SIGINT that is read; returns at the end of the file."""
    asked = False
    while number := os.read(signals, 1):
        if number[0] != signal.SIGINT:
            continue
        if asked:
            os._exit(130)
        asked = True
        if not select.select([signals], [], [], 1)[0]:
            os.write(2, b"\nstopping; another Ctrl-C ends it at once\n")


def _check_config(config: flags.FlagHolder, path: str) -> None:
    """Ends the program where --config gives none; raises what kept it from being read."""
    if config.value is None and not path:
        stop(1, "--config is missing; for example --config=configs/digits.py")
    if not hasattr(config.value, "train"):
        stop(1, last_resort.returns(path, config.value))


def _config_path(argv: list[str]) -> str:
    """The file that --config names, or "" for none."""
    for flag, following in zip(argv, [*argv[1:], ""], strict=True):
        name, sign, value = flag.partition("=")
        if name in ("--config", "-config"):
            return (value if sign else following).partition(":")[0]
    return ""


def _one_line(error: Exception) -> str:
    text = str(error)
    if isinstance(error, AttributeError | KeyError):
        text = last_resort.unquoted(text)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if any(line.startswith("Traceback") for line in lines):  # ml_collections keeps it as text
        return lines[-1].removeprefix("rrd_jax.errors.InputError: ")
    return ": ".join(lines) or type(error).__name__
