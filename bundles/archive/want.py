"""want.json: what a registry on the air-gapped side holds, carried out to say what need not be carried in.

want        the version of this format, 1
name        for people: which registry it was
images      name (repository:tag or repository@digest) and digest of what is there
digests     every manifest, config and layer in it, sorted
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from bundles.errors import UsageError
from bundles.oci.digest import Digest

FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Want:
    """The content of want.json: `images` maps names to digests."""

    name: str
    images: Mapping[str, Digest]
    digests: frozenset[Digest]

    def to_bytes(self) -> bytes:
        """Return the file: the same content always gives the same bytes."""
        value = {
            "want": FORMAT,
            "name": self.name,
            "images": [{"name": name, "digest": str(self.images[name])} for name in sorted(self.images)],
            "digests": sorted(map(str, self.digests)),
        }
        return (json.dumps(value, indent=1, ensure_ascii=True) + "\n").encode()

    @classmethod
    def parse(cls, value: Any) -> Want:
        """Read the object that want.json holds.

        Raises:
            UsageError: it is something else.
        """
        try:
            if value["want"] != FORMAT:
                raise UsageError(f"it has the format `{str(value['want'])[:40]}`: expected {FORMAT}")
            return cls(
                name=str(value["name"]),
                images={str(item["name"]): Digest(item["digest"]) for item in value["images"]},
                digests=frozenset(map(Digest, value["digests"])),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"a field is missing or of the wrong kind ({error})") from None
