"""Explains in a few lines why a state dict does not fit a network."""

import re
from collections.abc import Iterable

from rrd_jax import networks
from rrd_jax.weights import entry_templates, foreign_layouts, published
from rrd_jax.weights.entry_search import Flat, find_candidates, short_list, short_name
from rrd_jax.weights.entry_templates import Shape

_ROWS = 3
# With a smaller fraction of a network's entries, a file holds another network.
_MIN_FRACTION = 0.3
_OPTIMIZER = re.compile(
    r"(^|\.)(param_groups|exp_avg\w*|max_exp_avg\w*|momentum_buffer|step)(\.|$)"
)
_SAVE = "save the weights with torch.save(network.state_dict(), FILE)"
_STATISTICS = ("running_mean", "running_var")
# The beginning of a part of a name.
_AT = r"(^|\.)"
# Files without an image network: an expression that some name matches, an expression that no name
# matches, and a description with a remedy.
_NO_NETWORKS: list[tuple[str, str, str]] = [
    (
        r"lora_([AB]|down|up)\.|\.lora_[AB]$",
        "$^",
        "a LoRA adapter, which needs the weights of its base model: merge them (in peft:"
        " merge_and_unload()) and save the result",
    ),
    (
        _AT + r"(down_blocks|up_blocks|mid_block|conv_in|first_stage_model|diffusion_model)\.",
        "$^",
        "a part of a diffusion model, which is not supported: use an image classifier or encoder",
    ),
    (
        _AT + r"(text_model|token_embedding|text_projection|embeddings\.token_embedding)(\.|$)",
        _AT + r"(visual|vision_model|embeddings\.patch_embedding)(\.|$)",
        "a text tower, which reads no images: name the file of the whole model or of its vision"
        " tower",
    ),
]


def describe(name: str, actual: dict[str, Shape], flat: Flat) -> str:
    """Describes the mismatch in at most six lines: the likely reason, then examples.

    Args:
      name: name of the network.
      actual: shapes of the entries of the best candidate.
      flat: the content of the file.
    """
    expected = entry_templates.expected_shapes(name, actual)
    fitting = fitting_networks(flat)
    if not fitting and len(expected.keys() & actual.keys()) < _MIN_FRACTION * len(expected):
        return describe_others(name, flat)
    differing = [e for e in sorted(expected | actual) if expected.get(e) != actual.get(e)]
    reason = f"it fits {' and '.join(fitting)}" if fitting else _reason(name, expected, actual)
    first = f"does not fit {name} in {len(differing)} entries: {reason}"
    # Entries with different shapes are more informative than missing or unexpected entries.
    by_relevance = sorted(differing, key=lambda e: (e not in expected or e not in actual, e))
    rows = {entry: short_name(entry) for entry in sorted(by_relevance[:_ROWS])}
    width = max(map(len, ("entry", *rows.values())))
    lines = [
        f"  {row:<{width}}  {expected.get(entry, 'absent')!s:<20}  {actual.get(entry, 'absent')}"
        for entry, row in rows.items()
    ]
    if len(differing) > len(rows):
        lines.append(f"  and {len(differing) - len(rows)} more")
    header = f"  {'entry':<{width}}  {name + ' has':<20}  the file has"
    return "\n".join([first, header, *lines])


def describe_others(name: str, flat: Flat) -> str:
    """Describes in one line a file with few or no entry names of the network."""
    if "" in flat.arrays:
        shape = tuple(flat.arrays[""].shape)
        return f"holds one tensor of shape {shape}, not a state dict; {_SAVE}"
    if not flat.arrays:
        keys = dict.fromkeys(entry.split(".")[0] for entry in flat.others)
        content = flat.others.get("") or short_list(keys)
        optimizer = ", the settings of an optimizer" if "param_groups" in keys else ""
        return f"holds no tensors, only {content}{optimizer}; {_SAVE}"
    if all(re.fullmatch(r"[\d.]+", entry) for entry in flat.arrays):
        return f"holds {len(flat.arrays)} tensors without names, not a state dict; {_SAVE}"
    if all(_OPTIMIZER.search(entry) for entry in flat.arrays):
        return f"holds the state of an optimizer, not the weights of {name}; {_SAVE}"
    if kind := _no_network(flat.arrays):
        return f"holds no weights of {name}, but {kind}"
    if fitting := fitting_networks(flat):
        return f"does not fit {name}: it fits {' and '.join(fitting)}"
    return (
        f"does not fit {name}: it holds entries of another network: {short_list(flat.arrays)};"
        " `python -m rrd_jax.networks` lists the supported networks"
    )


