"""Which nodes there are to be, and whether their machines are ready: every problem of every one of them."""

from __future__ import annotations

import dataclasses
import getpass
import socket
from collections.abc import Sequence
from typing import Optional

from bundles.errors import HostError, Problem
from bundles.oci.platform import Platform
from bundles.runtime.program import own_command
from bundles.runtime.sizes import human_size
from installer.host.docker.engine import OLDEST_ENGINE, EngineInfo
from installer.host.docker.remote import RemoteDocker
from installer.host.host import Host
from installer.host.labels import BUILDER_PREFIX
from installer.model.job import Job
from installer.model.node import Node, NodeAddress, node_name
from installer.model.tool import tool_of
from installer.receipt.receipt import Receipt
from installer.steps.builder.instance import read_instance
from installer.steps.builder.nodes import docker_at, is_own

# Docker copies an image that it loads, and its layers grow when they are unpacked.
_UNPACKED = 4
_SPARE = 256 << 20


def with_nodes(job: Job, host: Host) -> tuple[Job, list[Problem]]:
    """Settle the nodes: those of the installation before, with this archive's BuildKit, then those that are new.

    Returns:
        the job with those whose machine is known, and what is wrong with any of them.
    """
    before = Receipt.known(host.places)
    known = before.state.nodes if before and before.state.builder == job.builder else ()
    addresses = list(dict.fromkeys((*(node.address for node in known), *job.options.nodes)))
    if not addresses:
        return job, []
    problems = _of_this_host(job, host)
    if problems:
        return job, problems
    nodes: list[Node] = []
    done = host.cli.try_run(["info", "--format", "{{.ID}} {{.Name}}"])
    machines: dict[str, str] = {done.stdout.strip(): "this host itself"} if done.code == 0 else {}
    for address in addresses:
        earlier = next((node for node in known if node.address == address), None)
        docker = docker_at(host, address)
        try:
            info, machine = docker.info()
            name = _name(job.builder, host, address, earlier, [node.name for node in nodes])
        except HostError as error:
            hint = error.hint
            if earlier:
                hint = f"{hint}; or give it up: {own_command(f'node remove {address}')}"
            problems.append(Problem(f"node {address}", error.message, hint))
            continue
        if machine in machines:
            problems.append(
                Problem(f"node {address}", f"it is {machines[machine]}", "name each machine once, and not this one")
            )
            continue
        machines[machine] = f"the same machine as {address}"
        node, found = _node(job, address, name, info)
        problems += found
        if node:
            nodes.append(node)
            problems += _space(node, job, info, docker)
    return dataclasses.replace(job, nodes=tuple(nodes)), problems


def _name(builder: str, host: Host, address: NodeAddress, earlier: Optional[Node], taken: Sequence[str]) -> str:
    """Return the name that a node has here already, unless somebody else's container bears it there; else a new one."""
    instance, docker = read_instance(host, builder), docker_at(host, address)
    found = (stored for stored in instance.own_nodes if stored.endpoint == str(address)) if instance else iter(())
    stored = instance.node(earlier.name) if instance and earlier else next(found, None)
    name = earlier.name if earlier else stored.name if stored else None
    if name:
        container = docker.container(f"{BUILDER_PREFIX}{name}")
        if container is None or is_own(container, host, stored):
            return name
    there = (docker.container(each) for each in docker.container_names() if each.startswith(BUILDER_PREFIX))
    # What is ours and no node any more was given up while the machine did not answer: it is taken up again.
    others = [each.name[len(BUILDER_PREFIX) :] for each in there if each and not is_own(each, host, None)]
    return node_name(builder, _user(), socket.gethostname(), [*taken, *others])


def _user() -> str:
    try:
        return getpass.getuser()
    except (ImportError, KeyError, OSError):
        # Nobody has told this system who that number is.
        return "user"


def _of_this_host(job: Job, host: Host) -> list[Problem]:
    """Find what keeps every node from being of use."""
    problems = []
    obstacle = host.ssh.obstacle()
    if obstacle:
        problems.append(Problem("--node", *obstacle))
    if job.address.is_loopback:
        problems.append(
            Problem(
                "--node",
                f"no other machine reaches the registry at {job.address}",
                "install with --registry LAN-ADDRESS:PORT, an address of this host that the node reaches, or --into",
            )
        )
    if job.replay:
        problems.append(
            Problem(
                "--node",
                "what recorded builds took from the network is replayed on this host only: on a node their RUN steps "
                "would find no network",
                f"install with --no-replay, or without nodes: {own_command('node list')}, then node remove",
            )
        )
    return problems


def _node(job: Job, address: NodeAddress, name: str, info: EngineInfo) -> tuple[Optional[Node], list[Problem]]:
    subject = f"node {address}"
    if info.is_old:
        message = f"Docker there is {info.version}: expected {OLDEST_ENGINE} or newer"
        return None, [Problem(subject, message, "upgrade Docker there")]
    platform = info.platform
    if platform.os != "linux" or platform.architecture not in {each.architecture for each in job.platforms}:
        wanted = ", ".join(map(str, job.platforms))
        return None, [Problem(subject, f"it is {platform}, and the builder is for {wanted}", "leave it out")]
    tool = tool_of(job.archive, "buildkit", platform, job.destination)
    if tool is None:
        hosts = ",".join(map(str, _host_platforms(job, platform)))
        return None, [
            Problem(
                subject,
                f"it is {platform}, and the archive has no BuildKit for that",
                f"bundle create ... --host-platform {hosts}, where there is internet",
            )
        ]
    return Node(address, name, platform, tool), []


def _host_platforms(job: Job, platform: Platform) -> Sequence[Platform]:
    return tuple(dict.fromkeys((*job.archive.manifest.host_platforms, platform)))


def _space(node: Node, job: Job, info: EngineInfo, docker: RemoteDocker) -> list[Problem]:
    if node.tool.is_image(docker.image_id(node.image)):
        return []
    needed = _UNPACKED * _size(job, node) + _SPARE
    free = docker.free_space(info.root)
    if free is None or free >= needed:
        return []
    return [
        Problem(
            f"node {node.address}",
            f"{human_size(free)} are free for {info.root} there, about {human_size(needed)} are needed",
            f"{node.address.typed} docker system df shows what can go",
        )
    ]


def _size(job: Job, node: Node) -> int:
    content = (
        content
        for image in job.archive.manifest.with_role("buildkit")
        for content in image.platforms
        if content.manifest.digest == node.tool.manifest.digest
    )
    return next((each.content_size for each in content), 0)
