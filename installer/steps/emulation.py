"""Emulation in the kernel (binfmt_misc), for the platforms that the host cannot run.

Builds need it only with a BuildKit image that brings no emulators of its own (the official one does); `docker run
--platform` always does. So a kernel without it is never a reason to stop: the receipt says what is missing, and the
test build at the end says whether builds work.

The kernel forgets emulators when it is started anew. So they are registered by a container that stays (emulation_init):
Docker starts it again after a reboot, with or without systemd, and it registers them again.

A kernel that cannot be asked (see `kernel.runs`) gets that container once; its labels say for what.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Optional

from bundles.errors import HostError, Problem
from bundles.oci.platform import Platform
from bundles.runtime.progress import Progress
from installer.host import kernel
from installer.host.docker.container import Container, NewContainer
from installer.host.files import is_seen
from installer.host.host import Host
from installer.host.kernel import Emulator
from installer.host.labels import EMULATION_CONTAINER, LABEL_ARCHITECTURES, LABEL_ROLE, LABEL_WANTED, fingerprint
from installer.model.job import DesiredState, Job
from installer.model.step import Change, Step
from installer.model.tool import Tool
from installer.registry.connection import login_to
from installer.steps.emulation_init import PATH, init_program
from installer.steps.toolchain_images import load, loading, local_image

_REGISTER_SECONDS = 20.0


class Emulation(Step):
    """Runs the container that registers emulators, with the binfmt image, privileged and without a network.

    Args:
        job: what is wanted; without an archive an image that Docker lacks comes from the local registry.
        runs: whether the kernel runs programs of a platform; None when that cannot be told.
    """

    name = "emulation"

    def __init__(
        self,
        job: DesiredState,
        host: Host,
        progress: Progress,
        runs: Callable[[Platform], Optional[bool]] = kernel.runs,
    ) -> None:
        self._job, self._host, self._progress, self._runs = job, host, progress, runs
        self._failure: Optional[str] = None

    def _foreign(self, state: Optional[bool]) -> list[Platform]:
        """Return the platforms of which that is known. What the kernel is never asked would be missing for ever."""
        native = self._job.host_platform.architecture
        return [
            platform
            for platform in self._job.platforms_of(None)
            if platform.architecture != native and kernel.knows(platform) and self._runs(platform) is state
        ]

    def _missing(self) -> list[Platform]:
        return self._foreign(False)

    def _container(self) -> Optional[Container]:
        return self._host.engine.container(EMULATION_CONTAINER)

    def _tool(self) -> Optional[Tool]:
        """Return the image to do it with, where it can be done."""
        return None if self._obstacle() else self._job.tool("binfmt")

    def _obstacle(self) -> Optional[str]:
        if self._job.tool("binfmt") is None:
            return "the archive has no binfmt image, which would register emulators in the kernel"
        if self._host.engine.info().is_rootless:
            return "rootless Docker cannot register emulators in the kernel"
        if init_program(self._job.host_platform.architecture) is None:
            return f"registering emulators is not supported on hosts of {self._job.host_platform}"
        return None

    def _wanted(self, tool: Tool, container: Optional[Container]) -> NewContainer:
        """Return the container, for what the kernel lacks now and what an earlier one of ours registers already."""
        before = container.labels.get(LABEL_ARCHITECTURES, "").split(",") if container else []
        asked = [platform.architecture for platform in self._job.platforms]
        missing = [platform.architecture for platform in (*self._missing(), *self._foreign(None))]
        names = ",".join(sorted({name for name in before if name in asked} | set(missing)))
        program = init_program(self._job.host_platform.architecture) or b""
        wanted = fingerprint(
            {
                "image": str(tool.manifest.digest),
                "keeper": hashlib.sha256(program).hexdigest(),
                "architectures": names,
            }
        )
        return NewContainer(
            name=EMULATION_CONTAINER,
            image=local_image(self._host, tool) or tool.name,
            labels={
                LABEL_ROLE: "emulation",
                LABEL_WANTED: wanted,
                LABEL_ARCHITECTURES: names,
            },
            command=["--install", names],
            files={PATH: program},
            privileged=True,
            network="none",
            # The first process of a container does not end at SIGTERM by itself.
            stop_signal="SIGKILL",
        )

    def problems(self) -> Sequence[Problem]:
        if self._tool() is None:
            return []
        container = self._container()
        if container is None or container.labels.get(LABEL_ROLE) == "emulation":
            return []
        return [
            Problem(
                f"container `{container.name}`",
                f"it is not one that this program made ({container.state}), and emulation needs the name",
                f"docker rename {container.name} {container.name}-old, or remove it: docker rm -f {container.name}",
            )
        ]

    def look(self) -> Sequence[Change]:
        tool = self._tool()
        if tool is None:
            return []
        missing, container = self._missing(), self._container()
        detail = "registers emulators whenever Docker starts, and waits"
        if container is None:
            missing += self._foreign(None)
            if not missing:
                return []
            change = Change("start", "container", EMULATION_CONTAINER, detail)
        elif self._is_outdated(tool, container):
            change = Change("replace", "container", container.name, detail)
        elif missing or not container.is_running:
            change = Change("restart", "container", container.name, f"it was {container.state}")
        else:
            return []
        return [
            *self._fetching(tool),
            *(
                Change("register", "emulation", str(platform), f"in the kernel, with {tool.name}, privileged")
                for platform in missing
            ),
            change,
        ]

    def _fetching(self, tool: Tool) -> Sequence[Change]:
        if isinstance(self._job, Job):
            return loading(self._job, self._host, tool)
        if local_image(self._host, tool) is not None:
            return []
        # By its digest: what has the tag may be anybody's, and it is about to run privileged.
        return [
            Change("pull", "image", tool.pinned, "from the local registry"),
            Change("tag", "image", tool.name, "its name by tag"),
        ]

    def apply(self, changes: Sequence[Change]) -> None:
        tool = self._tool()
        if tool is None:
            return
        try:
            if isinstance(self._job, Job):
                load(self._job, self._host, tool, self._progress)
            elif self._fetching(tool):
                self._pull(tool)
            self._start(tool)
        except HostError as error:
            self._failure = str(error)

    def explain(self, change: Change) -> str:
        lost = ", ".join(map(str, self._missing()))
        if lost:
            return f"the kernel does not run {lost} any more: `docker run --platform` fails, and builds may"
        return f"emulation will not survive a reboot: the container `{EMULATION_CONTAINER}` is gone or was changed"

    def _is_outdated(self, tool: Tool, container: Container) -> bool:
        wanted = self._wanted(tool, container).labels[LABEL_WANTED]
        return container.labels.get(LABEL_WANTED) != wanted or not tool.is_image(container.image_id)

    def _pull(self, tool: Tool) -> None:
        self._host.engine.pull(tool.pinned, login_to(self._job))
        self._host.engine.tag(self._image_id(tool, tool.pinned), tool.name)

    def _image_id(self, tool: Tool, name: str) -> str:
        found = self._host.engine.image_id(name)
        if found is None or not tool.is_image(found):
            hint = f"docker image inspect {name}"
            raise HostError(f"`{name}` is {found} in Docker, which is not the image that was installed", hint=hint)
        return found

    def _start(self, tool: Tool) -> None:
        engine = self._host.engine
        container = self._container()
        wanted = self._wanted(tool, container)
        if container is not None:
            if self._is_outdated(tool, container):
                # By the image that is known, whatever the container was made of.
                known = dataclasses.replace(container, image_id=self._image_id(tool, wanted.image))
                unregister(self._host, known)
            engine.remove_container(container.name)
        entrypoint, _ = engine.image_start(wanted.image)
        started = dataclasses.replace(wanted, entrypoint=[PATH, *entrypoint])
        engine.create_container(started, tool.is_image)
        self._wait(tool, wanted)

    def _wait(self, tool: Tool, wanted: NewContainer) -> None:
        deadline = time.monotonic() + _REGISTER_SECONDS
        while True:
            refused, unknown = self._missing(), self._foreign(None)
            if not refused and not unknown:
                return
            # The program exits with 0 whatever happens, and ends with what is in force, as JSON.
            log = self._host.engine.logs(wanted.name, 200)
            if _supported(log) or time.monotonic() > deadline:
                break
            time.sleep(0.1)
        refused = self._missing()
        # Where the kernel cannot be asked, neither can that program.
        if refused:
            known = f"; it says that the kernel runs {', '.join(_supported(log))}" if _supported(log) else ""
            raise HostError(
                f"`{tool.name} --install {wanted.labels[LABEL_ARCHITECTURES]}` did not register "
                f"{', '.join(map(str, refused))}{known}\n{log[-2000:]}",
                hint=f"docker logs {wanted.name}",
            )

    def notes(self) -> Sequence[str]:
        unknown = self._foreign(None)
        notes = [_unknown(unknown)] if unknown else []
        missing = self._missing()
        if not missing:
            return notes
        names = ", ".join(map(str, missing))
        notes += [
            f"this kernel does not run {names}: builds use the emulators inside the BuildKit image, and "
            "`docker run --platform` does not work for them"
        ]
        obstacle = f"registering emulators failed: {self._failure}" if self._failure else self._obstacle()
        return [*notes, obstacle] if obstacle else notes


def _unknown(platforms: Sequence[Platform]) -> str:
    return (
        f"whether this kernel runs {', '.join(map(str, platforms))} cannot be told: it starts no program from memory "
        "(vm.memfd_noexec); the test build shows whether builds do"
    )


@dataclasses.dataclass(frozen=True)
class Registered:
    """What of the kernel's table is of the image of a container, by architecture, and what is of others.

    Without `ours` for one of its architectures there is nothing of it. None where the table is not seen from here.
    """

    ours: Mapping[str, Optional[Sequence[Emulator]]]
    others: Sequence[Emulator]

    @classmethod
    def of(cls, container: Container, host: Host, is_ours: Callable[[Emulator], bool]) -> Registered:
        """Look at the entries for the architectures of a container."""
        ours: dict[str, Optional[Sequence[Emulator]]] = {}
        others: list[Emulator] = []
        for name in filter(None, container.labels.get(LABEL_ARCHITECTURES, "").split(",")):
            found = kernel.emulators(host.places.binfmt, Platform("linux", name))
            mine = found and [entry for entry in found if is_ours(entry)]
            others += [entry for entry in found or () if entry not in (mine or ())]
            if mine or found is None:
                ours[name] = mine
        return cls(ours, others)

    def names(self) -> list[str]:
        """Return what to tell the image: the names of the entries, and where they are not seen, the architectures."""
        return [
            name
            for architecture, found in self.ours.items()
            for name in ([architecture] if found is None else [entry.name for entry in found])
        ]


def _may_be_ours(entry: Emulator, host: Host) -> bool:
    """Tell whether an emulator is none of the host's own. A package that came later puts its own in ours' place."""
    return not is_seen(host.places.seen(Path("/", entry.interpreter)))


def unregister(host: Host, container: Container) -> Registered:
    """Have the image of a container take what it registered, and nothing else, out of the kernel again."""

    def is_ours(entry: Emulator) -> bool:
        return _may_be_ours(entry, host) and host.engine.has_file(container.image_id, entry.interpreter)

    registered = Registered.of(container, host, is_ours)
    if registered.names():
        host.engine.run(container.image_id, ["--uninstall", ",".join(registered.names())], privileged=True)
    return registered


def _supported(log: str) -> list[str]:
    try:
        value = json.loads(log[log.rindex("{") : log.rindex("}") + 1])
        return [str(name) for name in value["supported"]]
    except (ValueError, KeyError, TypeError):
        return []


class RemoveEmulation(Step):
    """Takes the emulators that installing registered out of the kernel, and removes the container that does it.

    That runs privileged, so only the image that was installed is asked to: whoever may use Docker can have given the
    container its name and its label.

    Args:
        tool: that image, None when there was none.
    """

    name = "emulation"

    def __init__(self, tool: Optional[Tool], host: Host) -> None:
        self._tool, self._host = tool, host
        self._others: Sequence[Emulator] = ()
        self._kept: Sequence[str] = ()

    def look(self) -> Sequence[Change]:
        container = self._host.engine.container(EMULATION_CONTAINER)
        if container is None or container.labels.get(LABEL_ROLE) != "emulation":
            return []
        registered = Registered.of(container, self._host, lambda entry: _may_be_ours(entry, self._host))
        self._others = registered.others
        self._kept = [] if self._with_known_image(container) else [f"linux/{name}" for name in registered.ours]
        names = [] if self._kept else [f"linux/{name}" for name in registered.ours]
        changes = [Change("unregister", "emulation", name) for name in names]
        return [*changes, Change("remove", "container", container.name)]

    def apply(self, changes: Sequence[Change]) -> None:
        container = self._host.engine.container(EMULATION_CONTAINER)
        if container is not None:
            known = self._with_known_image(container)
            if known is not None:
                self._others = unregister(self._host, known).others
            self._host.engine.remove_container(container.name)

    def _with_known_image(self, container: Container) -> Optional[Container]:
        """Return the container with the id of the image that was installed; None when Docker does not have that."""
        tool = self._tool
        if tool is None:
            return None
        name = container.image_id if tool.is_image(container.image_id) else local_image(self._host, tool)
        found = name and self._host.engine.image_id(name)
        return dataclasses.replace(container, image_id=found) if found and tool.is_image(found) else None

    def notes(self) -> Sequence[str]:
        notes = [
            f"the emulator `{entry.name}` stays in the kernel: {entry.interpreter} is not of this program's image"
            for entry in self._others
        ]
        if self._kept:
            notes.append(
                f"the emulators for {', '.join(self._kept)} stay in the kernel until it is started anew: Docker does "
                "not have the image that was installed, and no other is asked to take them out"
            )
        return notes