def fitting_networks(flat: Flat) -> list[str]:
    """Returns the names of the networks that the entries of a file fit."""
    sizes = {size for array in flat.arrays.values() for size in array.shape}
    return [
        name
        for name in networks.MODELS
        if _is_possible(name, flat, sizes)
        and any(c.matches(name) for c in find_candidates(flat, name)[:1])
    ]


def _is_possible(name: str, flat: Flat, sizes: set[int]) -> bool:
    """Returns False if a file cannot hold a network's entries, without tracing the network.

    Args:
      name: name of the network.
      flat: the content of the file.
      sizes: lengths of all axes of the arrays.
    """
    options = getattr(networks.MODELS[name], "keywords", {})
    widths = [*options.get("widths", ())]
    widths += [options[name] for name in ("width", "stem", "head") if name in options]
    record = published.lookup(name)
    first = f"{record.timm_ends[0]}.weight" if record.timm == name or record.entries else ""
    entry_names = published.renaming(name, record.entries)
    firsts = (
        entry_names.to_foreign(first) if entry_names else first,
        *(renaming.to_foreign(first) for renaming in published.renamings(name)),
    )
    return sizes.issuperset(widths) and any(entry.endswith(firsts) for entry in flat.arrays)


def _no_network(names: Iterable[str]) -> str:
    """Describes a file without an image network, with a remedy; "" for other files."""
    text = "\n".join(names)
    for expression, absent, kind in _NO_NETWORKS:
        if re.search(expression, text, re.MULTILINE) and not re.search(absent, text, re.MULTILINE):
            return kind
    return ""


def _reason(name: str, expected: dict[str, Shape], actual: dict[str, Shape]) -> str:
    """Returns the likely reason for a mismatch, with a remedy if possible."""
    missing, extra = expected.keys() - actual.keys(), actual.keys() - expected.keys()
    reshaped = {e for e in expected.keys() & actual.keys() if expected[e] != actual[e]}
    classifier = entry_templates.classifier(name)
    head = " and ".join(sorted({_module(entry) for entry in classifier}))
    if missing and missing <= classifier and not reshaped:
        if extra:
            others = short_list({_module(e) for e in extra}, 2)
            return f"its classifier is not {head}, but {others}{_other_classifier(actual)}"
        if missing == classifier:
            return f"its classifier {head} is missing: it holds the weights of a backbone alone"
        return f"its classifier lacks {short_list(missing, 2)}"
    if reshaped and not missing and not extra and reshaped <= classifier:
        return f"its classifier {head} has inconsistent numbers of classes"
    if missing and not extra and all(entry.endswith(_STATISTICS) for entry in missing):
        return (
            "the running statistics of the batch norms are missing: the network has other norms, or"
            " parameters() was saved instead of state_dict()"
        )
    kernels = [e for e in reshaped if len(actual[e]) == 4 == len(expected[e])]
    transposed = [e for e in kernels if sorted(actual[e]) == sorted(expected[e])]
    if len(transposed) > 1 and 2 * len(transposed) > len(kernels):
        return "the axes of its convolutions are not in PyTorch's order [O, I, H, W]"
    return (
        "it holds another network or is damaged (missing entries:"
        f" {len(missing)}, unexpected: {len(extra)}, with another shape: {len(reshaped)})"
    )


def _other_classifier(actual: dict[str, Shape]) -> str:
    """Describes a classifier of transformers that reads more than the embedding, or returns ""."""
    if actual.keys().isdisjoint(foreign_layouts.OTHER_CLASSIFIER) or not any(
        "attn.qkv" in entry for entry in actual
    ):
        return ""
    return ", which also reads the mean of the patch tokens: only the backbone can be loaded"


def _module(entry: str) -> str:
    return entry.rpartition(".")[0]
