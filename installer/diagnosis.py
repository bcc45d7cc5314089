"""What is wrong with an installation: each finding is explained, and has the command that mends it.

What a step of installing would do is what is missing, so the steps themselves find most of it, and mend it without the
archive. The rest is looked at here: the content of the registry, the clock, the disk, who else answers at the address.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import shlex
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Optional

from bundles.errors import HostError, NetworkError, UsageError
from bundles.runtime.program import own_command
from bundles.runtime.progress import Progress
from bundles.runtime.sizes import human_size
from installer.host.files import device_of, usable_size
from installer.host.host import Host
from installer.host.labels import REGISTRY_CONTAINER
from installer.model.installed_registry import is_ours
from installer.model.job import is_directory
from installer.model.step import Step
from installer.receipt.installed import Installed, InstalledImage
from installer.registry.client import Registry
from installer.registry.tree import content
from installer.steps.builder import Builder, BuildkitdConfig
from installer.steps.emulation import Emulation
from installer.steps.insecure_registry import InsecureRegistry
from installer.steps.registry_container import RegistryContainer
from installer.steps.restart_policies import RestartPolicies

# A clock may be a little off; certificates, image times and logs only suffer from hours.
_CLOCK_SLACK = datetime.timedelta(hours=1)
_LITTLE_SPACE = 1 << 30


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something that is wrong. `check` says with what; `hint` is the command that mends it; `fixed_by` the name of the
    step that does so, None when a person has to."""

    check: str
    message: str
    hint: str
    fixed_by: Optional[str] = None

    def to_json(self) -> dict[str, Any]:
        return {"check": self.check, "message": self.message, "hint": self.hint, "fixable": self.fixed_by is not None}


