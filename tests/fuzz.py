"""Settings of the fuzz tests, and strategies for valid and invalid values of config fields.

By default, each run tries the same examples. To search for about an hour with another seed:

    RRD_JAX_FUZZ_EXAMPLES=20000 RRD_JAX_FUZZ_SEED=1 pytest -m long -k "fuzz"
"""

import os
from typing import Any

import hypothesis
from hypothesis import strategies as st

from rrd_jax.settings import kinds

_ODD = (
    *(None, True, False, "", "abc", "nan", b"x", (), [], {}, object, 1j),
    *(0, -1, 1, 2, 0.5, -0.5, 10**12, 10**30, 10**400, 2**31, 2**63, 1e-320, 1e30, 1e300),
    *(float("nan"), float("inf"), -float("inf"), (float("nan"),), (1, 2), ("a",), (None,), ((),)),
)

# Texts that are no paths of files on this machine.
_NO_PATHS = ("gs://b/x", "https://host/x.pth", "a\0b", "~no-such-user/x", "/dev/zero", "\udcff")


def long_settings(examples: int) -> hypothesis.settings:
    """Returns the settings of a long test; RRD_JAX_FUZZ_EXAMPLES overrides `examples`."""
    count = int(os.environ.get("RRD_JAX_FUZZ_EXAMPLES", examples))
    return settings(count)


def settings(examples: int) -> hypothesis.settings:
    """Returns settings without a deadline, deterministic unless RRD_JAX_FUZZ_SEED is set."""
    return hypothesis.settings(
        max_examples=examples,
        deadline=None,
        derandomize="RRD_JAX_FUZZ_SEED" not in os.environ,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )


def seeded(test: Any) -> Any:
    """Returns the test with the seed RRD_JAX_FUZZ_SEED, or the unchanged test if it is not set."""
    seed = os.environ.get("RRD_JAX_FUZZ_SEED")
    return hypothesis.seed(int(seed))(test) if seed else test


def valid(kind: kinds.Kind) -> st.SearchStrategy[Any]:
    """Returns a strategy for valid values of a kind: its bounds, and mostly small integers."""
    match kind:
        case kinds.Optional():
            return st.none() | valid(kind.kind)
        case kinds.Integer():
            small = st.integers(kind.minimum, min(kind.maximum, max(kind.minimum, 0) + 9))
            return small | st.sampled_from((kind.minimum, kind.maximum))
        case kinds.ShareOrCount():
            return st.floats(0, 0.99) | st.integers(0, 9) | st.just(0.5)
        case kinds.Real():
            return _reals(kind)
        case kinds.Flag():
            return st.booleans()
        case kinds.Choice():
            return st.sampled_from(kind.names)
        case kinds.Names():
            return st.lists(st.sampled_from(kind.names), unique=True).map(tuple)
        case kinds.Numbers():
            sizes = kind.lengths or (0, 1, 2, 4)
            lists = st.sampled_from(sizes).flatmap(
                lambda n: st.lists(_reals(kind.part), min_size=n, max_size=n, unique=kind.ascending)
            )
            return lists.map(lambda part: tuple(sorted(part) if kind.ascending else part))
        case kinds.Mapped():
            names = st.text("abcdefgh_", min_size=1, max_size=6)
            return st.dictionaries(names, st.sampled_from(_ODD[:6]), max_size=2)
        case _:
            return st.text(st.characters(codec="utf-8"), max_size=12).filter(kind.accepts)


def invalid(kind: kinds.Kind) -> st.SearchStrategy[Any]:
    """Returns a strategy for invalid values of a kind: wrong types and values beyond its range."""
    inner = kind.kind if isinstance(kind, kinds.Optional) else kind
    bounds = [
        bound
        for name in ("minimum", "maximum", "above", "below")
        if (bound := getattr(inner, name, None)) is not None
    ]
    near = [bound + step for bound in bounds for step in (-1, -1e-9, 0, 1e-9, 1)]
    odd = [value for value in (*_ODD, *near, *_NO_PATHS) if not kind.accepts(value)]
    return st.sampled_from(odd) | st.text(max_size=8).filter(lambda text: not kind.accepts(text))


def texts(kind: kinds.Kind) -> st.SearchStrategy[str]:
    """Returns a strategy for valid and invalid command-line values of a field."""
    odd = _ODD[:12] + _ODD[14:16] + _NO_PATHS[:2]
    values = valid(kind).map(str) | st.sampled_from(odd).map(str)
    return values | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)


def _reals(kind: kinds.Real) -> st.SearchStrategy[float]:
    low = kind.minimum if kind.minimum is not None else kind.above
    high = kind.maximum if kind.maximum is not None else kind.below
    return st.floats(low, high, allow_nan=False, allow_infinity=False).filter(kind.accepts)
