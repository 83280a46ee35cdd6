"""Explains in a few lines why a state dict does not fit a network."""

import re
from collections.abc import Iterable

from rrd_jax import networks
from rrd_jax.weights import entry_templates, foreign_layouts, published
from rrd_jax.weights.entry_search import Flat, listed, places, shown
from rrd_jax.weights.entry_templates import Shape

_ROWS = 3
_LITTLE = 0.3  # a share of a network's entries below which a file is of another one
_OPTIMIZER = re.compile(
    r"(^|\.)(param_groups|exp_avg\w*|max_exp_avg\w*|momentum_buffer|step)(\.|$)"
)
_STATISTICS = ("running_mean", "running_var")
_AT = r"(^|\.)"  # the beginning of a part of a name
# Files that hold no image network: an expression that some name matches, one that no name matches,
# what the file is, and the way out.
_NO_NETWORKS: list[tuple[str, str, str]] = [
    (
        r"lora_([AB]|down|up)\.|\.lora_[AB]$",
        "$^",
        "an adapter (LoRA), which changes other weights: add it to those that it was made for (in"
        " peft: merge_and_unload()), and save these",
    ),
    (
        _AT + r"(down_blocks|up_blocks|mid_block|conv_in|first_stage_model|diffusion_model)\.",
        "$^",
        "a part of a diffusion model, which makes images: it is no network here",
    ),
    (
        _AT + r"(text_model|token_embedding|text_projection|embeddings\.token_embedding)(\.|$)",
        _AT + r"(visual|vision_model|embeddings\.patch_embedding)(\.|$)",
        "a text tower, which sees no images: name the file of the whole model, or of its vision"
        " tower",
    ),
]


def describe(name: str, actual: dict[str, Shape], flat: Flat) -> str:
    """Returns what differs, in at most six lines: the likely reason, then examples.

    Args:
      name: name of the network.
      actual: shapes of the entries that come closest to it.
      flat: everything that the file holds.
    """
    expected = entry_templates.expected_shapes(name, actual)
    fitting = fitting_networks(flat)
    if not fitting and len(expected.keys() & actual.keys()) < _LITTLE * len(expected):
        return describe_others(name, flat)
    differing = [e for e in sorted(expected | actual) if expected.get(e) != actual.get(e)]
    reason = f"it fits {' and '.join(fitting)}" if fitting else _reason(name, expected, actual)
    first = f"does not fit {name} in {len(differing)} entries: {reason}"
    # Entries of other shapes say more than those that are on one side only.
    by_content = sorted(differing, key=lambda e: (e not in expected or e not in actual, e))
    rows = {entry: shown(entry) for entry in sorted(by_content[:_ROWS])}
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
    """Returns a line about a file with few or no names of the network's entries."""
    if "" in flat.arrays:
        return f"holds one tensor of shape {tuple(flat.arrays[''].shape)}, no state dict"
    if not flat.arrays:
        keys = dict.fromkeys(entry.split(".")[0] for entry in flat.others)
        there = flat.others.get("") or listed(keys)
        optimizer = ": the settings of an optimizer" if "param_groups" in keys else ""
        return f"holds no tensors, and so no weights of {name}, but {there}{optimizer}"
    if all(re.fullmatch(r"[\d.]+", entry) for entry in flat.arrays):
        return (
            f"holds {len(flat.arrays)} tensors without names, no state dict; write one with"
            " torch.save(network.state_dict(), FILE)"
        )
    if all(_OPTIMIZER.search(entry) for entry in flat.arrays):
        return f"holds the state of an optimizer, not the weights of {name}"
    if kind := _no_network(flat.arrays):
        return f"holds no weights of {name}, but {kind}"
    if fitting := fitting_networks(flat):
        return f"does not fit {name}: it fits {' and '.join(fitting)}"
    return (
        f"does not fit {name}: it holds entries of another network: {listed(flat.arrays)};"
        " `python -m rrd_jax.networks` lists the networks that are read"
    )


def fitting_networks(flat: Flat) -> list[str]:
    """Returns the names of the networks whose entries a file holds."""
    sizes = {size for array in flat.arrays.values() for size in array.shape}
    return [
        name
        for name in networks.MODELS
        if _is_possible(name, flat, sizes) and any(p.is_of(name) for p in places(flat, name)[:1])
    ]


def _is_possible(name: str, flat: Flat, sizes: set[int]) -> bool:
    """Returns False if a file cannot hold a network's entries, without tracing the network.

    Args:
      name: name of the network.
      flat: everything that the file holds.
      sizes: lengths of all axes there.
    """
    options = getattr(networks.MODELS[name], "keywords", {})
    widths = [*options.get("widths", ())]
    widths += [options[name] for name in ("width", "stem", "head") if name in options]
    known = published.of(name)
    first = f"{known.timm_ends[0]}.weight" if known.timm == name or known.entries else ""
    own_names = published.renaming(name, known.entries)
    firsts = (
        own_names.to_theirs(first) if own_names else first,
        *(renaming.to_theirs(first) for renaming in published.renamings(name)),
    )
    return sizes.issuperset(widths) and any(entry.endswith(firsts) for entry in flat.arrays)


def _no_network(names: Iterable[str]) -> str:
    """Returns what a file without an image network is, and the way out; "" for others."""
    text = "\n".join(names)
    for expression, absent, kind in _NO_NETWORKS:
        if re.search(expression, text, re.MULTILINE) and not re.search(absent, text, re.MULTILINE):
            return kind
    return ""


def _reason(name: str, expected: dict[str, Shape], actual: dict[str, Shape]) -> str:
    """Returns the likely reason, and the way out if there is one."""
    missing, extra = expected.keys() - actual.keys(), actual.keys() - expected.keys()
    reshaped = {e for e in expected.keys() & actual.keys() if expected[e] != actual[e]}
    classifier = entry_templates.classifier(name)
    head = " and ".join(sorted({_module(entry) for entry in classifier}))
    if missing and missing <= classifier and not reshaped:
        if extra:
            others = listed({_module(e) for e in extra}, 2)
            return f"its classifier is not {head}, but {others}{_other_classifier(actual)}"
        if missing == classifier:
            return f"its classifier {head} is missing: these are the weights of a backbone alone"
        return f"its classifier lacks {listed(missing, 2)}"
    if reshaped and not missing and not extra and reshaped <= classifier:
        return f"its classifier {head} is not of one number of classes"
    if missing and not extra and all(entry.endswith(_STATISTICS) for entry in missing):
        return (
            "the batch norms' running statistics are missing: it has other norms, or parameters()"
            " were saved where state_dict() should be"
        )
    kernels = [e for e in reshaped if len(actual[e]) == 4 == len(expected[e])]
    alike = [e for e in kernels if sorted(actual[e]) == sorted(expected[e])]
    if len(alike) > 1 and 2 * len(alike) > len(kernels):
        return "its convolutions have their axes in another order than PyTorch's [O, I, H, W]"
    return (
        f"it is another network, or damaged: {len(missing)} missing, {len(extra)} unexpected and"
        f" {len(reshaped)} of other shapes"
    )


def _other_classifier(actual: dict[str, Shape]) -> str:
    """Returns what a classifier of transformers reads if that is not the embedding."""
    if actual.keys().isdisjoint(foreign_layouts.OTHER_CLASSIFIER) or not any(
        "attn.qkv" in entry for entry in actual
    ):
        return ""
    return ", which reads the mean of the squares' tokens: only the network before it can be taken"


def _module(entry: str) -> str:
    return entry.rpartition(".")[0]
