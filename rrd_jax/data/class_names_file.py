"""Reads class names from a file, which replace the names of the data set."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from rrd_jax import errors, user_paths


def read(path: pathlib.Path, num_classes: int, field: str) -> tuple[str, ...]:
    """Returns the names in a file, in the order of labels.

    The file is text with one name per line, or JSON: a list of names, or a dict of names by label,
    {"0": "tench"}. A name in JSON may be a list that ends with the name, as in ImageNet's
    ["n01440764", "tench"].

    Args:
      path: path of the file.
      num_classes: C.
      field: config field or argument that names the file, for messages.

    Raises:
      InputError: the file cannot be read, or does not have C names.
    """
    subject = f"{field} is '{path}'"
    names = read_all(path, subject)
    if len(names) != num_classes:
        raise errors.InputError(
            f"{subject}, which has {len(names):,} names, but there are {num_classes:,} classes;"
            " list one name per class, in the order of labels"
        )
    return names


def read_all(path: pathlib.Path, subject: str) -> tuple[str, ...]:
    """Returns all names in a file of unknown length; see `read`.

    Args:
      path: path of the file.
      subject: the file in messages, such as "data.class_names is 'names.txt'".
    """
    try:
        return _names(user_paths.read_text(path))
    except OSError as error:
        raise errors.InputError(f"{subject}, which cannot be read: {error.strerror}") from error
    except (RecursionError, ValueError) as error:
        raise errors.InputError(f"{subject}, which has no valid class names: {error}") from error


def _names(text: str) -> tuple[str, ...]:
    if not text.lstrip().startswith(("{", "[")):
        return tuple(line.strip() for line in text.rstrip().splitlines())
    content = json.loads(text)
    # The key of Hugging Face's config.json.
    if isinstance(content, Mapping) and "id2label" in content:
        content = content["id2label"]
    if not isinstance(content, Mapping | list):
        raise ValueError(f"the names are {content!r}, but must be a list or a dict by label")
    return in_order(content) if isinstance(content, Mapping) else tuple(map(_name, content))


def in_order(names: Mapping[Any, Any]) -> tuple[str, ...]:
    """Returns class names by label as a tuple; raises a ValueError unless labels are 0 to C - 1."""
    by_label = {str(label): name for label, name in names.items()}
    labels = sorted(by_label, key=lambda label: (len(label), label))
    if labels != list(map(str, range(len(labels)))):
        raise ValueError(f"the labels are {', '.join(labels[:4])} ..., not 0, 1, 2 ...")
    return tuple(_name(by_label[label]) for label in labels)


def _name(value: Any) -> str:
    if isinstance(value, list) and value:
        value = value[-1]
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{str(value)[:40]!r} is not a name")
    return value.strip()
