"""The end of processes that lose another process of their run."""

import contextlib
import json
import pathlib
import signal
import subprocess
import sys

import pytest

# Ends after a line of standard input with the exit code in this line.
_PROGRAM = """
import json, os, sys
from rrd_jax.terminal import peers
process = int(sys.argv[1])
if process == 0:
    server = peers.Server()
    print(json.dumps(server.address), flush=True)
    links = server.accept(2)
else:
    links = peers.connect("localhost", peers.Address(*json.loads(sys.argv[2])), process)
peers.watch(process, links)
print("ready", flush=True)
code = int(input())
peers.goodbye(code)
os._exit(code)
"""


def _start(*arguments):
    return subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, *arguments],
        cwd=pathlib.Path(__file__).parent.parent.parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def three():
    """Three processes that watch each other."""
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(_start("0"))
        stack.callback(first.kill)
        address = json.dumps(json.loads(first.stdout.readline()))
        processes = [first]
        for i in (1, 2):
            processes.append(stack.enter_context(_start(str(i), address)))
            stack.callback(processes[-1].kill)
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        yield processes


def _check_end(process, code, message):
    assert process.wait(timeout=60) == code
    text = process.stderr.read()
    assert message in text
    assert len(text.splitlines()) == bool(message)


@pytest.mark.parametrize("victim", [0, 1])
def test_all_processes_end_with_code_75_when_one_is_killed(three, victim):
    three[victim].kill()
    for process in [p for i, p in enumerate(three) if i != victim]:
        _check_end(process, 75, "was lost; start the same command in all processes to resume")


def test_the_loss_takes_precedence_over_an_abort(three):
    # JAX aborts a process that loses process 0.
    three[2].send_signal(signal.SIGABRT)
    three[0].kill()
    _check_end(three[2], 75, "process 0 on localhost was lost")


@pytest.mark.parametrize("victim", [0, 1])
def test_all_processes_end_with_the_code_of_an_error(three, victim):
    _end_with(three[victim], 74)
    for process in [p for i, p in enumerate(three) if i != victim]:
        _check_end(process, 74, "ended with exit code 74; read its message")


def test_a_process_that_is_finished_is_not_lost(three):
    _end_with(three[1], 0)
    _end_with(three[2], 0)
    _end_with(three[0], 0)


def _end_with(process, code):
    process.stdin.write(f"{code}\n")
    process.stdin.flush()
    _check_end(process, code, "")
