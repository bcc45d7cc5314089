"""The container `registry`."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import ipaddress
import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from bundles.errors import HostError, NetworkError, Problem, reason
from bundles.registry.transport import Transport
from bundles.runtime.program import quote
from installer.host.docker.container import Container, NewContainer
from installer.host.files import is_seen, read_optional, remove_tree
from installer.host.host import Host
from installer.host.labels import (
    GARBAGE_CONTAINER,
    LABEL_ADDRESS,
    LABEL_DATA,
    LABEL_OWNER,
    LABEL_ROLE,
    LABEL_WANTED,
    REGISTRY_CONTAINER,
    REGISTRY_DIRECTORY,
    fingerprint,
)
from installer.host.paths import is_in_hosts
from installer.model.job import DesiredState, is_directory
from installer.model.registry.installed import (
    access_labels,
    data_labels,
    installed_address,
    installed_data,
    is_ours,
    other_data,
    other_owner,
)
from installer.model.registry.storage import is_bucket
from installer.model.step import Change, Check, Step
from installer.receipt.receipt import Receipt
from installer.registry.client import Registry
from installer.registry.listener import listener
from installer.steps.registry import storage as s3
from installer.steps.registry.certificates import Files
from installer.steps.toolchain_images import local_image

# The port on which the registry image listens, inside its container.
_PORT = 5000
_START_SECONDS = 30.0
# Where it finds its certificate, the keys and the hashes of passwords, inside its container.
_DIRECTORY = "/bundle-registry"


def _is_absent(path: Path) -> bool:
    """Tell whether it is certain that nothing is there: then what is made there is ours, and goes with us."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _stopping(name: str) -> str:
    """Return the command that stops a container for good: one that is always restarted comes back with Docker."""
    return f"docker update --restart=no {name} && docker stop {name}"


