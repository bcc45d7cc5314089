"""The replay service: its CA, and the container that answers builds from the tapes of the registry.

BuildKit sends what RUN steps and ADD ask the network for to it (see builder), and trusts its CA. It listens on the
loopback address and has no rights: the python image of the archive, as a user that is nobody, with our program put in.

There is one on a host. It has the CA and the tapes of one user's installation, which its label names: another user's
takes it only with consent, since builds of the first get nothing from then on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import hmac
import http.client
import json
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

from bundles.errors import HostError, Problem
from bundles.oci.digest import Digest
from bundles.proxy.certificates import certificate_of, new_key
from bundles.registry.urls import Origin
from bundles.runtime.program import own_command, quote
from bundles.runtime.progress import Progress
from installer.host.docker.container import Container, NewContainer
from installer.host.files import read_optional, remove_file, write_atomically
from installer.host.host import Host
from installer.host.labels import (
    LABEL_ACCESS,
    LABEL_OWNER,
    LABEL_PORT,
    LABEL_PROGRAM,
    LABEL_ROLE,
    LABEL_WANTED,
    REPLAY_CONTAINER,
    fingerprint,
)
from installer.model.job import DesiredState, Job
from installer.model.replay import Replay, ReplayedTape, join_pieces, tape_repository
from installer.model.step import Change, Step
from installer.model.tool import Tool
from installer.receipt.receipt import Receipt
from installer.registry.connection import login_to
from installer.registry.handover import authorities, logins
from installer.registry.listener import listener
from installer.replay.program import program
from installer.replay.replayer import MISS
from installer.replay.service import name_of
from installer.replay.settings import AUTHORITIES, LOGINS, Settings, logins_to_bytes
from installer.replay.start import SETTINGS
from installer.steps.toolchain_images import left_to_base, load, local_image

# The ports that are tried, in this order.
_PORTS = range(5080, 5100)
_ROLE = "replay"
_NOBODY = 65534
_DIRECTORY = "/bundle-replay"
_PROGRAM = f"{_DIRECTORY}/program.zip"
_START_SECONDS = 30.0
_LOG_LINES, _LOG_WIDTH = 5_000, 4_000


def with_replay(job: Job, host: Host) -> Job:
    """Settle what is replayed: the tapes of this archive, then those that bundles of other names brought before.

    The image that the service runs in is this archive's, else the one that it ran in before.
    """
    if not job.options.replay:
        return job
    before = Receipt.known(host.places)
    own = join_pieces((str(item.tag), item.root.digest) for item in job.images if item.image.role == "tape")
    tapes = (*own, *(tape for tape in _of_others(job, before) if tape not in own))
    if not tapes:
        return job
    earlier = before.state if before else None
    python = earlier.tool("python") if earlier else None
    tools = {"python": python, **job.tools} if python else job.tools
    port = _choose_port(host, earlier.replay if earlier else None, job.address.port)
    return dataclasses.replace(job, tools=tools, replay=Replay(port, tapes, job.options.direct))


def _of_others(job: Job, before: Optional[Receipt]) -> Iterator[ReplayedTape]:
    """Give the tapes of bundles with other names, the newest bundle first; what it once had under a name is passed."""
    if before is None or (before.state.data, before.state.site) != (job.data, job.site):
        return
    replaced = {job.archive.manifest.name, *([before.bundle.name] if job.options.succeeds else [])}
    found: dict[str, dict[str, Digest]] = {}
    for entry in before.brought:
        if entry.role == "tape" and entry.tag and entry.bundle not in replaced:
            found.setdefault(entry.bundle, {})[entry.tag] = entry.digest
    for tags in reversed(list(found.values())):
        yield from join_pieces(tags.items())


def _choose_port(host: Host, earlier: Optional[Replay], taken: int) -> int:
    """Return the port that the service has, else the first that is free; the first when none is."""
    candidates: list[int] = [*([earlier.port] if earlier else []), *_PORTS]
    for port in candidates:
        if port != taken and (_is_free(port) or _has_port(host, port)):
            return port
    return _PORTS[0]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen(1)
        except OSError:
            return False
    return True


def _has_port(host: Host, port: int) -> bool:
    """Tell whether our service listens there."""
    container = None
    with contextlib.suppress(HostError):
        container = host.engine.container(REPLAY_CONTAINER)
    if container is None or not container.is_running or container.labels.get(LABEL_PORT) != str(port):
        return False
    return service_state(port) is not None


def service_state(port: int) -> Optional[dict[str, Any]]:
    """Ask the service how it is; None when it is not what answers there.

    `name` is that of its settings, `loaded` whether it has read its tapes, `answers` how many are in them; `missing`,
    `unavailable` and `damaged` are the digests of what it could not read.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    with contextlib.suppress(OSError, http.client.HTTPException, ValueError), contextlib.closing(connection):
        connection.request("GET", "/")
        value = json.loads(connection.getresponse().read(1 << 20))
        if isinstance(value, dict) and value.get("service") == "offline-bundle replay":
            return value
    return None


