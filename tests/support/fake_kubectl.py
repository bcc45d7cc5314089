"""A kubectl for faults that a real cluster does not give when asked: what it answers is told beforehand."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Union

from bundles.oci.platform import Platform
from installer.host.docker.container import Outcome
from installer.host.kubectl import Kubectl
from installer.host.paths import Places
from installer.model.cluster import Cluster
from installer.model.job import DesiredState
from installer.model.registry.access import PLAIN, Access
from installer.model.registry.address import Address
from tests.support.states import desired
from tests.support.tools import tool

AMD64 = Platform("linux", "amd64")
ARM64 = Platform("linux", "arm64")
LAN = Address.parse("192.168.10.10:5000")

Answer = Union[str, Mapping[str, Any], Exception, Outcome]


class FakeKubectl(Kubectl):
    """Answers a command by the first key of `answers` that all its words are in; `calls` are the commands."""

    def __init__(self, answers: Mapping[str, Any], installed: bool = True) -> None:
        self.answers, self.calls = dict(answers), list[tuple[list[str], str]]()
        self._installed = installed

    @property
    def is_installed(self) -> bool:
        return self._installed

    def try_run(self, arguments: Sequence[str], stdin: str = "", seconds: float = 0) -> Outcome:
        self.calls.append((list(arguments), stdin))
        for key, answer in self.answers.items():
            if set(key.split()) <= set(arguments):
                found = answer(stdin) if callable(answer) else answer
                if isinstance(found, list):
                    found = found.pop(0) if found[1:] else found[0]
                if isinstance(found, Outcome):
                    return found
                return Outcome(0, found if isinstance(found, str) else json.dumps(found), "")
        return Outcome(0, "", "")

    def commands(self, word: str) -> list[list[str]]:
        """The commands with that word in them."""
        return [arguments for arguments, _ in self.calls if word in arguments]


def refused(message: str) -> Outcome:
    """What kubectl ends with when it is refused something."""
    return Outcome(1, "", message)


def reviews(user: str = "ada", denied: Sequence[str] = ()) -> Callable[[str], str]:
    """Answer to reviews: everything may be done but `denied`, `create pods/exec`."""

    def answer(stdin: str) -> str:
        documents = json.loads(stdin)["items"]
        if documents[0]["kind"] == "Pod":
            return json.dumps(documents[0])
        for document in documents:
            if document["kind"] == "SelfSubjectReview":
                document["status"] = {"userInfo": {"username": user}}
                continue
            asked = document["spec"]["resourceAttributes"]
            resource = "/".join(filter(None, (asked["resource"], asked["subresource"])))
            document["status"] = {"allowed": f"{asked['verb']} {resource}" not in denied}
        # As kubectl prints them: one after the other.
        return "\n".join(json.dumps(document, indent=4) for document in documents)

    return answer


class FakeBuildx:
    """A docker command that notes what it is called with; its buildx is of `version`."""

    def __init__(self, version: str = "v0.34.1") -> None:
        self.calls: list[list[str]] = []
        self.variables: dict[str, str] = {}
        self._version = version

    def with_variable(self, name: str, value: str) -> FakeBuildx:
        self.variables[name] = value
        return self

    def try_run(self, arguments: Sequence[str], stdin: str = "") -> Outcome:
        self.calls.append(list(arguments))
        return Outcome(0, f"github.com/docker/buildx {self._version} abc\n", "")

    def run(self, arguments: Sequence[str], stdin: str = "") -> str:
        return self.try_run(arguments, stdin).stdout


def state_with(cluster: Cluster, *, address: Address = LAN, access: Access = PLAIN, **tools: Any) -> DesiredState:
    """An installation with a builder on that cluster."""
    found = {"buildkit": tool("moby/buildkit:buildx-stable-1"), **tools}
    mirrors = {"docker.io": str(address)}
    return desired(
        address,
        data="v",
        builder="cross-builder",
        platforms=(AMD64, ARM64),
        tools=found,
        mirrors=mirrors,
        access=access,
        cluster=cluster,
    )


@dataclasses.dataclass
class FakeHost:
    """A host with no more than what asks a cluster."""

    places: Places
    kubectl: FakeKubectl
    cli: FakeBuildx = dataclasses.field(default_factory=FakeBuildx)
    engine: Any = dataclasses.field(default_factory=SimpleNamespace)

    @classmethod
    def at(cls, root: Path, answers: Mapping[str, Any], **options: Any) -> Any:
        """Return one whose home is below `root`. Any: it stands for a Host."""
        return cls(Places.of({"HOME": str(root), "BUNDLE_HOST": str(root)}), FakeKubectl(answers), **options)