class RegistryContainer(Step):
    """Runs the registry image under the name `registry`, restarted with Docker, its data in a volume or directory.

    A stopped one of ours is started. One that was made with another image or other settings is replaced; the data stays
    where it is.

    Args:
        job: what is wanted.
        host: where.
        registry: the way to what runs now.
        transport: how it is spoken to once it runs as it is wanted; None when that is no other way.
    """

    name = "registry"

    def __init__(
        self, job: DesiredState, host: Host, registry: Registry, transport: Optional[Transport] = None
    ) -> None:
        self._job, self._host, self._registry, self._transport = job, host, registry, transport

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
            **self._environment(),
        }
        publish = [(ip, self._job.address.port) for ip in self._job.address.listen_ips()]
        binds = () if is_bucket(data) else (f"{data}:{REGISTRY_DIRECTORY}{relabel}",)
        files = self.files()
        wanted = fingerprint(
            {
                "image": str(tool.manifest.digest),
                "environment": environment,
                # Its label has the address by name, and is believed the next time.
                "address": str(self._job.address),
                "publish": publish,
                "bind": "".join(binds),
                **({"files": {name: _digest(data) for name, data in files.items()}} if files else {}),
            }
        )
        return NewContainer(
            name=REGISTRY_CONTAINER,
            image=local_image(self._host, tool) or tool.name,
            labels={
                LABEL_ROLE: "registry",
                LABEL_WANTED: wanted,
                LABEL_ADDRESS: str(self._job.address),
                **data_labels(data, self._job.storage),
                **access_labels(self._job.access, self._host.places),
                # What only one user may read is in it.
                **({LABEL_OWNER: str(self._host.places.state)} if files else {}),
            },
            environment=environment,
            publish={_PORT: publish},
            binds=binds,
            files=files,
            private=True,
        )

    def _environment(self) -> dict[str, str]:
        """Return the settings for TLS, for the login and for an S3 storage."""
        access, values = self._job.access, {}
        if self._job.storage:
            values.update(s3.environment(self._job.storage, _DIRECTORY, self._host.places))
        if access.tls:
            files = Files.of(self._host.places)
            values["REGISTRY_HTTP_TLS_CERTIFICATE"] = f"{_DIRECTORY}/{files.chain.name}"
            values["REGISTRY_HTTP_TLS_KEY"] = f"{_DIRECTORY}/{files.key.name}"
            if access.password:
                values["REGISTRY_AUTH"] = "htpasswd"
                values["REGISTRY_AUTH_HTPASSWD_REALM"] = "bundle"
                values["REGISTRY_AUTH_HTPASSWD_PATH"] = f"{_DIRECTORY}/{files.hashes.name}"
        return values

    def files(self) -> dict[str, bytes]:
        """Return what is put into the container: there it survives whatever becomes of the user's directory.

        Without the file of the hashes a registry would invent a user and write the password into its log.
        """
        access, storage, contents = self._job.access, self._job.storage, {}
        if access.tls:
            own = Files.of(self._host.places)
            paths = [own.chain, own.key, *([own.hashes] if access.password else [])]
            contents = {path.name: read_optional(path) or b"" for path in paths}
        if storage:
            contents.update(s3.contents(storage, self._host.places))
        named = {f"{_DIRECTORY}/{name}": data for name, data in contents.items()}
        return {f"{_DIRECTORY}/": b"", **named} if named else {}

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
        owner = other_owner(container, self._host.places) if container is not None else None
        if owner:
            problems.append(
                Problem(
                    f"container `{REGISTRY_CONTAINER}`",
                    f"it has the keys of the installation that has its receipt in `{owner}`, and they are not for "
                    "others to read",
                    f"run this as that user; or, for a registry with keys of your own over the same data: docker rm -f "
                    f"{REGISTRY_CONTAINER}",
                )
            )
        data = self._job.data
        place = self._host.places.seen(Path(data)) if is_directory(data) else None
        if place and (":" in data or (is_seen(place) and not place.is_dir())):
            problems.append(Problem(f"--data {data}", "it is not a directory that Docker can mount"))
        return [*problems, *(self._address_problems() or self._port_problems(container))]

    def held_by_others(self) -> Sequence[Problem]:
        """Return who listens where the registry is asked for, and is not the registry."""
        return self._address_problems() or self._port_problems(self._host.engine.container(REGISTRY_CONTAINER))

    def _unpublished(self) -> Sequence[str]:
        """List the addresses at which others may listen although the registry runs: Docker does not publish there."""
        container = self._host.engine.container(REGISTRY_CONTAINER)
        if container is None or not container.is_running or self._is_outdated(container, self._wanted()):
            return []
        address = self._job.address
        return [ip for ip in address.listen_ips() if (ip, address.port) not in container.published]

    def _address_problems(self) -> list[Problem]:
        """Find what keeps others from the address; a builder's container has its own loopback and /etc/hosts."""
        address = self._job.address
        subject = f"address {address}"
        show = "give the IP address: ip -brief address"
        try:
            ip = address.listen_ip()
        except OSError as error:
            return [Problem(subject, f"`{address.host}` does not resolve: {reason(error)}", show)]
        if not address.is_name:
            return []
        number = ipaddress.ip_address(ip)
        if number.is_loopback or number.is_unspecified:
            return [
                Problem(subject, f"`{address.host}` is {ip} here, which no other host and no builder reaches", show)
            ]
        if is_in_hosts(address.host, self._host.places):
            message = f"`{address.host}` is {ip} by this host's /etc/hosts, which no builder reads"
            return [Problem(subject, message, f"give the IP address: --registry {ip}:{address.port}")]
        return []

    def _port_problems(self, container: Optional[Container]) -> list[Problem]:
        """Find what keeps the port; a `container` that has our name is a problem of its own, and not named here."""
        ips = self._job.address.listen_ips()
        return [problem for ip in ips for problem in self._port_problem(ip, container)]

    def _port_problem(self, ip: str, container: Optional[Container]) -> list[Problem]:
        address = self._job.address
        subject = f"address {address}"
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
                        holders += self._host.engine.publishers(ip, address.port)
                    if container is not None and container.name in holders:
                        # Ours goes before the new.
                        return []
                    seen = listener(self._host.places.proc, ip, address.port) or "another process"
                    who = f"the container `{holders[0]}`" if holders else seen
                    show = _stopping(holders[0]) if holders else f"sudo ss -ltnp 'sport = :{address.port}'"
                    where = f"of {ip}, which `localhost` is too, " if ip == "::1" else ""
                    return [
                        Problem(
                            subject,
                            f"port {address.port} {where}is taken by {who}",
                            f"{show}; or choose another port: --registry {address.host}:{address.port + 1}",
                        )
                    ]
                # Ports below 1024 are not ours to try; Docker will say.
        return []

    def look(self) -> Sequence[Change]:
        wanted = self._wanted()
        container = self._host.engine.container(wanted.name)
        places = (f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}" for ip, port in wanted.publish[_PORT])
        where = f"{' and '.join(places)}, data in {self._job.data}"
        if container is None:
            data = wanted.labels[LABEL_DATA]
            if is_directory(data):
                made = _is_absent(self._host.places.seen(Path(data)))
            else:
                made = not is_bucket(data) and not self._host.engine.has_volume(data)
            place = [Change("create", "directory" if is_directory(data) else "volume", data)] if made else []
            return [*place, Change("start", "container", wanted.name, f"{wanted.image} on {where}")]
        if self._is_outdated(container, wanted):
            old = other_data(container, self._job.data, self._job.storage)
            kept = f"what is in {old} stays there and is no longer served" if old else "the data is kept"
            return [Change("replace", "container", wanted.name, f"{wanted.image} on {where}; {kept}")]
        if not container.is_running:
            return [Change("start", "container", wanted.name, f"it was {container.state}")]
        return []

    def apply(self, changes: Sequence[Change]) -> None:
        engine = self._host.engine
        wanted = self._wanted()
        container = engine.container(wanted.name)
        if container is not None and self._is_outdated(container, wanted):
            engine.remove_container(wanted.name)
            container = None
        if self._transport:
            self._registry.speak_through(self._transport)
        # Left by a `prune` that was killed: it must not go on deleting while others push.
        engine.remove_passing(GARBAGE_CONTAINER)
        if container is None:
            data = wanted.labels[LABEL_DATA]
            if not is_directory(data) and not is_bucket(data):
                engine.create_volume(data, {LABEL_ROLE: "registry"})
            self._create(wanted)
        else:
            engine.start_container(wanted.name)
        self.wait()

    def _is_image(self, image_id: str) -> bool:
        tool = self._job.tool("registry")
        return tool is not None and tool.is_image(image_id)

    def _is_outdated(self, container: Container, wanted: NewContainer) -> bool:
        if wanted.files and container.state == "created":
            # It may lack the files, which are put into it after it is made.
            return True
        return container.labels.get(LABEL_WANTED) != wanted.labels[LABEL_WANTED] or not self._is_image(
            container.image_id
        )

    def _create(self, wanted: NewContainer) -> None:
        first, *others = wanted.publish[_PORT]
        try:
            self._host.engine.create_container(wanted, self._is_image)
        except HostError:
            if not others:
                raise
            # Docker may be unable to publish on ::1; `notes` say so.
            self._host.engine.remove_passing(wanted.name)
            self._host.engine.create_container(dataclasses.replace(wanted, publish={_PORT: [first]}), self._is_image)

    def notes(self) -> Sequence[str]:
        port = self._job.address.port
        return [
            f"Docker does not publish on [{ip}]:{port}, which {self._job.address} is too: any user of this host may "
            f"listen there, and many a program asks there first; --registry 127.0.0.1:{port} has one meaning"
            for ip in self._unpublished()
        ]

    def explain(self, change: Change) -> str:
        container = self._host.engine.container(REGISTRY_CONTAINER)
        if container is None:
            state = f"is gone; its data, in {self._job.data}, is apart from it"
        elif not is_ours(container):
            state = "is not the one that was installed"
        elif not container.is_running:
            state = f"is {container.state}"
        else:
            state = "has other settings"
        return f"the container `{REGISTRY_CONTAINER}` {state}"

    def wait(self) -> None:
        """Wait until it answers.

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


class FormerRegistry(Check):
    """Leaves a registry of an installation before alone, and says so: others of the LAN may use it."""

    name = "registry"

    def __init__(self, host: Host) -> None:
        self._host = host

    def notes(self) -> Sequence[str]:
        container = self._host.engine.container(REGISTRY_CONTAINER)
        if container is None or not is_ours(container):
            return []
        data = installed_data(container) or ""
        remove = f"; sudo rm -r {quote(data)}" if is_directory(data) else f"; docker volume rm {data}"
        remove = "" if is_bucket(data) else remove
        return [
            f"the container {container.name} at {installed_address(container)} stays, with its images in {data}, and "
            f"builds here do not use it any more; when nobody else does: docker rm -f {container.name}{remove}"
        ]


class RemoveRegistry(Step):
    """Removes the registry's container; its data only when that was asked for.

    Where the registry is the site's, that is the container of an installation before, and its data stays. What is in a
    bucket stays as well: which other registries serve it, nobody knows here.
    """

    name = "registry"

    def __init__(self, receipt: Receipt, host: Host, *, data: bool) -> None:
        self._host, self._with_data = host, data and not receipt.state.site and not receipt.state.storage
        self._storage = receipt.state.storage
        self._made = receipt.names_made("container")
        self._data, self._address = receipt.state.data, receipt.state.address
        self._volume_is_made = self._data in receipt.names_made("volume")
        self._directory_is_ours = self._data in receipt.names_made("directory")

    def _container(self) -> Optional[Container]:
        container = self._marked()
        return container if container is not None and self._is_of_this_installation(container) else None

    def _marked(self) -> Optional[Container]:
        container = self._host.engine.container(REGISTRY_CONTAINER)
        return container if container is not None and is_ours(container) else None

    def _is_of_this_installation(self, container: Container) -> bool:
        where = installed_address(container), installed_data(container)
        return container.name in self._made or where == (self._address, self._data)

    def _volume_is_ours(self) -> bool:
        if self._storage:
            return False
        container = self._marked()
        if container is not None and self._container() is None and installed_data(container) == self._data:
            # It is in use, and goes on to be.
            return False
        labels = self._host.engine.volume_labels(self._data)
        return labels is not None and (self._volume_is_made or labels.get(LABEL_ROLE) == "registry")

    def _directory(self) -> Optional[Path]:
        """Return what of a directory goes: all of it when it was made for us, else what the registry wrote there."""
        if not is_directory(self._data):
            return None
        place = self._host.places.seen(Path(self._data))
        place = place if self._directory_is_ours else place / "docker" / "registry"
        return place if place.exists() else None

    def problems(self) -> Sequence[Problem]:
        place = self._directory() if self._with_data else None
        if place is None or _may_remove(place):
            return []
        named = self._host.places.named(place)
        by_hand = f"sudo rm -r {quote(named)}, then run this again"
        if self._host.places.root != Path("/"):
            return [Problem(str(named), "it cannot be removed from the container", by_hand)]
        return [Problem(str(named), "it belongs to root", f"run this with sudo; or: {by_hand}")]

    def look(self) -> Sequence[Change]:
        container = self._container()
        changes = [] if container is None else [Change("remove", "container", container.name)]
        if not self._with_data:
            return changes
        if is_directory(self._data):
            place = self._directory()
            if place:
                changes.append(Change("remove", "directory", str(self._host.places.named(place)), "all images in it"))
            return changes
        if self._volume_is_ours():
            return [*changes, Change("remove", "volume", self._data, "all images in it")]
        return changes

    def apply(self, changes: Sequence[Change]) -> None:
        for change in changes:
            if change.kind == "container":
                self._host.engine.remove_container(change.name)
            elif change.kind == "volume":
                self._host.engine.remove_volume(change.name)
            else:
                remove_tree(self._host.places.seen(Path(change.name)))

    def notes(self) -> Sequence[str]:
        return [*self._container_notes(), *self._data_notes(), *self._volume_notes()]

    def _volume_notes(self) -> Sequence[str]:
        return [
            f"the volume {name} stays: it holds the images of another installation; docker volume rm {name}"
            for name in self._host.engine.volumes_labelled(LABEL_ROLE, "registry")
            if name != self._data
        ]

    def _container_notes(self) -> Sequence[str]:
        container = self._marked()
        if container is None or self._is_of_this_installation(container):
            return []
        return [
            f"the container {container.name} stays: it is of another installation, at {installed_address(container)}; "
            f"docker rm -f {container.name}"
        ]

    def _data_notes(self) -> Sequence[str]:
        if not self._data:
            return []
        if self._storage:
            below = "/".join(filter(None, (str(self._storage), "docker/registry/")))
            return [
                f"what is in {self._data} stays, whatever was asked for: registries of other hosts may serve it; when "
                f"none does: aws --endpoint-url {self._storage.endpoint} s3 rm --recursive {below}"
            ]
        if self._with_data:
            if is_directory(self._data) or not self._host.engine.has_volume(self._data) or self._volume_is_ours():
                return []
            return [
                f"the volume {self._data} stays: it is in use, or this program did not make it; "
                f"docker volume rm {self._data}"
            ]
        if is_directory(self._data):
            there, command = self._directory() is not None, f"sudo rm -r {quote(self._data)}"
        else:
            there, command = self._host.engine.has_volume(self._data), f"docker volume rm {self._data}"
        return [f"the images stay in {self._data}; a new installation finds them there, or: {command}"] if there else []


def _may_remove(place: Path) -> bool:
    return os.access(place, os.W_OK | os.X_OK) and os.access(place.parent, os.W_OK | os.X_OK)
