"""Image files that are listed from names on a command line."""

import os
import re
import signal

import pytest

from rrd_jax import errors
from rrd_jax.data.folder import file_listing
from rrd_jax.terminal import interrupts, long_search
from tests.data import folders


def _relative(root, names):
    return [
        os.path.relpath(path, root) for path in file_listing.files(str(root / n) for n in names)
    ]


def test_files_keep_the_given_order_and_folders_are_sorted(tmp_path):
    for name in ("b/2.jpg", "b/1.png", "b/c/3.jpg", "a.jpg", "b/.hidden/4.jpg", "b/no_suffix"):
        folders.put(tmp_path / name)
    folders.put(tmp_path / "b" / "notes.txt", b"no image")
    folders.put(tmp_path / "b" / "broken.png", b"no image, in spite of its suffix")
    expected = ["b/1.png", "b/2.jpg", "b/broken.png", "b/c/3.jpg", "b/no_suffix"]
    assert _relative(tmp_path, ["b", "a.jpg"]) == [*expected, "a.jpg"]
    assert _relative(tmp_path, ["a.jpg", "b", "a.jpg"]) == ["a.jpg", *expected, "a.jpg"]
    assert _relative(tmp_path, ["b/*.jpg", "a.???"]) == ["b/2.jpg", "a.jpg"]
    assert _relative(tmp_path, ["**/3.jpg"]) == ["b/c/3.jpg"]
    for name in ("a[1].jpg", "a1.jpg"):
        folders.put(tmp_path / name)
    # The name of an existing file is not a pattern.
    assert _relative(tmp_path, ["a[1].jpg"]) == ["a[1].jpg"]
    # Explicit names are not checked here; the reader reports missing and invalid files.
    assert _relative(tmp_path, ["a.jpg", "missing", "b/notes.txt"])[1:] == [
        "missing",
        "b/notes.txt",
    ]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "no images given; name files or folders"),
        (["none.jpg"], "none.jpg' does not exist"),
        (["*.jpg"], r"no file matches '.*\*.jpg'"),
        (["empty"], "no images in .*empty$"),
    ],
)
def test_missing_images_are_refused(names, message, tmp_path):
    folders.put(tmp_path / "empty" / "notes.txt", b"")
    with pytest.raises(errors.InputError, match=message):
        _relative(tmp_path, names)


def test_a_list_is_separated_by_zeros_or_line_ends():
    assert file_listing.parse_names(b"a b.jpg\r\n\n\xffc.jpg\n") == ["a b.jpg", "\udcffc.jpg"]
    assert file_listing.parse_names(b"a\nb.jpg\0c.jpg\0") == ["a\nb.jpg", "c.jpg"]
    assert file_listing.parse_names(b"") == []


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_lists_of_names_are_decoded(encoding):
    names = ["a.png", "ä b.png"]
    assert file_listing.parse_names("\r\n".join(names).encode(encoding)) == names
    assert file_listing.parse_names("\0".join(names).encode(encoding)) == names


def test_a_list_in_utf_16_without_a_mark_is_refused():
    for encoding in ("utf-16-le", "utf-16-be"):
        with pytest.raises(errors.InputError, match="convert it to UTF-8"):
            file_listing.parse_names("a.png\nb.png\n".encode(encoding))


def test_names_are_expanded_and_urls_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    folders.put(tmp_path / "a.jpg")
    assert file_listing.files(["~/a.jpg"]) == [str(tmp_path / "a.jpg")]
    with pytest.raises(errors.FieldError, match="a URL .https://host/a.jpg."):
        file_listing.files(["https://host/a.jpg"])


def test_a_long_search_is_reported_and_can_be_interrupted(tmp_path, monkeypatch, capsys):
    folders.put(tmp_path / "b" / "a.jpg")
    monkeypatch.setattr(long_search, "_FIRST", 0.0)
    file_listing.files([str(tmp_path)])
    assert re.search(r"searching .* files in \d+ folders", capsys.readouterr().out)
    with pytest.raises(KeyboardInterrupt):
        _interrupted_search(tmp_path)


@interrupts.handled(interrupts.Mode.RECORD)
def _interrupted_search(folder):
    signal.raise_signal(signal.SIGINT)
    file_listing.files([str(folder)])
    pytest.fail("the search was not interrupted")
