"""What the replay service is told when its container is made: its settings, and how it gets into the registry."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable

from bundles.oci.digest import Digest
from bundles.oci.image import parse_json
from bundles.registry.auth import Credential

# The repositories that hold tapes, and caches of recorded builds, on a registry that is ours.
TAPES, CACHES = "offline-bundle/tape", "offline-bundle/cache"
# The service's other files: with TLS the CAs that are trusted of the registry, and the logins for it.
AUTHORITIES, LOGINS = "registry.pem", "logins.json"


@dataclasses.dataclass(frozen=True)
class Settings:
    """The contents of a file in the container; what is secret stands in others.

    Args:
        port: where it listens, on the loopback address.
        registry: HOST or HOST:PORT of the registry, as references have it.
        address: the host that is connected to for that.
        tls: whether the registry speaks TLS.
        repository: the one that has the tapes.
        tapes: the digests of the manifests of each tape, which may have been cut; what an earlier one answers counts.
    """

    port: int
    registry: str
    address: str
    tls: bool
    repository: str
    tapes: tuple[tuple[Digest, ...], ...]

    def to_bytes(self) -> bytes:
        """Return the file: the same settings always give the same bytes."""
        value = {**dataclasses.asdict(self), "tapes": [list(map(str, tape)) for tape in self.tapes]}
        return (json.dumps(value, indent=1) + "\n").encode()

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
            str(value["address"]),
            value["tls"] is True,
            str(value["repository"]),
            tuple(tuple(map(Digest, tape)) for tape in value["tapes"]),
        )


def logins_to_bytes(logins: Iterable[Credential]) -> bytes:
    """Return the file with the logins, the best first."""
    return (json.dumps(list(map(dataclasses.asdict, logins))) + "\n").encode()


def parse_logins(data: bytes) -> list[Credential]:
    """Read what `logins_to_bytes` gives.

    Raises:
        ValueError, TypeError: it is something else.
    """
    return [Credential(**value) for value in json.loads(data)]
