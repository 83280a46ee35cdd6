"""JSON that a changed byte is noticed in: it carries a digest of itself, the seal."""

import hashlib
import json
from typing import Any


def seal(meta: dict[str, Any], digests: dict[str, str]) -> dict[str, Any]:
    """What is written beside a checkpoint's arrays.

    Args:
      meta: what the writer wants to keep.
      digests: of the arrays, by part.

    Returns:
      Both, and their seal.
    """
    content = json.dumps([meta, digests], sort_keys=True)
    return {
        "meta": meta,
        "digests": digests,
        "seal": hashlib.sha256(content.encode()).hexdigest(),
    }


def unseal(content: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Returns meta and digests of `seal`; raises a ValueError if either was changed."""
    if not isinstance(content, dict):
        raise ValueError("its JSON is of another kind")
    meta, digests = content.get("meta"), content.get("digests")
    if seal(meta, digests)["seal"] != content.get("seal"):
        raise ValueError("the digest of its JSON does not match")
    return meta, digests
