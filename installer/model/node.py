"""A node: another machine whose Docker runs BuildKit for the builder of this host, reached over ssh."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Container, Sequence
from typing import Any, Optional

from bundles.errors import UsageError
from bundles.oci.platform import Platform
from bundles.oci.reference import is_port
from installer.host.labels import BUILDER_PREFIX
from installer.model.tool import Tool

_URL = re.compile(
    r"ssh://(?:(?P<user>[A-Za-z0-9_][A-Za-z0-9_.-]*)@)?"
    r"(?P<host>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,5}))?/?",
    re.ASCII,
)
_HINT = "such as ssh://user@arm-box or ssh://user@192.168.10.20:2222"


@dataclasses.dataclass(frozen=True)
class NodeAddress:
    """Where ssh finds a machine; what is not given its own configuration says. `str()` is what docker takes.

    Its configuration tells `Host Arm-Box` from `arm-box`; nobody has two machines whose names differ in that.
    """

    host: str
    user: Optional[str] = None
    port: Optional[int] = None

    @classmethod
    def parse(cls, text: str) -> NodeAddress:
        """Read `ssh://[user@]host[:port]`.

        Raises:
            UsageError: anything else.
        """
        found = _URL.fullmatch(text.strip())
        if found is None or not is_port(found["port"] or "22"):
            # A password may stand in it.
            shown = re.sub(r":[^@/]*@", ":...@", text)[:100]
            raise UsageError(f"`{shown}` is no node: expected ssh://[user@]host[:port], and no password", hint=_HINT)
        return cls(found["host"], found["user"], int(found["port"]) if found["port"] else None)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NodeAddress) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def _key(self) -> tuple[str, Optional[str], Optional[int]]:
        return self.host.lower(), self.user, self.port

    @property
    def arguments(self) -> Sequence[str]:
        """The words by which ssh is told."""
        user = ("-l", self.user) if self.user else ()
        port = ("-p", str(self.port)) if self.port else ()
        return (*user, *port, "--", self.host.strip("[]"))

    @property
    def typed(self) -> str:
        """What a person types to get there."""
        port = f"-p {self.port} " if self.port else ""
        return f"ssh {port}{f'{self.user}@' if self.user else ''}{self.host.strip('[]')}"

    def __str__(self) -> str:
        user = f"{self.user}@" if self.user else ""
        return f"ssh://{user}{self.host}{f':{self.port}' if self.port else ''}"


@dataclasses.dataclass(frozen=True)
class NodeNames:
    """What is on a machine because it is a node, and buildx's `name` for that."""

    address: NodeAddress
    name: str

    @property
    def container(self) -> str:
        """The name of BuildKit's container there."""
        return f"{BUILDER_PREFIX}{self.name}"

    @property
    def volume(self) -> str:
        """The name of the volume with the build cache."""
        return f"{self.container}_state"

    @property
    def image(self) -> str:
        """The name of the image there: one of its own, so that nobody else's goes with it."""
        return f"offline-bundle/buildkit:{self.name}"


@dataclasses.dataclass(frozen=True)
class Node(NodeNames):
    """A node of a builder: the platform of its machine, and the BuildKit image for that."""

    platform: Platform
    tool: Tool

    def to_json(self) -> dict[str, Any]:
        return {
            "address": str(self.address),
            "name": self.name,
            "platform": str(self.platform),
            "tool": self.tool.to_json(),
        }

    @classmethod
    def from_json(cls, value: Any) -> Node:
        """Read what `to_json` gives.

        Raises:
            KeyError, TypeError, UsageError: it is something else.
        """
        return cls(
            NodeAddress.parse(value["address"]),
            str(value["name"]),
            Platform.parse(value["platform"]),
            Tool.from_json(value["tool"]),
        )


def node_name(builder: str, user: str, hostname: str, taken: Container[str]) -> str:
    """Return a name for one more node: it tells on that machine whose it is, and others have others."""
    # An image has it for a tag, of 128 characters at most.
    owner = re.sub(r"[^a-z0-9]+", "-", f"{user}-{hostname}".lower())[:64].strip("-") or "host"
    number = 1
    while f"{builder}-{owner}-{number}" in taken:
        number += 1
    return f"{builder}-{owner}-{number}"
