import signal

import pytest
from absl.testing import flagsaver

from rrd_jax.data import prepare
from rrd_jax.terminal import cli


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs rrd_jax.data.prepare with flags; returns exit code, stdout, stderr."""
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)

    def call(*flags):
        with flagsaver.flagsaver():
            try:
                prepare.main(cli.parse_flags(["prepare", *map(str, flags)]))
                code = 0
            except SystemExit as stop:
                code = stop.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call
