"""What is wrong with an installation: each finding is explained, and has the command that fixes it.

What a step of installing would do is what is missing, so the steps themselves find most of it, and fix it without the
archive. The rest is looked at here: the content of the registry, the clock, the disk, who else answers at the address.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Optional

from bundles.errors import HostError, NetworkError, Problem, UsageError
from bundles.oci.digest import Digest
from bundles.registry.auth import login_command
from bundles.registry.urls import Origin
from bundles.runtime.program import own_command, quote
from bundles.runtime.progress import Progress
from bundles.runtime.sizes import human_size
from installer.host.files import device_of, read_optional, usable_size
from installer.host.host import Host
from installer.host.kubectl import KubectlError
from installer.host.labels import REGISTRY_CONTAINER, REPLAY_CONTAINER
from installer.model.job import is_directory
from installer.model.replay import tape_repository
from installer.model.step import Step
from installer.preflight import network_problems
from installer.receipt.receipt import InstalledImage, Receipt
from installer.registry.client import Registry
from installer.registry.tree import content
from installer.registry.trust import is_trusted, public_authorities
from installer.steps.builder.builder import Builder
from installer.steps.builder.buildkitd_config import BuildkitdConfig
from installer.steps.builder.nodes import Nodes
from installer.steps.emulation import Emulation
from installer.steps.kubernetes.access import ClusterAccess
from installer.steps.kubernetes.builder import ClusterBuilder
from installer.steps.kubernetes.place import Place
from installer.steps.registry.certificates import Certificates
from installer.steps.registry.container import RegistryContainer
from installer.steps.registry.login import docker_access
from installer.steps.registry.storage import Storage, trouble
from installer.steps.registry.tokens import TokenServer
from installer.steps.replay_container import ReplayContainer, misses, service_state
from installer.steps.restart_policies import RestartPolicies
from installer.steps.toolchain_images import local_image

# A clock may be a little off; certificates, image times and logs only suffer from hours.
_CLOCK_SLACK = datetime.timedelta(hours=1)
_LITTLE_SPACE = 1 << 30
# What OpenSSL says of an answer that is no TLS.
_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE"})
# The images that are started with rights on the host.
_STARTED = ("registry", "buildkit", "binfmt")


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something that is wrong. `check` says with what; `hint` is the command that fixes it; `fixed_by` the name of the
    step that does so, None when a person has to."""

    check: str
    message: str
    hint: str
    fixed_by: Optional[str] = None

    def to_json(self) -> dict[str, Any]:
        return {"check": self.check, "message": self.message, "hint": self.hint, "fixable": self.fixed_by is not None}


