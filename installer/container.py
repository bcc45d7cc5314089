"""The container `registry`."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from bundles.errors import HostError, NetworkError, Problem
from installer.host.docker_engine import Container, NewContainer
from installer.host.files import is_seen, read_optional
from installer.host.host import Host
from installer.host.labels import (
    GARBAGE_CONTAINER,
    LABEL_ADDRESS,
    LABEL_DATA,
    LABEL_ROLE,
    LABEL_WANTED,
    REGISTRY_CONTAINER,
    REGISTRY_DIRECTORY,
    fingerprint,
)
from installer.model.installed_registry import installed_address, installed_data, is_ours
from installer.model.job import Wanted, is_directory
from installer.model.step import Change, Step
from installer.registry.client import Registry

# The port on which the registry image listens, inside its container.
_PORT = 5000
_START_SECONDS = 30.0


def _is_absent(path: Path) -> bool:
    """Whether it is certain that nothing is there: then what is made there is ours, and goes with us."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def _stopping(name: str) -> str:
    """The command that stops somebody's container for good: one that is always restarted comes back with Docker."""
    return f"docker update --restart=no {name} && docker stop {name}"


class RegistryContainer(Step):
    """Runs the registry image under the name `registry`, restarted with Docker, its data in a volume or directory.

    A stopped one of ours is started. One that was made with another image or other settings is replaced; the data stays
    where it is.
    """

    name = "registry"

    def __init__(self, job: Wanted, host: Host, registry: Registry) -> None:
        self._job, self._host, self._registry = job, host, registry

    def _wanted(self) -> NewContainer:
        tool = self._job.tool("registry")
        if tool is None:
            raise HostError(f"the archive has no registry image for {self._job.host_platform}")
        data = self._job.data
        relabel = ":z" if is_directory(data) and self._host.engine.info().has_selinux else ""
        environment = {
            # A sparse index is accepted (distribution 3; an older one passes the variable over).
            "REGISTRY_VALIDATION_MANIFESTS_INDEXES_PLATFORMS": "none",
            "REGISTRY_STORAGE_DELETE_ENABLED": "true",
            # Without it distribution 3 tries to send traces to a collector, and logs that it cannot.
            "OTEL_TRACES_EXPORTER": "none",
        }
        publish = (self._job.address.listen_ip(), self._job.address.port)
        bind = f"{data}:{REGISTRY_DIRECTORY}{relabel}"
        wanted = fingerprint(
            {
                "image": str(tool.manifest.digest),
                "environment": environment,
                # Its label has the address by name, and is believed the next time.
                "address": str(self._job.address),
                "publish": publish,
                "bind": bind,
            }
        )
        return NewContainer(
            name=REGISTRY_CONTAINER,
            image=tool.name,
            labels={
                LABEL_ROLE: "registry",
                LABEL_WANTED: wanted,
                LABEL_ADDRESS: str(self._job.address),
                LABEL_DATA: data,
            },
            environment=environment,
            publish={_PORT: publish},
            binds=(bind,),
        )

    def problems(self) -> Sequence[Problem]:
        problems = []
        container = None
        # Without an engine, which is a problem of its own, the port and the address can still be looked at.
        with contextlib.suppress(HostError):
            container = self._host.engine.container(REGISTRY_CONTAINER)
        if container is not None and not is_ours(container):
            problems.append(
                Problem(
                    f"container `{container.name}`",
                    f"it is not one that this program made ({container.state}), and the registry needs the name",
                    f"{_stopping(container.name)} && docker rename {container.name} {container.name}-old",
                )
            )
        data = self._job.data
        place = self._host.places.seen(Path(data)) if is_directory(data) else None
        if place and (":" in data or (is_seen(place) and not place.is_dir())):
            problems.append(Problem(f"--data {data}", "it is not a directory that Docker can mount"))
        found = self._address_problems()
        if not found and not self._listens_there(container):
            found = self._port_problems(container)
        return [*problems, *found]

    def _listens_there(self, container: Optional[Container]) -> bool:
        """Whether the port is our own container's, by whatever name of the address: it goes before its successor."""
        old, new = installed_address(container), self._job.address
        if container is None or not container.is_running or old is None:
            return False
        with contextlib.suppress(OSError):
            return old == new or (old.listen_ip(), old.port) == (new.listen_ip(), new.port)
        return False

    def _address_problems(self) -> list[Problem]:
        """What keeps builders and other hosts from the address: a container has its own loopback and /etc/hosts."""
        address = self._job.address
        subject = f"address {address}"
        show = "give the IP address: ip -brief address"
        try:
            ip = address.listen_ip()
        except OSError as error:
            return [Problem(subject, f"`{address.host}` does not resolve: {error.strerror}", show)]
        if not address.is_name:
            return []
        number = ipaddress.ip_address(ip)
        if number.is_loopback or number.is_unspecified:
            return [
                Problem(subject, f"`{address.host}` is {ip} here, which no other host and no builder reaches", show)
            ]
        table = read_optional(self._host.places.seen(Path("/etc/hosts"))) or b""
        words = [line.partition("#")[0].lower().split()[1:] for line in table.decode(errors="replace").splitlines()]
        if any(address.host in names for names in words):
            message = f"`{address.host}` is {ip} by this host's /etc/hosts, which no builder reads"
            return [Problem(subject, message, f"give the IP address: --registry {ip}:{address.port}")]
        return []

    def _port_problems(self, container: Optional[Container]) -> list[Problem]:
        """What keeps the port; nothing when it is a `container` that has our name, which is a problem of its own."""
        address = self._job.address
        subject = f"address {address}"
        ip = address.listen_ip()
        family = socket.AF_INET6 if ":" in ip else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((ip, address.port))
                # Two sockets may be bound so; only one may listen.
                probe.listen(1)
            except OSError as error:
                if error.errno == errno.EADDRNOTAVAIL:
                    return [Problem(subject, f"this host has no address {ip}", "ip -brief address shows those it has")]
                if error.errno == errno.EADDRINUSE:
                    holders: list[str] = []
                    with contextlib.suppress(HostError):
                        holders += self._host.engine.publishers(address.port)
                    if container is not None and container.name in holders:
                        if not is_ours(container):
                            return []
                        # Ours listens elsewhere.
                        holders.remove(container.name)
                    who = f"the container `{holders[0]}`" if holders else "another process"
                    show = _stopping(holders[0]) if holders else f"sudo ss -ltnp 'sport = :{address.port}'"
                    return [
                        Problem(
                            subject,
                            f"port {address.port} is taken by {who}",
                            f"{show}; or choose another port: --registry {address.host}:{address.port + 1}",
                        )
                    ]
                # Ports below 1024 are not ours to try; Docker will say.
        return []

    def look(self) -> Sequence[Change]:
        wanted = self._wanted()
        container = self._host.engine.container(wanted.name)
        ip, port = wanted.publish[_PORT]
        where = f"{ip}:{port}, data in {self._job.data}"
        if container is None:
            data = wanted.labels[LABEL_DATA]
            if is_directory(data):
                made = _is_absent(self._host.places.seen(Path(data)))
            else:
                made = not self._host.engine.has_volume(data)
            place = [Change("create", "directory" if is_directory(data) else "volume", data)] if made else []
            return [*place, Change("start", "container", wanted.name, f"{wanted.image} on {where}")]
        if container.labels.get(LABEL_WANTED) != wanted.labels[LABEL_WANTED]:
            old = installed_data(container)
            kept = "the data is kept"
            if old is not None and old != self._job.data:
                kept = f"what is in {old} stays there and is no longer served"
            return [Change("replace", "container", wanted.name, f"{wanted.image} on {where}; {kept}")]
        if not container.is_running:
            return [Change("start", "container", wanted.name, f"it was {container.state}")]
        return []

    def apply(self, changes: Sequence[Change]) -> None:
        engine = self._host.engine
        wanted = self._wanted()
        container = engine.container(wanted.name)
        if container is not None and container.labels.get(LABEL_WANTED) != wanted.labels[LABEL_WANTED]:
            engine.remove_container(wanted.name)
            container = None
        # Left by a `prune` that was killed: it must not go on deleting while others push.
        engine.remove_passing(GARBAGE_CONTAINER)
        if container is None:
            data = wanted.labels[LABEL_DATA]
            if not is_directory(data):
                engine.create_volume(data, {LABEL_ROLE: "registry"})
            engine.create_container(wanted)
        else:
            engine.start_container(wanted.name)
        self.wait()

    def wait(self) -> None:
        """Until it answers.

        Raises:
            HostError: it has ended, or does not answer in time.
        """
        name = REGISTRY_CONTAINER
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                self._registry.ping()
                return
            except NetworkError as error:
                if time.monotonic() > deadline:
                    raise HostError(
                        f"the container `{name}` runs, and nothing answers at {self._job.address} after "
                        f"{_START_SECONDS:.0f} s ({error.message})\n{self._host.engine.logs(name)}",
                        hint=f"docker logs {name}",
                    ) from None
            time.sleep(0.1)
            container = self._host.engine.container(name)
            if container is None or container.state in ("exited", "dead", "restarting"):
                raise HostError(
                    f"the container `{name}` ended as soon as it was started\n{self._host.engine.logs(name)}",
                    hint=f"docker logs {name}",
                )
