"""Docker Engine: the only module that speaks to it through docker-py."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import errno
import io
import json
import os
import re
import socket
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Optional, Union, cast

from packaging.version import Version

from bundles.errors import BundleError, DiskFullError, HostError
from bundles.oci.platform import Platform
from installer.host.labels import COPY_CONTAINER, LABEL_ROLE
from installer.host.versions import version_of

OLDEST_ENGINE = Version("20.10")
# Loading an image may take minutes before the engine says a word.
_TIMEOUT = 900
_DEFAULT_HOST = "unix:///var/run/docker.sock"
# A containerd of the system's own, and where it keeps its data unless its settings say otherwise.
_SYSTEM_CONTAINERD = ("/run/containerd/containerd.sock", "/var/run/containerd/containerd.sock")
_CONTAINERD_ROOT = "/var/lib/containerd"
# With containerd's store, an image that could not be unpacked counts as loaded; a line of the progress has the reason.
_NOT_UNPACKED = "Error unpacking image "


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """Where the engine is, as the docker command sees it: DOCKER_HOST, else the current context.

    `tls` is set when the environment asks for TLS (DOCKER_TLS_VERIFY); a context's own certificates are not supported.
    """

    host: str = _DEFAULT_HOST
    context: str = "default"

    @property
    def socket_path(self) -> Optional[str]:
        """The path of a local socket, or None when the engine is reached over a network."""
        return self.host[7:] if self.host.startswith("unix://") else None


@dataclasses.dataclass(frozen=True)
class EngineInfo:
    """What the engine says of itself. `containerd_root` is set when the system's own containerd has the images."""

    version: str
    platform: Platform
    root: str
    security: tuple[str, ...]
    insecure_registries: tuple[str, ...]
    containerd_root: Optional[str] = None

    @property
    def image_root(self) -> str:
        """The directory of the host that images and the files of containers take their space from."""
        return self.containerd_root or self.root

    @property
    def is_old(self) -> bool:
        found = version_of(self.version)
        return found is None or found < OLDEST_ENGINE

    @property
    def is_rootless(self) -> bool:
        return any(option.startswith("name=rootless") for option in self.security)

    @property
    def has_selinux(self) -> bool:
        return any(option.startswith("name=selinux") for option in self.security)


@dataclasses.dataclass(frozen=True)
class Container:
    """A container as it is now. `state` is Docker's word: created, running, exited, ...; `restart` its policy."""

    id: str
    name: str
    image_id: str
    state: str
    labels: Mapping[str, str]
    environment: Mapping[str, str]
    restart: str = ""

    @property
    def is_running(self) -> bool:
        return self.state == "running"


