"""The builder's other machines: BuildKit there, in buildx's record of the builder, and its undo.

Nothing is needed there but Docker, and somebody who may use it and is let in by a key. BuildKit's image is carried
there from the registry through ssh, and started by its id, since that Docker may know nothing of the registry and its
CA; BuildKit itself gets both with its configuration.

buildx gives a platform to the last node that names it, and takes it from the others; so each names what builds go there
for (`DesiredState.node_for`), and this host the rest. buildx changes its record only while all nodes answer.
"""

from __future__ import annotations

import contextlib
import dataclasses
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

from bundles.archive.docker_archive import SavedImage, docker_archive
from bundles.errors import HostError, Problem, UsageError
from bundles.oci.image import parse_manifest
from bundles.oci.platform import Platform
from bundles.oci.reference import Reference
from bundles.registry.urls import Origin
from bundles.runtime.program import quote
from bundles.runtime.progress import Progress
from installer.host.docker.cli import CommandError
from installer.host.docker.container import Container
from installer.host.docker.remote import RemoteDocker
from installer.host.files import read_optional
from installer.host.host import Host
from installer.host.labels import ENVIRONMENT, fingerprint
from installer.model.job import DesiredState
from installer.model.node import Node, NodeAddress, NodeNames
from installer.model.step import Change, Step
from installer.receipt.ledger import file_digest
from installer.receipt.receipt import Receipt
from installer.registry.client import Registry
from installer.registry.trust import is_trusted, system_authorities
from installer.steps.builder.builder import Builder
from installer.steps.builder.buildkitd_config import wanted_config
from installer.steps.builder.instance import DRIVER_MARK, Instance, StoredNode, alone, leave, read_instance
from installer.steps.builder.registry_image import RegistryImage


def docker_at(host: Host, address: NodeAddress) -> RemoteDocker:
    """Return the Docker of a node."""
    return RemoteDocker(host.ssh, address.arguments, address.typed)


def owner_of(host: Host) -> str:
    """Return what tells this user of this host from all others."""
    machine = read_optional(host.places.seen(Path("/etc/machine-id"))) or b""
    names = {"host": socket.gethostname(), "machine": machine.decode("ascii", "replace")}
    return fingerprint({**names, "state": str(host.places.state)})


def is_own(container: Container, host: Host, stored: Optional[StoredNode]) -> bool:
    """Tell whether a container on a node was made from here, and not by another user or another host.

    Args:
        container: one there.
        host: this one.
        stored: what buildx here has on record of the node: it knows the container also when this host was renamed.
    """
    mark = container.environment.get(ENVIRONMENT, "")
    return mark.startswith(f"{owner_of(host)}.") or bool(mark and stored and mark == stored.mark)


@dataclasses.dataclass(frozen=True)
class NodeState:
    """What a node is at this moment. `state` is that of BuildKit's container, Docker's word, None where it is gone;
    `trouble` says why its machine does not answer."""

    node: Node
    platforms: tuple[Platform, ...]
    state: Optional[str]
    trouble: Optional[str]

    @property
    def answers(self) -> bool:
        return self.trouble is None

    @property
    def text(self) -> str:
        platforms = ", ".join(map(str, self.platforms)) or f"nothing, another node has {self.node.platform}"
        state = self.trouble or f"BuildKit is {self.state or 'gone'}"
        return f"{self.node.address}: {platforms}; {state}"

    def to_json(self) -> dict[str, Any]:
        return {
            "address": str(self.node.address),
            "name": self.node.name,
            "machine": str(self.node.platform),
            "platforms": list(map(str, self.platforms)),
            "answers": self.answers,
            "state": self.state,
            "text": self.text,
        }


def describe_nodes(job: DesiredState, host: Host) -> list[NodeState]:
    """Ask every node how it is."""
    found = []
    obstacle = host.ssh.obstacle()
    for node in job.nodes:
        docker, state, trouble = docker_at(host, node.address), None, None
        try:
            if obstacle:
                raise HostError(f"not asked: {'; '.join(obstacle)}")
            docker.info()
            container = docker.container(node.container)
            state = container.state if container else None
        except HostError as error:
            trouble = error.message
        found.append(NodeState(node, job.platforms_of(node), state, trouble))
    return found