def misses(host: Host) -> list[str]:
    """Return what was asked for and not recorded, as far as the service's log goes back: method and URL.

    Each is there once, and what was asked for last comes first.
    """
    lines = host.engine.logs(REPLAY_CONTAINER, _LOG_LINES, _LOG_WIDTH).splitlines()
    return list(dict.fromkeys(line[len(MISS) :] for line in reversed(lines) if line.startswith(MISS)))


class ReplayContainer(Step):
    """Makes the CA and runs the service, restarted with Docker.

    Args:
        job: what is wanted; without an archive an image that Docker lacks comes from the local registry.
        drops: whether the service goes where nothing is to be replayed: the installation before had one.
    """

    name = "replay"

    def __init__(self, job: DesiredState, host: Host, progress: Progress, *, drops: bool = False) -> None:
        self._job, self._host, self._progress, self._drops = job, host, progress, drops
        self._key, self._certificate = host.places.replay / "ca.key", host.places.replay / "ca.pem"

    def _container(self) -> Optional[Container]:
        return self._host.engine.container(REPLAY_CONTAINER)

    def other_owner(self) -> Optional[str]:
        """Return where the receipt of the installation is that the service is of; None when that is this one."""
        container = self._container()
        if container is None or not _is_ours(container):
            return None
        owner = container.labels.get(LABEL_OWNER)
        return None if owner == str(self._host.places.state) else owner

    def question(self) -> Optional[str]:
        owner = self.other_owner() if self._job.replay else None
        if owner is None:
            return None
        return (
            f"take the replay of recorded builds from the installation that has its receipt in `{owner}`, whose builds "
            f"get nothing from then on ({own_command('doctor --fix --yes')} there takes it back)"
        )

    def problems(self) -> Sequence[Problem]:
        replay = self._job.replay
        if replay is None:
            return []
        container = None
        with contextlib.suppress(HostError):
            container = self._container()
        problems = [] if container is None or _is_ours(container) else [_foreign(container)]
        tool = self._job.tool("python")
        if tool is None:
            problems.append(
                Problem(
                    "the python image",
                    f"there is none for {self._job.host_platform}, and what replays recorded builds needs it",
                    "bundle create ... --with-python, where there is internet; or leave it out here: --no-replay",
                )
            )
        elif isinstance(self._job, Job) and self._is_inside(tool):
            with contextlib.suppress(HostError):
                left = left_to_base(self._job, self._host, tool)
                problems += [left] if left else []
        if not (_is_free(replay.port) or _has_port(self._host, replay.port)):
            problems.append(self._taken(replay.port))
        return problems

    def _taken(self, port: int) -> Problem:
        publishers: Sequence[str] = ()
        with contextlib.suppress(HostError):
            publishers = self._host.engine.publishers("127.0.0.1", port)
        seen = listener(self._host.places.proc, "127.0.0.1", port) or "another process"
        who = f"the container `{publishers[0]}`" if publishers else seen
        return Problem(
            f"port {port} of 127.0.0.1",
            f"it is taken by {who}, and the replay service needs it; `upgrade` takes the next one that is free",
            f"sudo ss -ltnp 'sport = :{port}'",
        )

    def look(self) -> Sequence[Change]:
        container, replay = self._container(), self._job.replay
        if replay is None:
            goes = self._drops and container is not None and _is_ours(container) and not self.other_owner()
            return [Change("remove", "container", REPLAY_CONTAINER, "nothing is replayed any more")] if goes else []
        missing = [path for path in (self._key, self._certificate) if read_optional(path) is None]
        changes = [Change("write", "file", str(path), "the CA that the builder alone trusts") for path in missing]
        names = ", ".join(tape.name for tape in replay.tapes) or "no tape"
        detail = f"on 127.0.0.1:{replay.port}, for {names}"
        if container is None:
            return [*changes, *self._fetching(), Change("start", "container", REPLAY_CONTAINER, detail)]
        owner = self.other_owner()
        if owner:
            detail += f"; it was that of the installation in {owner}"
        if missing or self._is_outdated(container):
            return [*changes, *self._fetching(), Change("replace", "container", container.name, detail)]
        if not container.is_running:
            return [Change("start", "container", container.name, f"it was {container.state}")]
        return []

    def _is_inside(self, tool: Tool) -> bool:
        """Tell whether the archive has the image; else it was brought by an earlier one."""
        job = self._job
        return isinstance(job, Job) and job.archive.has(tool.manifest.digest)

    def _fetching(self) -> Sequence[Change]:
        tool = self._job.tool("python")
        # What the archive has is loaded by a step of its own.
        if tool is None or self._is_inside(tool) or local_image(self._host, tool) is not None:
            return []
        # By its digest: what has the tag may be anybody's.
        return [
            Change("pull", "image", tool.pinned, "from the local registry"),
            Change("tag", "image", tool.name, "its name by tag"),
        ]

    def apply(self, changes: Sequence[Change]) -> None:
        engine, replay = self._host.engine, self._job.replay
        if replay is None:
            return engine.remove_container(REPLAY_CONTAINER)
        self._make_authority()
        tool = self._job.tool("python")
        if tool is None:
            raise HostError(f"the archive has no python image for {self._job.host_platform}")
        if isinstance(self._job, Job) and self._is_inside(tool):
            load(self._job, self._host, tool, self._progress)
        elif self._fetching():
            engine.pull(tool.pinned, login_to(self._job))
            found = engine.image_id(tool.pinned)
            if found is None or not tool.is_image(found):
                raise HostError(
                    f"`{tool.pinned}` is {found} in Docker, which is not the image that was installed",
                    hint=f"docker image inspect {tool.pinned}",
                )
            engine.tag(found, tool.name)
        container = self._container()
        if container is not None and not self._is_outdated(container):
            engine.start_container(container.name)
        else:
            # Made up first: where a login cannot be read, the one that is there stays.
            wanted = self._wanted(replay, tool)
            if container is not None:
                engine.remove_container(container.name)
            engine.create_container(wanted, tool.is_image)
        return self._wait(replay)

    def _make_authority(self) -> None:
        """Make the CA, or what an interrupted run has left out of it; one that is there stays."""
        key = read_optional(self._key)
        if key is None:
            remove_file(self._certificate)
            key = new_key()
            write_atomically(self._key, [key], 0o600)
        if read_optional(self._certificate) is None:
            try:
                write_atomically(self._certificate, [certificate_of(key)], 0o644)
            except ValueError:
                hint = f"rm {quote(self._key)}, then run this again"
                raise HostError(f"`{self._key}` holds no key", hint=hint) from None

    def _settings(self, replay: Replay) -> Settings:
        destination, tls = self._job.destination, self._job.access.tls
        host = Origin.of(f"{'https' if tls else 'http'}://{destination.host}").host
        # ::1 may be anybody's, and is asked first. A registry of the site is where the site says.
        address = "127.0.0.1" if self._job.site is None and host == "localhost" else host
        tapes = tuple(tape.manifests for tape in replay.tapes)
        return Settings(replay.port, destination.host, address, tls, tape_repository(destination), tapes)

    def _access(self) -> Mapping[str, bytes]:
        """Return the files with which the service gets into the registry: as this program does, now."""
        repository = tape_repository(self._job.destination)
        return {AUTHORITIES: authorities(self._job), LOGINS: logins_to_bytes(logins(self._job, repository))}

    def _access_mark(self, files: Mapping[str, bytes]) -> str:
        """Name those files. Everybody may see a label: without the key no guess at a password can be tried on it."""
        key = read_optional(self._key) or b""
        return fingerprint({name: hmac.new(key, data, "sha256").hexdigest() for name, data in files.items()})

    def _mark(self, replay: Replay, tool: Optional[Tool]) -> str:
        certificate = read_optional(self._certificate) or b""
        return fingerprint(
            {
                "image": str(tool.manifest.digest) if tool else None,
                "settings": name_of(self._settings(replay).to_bytes()),
                "certificate": hashlib.sha256(certificate).hexdigest(),
            }
        )

    def _wanted(self, replay: Replay, tool: Tool) -> NewContainer:
        service, access = program(), self._access()
        files = {
            f"{_DIRECTORY}/": b"",
            _PROGRAM: service,
            **{f"{_DIRECTORY}/{name}": data for name, data in access.items()},
            f"{_DIRECTORY}/{SETTINGS}": self._settings(replay).to_bytes(),
            f"{_DIRECTORY}/{self._key.name}": read_optional(self._key) or b"",
            f"{_DIRECTORY}/{self._certificate.name}": read_optional(self._certificate) or b"",
        }
        return NewContainer(
            name=REPLAY_CONTAINER,
            image=local_image(self._host, tool) or tool.name,
            labels={
                LABEL_ROLE: _ROLE,
                LABEL_WANTED: self._mark(replay, tool),
                LABEL_ACCESS: self._access_mark(access),
                LABEL_PROGRAM: _program_name(service),
                LABEL_PORT: str(replay.port),
                LABEL_OWNER: str(self._host.places.state),
            },
            entrypoint=["python3", "-I", _PROGRAM],
            command=[_DIRECTORY],
            files=files,
            network="host",
            user=_NOBODY,
        )

    def _is_outdated(self, container: Container) -> bool:
        replay, tool = self._job.replay, self._job.tool("python")
        # One that was never started may lack the files that are put into it after it is made.
        if container.state == "created" or replay is None or tool is None or not tool.is_image(container.image_id):
            return True
        if self.other_owner() or container.labels.get(LABEL_WANTED) != self._mark(replay, tool):
            return True
        if self._has_other_access(container):
            return True
        # A program of another version than the one that installed has no reason to object to that one's.
        return isinstance(self._job, Job) and container.labels.get(LABEL_PROGRAM) != _program_name(program())

    def _has_other_access(self, container: Container) -> bool:
        access = self._job.access
        # They may still have to be made, by the steps before this one.
        if not all(Path(file).exists() for file in (access.authority, access.password) if file):
            return True
        return container.labels.get(LABEL_ACCESS) != self._access_mark(self._access())

    def _wait(self, replay: Replay) -> None:
        """Wait until it answers with its tapes.

        Raises:
            HostError: it has ended, or does not answer in time.
        """
        deadline = time.monotonic() + _START_SECONDS
        wanted = name_of(self._settings(replay).to_bytes())
        while True:
            state = service_state(replay.port)
            if state and state.get("name") == wanted and state.get("loaded"):
                return
            container = self._container()
            ended = container is None or container.state in ("exited", "dead", "restarting")
            if ended or time.monotonic() > deadline:
                what = "ended as soon as it was started" if ended else f"does not answer after {_START_SECONDS:.0f} s"
                raise HostError(
                    f"the container `{REPLAY_CONTAINER}` {what}\n{self._host.engine.logs(REPLAY_CONTAINER)}",
                    hint=f"docker logs {REPLAY_CONTAINER}",
                )
            time.sleep(0.1)

    def explain(self, change: Change) -> str:
        if change.kind == "file":
            return f"`{change.name}`, of the CA that the builder trusts, is gone"
        container = self._container()
        if container is None:
            state = "is gone"
        elif not _is_ours(container):
            state = "is not the one that was installed"
        elif owner := self.other_owner():
            state = f"is now that of the installation that has its receipt in `{owner}`"
        elif not container.is_running:
            state = f"is {container.state}"
        elif self._has_other_access(container):
            state = f"has another login for `{self._job.destination.host}`, or other CAs, than this host has now"
        else:
            state = "has other settings"
        return f"the container `{REPLAY_CONTAINER}`, which answers what builds ask the network for, {state}"