@dataclasses.dataclass(frozen=True)
class NewContainer:
    """A container to be made, started again with Docker until somebody stops it.

    `publish` maps ports of the container to an address and port of the host. `entrypoint` and `command` are the image's
    own when they are None. `files` are programs that are put into it before it starts. One without a network is for
    the kernel or the disk only.
    """

    name: str
    image: str
    labels: Mapping[str, str]
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    publish: Mapping[int, tuple[str, int]] = dataclasses.field(default_factory=dict)
    binds: tuple[str, ...] = ()
    entrypoint: Optional[Sequence[str]] = None
    command: Optional[Sequence[str]] = None
    files: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    privileged: bool = False
    network: bool = True
    stop_signal: Optional[str] = None


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a container that was run to its end ended."""

    code: int
    stdout: str
    stderr: str


class Engine:
    """A connection to the engine at `endpoint`; nothing is sent before the first call of a method.

    Every method may raise HostError when the engine refuses or goes away, DiskFullError when it has no space.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._connected: Any = None

    @property
    def _client(self) -> Any:
        if self._connected is None:
            self._check_socket()
            import docker
            from docker.errors import DockerException

            try:
                self._connected = docker.APIClient(self.endpoint.host, version="auto", timeout=_TIMEOUT)
            except DockerException as error:
                raise HostError(
                    f"Docker at `{self.endpoint.host}` does not answer: {error}", hint="docker version"
                ) from None
            except (AttributeError, TypeError, ValueError) as error:
                # docker-py reads config.json without looking at the types of what is in it.
                raise HostError(
                    f"Docker's config.json is not what Docker writes: {error}", hint="mend ~/.docker/config.json"
                ) from None
        return self._connected

    def _check_socket(self) -> None:
        """Find out why a local socket does not answer before a library wraps the reason in text."""
        path = self.endpoint.socket_path
        if path is None:
            return
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(path)
            except PermissionError:
                raise HostError(
                    f"no permission to use Docker at `{path}`",
                    hint="sudo usermod -aG docker $USER, then log in again; or run this with sudo",
                ) from None
            except OSError as error:
                reason = "there is no such socket" if error.errno == errno.ENOENT else (error.strerror or "").lower()
                raise HostError(
                    f"Docker is not running: {reason} (`{path}`)", hint="sudo systemctl start docker"
                ) from None

    def info(self) -> EngineInfo:
        """The engine's version, platform, directory and settings, as they are now."""
        with self._translated("ask Docker about itself"):
            value = self._client.info()
        registries = value.get("RegistryConfig") or {}
        insecure = [name for name, index in (registries.get("IndexConfigs") or {}).items() if not index.get("Secure")]
        return EngineInfo(
            version=str(value.get("ServerVersion", "")),
            platform=Platform(value.get("OSType") or "linux", value.get("Architecture") or "unknown"),
            root=str(value.get("DockerRootDir") or ""),
            security=tuple(value.get("SecurityOptions") or ()),
            insecure_registries=(*insecure, *(registries.get("InsecureRegistryCIDRs") or ())),
            containerd_root=_CONTAINERD_ROOT if _uses_system_containerd(value) else None,
        )

    def image_id(self, name: str) -> Optional[str]:
        """The id of a local image (classic store: its config's digest; containerd store: its manifest's), or None."""
        from docker.errors import ImageNotFound, NotFound

        with self._translated(f"look at the image `{name}`"):
            try:
                return str(self._client.inspect_image(name)["Id"])
            except (ImageNotFound, NotFound):
                return None

    def image_names(self, image_id: str) -> tuple[str, ...]:
        """The names of a local image; none when it is not there."""
        from docker.errors import ImageNotFound, NotFound

        with self._translated(f"look at the image `{image_id}`"):
            try:
                return tuple(self._client.inspect_image(image_id).get("RepoTags") or ())
            except (ImageNotFound, NotFound):
                return ()

    def pull(self, name: str) -> None:
        """Fetch an image by its name, for this host's platform."""
        repository, _, tag = name.rpartition(":")
        with self._translated(f"pull `{name}`"):
            for event in self._client.pull(repository, tag, stream=True, decode=True):
                if event.get("error"):
                    raise _refused(f"pull `{name}`", str(event["error"]))

    def image_created(self, name: str) -> Optional[datetime.datetime]:
        """When a local image was made, None when it is not there or does not say."""
        from docker.errors import ImageNotFound, NotFound

        with self._translated(f"look at the image `{name}`"):
            try:
                text = str(self._client.inspect_image(name).get("Created") or "")
            except (ImageNotFound, NotFound):
                return None
        # To the second: Docker gives nanoseconds, which Python before 3.11 does not read.
        match = re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", text)
        return datetime.datetime.fromisoformat(f"{match.group(0)}+00:00") if match else None

    def image_start(self, name: str) -> tuple[list[str], list[str]]:
        """The entrypoint and the command of a local image."""
        with self._translated(f"look at the image `{name}`"):
            config = self._client.inspect_image(name).get("Config") or {}
        return list(config.get("Entrypoint") or ()), list(config.get("Cmd") or ())

    def load(self, stream: Iterator[bytes]) -> None:
        """Load a Docker archive from its bytes; whatever `stream` raises is raised here."""
        with self._translated("load an image"):
            for event in self._client.load_image(stream):
                said = str(event.get("stream") or "")
                message = event.get("error") or event.get("message") or (_NOT_UNPACKED in said and said)
                if message:
                    raise _refused("load an image", str(message))

    def tag(self, image_id: str, name: str) -> None:
        """Give a local image one more name."""
        repository, _, tag = name.rpartition(":")
        with self._translated(f"tag an image `{name}`"):
            self._client.tag(image_id, repository, tag, force=True)

    def remove_image(self, name: str) -> None:
        """Remove a tag, and the image with its last tag; nothing happens when something else still needs it."""
        from docker.errors import APIError

        with self._translated(f"remove the image `{name}`"), contextlib.suppress(APIError):
            self._client.remove_image(name)

    def container(self, name: str) -> Optional[Container]:
        """The container of that name, running or not, or None."""
        from docker.errors import NotFound

        with self._translated(f"look at the container `{name}`"):
            try:
                value = self._client.inspect_container(name)
            except NotFound:
                return None
        config = value.get("Config") or {}
        environment = dict(entry.partition("=")[::2] for entry in config.get("Env") or ())
        return Container(
            id=value["Id"],
            name=value["Name"].lstrip("/"),
            image_id=value["Image"],
            state=value["State"]["Status"],
            labels=config.get("Labels") or {},
            environment=environment,
            restart=((value.get("HostConfig") or {}).get("RestartPolicy") or {}).get("Name") or "no",
        )

    def container_names(self, prefix: str) -> tuple[str, ...]:
        """The names that start so, of containers running or not."""
        with self._translated("list the containers"):
            found = self._client.containers(all=True)
        names = (name.lstrip("/") for entry in found for name in entry.get("Names") or ())
        return tuple(sorted(name for name in names if name.startswith(prefix)))

    def set_restart_policy(self, name: str, policy: str) -> None:
        with self._translated(f"change the container `{name}`"):
            self._client.update_container(name, restart_policy={"Name": policy})

    def publishers(self, port: int) -> tuple[str, ...]:
        """The names of the running containers that have that TCP port of the host."""
        with self._translated("list the containers"):
            found = self._client.containers()
        return tuple(
            entry["Names"][0].lstrip("/")
            for entry in found
            if any(item.get("PublicPort") == port and item.get("Type") == "tcp" for item in entry.get("Ports") or ())
        )

    def create_container(self, wanted: NewContainer) -> None:
        """Make a container and start it.

        The proxies of Docker's config.json, which may have passwords, do not go into containers of ours: none of them
        asks anybody outside.
        """
        client = self._client
        with self._translated(f"create the container `{wanted.name}`"):
            host = client.create_host_config(
                binds=list(wanted.binds),
                port_bindings=dict(wanted.publish),
                restart_policy={"Name": "always"},
                privileged=wanted.privileged,
                network_mode=None if wanted.network else "none",
            )
            client.create_container(
                image=wanted.image,
                name=wanted.name,
                labels=dict(wanted.labels),
                environment=dict(wanted.environment),
                ports=list(wanted.publish),
                host_config=host,
                detach=True,
                entrypoint=None if wanted.entrypoint is None else list(wanted.entrypoint),
                command=None if wanted.command is None else list(wanted.command),
                stop_signal=wanted.stop_signal,
                use_config_proxy=False,
            )
            for path, data in wanted.files.items():
                client.put_archive(wanted.name, "/", _tar(path, data))
        self.start_container(wanted.name)

    def create_volume(self, name: str, labels: Mapping[str, str]) -> None:
        """Make a volume; one of that name that is there stays as it is."""
        with self._translated(f"create the volume `{name}`"):
            self._client.create_volume(name, labels=dict(labels))

    def has_volume(self, name: str) -> bool:
        return self.volume_labels(name) is not None

    def volume_labels(self, name: str) -> Optional[Mapping[str, str]]:
        """The labels of a volume, None when it is not there."""
        from docker.errors import NotFound

        with self._translated(f"look at the volume `{name}`"):
            try:
                return dict(self._client.inspect_volume(name).get("Labels") or {})
            except NotFound:
                return None

    def volumes_labelled(self, label: str, value: str) -> tuple[str, ...]:
        """The names of the volumes that bear a label with that value."""
        with self._translated("list the volumes"):
            found = self._client.volumes(filters={"label": f"{label}={value}"}).get("Volumes") or ()
        return tuple(sorted(str(entry["Name"]) for entry in found))

    def remove_volume(self, name: str) -> None:
        from docker.errors import NotFound

        with self._translated(f"remove the volume `{name}`"), contextlib.suppress(NotFound):
            self._client.remove_volume(name)

    def data_size(self, data: str) -> Optional[int]:
        """The bytes that a volume, or a directory of this host, takes on the disk; None when that cannot be seen."""
        if not data.startswith("/"):
            with self._translated(f"measure the volume `{data}`"):
                # Engines before 23.0 pass the parameters over, and measure everything.
                url = f"{self._client.base_url}/v{self._client.api_version}/system/df"
                answer = self._client.get(url, params={"type": "volume", "verbose": "1"})
                answer.raise_for_status()
                usage = answer.json()
                # From Docker 29 (API 1.52) on they are in `VolumeUsage`.
                volumes = (usage.get("VolumeUsage") or {}).get("Items") or usage.get("Volumes") or ()
            sizes = [(entry.get("UsageData") or {}).get("Size") for entry in volumes if entry.get("Name") == data]
            return sizes[0] if sizes and sizes[0] is not None and sizes[0] >= 0 else None
        try:
            return (
                sum(entry.lstat().st_blocks * 512 for entry in Path(data).rglob("*") if not entry.is_dir())
                if os.access(data, os.R_OK | os.X_OK)
                else None
            )
        except OSError:
            return None

    def stop_container(self, name: str) -> None:
        """Stop a container in good order; with its restart policy it starts again with Docker."""
        with self._translated(f"stop the container `{name}`"):
            self._client.stop(name, timeout=30)

    def start_container(self, name: str) -> None:
        with self._translated(f"start the container `{name}`"):
            self._client.start(name)

    def remove_container(self, name: str) -> None:
        """Stop a container in good order and remove it, its anonymous volumes too; named volumes stay."""
        from docker.errors import NotFound

        with self._translated(f"remove the container `{name}`"), contextlib.suppress(NotFound):
            self._client.stop(name, timeout=10)
            self._client.remove_container(name, force=True, v=True)

    def remove_passing(self, name: str) -> None:
        """Remove what a killed run has left of a container of that name; one without our mark stays."""
        left = self.container(name)
        if left is not None and LABEL_ROLE in left.labels:
            self.remove_container(name)

    def logs(self, name: str, lines: int = 10) -> str:
        """The last lines that a container wrote, long ones cut, or nothing when they cannot be had."""
        with contextlib.suppress(BundleError), self._translated(f"read the log of `{name}`"):
            text = cast(bytes, self._client.logs(name, tail=lines)).decode(errors="replace").strip()
            return "\n".join(line[:300] for line in text.splitlines())
        return ""

    def run(
        self,
        image: str,
        arguments: Sequence[str],
        *,
        privileged: bool = False,
        name: Optional[str] = None,
        labels: Optional[Mapping[str, str]] = None,
        environment: Optional[Mapping[str, str]] = None,
        volumes_from: Optional[str] = None,
        ready: Callable[[], None] = lambda: None,
    ) -> Outcome:
        """Run a container of an image to its end, without a network, and remove it.

        With `volumes_from` it has the volumes of that container; with `name` there is one of it at a time: one with our
        mark that an interrupted run left is removed first. `ready` is called when it is made and not yet started; what
        it raises is raised here.
        """
        client = self._client
        with self._translated(f"run `{image}`"):
            if name is not None:
                self.remove_passing(name)
            host = client.create_host_config(
                privileged=privileged, network_mode="none", volumes_from=[volumes_from] if volumes_from else None
            )
            identity = client.create_container(
                image=image,
                command=list(arguments),
                host_config=host,
                name=name,
                labels=dict(labels or {}),
                environment=dict(environment or {}),
                use_config_proxy=False,
            )["Id"]
            try:
                ready()
                client.start(identity)
                code = int(client.wait(identity)["StatusCode"])
                stdout, stderr = (
                    client.logs(identity, stdout=out, stderr=not out).decode(errors="replace") for out in (True, False)
                )
            finally:
                # Not another container's volumes.
                client.remove_container(identity, force=True, v=volumes_from is None)
        return Outcome(code, stdout, stderr)

    def read_file(self, image: str, path: str) -> Iterator[bytes]:
        """The bytes of one regular file of an image, read from a container that is never started.

        Raises:
            HostError: the image has no such file.
        """
        client = self._client
        with self._translated(f"read `{path}` from `{image}`"):
            # What an interrupted run has left of the same.
            self.remove_passing(COPY_CONTAINER)
            # A command is needed to create a container; this one never runs.
            identity = client.create_container(
                image=image,
                command=[path],
                network_disabled=True,
                name=COPY_CONTAINER,
                labels={LABEL_ROLE: "copy"},
                use_config_proxy=False,
            )["Id"]
            try:
                chunks, _ = client.get_archive(identity, path)
                with tarfile.open(fileobj=cast(Any, _Stream(chunks)), mode="r|") as tar:
                    member = tar.next()
                    content = tar.extractfile(member) if member is not None and member.isfile() else None
                    if content is None:
                        raise HostError(f"`{path}` in `{image}` is not a regular file")
                    chunk = content.read(1 << 20)
                    while chunk:
                        yield chunk
                        chunk = content.read(1 << 20)
            finally:
                client.remove_container(identity, force=True, v=True)

    @contextlib.contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        """docker-py's and its transport's exceptions as ours."""
        import requests
        from docker.errors import APIError, DockerException

        try:
            yield
        except APIError as error:
            raise _refused(doing, str(error.explanation or error)) from None
        except (DockerException, requests.RequestException) as error:
            raise HostError(
                f"Docker went away while asked to {doing}: {error}", hint="docker info, then run this again"
            ) from None
        except OSError as error:
            if isinstance(error, ConnectionError):
                raise HostError(
                    f"Docker went away while asked to {doing}: {error.strerror}",
                    hint="docker info, then run this again",
                ) from None
            raise