def own_authority(job: DesiredState, host: Host) -> Optional[str]:
    """Return the file of the registry's CA where buildx needs it on this host; None where it does not.

    With nodes buildx pushes the index of a build itself, by this system's trust alone: for that it takes the CA out of
    no configuration (its util/imagetools/inspect.go, up to v0.38 at least).
    """
    if not job.nodes or not job.access.authority:
        return None
    origin = Origin.of(f"https://{job.destination.host}")
    is_known = is_trusted(origin, system_authorities(host.places.root, everything=True))
    return None if is_known else job.access.authority


class Nodes(Step):
    """Brings BuildKit to each node, starts it, and has buildx give it the platforms that its machine runs.

    Args:
        job: what is wanted.
        host: this one.
        registry: has the images.
        builder: the builder that they are nodes of.
        progress: told of the bytes.
    """

    name = "nodes"

    def __init__(self, job: DesiredState, host: Host, registry: Registry, builder: Builder, progress: Progress) -> None:
        self._job, self._host, self._registry, self._progress = job, host, registry, progress
        self._builder = builder

    def if_of_use(self) -> list[Nodes]:
        """Return the step, where there are nodes, or were."""
        instance = read_instance(self._host, self._job.builder)
        return [self] if self._job.nodes or (instance and instance.own_nodes) else []

    def mark(self, node: Node) -> str:
        """Return the name of a node's wanted state, and before it whose it is."""
        authority = self._job.access.authority
        wanted = fingerprint(
            {
                "image": str(node.tool.manifest.digest),
                "config": wanted_config(self._job, self._host),
                "options": self._builder.options(),
                **({"registry": file_digest(Path(authority))} if authority else {}),
            }
        )
        return f"{owner_of(self._host)}.{wanted}"

    def look(self) -> Sequence[Change]:
        instance = read_instance(self._host, self._job.builder)
        changes: list[Change] = []
        obstacle = self._host.ssh.obstacle() if self._job.nodes else None
        for node in self._job.nodes:
            if obstacle:
                changes.append(Change("reach", "node", str(node.address), obstacle[0]))
                continue
            try:
                changes += self._missing(node, instance.node(node.name) if instance else None)
            except HostError as error:
                changes.append(Change("reach", "node", str(node.address), error.message))
        changes += [
            Change("remove", "node", stored.endpoint, f"from the record of {self._job.builder}")
            for stored in self._stale(instance)
        ]
        if instance and not changes and not self._is_divided(instance):
            platforms = ", ".join(map(str, self._own_platforms(instance)))
            changes.append(Change("give", "platforms", platforms, "to this host"))
        return changes

    def _missing(self, node: Node, stored: Optional[StoredNode]) -> list[Change]:
        docker = docker_at(self._host, node.address)
        # A Docker that does not answer knows no container either.
        docker.info()
        container, name = docker.container(node.container), str(node.address)
        changes = []
        if not node.tool.is_image(docker.image_id(node.image)):
            changes.append(Change("load", "node image", node.image, f"into Docker on {node.address}"))
        platforms = ", ".join(map(str, self._job.platforms_of(node))) or "nothing: another node has its platform"
        if stored is None or (stored.endpoint, stored.mark) != (name, self.mark(node)):
            changes.append(Change("append", "node", name, f"BuildKit for {platforms}"))
        elif container is None or self._is_outdated(node, container):
            changes.append(Change("make", "node", name, f"BuildKit for {platforms}"))
        elif not container.is_running:
            changes.append(Change("start", "node", name, f"it was {container.state}"))
        elif set(stored.platforms) != set(self._job.platforms_of(node)):
            changes.append(Change("append", "node", name, f"BuildKit for {platforms}"))
        return changes

    def _is_outdated(self, node: Node, container: Container) -> bool:
        return container.environment.get(ENVIRONMENT) != self.mark(node) or not node.tool.is_image(container.image_id)

    def _stale(self, instance: Optional[Instance]) -> list[StoredNode]:
        """Return what buildx has of us and is not wanted any more."""
        wanted = {node.name for node in self._job.nodes}
        return [stored for stored in instance.own_nodes if stored.name not in wanted] if instance else []

    def _is_divided(self, instance: Optional[Instance]) -> bool:
        """Tell whether buildx has for this host what no node has."""
        return instance is None or set(instance.nodes[0].platforms) == set(self._own_platforms(instance))

    def _own_platforms(self, instance: Instance) -> list[Platform]:
        """Return what is this host's: what no node of ours has, and none that somebody added."""
        others = {platform for stored in instance.nodes[1:] if not stored.mark for platform in stored.platforms}
        return [platform for platform in self._job.platforms_of(None) if platform not in others]

    def apply(self, changes: Sequence[Change]) -> None:
        builder, unreachable = self._job.builder, {change.name for change in changes if change.action == "reach"}
        for stored in self._stale(read_instance(self._host, builder)):
            leave(self._host, builder, stored.name)
        for node in self._job.nodes:
            if str(node.address) not in unreachable:
                self._bring(node)
        instance = read_instance(self._host, builder)
        if instance and not self._is_divided(instance):
            self._divide(instance)

    def _bring(self, node: Node) -> None:
        instance = read_instance(self._host, self._job.builder)
        stored = instance.node(node.name) if instance else None
        todo = {change.action for change in self._missing(node, stored)}
        docker = docker_at(self._host, node.address)
        container = docker.container(node.container)
        if container is not None and not is_own(container, self._host, stored):
            raise HostError(
                f"{node.address} has a container `{node.container}` that was not made from here",
                hint="install or upgrade once more: they give the node another name",
            )
        old = docker.image_id(node.image)
        if "load" in todo:
            self._load(node, docker)
        if container is not None and self._is_outdated(node, container):
            # buildx would take it over as it is. The build cache, a volume, stays.
            docker.remove_container(node.container)
        if "append" in todo:
            if stored is not None:
                leave(self._host, self._job.builder, node.name)
            self._append(node, str(docker.image_id(node.image)))
        if "start" in todo:
            docker.start_container(node.container)
        elif todo & {"append", "make"}:
            self._boot(node, docker)
        if "load" in todo and old and not docker.image_names(old):
            # Nobody would know whose it was. By its id an image goes with a name that somebody gave it meanwhile.
            docker.remove_image(old)

    def _load(self, node: Node, docker: RemoteDocker) -> None:
        repository = node.tool.pinned.removeprefix(f"{self._job.destination.host}/").partition("@")[0]
        image = RegistryImage(self._registry, repository)
        manifest = node.tool.manifest
        content = parse_manifest(image.read_document(manifest))
        saved = docker_archive([SavedImage(manifest, content, Reference.parse(node.image))])
        with self._progress.task(f"load {node.tool.reference.familiar} on {node.address}", saved.content_size) as task:
            docker.load(saved.stream(image, task.advance))
        if not node.tool.is_image(docker.image_id(node.image)):
            raise HostError(f"{node.address}: Docker loaded `{node.image}`, and what it has now is another image")

    def _append(self, node: Node, image: str) -> None:
        options = [f"image={image}", *self._builder.options(), f"{DRIVER_MARK}={self.mark(node)}"]
        platforms = ",".join(map(str, self._job.platforms_of(node)))
        self._buildx(
            [
                *("create", "--append", "--name", self._job.builder, "--node", node.name),
                *("--driver", "docker-container"),
                *(part for option in options for part in ("--driver-opt", option)),
                *(("--platform", platforms) if platforms else ()),
                *("--buildkitd-config", str(self._host.places.buildkitd_config(self._job.builder))),
                str(node.address),
            ]
        )

    def _boot(self, node: Node, docker: RemoteDocker) -> None:
        """Have buildx make BuildKit's container, and ask no other node."""
        with alone(self._host, self._job.builder, node.name) as docker_with_node:
            done = docker_with_node.try_run(["buildx", "inspect", "--bootstrap", self._job.builder])
        container = docker.container(node.container)
        if container is None or not container.is_running:
            raise HostError(
                f"BuildKit does not start on {node.address}: {(done.stderr or done.stdout).strip()[-2000:]}",
                hint=f"{node.address.typed} docker logs {node.container}",
            )

    def _divide(self, instance: Instance) -> None:
        platforms = ",".join(map(str, self._own_platforms(instance)))
        if not platforms:
            return
        # Without it buildx asks all nodes what they can, and finds the same: one that is down is no reason to fail.
        with contextlib.suppress(CommandError):
            self._host.cli.run(
                [
                    *("buildx", "create", "--name", self._job.builder, "--node", instance.nodes[0].name),
                    *("--platform", platforms),
                    *("--buildkitd-config", str(self._host.places.buildkitd_config(self._job.builder))),
                ]
            )

    def _buildx(self, arguments: Sequence[str]) -> None:
        try:
            self._host.cli.run(["buildx", *arguments])
        except CommandError as error:
            raise HostError(
                f"the builder `{self._job.builder}` does not take the node: {error.message}",
                hint="make what is named above possible, then run this again; it goes on",
            ) from None

    def explain(self, change: Change) -> str:
        says = {
            "reach": f"is not asked: {change.detail}"
            if self._host.ssh.obstacle()
            else f"does not answer: {change.detail}",
            "append": f"is not as buildx has it on record for `{self._job.builder}`",
            "make": "has no BuildKit any more, or another one",
            "start": "does not run BuildKit",
            "remove": f"is a node of `{self._job.builder}` that nobody wants any more",
            "load": "is gone from the node's Docker",
            "give": f"are not given to this host by buildx's record of `{self._job.builder}`",
        }
        return f"{change.name} {says[change.action]}"

    def notes(self) -> Sequence[str]:
        notes = []
        own = own_authority(self._job, self._host)
        if own:
            notes.append(
                "what several nodes build is put together by docker buildx on this host, which trusts whom this system "
                f"trusts, and needs the registry's CA: SSL_CERT_FILE={quote(own)} docker buildx build ..."
            )
        for node in self._job.nodes:
            other = self._job.node_for(node.platform)
            if other and not self._job.platforms_of(node):
                notes.append(
                    f"{node.address} builds nothing as long as {other.address} is there: buildx gives "
                    f"{node.platform} to one node"
                )
        return notes


