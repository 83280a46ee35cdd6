"""Conversion between PyTorch state dicts and network variables, by entry names."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from rrd_jax import errors, networks
from rrd_jax.terminal import console
from rrd_jax.weights import (
    entry_layouts,
    entry_search,
    entry_templates,
    entry_values,
    foreign_layouts,
    mismatch,
    published,
)

_ROWS = 4


def from_torch(
    name: str,
    state_dict: Any,
    *,
    location: str = "the state dict",
    key: str = "",
    headless: bool = False,
    lazy: bool = False,
) -> dict[str, Any]:
    """Converts a PyTorch state dict, or a checkpoint that contains one, to network variables.

    Detects keys and prefixes of the entries' names, such as `state_dict`, `model`, `module.` and
    `student.`. Prefers averaged weights to raw weights, and prints a note about the choice.

    Args:
      name: a key of `networks.MODELS` or `networks.ALIASES`.
      state_dict: arrays or tensors by entry name, or nested dicts of them; their shapes determine
        the numbers of classes and of image channels.
      location: source of the state dict, for messages.
      key: prefix of the entries to convert, such as "state_dict_ema"; "" to detect the prefix.
      headless: whether the classifier may be missing; if so, the variables have no classifier.
      lazy: whether each array is read and converted when it is used.

    Returns:
      {"params": ..., "batch_stats": ...} of float32 numpy arrays; of `networks.Stored` if lazy,
      whose `read` raises an InputError for values that are not finite.

    Raises:
      InputError: names or shapes differ, as the message describes; the state dict contains two
        networks and `key` names neither; or values are not finite floats.
    """
    template = entry_templates.template(name)
    try:
        entries = _entries(name, state_dict, location, key, headless=headless)
    except entry_search.MisfitError as error:
        raise errors.InputError(f"{location} {error}") from None
    template = {entry: layout for entry, layout in template.items() if entry in entries}
    description = f"{location} cannot be used as {name}"
    if not lazy:
        return _unflatten(template, _converted(description, template, entries))
    _without_problems(description, entries, lambda entry: entry_values.check(entries[entry]))

    def stored(entry):
        path, _, rank = template[entry]
        like = np.broadcast_to(np.float32(0), tuple(entries[entry].shape))
        shape = entry_templates.from_torch_layout(path[-1], like, rank).shape
        part = {entry: template[entry]}
        return networks.Stored(
            shape, like.dtype, lambda: _converted(description, part, entries)[entry]
        )

    return _unflatten(template, {entry: stored(entry) for entry in template})


def _unflatten(template: Mapping[str, Any], arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the variables of a network from its entries."""
    flat = {template[entry].path: array for entry, array in arrays.items()}
    return {"batch_stats": {}, **traverse_util.unflatten_dict(flat)}


