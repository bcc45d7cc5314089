"""What the replay service is told when its container is made."""

from __future__ import annotations

import dataclasses
import json

from bundles.oci.digest import Digest
from bundles.oci.image import parse_json

# The repositories of the local registry that hold tapes, and caches of recorded builds.
TAPES, CACHES = "offline-bundle/tape", "offline-bundle/cache"


@dataclasses.dataclass(frozen=True)
class Settings:
    """The contents of a file in the container.

    Args:
        port: where it listens, on the loopback address.
        registry: HOST:PORT of the registry, as it is reached from there.
        tapes: the digests of the manifests of each tape, which may have been cut; what an earlier one answers counts.
    """

    port: int
    registry: str
    tapes: tuple[tuple[Digest, ...], ...]

    def to_bytes(self) -> bytes:
        """Return the file: the same settings always give the same bytes."""
        tapes = [list(map(str, tape)) for tape in self.tapes]
        return (json.dumps({"port": self.port, "registry": self.registry, "tapes": tapes}, indent=1) + "\n").encode()

    @classmethod
    def parse(cls, data: bytes) -> Settings:
        """Read what `to_bytes` gives.

        Raises:
            KeyError, TypeError, UsageError: it is something else.
        """
        value = parse_json(data, "the replay's settings")
        return cls(
            int(value["port"]),
            str(value["registry"]),
            tuple(tuple(map(Digest, tape)) for tape in value["tapes"]),
        )
