"""Paths that users name."""

import os
import pathlib
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rrd_jax import errors, user_paths
from tests import fuzz

_SCHEMES = st.from_regex(r"[A-Za-z][A-Za-z0-9+.\-]{1,8}", fullmatch=True)
_PIECES = st.sampled_from(["~", "/", "hf:", "gs:", "://", "@best", "\0", "\udcff", "\n", "..", "a"])


def _check_any(text):
    reason = user_paths.problem(text)
    assert "\n" not in errors.printable(reason)
    assert isinstance(user_paths.expanded(text), str)
    # An empty field stands for no path, but an argument must name one.
    if text and not reason:
        assert isinstance(user_paths.parse(text, "x"), pathlib.Path)
        return
    with pytest.raises(errors.FieldError) as caught:
        user_paths.parse(text, "x")
    assert "\n" not in str(caught.value)


def _check_url(scheme, rest):
    for text in (f"{scheme}://{rest}", f"hf:{scheme}://{rest}"):
        assert user_paths.problem(text)
        with pytest.raises(errors.FieldError):
            user_paths.parse(pathlib.Path(text), "x")


def test_every_text_is_a_path_or_refused_in_one_line():
    texts = st.text(max_size=12) | st.lists(_PIECES, max_size=6).map("".join)
    fuzz.seeded(fuzz.settings(150)(given(texts)(_check_any)))()


def test_every_url_is_refused():
    rests = st.text("abc./", max_size=6).map(lambda text: f"a{text}".rstrip("/"))
    fuzz.seeded(fuzz.settings(80)(given(_SCHEMES, rests)(_check_url)))()


def test_pipes_sockets_and_devices_are_refused_except_for_output(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        for name in ("pipe", "socket"):
            assert f"a {name}" in user_paths.problem(str(tmp_path / name))
            assert not user_paths.problem(str(tmp_path / name), special=True)
    assert "a device" in user_paths.problem("/dev/zero")
    with pytest.raises(OSError, match="not a regular file"):
        user_paths.read_text(tmp_path / "pipe")


def test_the_home_folder_is_expanded_unless_the_path_exists(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert user_paths.expanded("~/x@best") == f"{tmp_path}/x@best"
    assert user_paths.expanded("hf:~/x") == f"hf:{tmp_path}/x"
    (tmp_path / "~backup").touch()
    assert user_paths.expanded("~backup") == "~backup"
    assert not user_paths.problem("~backup")
    assert "unknown user" in user_paths.problem("~nobody-here")


def test_large_files_are_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(user_paths, "LARGEST_TEXT", 2**20)
    (tmp_path / "large").write_bytes(b"a" * (2**20 + 1))
    with pytest.raises(OSError, match="more than 1 MiB"):
        user_paths.read_text(tmp_path / "large")