def _converted(
    description: str, template: Mapping[str, Any], entries: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Reads the entries of a template as float32 arrays in the layout of Flax."""

    def convert(entry):
        path, _, rank = template[entry]
        value = entry_values.read_float32(entry, entries[entry])
        return np.ascontiguousarray(entry_templates.from_torch_layout(path[-1], value, rank))

    return _without_problems(description, template, convert)


def _entries(name: str, content: Any, location: str, key: str, *, headless: bool) -> dict[str, Any]:
    """Returns the entries of a network in the content of a file."""
    flat = entry_search.flatten(content)
    if key:
        flat = entry_search.under_key(flat, key)
    if not flat.arrays or not (candidates := entry_search.find_candidates(flat, name)):
        raise entry_search.MisfitError(mismatch.describe_others(name, flat))
    choice, note = entry_search.choose(candidates, flat, name, parent_key=key)
    if headless and not choice.matches(name):
        choice, is_reduced = choice.without(foreign_layouts.OTHER_CLASSIFIER)
        if is_reduced and choice.matches_backbone(name):
            console.note(
                f"{location}: classifier not loaded, because it reads more than the embedding"
            )
    if not choice.matches(name) and not (headless and choice.matches_backbone(name)):
        raise entry_search.MisfitError(mismatch.describe(name, choice.shapes, flat))
    if note:
        console.note(f"{location}: {note}")
    return choice.entries


def _without_problems(
    description: str, entries: Iterable[str], function: Callable[[str], Any]
) -> dict[str, Any]:
    """Returns the results of a function of entry names.

    Raises:
      InputError: the function raised a ValueError; the message starts with the description.
    """
    results, problems = {}, []
    for entry in entries:
        try:
            results[entry] = function(entry)
        except ValueError as error:
            problems.append(f"{entry} {error}")
    if len(problems) == 1:
        raise errors.InputError(f"{description}: {problems[0]}")
    if problems:
        lines = [f"  {problem}" for problem in problems[:_ROWS]]
        if len(problems) > _ROWS:
            lines.append(f"  and {len(problems) - _ROWS} more")
        count = len(problems) + len(results)
        first = f"{description}: {len(problems)} of {count} entries are invalid:"
        raise errors.InputError("\n".join([first, *lines]))
    return results


def to_torch(name: str, variables: dict[str, Any], *, layout: str = "") -> dict[str, np.ndarray]:
    """Converts variables to a PyTorch state dict; the inverse of `from_torch`.

    For PyTorch: `{entry: torch.from_numpy(array) for entry, array in to_torch(...).items()}`; for a
    file: `safetensors.numpy.save_file(to_torch(...), path)`.

    The batch counters of PyTorch's batch norms are written as 0. With the default momentum, PyTorch
    does not read them.

    Args:
      name: a key of `networks.MODELS` or `networks.ALIASES`.
      variables: the variables of the network.
      layout: the library whose entry names and shapes are used: "torchvision"; "timm";
        "transformers" (the model for image classification, the model without a head, or a
        CLIPVisionModelWithProjection); "openai" (CLIP); "dinov2" (the authors' files); or "" for
        the library that has a network with this name, timm if both torchvision and timm do.

    Raises:
      InputError: the name is unknown, the library has no such network, or the layout has no
        counterpart of an entry.
    """
    # Raises an error for an unknown name.
    networks.factory(name)
    record = published.lookup(name)
    table = foreign_layouts.find(name, layout) if layout in foreign_layouts.NAMES else None
    is_published = layout in published.LIBRARIES and getattr(record, layout)
    if layout and not (table or is_published):
        libraries = [library for library in published.LIBRARIES if getattr(record, library)]
        libraries += [
            library for library in foreign_layouts.NAMES if foreign_layouts.find(name, library)
        ]
        raise errors.InputError(
            f"'{layout}' has no network equivalent to {name}; choose one of:"
            f" {', '.join(libraries) or 'none'}"
        )
    state_dict = {}
    for path, leaf in traverse_util.flatten_dict(dict(variables)).items():
        entry = entry_templates.entry_name(path)
        array = entry_templates.to_torch_layout(path[-1], np.asarray(leaf))
        # safetensors writes arrays that are not contiguous in the wrong order.
        state_dict[entry] = np.ascontiguousarray(array)
    if table:
        state_dict = entry_layouts.write(table, state_dict)
    for entry in [e for e in state_dict if e.endswith("running_var")]:
        state_dict[entry.replace("running_var", "num_batches_tracked")] = np.array(0)
    if table:
        return state_dict
    renaming = published.renaming(name, layout or published.library_of(name))
    return renaming.write(state_dict) if renaming else state_dict


def sizes(name: str, variables: dict[str, Any]) -> tuple[int, int]:
    """Returns the numbers of classes and of image channels of a network's variables.

    The number of classes is 0 for variables without a classifier.
    """
    entries = entry_templates.entries(variables)
    shapes = {entry_name: entry.shape for entry_name, entry in entries.items()}
    if entry_names := published.renaming(name, published.lookup(name).entries):
        shapes = {entry_names.to_foreign(entry): shape for entry, shape in shapes.items()}
    marked = entry_templates.marked_sizes(name, shapes)
    has_head = not entry_templates.classifier(name).isdisjoint(shapes)
    return marked[entry_templates.CLASSES] if has_head else 0, marked[entry_templates.CHANNELS]
