"""An index for a registry that refuses one with missing children: the same, without the children that are not there."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from bundles.oci.descriptor import Descriptor
from bundles.oci.digest import Digest
from bundles.oci.image import parse_json


def rebuilt(data: bytes, keep: Callable[[Digest], bool], moved: Mapping[Digest, Descriptor]) -> bytes:
    """The index `data` with the children that `keep` accepts; a nested index that was rebuilt is in `moved`.

    All other fields stay, media type and annotations among them, so the same children always give the same bytes.
    """
    value = parse_json(data, "the index")
    children = []
    for child in value["manifests"]:
        digest = Digest(child["digest"])
        if digest in moved:
            child = {**child, "digest": str(moved[digest].digest), "size": moved[digest].size}  # noqa: PLW2901
        elif not keep(digest):
            continue
        children.append(child)
    value["manifests"] = children
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