class Diagnosis:
    """Looks at an installation; nothing is touched.

    diagnosis = Diagnosis(receipt, host, registry, progress)
    for finding in diagnosis.findings(thorough=True): ...
    """

    def __init__(self, receipt: Receipt, host: Host, registry: Registry, progress: Progress) -> None:
        self._receipt, self._host, self._registry = receipt, host, registry
        self._state = receipt.state
        self._container = RegistryContainer(self._state, host, registry)
        self._certificates = Certificates(self._state, host)
        self._storage = Storage(self._state, host, touches=False)
        self._daemon, *self._docker = docker_access(self._state, host, receipt)
        self._replay = ReplayContainer(self._state, host, progress)
        self._others = (
            RestartPolicies(self._state, host),
            Emulation(self._state, host, progress),
            self._replay,
            BuildkitdConfig(self._state, host),
        )
        self._builder = Builder(self._state, host)
        self._nodes = Nodes(self._state, host, registry, self._builder, progress)
        self._cluster: tuple[Step, ...] = ()
        if self._state.cluster:
            place = Place.of(self._state, host)
            self._cluster = (
                ClusterAccess(self._state, host),
                BuildkitdConfig(place.state, host),
                ClusterBuilder(self._state, host),
            )

    def fixing(self, findings: Sequence[Finding]) -> list[Step]:
        """Return the steps that fix what was found. What one fixes may be what the next one needs, in their order.

        There are none while a name of what they start stands for something else than what was installed: somebody is
        changing things here, and a person should know before any program does more.
        """
        if self.is_tampered(findings):
            return []
        names = {finding.fixed_by for finding in findings}
        steps: Sequence[Step] = (
            self._certificates,
            self._storage,
            self._container,
            self._daemon,
            *self._docker,
            *self._others,
            self._builder,
            self._nodes,
            *self._cluster,
        )
        if self._certificates.name in names:
            # What goes by these files finds others there then.
            names |= {
                step.name for step in (self._container, *self._docker, *self._others[2:], self._builder, self._nodes)
            }
        if self._builder.name in names and self._state.nodes:
            # One that is made anew has none.
            names.add(self._nodes.name)
        return [step for step in steps if step.name in names]

    def is_tampered(self, findings: Sequence[Finding]) -> bool:
        """Tell whether an image of the tools was replaced by another under its name."""
        return any(finding.check == "tools" for finding in findings)

    @property
    def _fix(self) -> str:
        return own_command("doctor --fix")

    @property
    def _install(self) -> str:
        # With the address, builder, platforms and data that were chosen then.
        return f"python3 {quote(self._receipt.bundle.archive)} upgrade"

    @property
    def _anew(self) -> str:
        return f"python3 {quote(self._receipt.bundle.archive)} install"

    def findings(self, *, thorough: bool) -> list[Finding]:
        """Find everything that is wrong. With `thorough` every layer that the bundle brought is asked for too."""
        try:
            self._host.engine.info()
        except HostError as error:
            return [Finding("docker", error.message, error.hint or "docker info")]
        checks: Sequence[Callable[[], Iterator[Finding]]] = (
            self._network,
            *((self._site_registry,) if self._state.site else (self._of_certificates, self._of_storage)),
            *(() if self._state.site else (self._registry_container,)),
            lambda: self._images(thorough),
            self._tools,
            *(functools.partial(self._of_step, step) for step in self._others),
            self._replaying,
            # Docker's own settings for a registry of the site are the site's, until a host joins it.
            *(() if self._state.site and not self._state.site.joined else (self._daemon_settings,)),
            *(functools.partial(self._of_step, step) for step in self._docker),
            functools.partial(self._of_step, self._builder),
            self._of_nodes,
            *(functools.partial(self._of_cluster, step) for step in self._cluster),
            self._clock,
            self._disk,
        )
        found: list[Finding] = []
        for check in checks:
            try:
                found += check()
            except KubectlError as error:
                if not any(finding.check == "kubernetes" for finding in found):
                    found.append(Finding("kubernetes", error.message, error.hint or "kubectl cluster-info"))
            except HostError as error:
                found.append(Finding("host", error.message, error.hint or "docker info"))
            except NetworkError as error:
                found.append(Finding("registry", error.message, error.hint or self._asking))
        return found

    @functools.cached_property
    def cluster_trouble(self) -> Optional[KubectlError]:
        """What keeps the cluster with the second builder from being asked; None when it answers, or there is none.

        It is asked once: one that does not answer takes its time each time.
        """
        try:
            if self._state.cluster:
                Place.of(self._state, self._host).namespace.ask()
        except HostError as error:
            # A login that has ended is what the first of the steps renews.
            refused = "Unauthorized" in error.message
            return None if refused else KubectlError(error.message, hint=error.hint)
        return None

    @functools.cached_property
    def storage_trouble(self) -> Optional[Problem]:
        """What keeps the bucket with the registry's data from being read; None when it answers, or there is none."""
        storage = None if self._state.site else self._state.storage
        return trouble(storage, self._host.places) if storage else None

    def answers(self) -> Optional[str]:
        """Return None when the registry answers, else what happens instead."""
        try:
            self._registry.ping()
        except NetworkError as error:
            return error.message
        return None

    def served_wrongly(self, image: InstalledImage) -> dict[str, Optional[Digest]]:
        """Return the names of an image that do not have their digest on the registry, with what they have instead."""
        found = {name: self._registry.manifest_digest(*self._place(name)) for name in image.served}
        return {name: found[name] for name, digest in image.served.items() if found[name] != digest}

    def _place(self, name: str) -> tuple[str, str]:
        """Return repository, and tag or digest, of a name on the registry."""
        name = name.removeprefix(f"{self._state.destination.host}/")
        repository, at, digest = name.partition("@")
        if at:
            return repository, digest
        repository, _, tag = name.rpartition(":")
        return repository, tag

    def _network(self) -> Iterator[Finding]:
        for problem in network_problems(self._state, self._host, self._host.engine.info()):
            yield Finding("network", f"{problem.subject}: {problem.message}", problem.hint or self._install)

    def _of_step(self, step: Step) -> Iterator[Finding]:
        """Find what a step fixes, unless something else is in its way."""
        messages = list(dict.fromkeys(step.explain(change) for change in step.look()))
        problems = step.problems() if messages else ()
        hint = f"{self._fix} --yes" if messages and step.question() else self._fix
        for message in messages:
            if not problems:
                yield Finding(step.name, message, hint, step.name)
            for problem in problems:
                yield Finding(step.name, f"{message}; {problem.subject}: {problem.message}", problem.hint or self._fix)

    @property
    def _asking(self) -> str:
        """The command that shows more of what the registry says."""
        site = self._state.site
        return f"curl -v https://{site.host}/v2/" if site else f"docker logs {REGISTRY_CONTAINER}"

    def _site_registry(self) -> Iterator[Finding]:
        """Find whether a registry of the site answers, takes the login, and is trusted by what builds."""
        try:
            self._registry.ping()
        except NetworkError as error:
            yield Finding("registry", f"`{self._registry.host}`: {error.message}", error.hint or self._asking)
            return
        for problem in TokenServer(self._registry, self._host).problems():
            yield Finding("token server", f"{problem.subject}: {problem.message}", problem.hint or self._fix)
        access = self._state.access
        if access.tls:
            origin = Origin.of(f"https://{self._registry.host}")
            own = read_optional(Path(access.authority)) if access.authority else None
            if is_trusted(origin, public_authorities() + (own or b"")) is False:
                yield Finding(
                    "certificates",
                    f"the certificate of `{self._registry.host}` is trusted here, and not by the builder, which has "
                    "another CA",
                    self._install,
                )

    def _registry_container(self) -> Iterator[Finding]:
        container = self._host.engine.container(REGISTRY_CONTAINER)
        tool = self._state.tool("registry")
        if container is None and (tool is None or local_image(self._host, tool) is None):
            yield Finding("registry", f"the container `{REGISTRY_CONTAINER}` and its image are gone; its data, in "
                          f"{self._state.data}, is apart from them", self._install)  # fmt: skip
            return
        findings = list(self._of_step(self._container))
        if container is not None and container.is_running and not findings:
            # Docker may be unable to publish on every address that the name has.
            findings = [
                Finding("registry", f"{problem.subject}: {problem.message}", problem.hint or self._fix)
                for problem in self._container.held_by_others()
            ]
        yield from findings
        # As long as its files are not as they are to be, nothing follows from what is said of TLS.
        trouble = None if findings or self._certificates.look() else self.answers()
        wanted = self._state.access.tls
        speaks_tls = self._speaks_tls() if trouble else None
        if speaks_tls is not None and speaks_tls != wanted:
            speaks, uses = ("plain HTTP", "TLS") if wanted else ("TLS", "plain HTTP")
            yield Finding(
                "certificates",
                f"what answers at {self._registry.host} speaks {speaks}, and this installation uses {uses}",
                f"docker ps --filter publish={self._state.address.port}; {self._install}",
            )
        elif trouble:
            yield Finding(
                "registry",
                f"the container `{REGISTRY_CONTAINER}` runs and does not answer: {trouble}",
                f"docker logs {REGISTRY_CONTAINER}; docker restart {REGISTRY_CONTAINER}",
            )

    def _of_certificates(self) -> Iterator[Finding]:
        """Find what is wrong with the files that the registry shows, and what only a person can renew."""
        problems = self._certificates.problems()
        for problem in problems:
            yield Finding("certificates", f"{problem.subject}: {problem.message}", problem.hint or self._fix)
        soon = None if problems else self._certificates.ends_soon()
        if soon:
            yield Finding("certificates", soon, f"{self._anew} {self._certificates.options_again}")
        if not problems:
            yield from self._of_step(self._certificates)

    def _of_storage(self) -> Iterator[Finding]:
        """Find what is wrong with the bucket in which the registry keeps its data."""
        problem = self.storage_trouble
        if problem:
            hint = problem.hint or self._anew
            # An option says what is to be given otherwise than the last time.
            hint = f"{self._anew} {hint}" if hint.startswith("--") else hint
            yield Finding("storage", f"{problem.subject}: {problem.message}", hint)
        yield from self._of_step(self._storage)

    def _speaks_tls(self) -> Optional[bool]:
        """Tell whether what answers at the address speaks TLS; None when nothing does."""
        address = self._state.address
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        try:
            with socket.create_connection((address.listen_ip(), address.port), 5) as plain:
                context.wrap_socket(plain, server_hostname=address.host.strip("[]")).close()
        except ssl.SSLError as error:
            return False if error.reason in _NO_TLS else None
        except OSError:
            return None
        return True

    def _images(self, thorough: bool) -> Iterator[Finding]:
        if self.storage_trouble or self.answers():
            return
        asked: set[tuple[str, str]] = set()
        for image in self._receipt.images:
            wrong = self.served_wrongly(image)
            for name, found in wrong.items():
                if found is None:
                    message = f"{name} is gone from the registry ({image.served[name]})"
                else:
                    message = f"{name} is another image on the registry: it is {found}, and was {image.served[name]}"
                yield Finding("tools" if found and image.role in _STARTED else "images", message, self._install)
            for name in [name for name in image.served if name not in wrong]:
                yield from self._incomplete(name, image, thorough, asked)

    def _incomplete(
        self, name: str, image: InstalledImage, thorough: bool, asked: set[tuple[str, str]]
    ) -> Iterator[Finding]:
        repository, selector = self._place(name)
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

    def _tools(self) -> Iterator[Finding]:
        """Find names in Docker of what is started with rights on this host, and that stand for something else."""
        rebuilt = {str(digest) for image in self._receipt.images for digest in image.rebuilt.values()}
        for tool in filter(None, map(self._state.tool, _STARTED)):
            found = self._host.engine.image_id(tool.name)
            if found is not None and not tool.is_image(found) and found not in rebuilt:
                yield Finding(
                    "tools",
                    f"{tool.name} is another image in Docker: it is {found}, and was {tool.manifest.digest} "
                    f"(config {tool.config.digest})",
                    self._install,
                )

    def replay_state(self) -> Optional[dict[str, Any]]:
        """Return what the replay service says of itself, None when it does not answer; see `service_state`."""
        return service_state(self._state.replay.port) if self._state.replay and self._has_replay() else None

    def _has_replay(self) -> bool:
        """Tell whether the service on this host is not another user's."""
        return self._replay.other_owner() is None

    def unrecorded(self) -> list[str]:
        """Return what builds asked for and was not recorded: method and URL, what was last first."""
        return misses(self._host) if self._state.replay and self._has_replay() else []

    def _replaying(self) -> Iterator[Finding]:
        """Find what is wrong with a replay service that runs as it was made."""
        replay = self._state.replay
        if replay is None or self._replay.look():
            return
        state = self.replay_state()
        # What the registry of a site says is in the service's own log.
        log = f"docker logs {REPLAY_CONTAINER if self._state.site else REGISTRY_CONTAINER}"
        if state is None:
            yield Finding(
                "replay",
                f"the container `{REPLAY_CONTAINER}` runs, and nothing answers on 127.0.0.1:{replay.port}",
                f"docker logs {REPLAY_CONTAINER}; docker restart {REPLAY_CONTAINER}",
            )
        elif state.get("refusal"):
            yield Finding("replay", f"the replay service gets no tapes: {state['refusal']}", self._log_in_again())
        elif not state.get("loaded"):
            yield Finding("replay", "the tapes are not read yet: the registry does not answer", log)
        for why, message, hint in (
            ("missing", "is gone from the registry", self._install),
            ("unavailable", "cannot be read: the registry does not give it", log),
            # A registry keeps what it has by its digest, damaged or not: pushing it again changes nothing.
            ("damaged", "is damaged in the registry's data", self._clear_tapes()),
        ):
            for tape in replay.tapes:
                found = [str(digest) for digest in tape.manifests if state and str(digest) in state.get(why, ())]
                if found:
                    yield Finding("replay", f"the tape {tape.name} {message} ({found[0]})", hint)

    def _clear_tapes(self) -> str:
        """Return what takes damaged tapes away and brings them again."""
        if self._state.site:
            where = f"`{self._state.site.host}/{tape_repository(self._state.site)}`"
            return f"have the repository {where} deleted there; {self._install}"
        return f"{own_command('uninstall --data')}; {self._anew}"

    def _log_in_again(self) -> str:
        """Return what gives the replay service a login; the password of a registry of ours is `install`'s to give."""
        if self._state.site is None and self._state.access.password:
            return self._install
        return f"{login_command(self._state.destination.host)}; {self._fix}"

    def _daemon_settings(self) -> Iterator[Finding]:
        for problem in self._daemon.problems():
            yield Finding("daemon", f"{problem.subject}: {problem.message}", problem.hint or self._fix)
            return
        yield from self._of_step(self._daemon)

    def _of_nodes(self) -> Iterator[Finding]:
        """Find what is wrong with other machines; one that does not answer is for a person to bring back."""
        obstacle = self._host.ssh.obstacle()
        for change in self._nodes.look():
            fixable = change.action != "reach"
            hint = self._fix if fixable else f"start it, or give it up: {own_command(f'node remove {change.name}')}"
            if obstacle and not fixable:
                hint = obstacle[1]
            yield Finding("nodes", self._nodes.explain(change), hint, self._nodes.name if fixable else None)

    def _of_cluster(self, step: Step) -> Iterator[Finding]:
        """Find what a step in the cluster fixes.

        Raises:
            KubectlError: the cluster does not answer.
        """
        if self.cluster_trouble:
            raise self.cluster_trouble
        yield from self._of_step(step)

    def _clock(self) -> Iterator[Finding]:
        now = datetime.datetime.now(datetime.timezone.utc)
        known: list[tuple[str, datetime.datetime]] = []
        if self._receipt.finished:
            known.append(("this was installed", self._receipt.finished))
        for tool in self._state.tools.values():
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
        data = self._state.data
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
