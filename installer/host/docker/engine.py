"""Docker Engine: the only module that speaks to it through docker-py."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import errno
import io
import os
import re
import socket
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Optional, Union, cast

from packaging.version import Version

from bundles.errors import BundleError, DiskFullError, HostError, reason
from bundles.oci.platform import Platform
from bundles.runtime.streams import PieceStream
from installer.host.docker.cli import version_of
from installer.host.docker.container import Container, NewContainer, Outcome
from installer.host.docker.endpoint import EngineEndpoint
from installer.host.labels import COPY_CONTAINER, LABEL_ROLE

OLDEST_ENGINE = Version("20.10")
# Loading an image may take minutes before the engine says a word.
_TIMEOUT = 900
# A containerd of the system's own, and where it keeps its data unless its settings say otherwise.
_SYSTEM_CONTAINERD = ("/run/containerd/containerd.sock", "/var/run/containerd/containerd.sock")
_CONTAINERD_ROOT = "/var/lib/containerd"
# With containerd's store, an image that could not be unpacked counts as loaded; a line of the progress has the reason.
_NOT_UNPACKED = "Error unpacking image "
_PROXIES = {"HTTP_PROXY": "HttpProxy", "HTTPS_PROXY": "HttpsProxy", "NO_PROXY": "NoProxy"}
# What Docker shows where a port is published on every address.
_EVERY = ("0.0.0.0", "::")  # noqa: S104  nothing is bound here
_WITHOUT_RIGHTS: Mapping[str, Any] = {
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges"],
    "tmpfs": {"/tmp": "size=1m,mode=1777"},  # noqa: S108  in a container
    "mem_limit": 1 << 30,
    "pids_limit": 1024,
    "log_config": {"type": "json-file", "config": {"max-size": "4m", "max-file": "2"}},
}


@dataclasses.dataclass(frozen=True)
class EngineInfo:
    """What the engine says of itself. `containerd_root` is set when the system's own containerd has the images.

    `proxies` are the variables of those through which it pulls and pushes, as it was given them; without passwords.
    """

    version: str
    platform: Platform
    root: str
    security: tuple[str, ...]
    insecure_registries: tuple[str, ...]
    containerd_root: Optional[str] = None
    proxies: Mapping[str, str] = dataclasses.field(default_factory=dict)

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
    def remaps_users(self) -> bool:
        """Tell whether root in a container is nobody on the host (`userns-remap`), unless it says otherwise."""
        return any(option.startswith("name=userns") for option in self.security)

    @property
    def has_selinux(self) -> bool:
        return any(option.startswith("name=selinux") for option in self.security)


class Engine:
    """A connection to the engine at `endpoint`; nothing is sent before the first call of a method.

    Every method may raise HostError when the engine refuses or goes away, DiskFullError when it has no space.
    """

    def __init__(self, endpoint: EngineEndpoint) -> None:
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
                    f"Docker's config.json is not what Docker writes: {error}", hint="fix ~/.docker/config.json"
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
                why = "there is no such socket" if error.errno == errno.ENOENT else reason(error)
                raise HostError(
                    f"Docker is not running: {why} (`{path}`)", hint="sudo systemctl start docker"
                ) from None

    def info(self) -> EngineInfo:
        """Return the engine's version, platform, directory and settings, as they are now."""
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
            proxies={name: str(value[key]) for name, key in _PROXIES.items() if value.get(key)},
        )

    def has_bridge(self) -> bool:
        """Tell whether there is the network in which a container's ports can be published."""
        with self._translated("list the networks"):
            return any(network.get("Name") == "bridge" for network in self._client.networks(names=["bridge"]))

    def _user_namespace(self, shares: bool) -> Optional[str]:
        """Return Docker's word for the users of a container: the host's where it shares more than they may have."""
        return "host" if shares and self.info().remaps_users else None

    def image_id(self, name: str) -> Optional[str]:
        """Return the id of a local image, None when it is not there.

        It is the digest of the config in Docker's classic store, that of the manifest in containerd's.
        """
        found = self._inspect_image(name)
        return str(found["Id"]) if found else None

    def image_names(self, image_id: str) -> tuple[str, ...]:
        """Return the names of a local image; none when it is not there."""
        return tuple(self._inspect_image(image_id).get("RepoTags") or ())

    def pull(self, name: str, login: Optional[tuple[str, str]] = None) -> None:
        """Fetch an image by its name, which has a tag or a digest, for this host's platform.

        Args:
            name: of the image.
            login: user and password; without one Docker's config.json may have one.
        """
        repository, _, tag = name.partition("@") if "@" in name else name.rpartition(":")
        with self._translated(f"pull `{name}`"):
            user = None if login is None else dict(zip(("username", "password"), login))
            for event in self._client.pull(repository, tag, stream=True, decode=True, auth_config=user):
                if event.get("error"):
                    raise _refused(f"pull `{name}`", str(event["error"]))

    def image_created(self, name: str) -> Optional[datetime.datetime]:
        """Return when a local image was made, None when it is not there or does not say."""
        # To the second: Docker gives nanoseconds, which Python before 3.11 does not read.
        match = re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", str(self._inspect_image(name).get("Created") or ""))
        return datetime.datetime.fromisoformat(f"{match.group(0)}+00:00") if match else None

    def image_start(self, name: str) -> tuple[list[str], list[str]]:
        """Return the entrypoint and the command of a local image."""
        with self._translated(f"look at the image `{name}`"):
            config = self._client.inspect_image(name).get("Config") or {}
        return list(config.get("Entrypoint") or ()), list(config.get("Cmd") or ())

    def _inspect_image(self, name: str) -> dict[str, Any]:
        """Return what Docker knows of a local image; nothing when it is not there."""
        from docker.errors import NotFound

        with self._translated(f"look at the image `{name}`"):
            try:
                return dict(self._client.inspect_image(name))
            except NotFound:
                return {}

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
        """Return the container of that name, running or not, or None."""
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
            published=frozenset(
                (str(place["HostIp"]), int(place["HostPort"]))
                for places in ((value.get("NetworkSettings") or {}).get("Ports") or {}).values()
                for place in places or ()
            ),
        )

    def container_names(self, prefix: str) -> tuple[str, ...]:
        """Return the names that start so, of containers running or not."""
        with self._translated("list the containers"):
            found = self._client.containers(all=True)
        names = (name.lstrip("/") for entry in found for name in entry.get("Names") or ())
        return tuple(sorted(name for name in names if name.startswith(prefix)))

    def set_restart_policy(self, name: str, policy: str) -> None:
        with self._translated(f"change the container `{name}`"):
            self._client.update_container(name, restart_policy={"Name": policy})

    def publishers(self, ip: str, port: int) -> tuple[str, ...]:
        """Return the names of the running containers that have that TCP port of an address of the host."""
        with self._translated("list the containers"):
            found = self._client.containers()
        return tuple(
            entry["Names"][0].lstrip("/")
            for entry in found
            if any(
                item.get("PublicPort") == port and item.get("Type") == "tcp" and item.get("IP") in (ip, *_EVERY)
                for item in entry.get("Ports") or ()
            )
        )

    def create_container(self, wanted: NewContainer, is_image: Callable[[str], bool]) -> None:
        """Make a container and start it; it is compared before it starts which image it was made of.

        A name of an image proves nothing: whoever may push to a registry may have made it another's.

        The proxies of Docker's config.json, which may have passwords, do not go into containers of ours: none of them
        asks anybody outside.
        """
        client = self._client
        with self._translated(f"create the container `{wanted.name}`"):
            host = client.create_host_config(
                binds=list(wanted.binds),
                port_bindings={port: list(places) for port, places in wanted.publish.items()},
                restart_policy={"Name": "always"},
                privileged=wanted.privileged,
                network_mode=wanted.network,
                # A directory of the host is not writable, either, for a root that is nobody there.
                userns_mode=self._user_namespace(
                    wanted.privileged or wanted.network == "host" or any(bind.startswith("/") for bind in wanted.binds)
                ),
                **({} if wanted.user is None else _WITHOUT_RIGHTS),
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
                user=None if wanted.user is None else f"{wanted.user}:{wanted.user}",
                use_config_proxy=False,
            )
            if wanted.files:
                client.put_archive(wanted.name, "/", _tar(wanted.files, wanted.user or 0, wanted.private))
        made = self.container(wanted.name)
        if made is None or not is_image(made.image_id):
            self.remove_container(wanted.name)
            raise HostError(
                f"`{wanted.image}` is {made and made.image_id} in Docker, which is not the image that was installed; "
                "nothing of it was started",
                hint=f"docker image inspect {wanted.image}",
            )
        self.start_container(wanted.name)

    def create_volume(self, name: str, labels: Mapping[str, str]) -> None:
        """Make a volume; one of that name that is there stays as it is."""
        with self._translated(f"create the volume `{name}`"):
            self._client.create_volume(name, labels=dict(labels))

    def has_volume(self, name: str) -> bool:
        return self.volume_labels(name) is not None

    def volume_labels(self, name: str) -> Optional[Mapping[str, str]]:
        """Return the labels of a volume, None when it is not there."""
        from docker.errors import NotFound

        with self._translated(f"look at the volume `{name}`"):
            try:
                return dict(self._client.inspect_volume(name).get("Labels") or {})
            except NotFound:
                return None

    def volumes_labelled(self, label: str, value: str) -> tuple[str, ...]:
        """Return the names of the volumes that bear a label with that value."""
        with self._translated("list the volumes"):
            found = self._client.volumes(filters={"label": f"{label}={value}"}).get("Volumes") or ()
        return tuple(sorted(str(entry["Name"]) for entry in found))

    def remove_volume(self, name: str) -> None:
        from docker.errors import NotFound

        with self._translated(f"remove the volume `{name}`"), contextlib.suppress(NotFound):
            self._client.remove_volume(name)

    def volume_size(self, name: str) -> Optional[int]:
        """Return the bytes that a volume takes on the disk, None when the engine does not say."""
        with self._translated(f"measure the volume `{name}`"):
            # Engines before 23.0 pass the parameters over, and measure everything.
            url = f"{self._client.base_url}/v{self._client.api_version}/system/df"
            answer = self._client.get(url, params={"type": "volume", "verbose": "1"})
            answer.raise_for_status()
            usage = answer.json()
            # From Docker 29 (API 1.52) on they are in `VolumeUsage`.
            volumes = (usage.get("VolumeUsage") or {}).get("Items") or usage.get("Volumes") or ()
        sizes = [(entry.get("UsageData") or {}).get("Size") for entry in volumes if entry.get("Name") == name]
        return sizes[0] if sizes and sizes[0] is not None and sizes[0] >= 0 else None

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

    def logs(self, name: str, lines: int = 10, width: int = 300) -> str:
        """Return the last lines that a container wrote, long ones cut, or nothing when they cannot be had."""
        with contextlib.suppress(BundleError), self._translated(f"read the log of `{name}`"):
            text = cast(bytes, self._client.logs(name, tail=lines)).decode(errors="replace").strip()
            return "\n".join(line[:width] for line in text.splitlines())
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
        network: Optional[str] = "none",
        files: Optional[Mapping[str, bytes]] = None,
        ready: Callable[[], None] = lambda: None,
    ) -> Outcome:
        """Run a container of an image to its end, without a network unless one is named, and remove it.

        `network` is Docker's word, None for its own. `files` are put into it, for root alone to read. With
        `volumes_from` it has the volumes of that container; with `name` there is one of it at a time: one with our
        mark that an interrupted run left is removed first. `ready` is called when it is made and not yet started; what
        it raises is raised here.
        """
        client = self._client
        with self._translated(f"run `{image}`"):
            if name is not None:
                self.remove_passing(name)
            host = client.create_host_config(
                privileged=privileged,
                network_mode=network,
                volumes_from=[volumes_from] if volumes_from else None,
                userns_mode=self._user_namespace(privileged),
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
                if files:
                    client.put_archive(identity, "/", _tar(files, 0, private=True))
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
        """Read the bytes of one regular file of an image, read from a container that is never started.

        Raises:
            HostError: the image has no such file.
        """
        with self._translated(f"read `{path}` from `{image}`"), self._unstarted_file("GET", image, path) as answer:
            _raise_for_status(answer)
            with tarfile.open(fileobj=cast(Any, PieceStream(answer.iter_content(1 << 16))), mode="r|") as tar:
                member = tar.next()
                content = tar.extractfile(member) if member is not None and member.isfile() else None
                if content is None:
                    raise HostError(f"`{path}` in `{image}` is not a regular file")
                chunk = content.read(1 << 20)
                while chunk:
                    yield chunk
                    chunk = content.read(1 << 20)

    def has_file(self, image: str, path: str) -> bool:
        """Tell whether an image has a file of that name; nothing of the image is started."""
        with self._translated(f"look for `{path}` in `{image}`"), self._unstarted_file("HEAD", image, path) as answer:
            if answer.status_code != 404:
                _raise_for_status(answer)
            return bool(answer.status_code != 404)

    @contextlib.contextmanager
    def _unstarted_file(self, method: str, image: str, path: str) -> Iterator[Any]:
        """Ask for a file of a container that is made of an image and removed again.

        As long as a file is on its way, and nobody reads it, Docker 26.1 does not remove the container. So the answer
        is closed first; what docker-py's own method gives cannot be.
        """
        # What an interrupted run has left of the same.
        self.remove_passing(COPY_CONTAINER)
        # A command is needed to create a container; this one never runs.
        identity = self._client.create_container(
            image=image,
            command=[path],
            network_disabled=True,
            name=COPY_CONTAINER,
            labels={LABEL_ROLE: "copy"},
            use_config_proxy=False,
        )["Id"]
        url = f"{self._client.base_url}/v{self._client.api_version}/containers/{identity}/archive"
        try:
            with self._client.request(method, url, params={"path": path}, stream=True, timeout=_TIMEOUT) as answer:
                yield answer
        finally:
            self._client.remove_container(identity, force=True, v=True)

    @contextlib.contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        """Raise docker-py's and its transport's exceptions as ours."""
        import requests
        from docker.errors import APIError, DockerException

        try:
            yield
        except APIError as error:
            raise _refused(doing, str(error.explanation or error)) from None
        except (DockerException, requests.RequestException, ConnectionError) as error:
            why = reason(error) if isinstance(error, ConnectionError) else error
            raise HostError(
                f"Docker went away while asked to {doing}: {why}", hint="docker info, then run this again"
            ) from None


def _raise_for_status(answer: Any) -> None:
    """Raise what docker-py's own methods raise, with the engine's explanation."""
    import requests
    from docker.errors import create_api_error_from_http_exception

    try:
        answer.raise_for_status()
    except requests.HTTPError as error:
        create_api_error_from_http_exception(error)


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


def _tar(files: Mapping[str, bytes], owner: int, private: bool) -> bytes:
    """Return a tar with files, root's as programs for everybody, private ones and another owner's for nobody else."""
    is_open = owner == 0 and not private
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path, data in files.items():
            member = tarfile.TarInfo(path.strip("/"))
            member.type = tarfile.DIRTYPE if path.endswith("/") else tarfile.REGTYPE
            member.size, member.mode = len(data), 0o755 if is_open or member.isdir() else 0o400
            member.uid = member.gid = owner
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()
