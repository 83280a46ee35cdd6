"""Names of repositories, and the commits that a run keeps."""

import pytest

from rrd_jax import errors, hub, user_paths

_COMMIT, _OTHER = "0" * 39 + "1", "0" * 39 + "2"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("hf-hub:org/name", ("org/name", "", "")),
        ("hf-hub:resnet-18", ("resnet-18", "", "")),
        ("hf-hub:org/name@main", ("org/name", "", "")),
        ("hf-hub:org/name@v1.0", ("org/name", "v1.0", "")),
        ("hf-hub:org/name@refs/pr/1", ("org/name", "refs/pr/1", "")),
        (f"hf-hub:org/name@{_COMMIT}", ("org/name", "", _COMMIT)),
        (f"hf-hub:org/name@v1.0:{_COMMIT}", ("org/name", "v1.0", _COMMIT)),
    ],
)
def test_the_parts_of_a_name_are_its_repository_revision_and_commit(text, parts):
    assert hub.parse(text) == parts
    assert hub.parse(str(hub.parse(text))) == parts


@pytest.mark.parametrize(
    "rest",
    [
        *("", "/", "a/b/c", "../x", "a..b/c", "org/", "/name", "a b", "//org/name", "org\n/name"),
        *("org/name@", "org/name@../x", "org/name@v:12", "org/name@a b", "o" * 97),
    ],
)
def test_other_names_are_refused(rest):
    assert user_paths.problem(f"hf-hub:{rest}", repository=True)
    with pytest.raises(errors.InputError):
        hub.parse(f"hf-hub:{rest}")


@pytest.mark.parametrize(
    ("text", "recorded", "expected"),
    [
        ("hf-hub:o/n", f"hf-hub:o/n@{_COMMIT}", f"hf-hub:o/n@{_COMMIT}"),
        ("hf-hub:o/n@main", f"hf-hub:o/n@{_COMMIT}", f"hf-hub:o/n@{_COMMIT}"),
        ("hf-hub:o/n@v1", f"hf-hub:o/n@v1:{_COMMIT}", f"hf-hub:o/n@v1:{_COMMIT}"),
        ("hf-hub:o/n@v2", f"hf-hub:o/n@v1:{_COMMIT}", "hf-hub:o/n@v2"),
        ("hf-hub:o/n", f"hf-hub:o/n@v1:{_COMMIT}", "hf-hub:o/n"),
        ("hf-hub:o/m", f"hf-hub:o/n@{_COMMIT}", "hf-hub:o/m"),
        (f"hf-hub:o/n@{_OTHER}", f"hf-hub:o/n@{_COMMIT}", f"hf-hub:o/n@{_OTHER}"),
        ("hf-hub:o/n", "weights.pth", "hf-hub:o/n"),
        ("hf-hub:o/n", None, "hf-hub:o/n"),
    ],
)
def test_a_resumed_run_keeps_the_commit_of_the_same_revision(text, recorded, expected):
    assert hub.pinned(text, recorded) == expected


def test_a_place_for_paths_refuses_repositories():
    assert "this machine" in user_paths.problem("hf-hub:org/name")
