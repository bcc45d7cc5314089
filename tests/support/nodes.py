"""A host with a builder for amd64 and arm64, a registry, and machines that may become nodes."""

from __future__ import annotations

import dataclasses
import io
import shlex
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Optional

from bundles.oci.image import parse_manifest
from bundles.oci.platform import Platform
from bundles.oci.reference import Reference
from bundles.registry.transport import Settings, Transport
from bundles.runtime.progress import Silent
from installer.host.docker.cli import DockerCLI
from installer.host.docker.container import Outcome
from installer.host.docker.remote import Ssh
from installer.host.host import Host
from installer.host.paths import Places
from installer.model.job import DesiredState
from installer.model.node import Node, NodeAddress
from installer.model.registry.address import Address
from installer.model.tool import Tool
from installer.registry.client import Registry
from installer.steps.builder.builder import Builder
from installer.steps.builder.nodes import Nodes
from tests.support.fake_engine import FakeEngine
from tests.support.fake_registry import FakeRegistry
from tests.support.fake_site import FakeSite
from tests.support.states import desired
from tests.support.tools import tool

AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64")
BOTH = (AMD64, ARM64)
REFERENCE = Reference.parse("moby/buildkit:1")


@dataclasses.dataclass
class Place:
    """A host with a builder for both platforms, a registry, and machines."""

    site: FakeSite
    host: Host
    registry: FakeRegistry
    client: Registry
    state: DesiredState

    def node(self, name: str, platform: Platform = ARM64) -> Node:
        """A node, whose BuildKit is in the registry."""
        manifest = self.registry.tag("moby/buildkit", name, self.registry.image(platform, seed=name))
        config = parse_manifest(self.registry.data(manifest)).config
        image = Tool(
            Reference.parse("moby/buildkit:1"),
            manifest.digest,
            manifest,
            config,
            f"{self.registry.host}/moby/buildkit:1",
        )
        return Node(NodeAddress.parse(f"ssh://anna@{name}"), f"cross-builder-here-{name}", platform, image)

    def wants(self, *nodes: Node) -> Nodes:
        """The step, with these nodes."""
        self.state = dataclasses.replace(self.state, nodes=nodes)
        return Nodes(self.state, self.host, self.client, Builder(self.state, self.host), Silent())

    def bring(self, *nodes: Node) -> Nodes:
        """Bring them about, and expect that nothing is left to do."""
        step = self.wants(*nodes)
        step.apply(step.look())
        assert step.look() == []
        return step

    def actions(self, *nodes: Node) -> list[str]:
        return [f"{change.action} {change.kind}" for change in self.wants(*nodes).look()]


class _Ssh(Ssh):
    """Without a process for each question, of which there are many."""

    def __init__(self, site: FakeSite) -> None:
        super().__init__(site.environment)
        self._site = site

    def run(
        self,
        arguments: Sequence[str],
        words: Sequence[str],
        stdin: Iterable[bytes] = (),
        seconds: Optional[float] = None,
    ) -> Outcome:
        return _outcome(self._site, "ssh", [*arguments, shlex.join(words)], b"".join(stdin))


class _CLI(DockerCLI):
    """The same for docker."""

    def __init__(self, site: FakeSite) -> None:
        super().__init__(site.environment)
        self._site = site

    def _run(self, arguments: Sequence[str], stdin: str) -> Outcome:
        return _outcome(self._site, "docker", list(arguments), stdin.encode())


def _outcome(site: FakeSite, command: str, arguments: list[str], stdin: bytes) -> Outcome:
    output, errors, code = io.StringIO(), io.StringIO(), 0
    with redirect_stdout(output), redirect_stderr(errors):
        try:
            site.run(command, arguments, lambda: stdin)
        except SystemExit as error:
            code = int(error.code or 0)
    return Outcome(code, output.getvalue(), errors.getvalue())


@contextmanager
def place_in(directory: Path, engine: FakeEngine, registry: FakeRegistry) -> Iterator[Place]:
    """Make it in a directory, without any machine."""
    site = FakeSite(directory / "site")
    places = Places(directory / "docker", directory / "site/buildx", directory / "state", root=directory)
    host = Host(engine.engine, _CLI(site), places, ssh=_Ssh(site))
    state = desired(
        Address.parse(registry.host),
        data="v",
        builder="cross-builder",
        platforms=BOTH,
        tools={"buildkit": tool("moby/buildkit:1")},
    )
    site.made("abc", "linux/amd64", "linux/arm64")
    with Transport(Settings(insecure=frozenset({registry.host}))) as transport:
        yield Place(site, host, registry, Registry(transport, registry.host), state)
