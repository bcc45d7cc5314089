"""What of recorded builds is on a host: the tapes that are replayed there, and the caches that builds are told of."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from typing import Any, Optional

from bundles.errors import UsageError
from bundles.oci.digest import Digest
from bundles.oci.reference import Reference
from installer.model.naming import repositories
from installer.model.registry.destination import Destination
from installer.replay.settings import TAPES

# A name or address, with a port or as a pattern, as NO_PROXY takes it.
_DIRECT = re.compile(r"\*?\.?[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]{1,5}|/[0-9]{1,3})?|\[[0-9a-f:]+\](:[0-9]{1,5})?")


@dataclasses.dataclass(frozen=True)
class ReplayedTape:
    """A tape on the registry: its name, and the digests of its manifests, several where it had to be cut."""

    name: str
    manifests: tuple[Digest, ...]


@dataclasses.dataclass(frozen=True)
class Replay:
    """The replay service of a host.

    Args:
        port: where it listens, on the loopback address.
        tapes: what it answers from; what an earlier one answers counts.
        direct: the hosts that builds reach by themselves, such as a mirror of the site.
    """

    port: int
    tapes: tuple[ReplayedTape, ...]
    direct: tuple[str, ...] = ()

    @property
    def proxy(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def to_json(self) -> dict[str, Any]:
        return {
            "port": self.port,
            "tapes": [{"name": tape.name, "digests": list(map(str, tape.manifests))} for tape in self.tapes],
            "direct": list(self.direct),
        }

    @classmethod
    def from_json(cls, value: Any) -> Optional[Replay]:
        """Read what `to_json` gives, or None.

        Raises:
            KeyError, TypeError, UsageError: it is something else.
        """
        if value is None:
            return None
        tapes = (ReplayedTape(str(item["name"]), tuple(map(Digest, item["digests"]))) for item in value["tapes"])
        return cls(int(value["port"]), tuple(tapes), tuple(map(str, value["direct"])))


def join_pieces(names: Iterable[tuple[str, Digest]]) -> tuple[ReplayedTape, ...]:
    """Put together what stands under NAME, NAME.2, NAME.3, ...: the pieces of one tape."""
    tapes: dict[str, list[Digest]] = {}
    for name, digest in names:
        whole, dot, number = name.rpartition(".")
        is_piece = bool(dot) and whole in tapes and number == str(len(tapes[whole]) + 1)
        tapes.setdefault(whole if is_piece else name, []).append(digest)
    return tuple(ReplayedTape(name, tuple(digests)) for name, digests in tapes.items())


def tape_repository(destination: Destination) -> str:
    """Return the repository that holds the tapes."""
    return repositories(Reference.parse(TAPES), destination)[0]


def check_direct(text: str) -> str:
    """Return a host that builds are to reach by themselves, in the form in which it is compared.

    Raises:
        UsageError: it is none.
    """
    host = text.strip().lower()
    if not _DIRECT.fullmatch(host):
        raise UsageError(
            f"`{text[:100]}` is no host: expected a name or address, such as mirror.corp, mirror.corp:8080 or .corp"
        )
    return host