def _refused(doing: str, message: str) -> Union[HostError, DiskFullError]:
    # The engine passes on the operating system's words; it has no code of its own for a full disk.
    if os.strerror(errno.ENOSPC).lower() in message.lower() or os.strerror(errno.EDQUOT).lower() in message.lower():
        return DiskFullError(
            f"Docker has no space left (asked to {doing}): {message.strip()}",
            hint="docker system df shows what uses it; make room and run this again, it goes on",
        )
    return HostError(f"Docker refused to {doing}: {message.strip()}")


def _uses_system_containerd(info: Mapping[str, Any]) -> bool:
    """Whether images are in containerd's store, as on a fresh Docker 29, and that is not one which dockerd started."""
    store = dict(info.get("DriverStatus") or ()).get("driver-type")
    return (
        store == "io.containerd.snapshotter.v1" and (info.get("Containerd") or {}).get("Address") in _SYSTEM_CONTAINERD
    )


def _tar(path: str, data: bytes) -> bytes:
    """A tar with one program."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        member = tarfile.TarInfo(path.lstrip("/"))
        member.size, member.mode = len(data), 0o755
        tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


class _Stream:
    """An iterator of chunks as the object with `read` that tarfile wants."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks, self._rest = chunks, b""

    def read(self, size: int) -> bytes:
        while len(self._rest) < size:
            chunk = next(self._chunks, None)
            if chunk is None:
                break
            self._rest += chunk
        result, self._rest = self._rest[:size], self._rest[size:]
        return result


def endpoint_from_json(text: str, default_host: Optional[str]) -> Endpoint:
    """The endpoint that `docker context inspect` names.

    Raises:
        HostError: its output is not what it was up to Docker 29.
    """
    try:
        value = json.loads(text)[0]
        host = value["Endpoints"]["docker"]["Host"] or default_host or _DEFAULT_HOST
        return Endpoint(str(host), str(value["Name"]))
    except (ValueError, LookupError, TypeError):
        raise HostError(
            "the answer of `docker context inspect` cannot be read", hint="docker context inspect"
        ) from None