class RemoveNodes(Step):
    """Removes from nodes what was made there: BuildKit's container, its build cache and its image."""

    name = "nodes"

    def __init__(self, host: Host, nodes: Sequence[tuple[str, NodeNames]]) -> None:
        self._host, self._nodes = host, nodes
        self._left: list[str] = []

    @classmethod
    def all_of(cls, receipt: Receipt, host: Host) -> RemoveNodes:
        """Return the undo of everything that was made on nodes, also on those of a builder that was here before."""
        found: dict[str, tuple[str, NodeNames]] = {
            node.name: (receipt.state.builder, node) for node in receipt.state.nodes
        }
        for builder in receipt.names_made("builder"):
            instance = read_instance(host, builder)
            for stored in instance.own_nodes if instance else ():
                with contextlib.suppress(UsageError):
                    names = NodeNames(NodeAddress.parse(stored.endpoint), stored.name)
                    found.setdefault(stored.name, (builder, names))
        return cls(host, list(found.values()))

    def problems(self) -> Sequence[Problem]:
        # Nothing tells a machine that is down from one that lets in somebody else.
        obstacle = self._host.ssh.obstacle() if self._nodes else None
        names = ", ".join(str(node.address) for _, node in self._nodes)
        return [Problem(f"node {names}", *obstacle)] if obstacle else []

    def look(self) -> Sequence[Change]:
        return [
            Change("remove", "node", str(node.address), f"{node.container} with its build cache and its image")
            for _, node in self._nodes
        ]

    def apply(self, changes: Sequence[Change]) -> None:
        for builder, node in self._nodes:
            instance = read_instance(self._host, builder)
            stored = instance.node(node.name) if instance else None
            if stored and stored.mark:
                leave(self._host, builder, node.name)
            docker = docker_at(self._host, node.address)
            try:
                container = docker.container(node.container)
                if container is not None and not is_own(container, self._host, stored):
                    self._left.append(f"{node.address} keeps `{node.container}`, which was not made from here")
                    continue
                docker.remove_container(node.container)
                docker.remove_volume(node.volume)
                docker.remove_image(node.image)
            except HostError as error:
                self._left.append(
                    f"{node.address} keeps what was made there ({error.message}); type there: docker rm -f "
                    f"{node.container}; docker volume rm {node.volume}; docker rmi {node.image}"
                )

    def notes(self) -> Sequence[str]:
        return self._left
