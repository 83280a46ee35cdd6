"""Names of repositories: hf-hub:ORG/NAME, with a revision, and with the commit of the revision."""

import re
from typing import NamedTuple

from rrd_jax import errors

PREFIX = "hf-hub:"
_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"
_REPOSITORY = re.compile(rf"(?:{_PART}/)?{_PART}")
# Names that git allows, except for a colon, which separates the commit.
_REVISION = re.compile(r"[A-Za-z0-9_][\w./+-]*")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_LONGEST = 96
# The revision of a name without one.
_DEFAULT = "main"


class Name(NamedTuple):
    """A repository at a revision.

    Attributes:
      repository: ORG/NAME.
      revision: a branch, tag or commit; "" for the default branch.
      commit: the commit of the revision; "" if it is not known yet.
    """

    repository: str
    revision: str = ""
    commit: str = ""

    def __str__(self) -> str:
        parts = [part for part in (self.revision, self.commit) if part]
        return f"{PREFIX}{self.repository}" + (f"@{':'.join(parts)}" if parts else "")


def is_name(text: str) -> bool:
    """Returns True for text that names a repository, in a valid form or not."""
    return text.lower().startswith(PREFIX)


def parse(text: str) -> Name:
    """Returns the parts of a name; raises an InputError if it is not valid.

    A commit is its own revision: hf-hub:ORG/NAME@COMMIT has the default revision and this commit.
    """
    if reason := problem(text):
        raise errors.InputError(f"the name is '{errors.printable(text)}', {reason}")
    repository, _, rest = text[len(PREFIX) :].partition("@")
    revision, _, commit = rest.partition(":")
    if _COMMIT.fullmatch(revision):
        revision, commit = "", revision
    return Name(repository, "" if revision == _DEFAULT else revision, commit)


def problem(text: str) -> str:
    """Returns why a text is not a valid name; "" if it is.

    The reason completes the sentence "PATH is 'TEXT', ...".
    """
    advice = f"write {PREFIX}ORG/NAME or {PREFIX}ORG/NAME@REVISION"
    if not text.startswith(PREFIX):
        return f"a name of the hub in uppercase; {advice}"
    repository, at, rest = text[len(PREFIX) :].partition("@")
    revision, colon, commit = rest.partition(":")
    is_named = _REPOSITORY.fullmatch(repository) and len(repository) <= _LONGEST
    if not is_named or ".." in repository or "--" in repository:
        return f"whose repository '{errors.printable(repository)}' is not a valid name; {advice}"
    has_revision = _REVISION.fullmatch(revision) and ".." not in revision
    if at and not has_revision:
        return f"whose revision '{errors.printable(revision)}' is not a valid name; {advice}"
    if colon and not _COMMIT.fullmatch(commit):
        return (
            f"whose commit '{errors.printable(commit)}' does not have 40 hexadecimal digits;"
            f" {advice}"
        )
    return ""


def pinned(text: str, recorded: object) -> str:
    """Returns a name with the commit that a run has recorded for the same revision, if any.

    Args:
      text: the name that a user passes at a resumed start.
      recorded: the name in the config of the run, with its commit; or any other value.
    """
    name = parse(text)
    if name.commit or not isinstance(recorded, str) or problem(recorded):
        return text
    earlier = parse(recorded)
    return recorded if (name.repository, name.revision) == earlier[:2] else text
