"""Uploads of folders to repositories."""

import pathlib
from typing import Any

from rrd_jax import errors
from rrd_jax.hub import client, names

# The files of a folder in the layout of model hubs.
_FILES = ("README.md", "config.json", "model.safetensors")


def check_push(repository: str, *, private: bool) -> None:
    """Checks that a folder can be pushed to a repository, before the folder is written.

    Args:
      repository: ORG/NAME; created if it does not exist.
      private: whether the repository must be private.

    Raises:
      InputError: there is no token, the token is not valid, the name is not valid, or an existing
        repository is public.
      UnavailableError: huggingface_hub is not installed.
    """
    subject = f"{names.PREFIX}{repository}"
    if names.problem(subject) or "/" not in repository or "@" in repository:
        raise errors.InputError(
            f"--push={errors.printable(repository)} is not the name of a repository; write"
            " --push=ORG/NAME"
        )
    library = client.library(f"--push={repository}")
    if library.constants.HF_HUB_OFFLINE:
        raise errors.InputError(
            f"--push={repository} needs the network, but HF_HUB_OFFLINE is set; unset it"
        )
    if not library.get_token():
        raise errors.InputError(
            f"--push={repository} needs a token with write permission; set HF_TOKEN, or run"
            " `hf auth login`"
        )
    api = library.HfApi()
    with client.one_line(subject, writes=True):
        # Raises an error for an invalid token.
        account = api.whoami()
        owners = [account["name"], *(owner["name"] for owner in account.get("orgs") or ())]
        if repository.partition("/")[0] not in owners:
            raise errors.HubError(
                f"{subject} cannot be written with this token, which belongs to"
                f" {' and '.join(owners)}; use one of these names"
            )
        if private and not _is_private(api, library, repository):
            raise errors.InputError(
                f"{subject} exists and is public, but --private is set; omit --private, or make the"
                " repository private on its page"
            )


def _is_private(api: Any, library: Any, repository: str) -> bool:
    """Returns True if a repository is private or does not exist."""
    try:
        return bool(api.model_info(repository).private)
    except library.errors.RepositoryNotFoundError:
        return True


def push(folder: pathlib.Path, repository: str, *, private: bool) -> str:
    """Uploads a folder as one commit, after creating a missing repository.

    Args:
      folder: a folder in the layout of model hubs.
      repository: ORG/NAME.
      private: whether a new repository is private.

    Returns:
      The URL of the commit.

    Raises:
      InputError: the repository cannot be created or written.
    """
    subject = f"{names.PREFIX}{repository}"
    library = client.library(subject)
    api = library.HfApi()
    with client.one_line(subject, writes=True):
        api.create_repo(repository, private=private or None, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            allow_patterns=list(_FILES),
            commit_message="Upload a network of rrd_jax",
        )
    return errors.redacted(str(commit.commit_url))