class Diagnosis:
    """Looks at an installation; nothing is touched.

    diagnosis = Diagnosis(installed, host, registry, progress)
    for finding in diagnosis.findings(thorough=True): ...
    """

    def __init__(self, installed: Installed, host: Host, registry: Registry, progress: Progress) -> None:
        self._installed, self._host, self._registry = installed, host, registry
        wanted = installed.wanted
        self._container = RegistryContainer(wanted, host, registry)
        self._policies = RestartPolicies(wanted, host)
        self._emulation = Emulation(wanted, host, progress)
        self._config = BuildkitdConfig(wanted, host)
        self._daemon = InsecureRegistry(wanted, host)
        self._builder = Builder(wanted, host)

    @property
    def steps(self) -> Sequence[Step]:
        """What mends, in order."""
        return (self._container, self._policies, self._emulation, self._config, self._daemon, self._builder)

    @property
    def _fix(self) -> str:
        return own_command("doctor --fix")

    @property
    def _install(self) -> str:
        # With the address, builder, platforms and data that were chosen then.
        return f"python3 {shlex.quote(self._installed.archive)} upgrade"

    def findings(self, *, thorough: bool) -> list[Finding]:
        """Everything that is wrong. With `thorough` every layer that the bundle brought is asked for too."""
        try:
            self._host.engine.info()
        except HostError as error:
            return [Finding("docker", error.message, error.hint or "docker info")]
        checks: Sequence[Callable[[], Iterator[Finding]]] = (
            self._registry_container,
            lambda: self._images(thorough),
            self._restart,
            self._emulation_in_kernel,
            self._configuration,
            self._daemon_settings,
            self._builder_container,
            self._clock,
            self._disk,
        )
        found: list[Finding] = []
        for check in checks:
            try:
                found += check()
            except HostError as error:
                found.append(Finding("host", error.message, error.hint or "docker info"))
        return found

    def answers(self) -> Optional[str]:
        """None when the registry answers, else what happens instead."""
        try:
            self._registry.ping()
        except NetworkError as error:
            return error.message
        return None

    def served_wrongly(self, image: InstalledImage) -> list[str]:
        """The names of an image that do not have their digest on the registry."""
        prefix = f"{self._installed.wanted.address}/"
        wrong = []
        for name, digest in image.served.items():
            repository, selector = split(name[len(prefix) :])
            if self._registry.manifest_digest(repository, selector) != digest:
                wrong.append(name)
        return wrong

    def _registry_container(self) -> Iterator[Finding]:
        container = self._host.engine.container(REGISTRY_CONTAINER)
        name = REGISTRY_CONTAINER
        tool = self._installed.wanted.tool("registry")
        if container is None:
            message = f"the container `{name}` is gone; its data, in {self._installed.wanted.data}, is apart from it"
            if tool is None or self._host.engine.image_id(tool.name) is None:
                yield Finding("registry", f"{message}, and so is its image", self._install)
            else:
                yield from self._blocked("registry", message, self._container)
        elif not is_ours(container):
            yield Finding(
                "registry",
                f"the container `{name}` is not the one that was installed",
                f"docker rename {name} {name}-old; {self._fix}",
            )
        elif not container.is_running:
            yield from self._blocked("registry", f"the container `{name}` is {container.state}", self._container)
        elif self._container.look():
            yield Finding("registry", f"the container `{name}` has other settings", self._install, "registry")
        else:
            trouble = self.answers()
            if trouble and self._speaks_tls():
                yield Finding(
                    "certificates",
                    f"what answers at {self._registry.host} speaks TLS, and this installation uses plain HTTP",
                    f"docker ps --filter publish={self._installed.wanted.address.port}; {self._install}",
                )
            elif trouble:
                yield Finding("registry", f"the container `{name}` runs and does not answer: {trouble}",
                              f"docker logs {name}; docker restart {name}")  # fmt: skip

    def _blocked(self, check: str, message: str, step: Step) -> Iterator[Finding]:
        """A finding that a step mends, unless something else is in its way."""
        problems = step.problems()
        if not problems:
            yield Finding(check, message, self._fix, step.name)
        for problem in problems:
            yield Finding(check, f"{message}; {problem.subject}: {problem.message}", problem.hint or self._fix)

    def _speaks_tls(self) -> bool:
        address = self._installed.wanted.address
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with contextlib.suppress(OSError), socket.create_connection((address.listen_ip(), address.port), 5) as plain:
            context.wrap_socket(plain, server_hostname=address.host).close()
            return True
        return False

    def _images(self, thorough: bool) -> Iterator[Finding]:
        if self.answers():
            return
        asked: set[tuple[str, str]] = set()
        for image in self._installed.images:
            wrong = self.served_wrongly(image)
            for name in wrong:
                yield Finding(
                    "images",
                    f"{name} is gone from the registry, or is another image than the bundle's ({image.digest})",
                    self._install,
                )
            for name in [name for name in image.served if name not in wrong]:
                yield from self._incomplete(name, image, thorough, asked)

    def _incomplete(
        self, name: str, image: InstalledImage, thorough: bool, asked: set[tuple[str, str]]
    ) -> Iterator[Finding]:
        repository, selector = split(name[len(str(self._installed.wanted.address)) + 1 :])
        try:
            found = content(self._registry, repository, selector)
        except (NetworkError, UsageError) as error:
            yield Finding("images", f"{name} cannot be read: {error.message}", self._install)
            return
        for child in found.absent if found else ():
            if child.platform in image.platforms:
                yield Finding("images", f"{name} has lost {child.platform} ({child.digest})", self._install)
        for blob in found.blobs if found and thorough else ():
            if (repository, str(blob.digest)) not in asked:
                asked.add((repository, str(blob.digest)))
                if not self._registry.has_blob(repository, blob.digest):
                    yield Finding("images", f"{name} has lost the layer {blob.digest}", self._install)

    def _restart(self) -> Iterator[Finding]:
        for change in self._policies.look():
            yield Finding(
                "restart",
                f"the container `{change.name}` does not come back when Docker is restarted or the host is booted",
                f"docker update --restart={change.detail} {change.name}",
                self._policies.name,
            )

    def _emulation_in_kernel(self) -> Iterator[Finding]:
        changes = self._emulation.look()
        lost = [change.name for change in changes if change.kind == "emulation"]
        tool = self._installed.wanted.tool("binfmt")
        if tool is None:
            return
        if lost:
            message = (
                f"the kernel does not run {', '.join(lost)} any more: `docker run --platform` fails, and builds may"
            )
        elif changes:
            message = f"emulation will not survive a reboot: {changes[0]}"
        else:
            return
        yield from self._blocked("emulation", message, self._emulation)

    def _configuration(self) -> Iterator[Finding]:
        for change in self._config.look():
            state = "is gone" if change.action == "write" else "is not as it was written: mirrors may be missing"
            yield from self._blocked("configuration", f"`{change.name}` {state}", self._config)

    def _daemon_settings(self) -> Iterator[Finding]:
        for problem in self._daemon.problems():
            yield Finding("daemon", f"{problem.subject}: {problem.message}", problem.hint or self._fix)
            return
        if self._daemon.look():
            yield Finding(
                "daemon",
                f"Docker does not allow plain HTTP to {self._installed.wanted.address}: its setting "
                "`insecure-registries` was changed",
                f"{self._fix} --yes",
                self._daemon.name,
            )

    def _builder_container(self) -> Iterator[Finding]:
        name = self._installed.wanted.builder
        says = {
            "create": "is gone",
            "recreate": "was made with another configuration",
            "start": "does not run",
            "select": "is not the one that `docker buildx build` uses",
        }
        for problem in self._builder.problems():
            yield Finding("builder", f"{problem.subject}: {problem.message}", problem.hint or self._fix)
            return
        for change in self._builder.look():
            hint = f"docker buildx use {name}" if change.action == "select" else self._fix
            yield Finding("builder", f"the builder `{name}` {says[change.action]}", hint, self._builder.name)

    def _clock(self) -> Iterator[Finding]:
        now = datetime.datetime.now(datetime.timezone.utc)
        known: list[tuple[str, datetime.datetime]] = []
        finished = self._installed.document.get("finished")
        if isinstance(finished, str):
            known.append(("this was installed", datetime.datetime.fromisoformat(finished)))
        for tool in self._installed.wanted.tools.values():
            created = self._host.engine.image_created(tool.name)
            if created:
                known.append((f"the image {tool.name} was made", created))
        late = max(known, key=lambda item: item[1], default=None)
        if late and now + _CLOCK_SLACK < late[1]:
            yield Finding(
                "clock",
                f"the clock says {now:%Y-%m-%d %H:%M} UTC, and {late[0]} on {late[1]:%Y-%m-%d %H:%M}: certificates and "
                "file times are judged by a wrong clock",
                "sudo date -u -s 'YYYY-MM-DD HH:MM'; sudo hwclock --systohc",
            )

    def _disk(self) -> Iterator[Finding]:
        info = self._host.engine.info()
        data = self._installed.wanted.data
        places: dict[int, Path] = {}
        for place in map(Path, (info.root, info.image_root, data if is_directory(data) else info.root)):
            places.setdefault(device_of(self._host.places.seen(place)), place)
        for place in places.values():
            free = usable_size(self._host.places.seen(place))
            if free is not None and free < _LITTLE_SPACE:
                yield Finding(
                    "disk",
                    f"{human_size(free)} are free for {place}: pushes and builds will fail",
                    f"{own_command('prune')}; docker buildx prune; docker system df",
                )


def split(name: str) -> tuple[str, str]:
    """Repository, and tag or digest, of a name on the registry."""
    repository, at, digest = name.partition("@")
    if at:
        return repository, digest
    repository, _, tag = name.rpartition(":")
    return repository, tag