def _is_ours(container: Container) -> bool:
    return container.labels.get(LABEL_ROLE) == _ROLE


def _program_name(service: bytes) -> str:
    return hashlib.sha256(service).hexdigest()[:16]


def _foreign(container: Container) -> Problem:
    return Problem(
        f"container `{container.name}`",
        f"it is not one that this program made ({container.state}), and the replay service needs the name",
        f"docker rename {container.name} {container.name}-old, or remove it: docker rm -f {container.name}",
    )


class RemoveReplay(Step):
    """Removes the service and its CA; files that the receipt lists are removed with the others."""

    name = "replay"

    def __init__(self, receipt: Receipt, host: Host) -> None:
        self._host = host
        listed = receipt.names_made("file")
        self._files = [
            path for path in (host.places.replay / "ca.key", host.places.replay / "ca.pem") if str(path) not in listed
        ]

    def look(self) -> Sequence[Change]:
        container = self._host.engine.container(REPLAY_CONTAINER)
        ours = container is not None and _is_ours(container)
        files = [Change("remove", "file", str(path)) for path in self._files if path.exists()]
        return [*([Change("remove", "container", REPLAY_CONTAINER)] if ours else []), *files]

    def apply(self, changes: Sequence[Change]) -> None:
        for change in changes:
            if change.kind == "container":
                self._host.engine.remove_container(change.name)
            else:
                remove_file(Path(change.name))
