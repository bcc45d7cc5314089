"""Hauls: OCI image layouts whose index.json says in an annotation `kind` what each entry is.

After pkg/content/oci.go, pkg/store/store.go and pkg/consts of hauler 2.1; before 2.0 the kinds began otherwise. A haul
is a tar of the store, and always compressed, with zstd. Charts and files are in it as OCI artifacts, as `hauler/...`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

from bundler.sources.files.layout import Entry, LayoutFile
from bundles.oci.descriptor import Descriptor
from bundles.oci.reference import Reference

_KIND = "kind"
_PREFIXES = ("dev.hauler/", "dev.cosignproject.cosign/")
_IMAGES = frozenset({"", "image", "imageIndex"})
# What cosign attaches has the name of its image, and says by its kind under which tag it was.
_SUFFIXES = {"sigs": ".sig", "atts": ".att", "sboms": ".sbom"}


class HaulFile(LayoutFile):
    """What `hauler store save` writes."""

    def _sort(self, entries: Sequence[Entry]) -> None:
        images = [entry for entry in entries if _kind(entry) in _IMAGES]
        referrers = [entry for entry in entries if _kind(entry).startswith("referrers/")]
        super()._sort([*images, *(entry for entry in referrers if self.subject(entry.descriptor))])
        # Of several of one kind and name the last counts.
        attached: dict[Optional[Reference], dict[str, Descriptor]] = {}
        for entry in entries:
            suffix = _SUFFIXES.get(_kind(entry))
            if suffix:
                attached.setdefault(entry.name, {})[suffix] = entry.descriptor
        tags = dict(self.tags)
        for entry in images:
            for suffix, descriptor in attached.get(entry.name, {}).items():
                tags[f"sha256-{entry.descriptor.digest.hex}{suffix}"] = descriptor
        self.tags = tags


def is_haul(entries: Sequence[Descriptor]) -> bool:
    """Tell whether these are the entries of a haul's index.json."""
    return any(_is_kind(entry.annotations.get(_KIND, "")) for entry in entries)


def _is_kind(text: str) -> bool:
    return text.startswith(_PREFIXES)


def _kind(entry: Entry) -> str:
    text = entry.descriptor.annotations.get(_KIND, "")
    return text.partition("/")[2] if _is_kind(text) else text
