"""Emulation in the kernel (binfmt_misc), for the platforms that the host cannot run.

Builds need it only with a BuildKit image that brings no emulators of its own (the official one does); `docker run
--platform` always does. So a kernel without it is never a reason to stop: the receipt says what is missing, and the
test build at the end says whether builds work.

The kernel forgets emulators when it is started anew. So they are registered by a container that stays (emulation_init):
Docker starts it again after a reboot, with or without systemd, and it registers them again.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from typing import Optional

from bundles.errors import HostError, Problem
from bundles.oci.platform import Platform
from bundles.runtime.progress import Progress
from installer.host import kernel
from installer.host.container import Container, NewContainer
from installer.host.host import Host
from installer.host.labels import EMULATION_CONTAINER, LABEL_ARCHITECTURES, LABEL_ROLE, LABEL_WANTED, fingerprint
from installer.model.job import DesiredState, Job, Tool
from installer.model.step import Change, Step
from installer.steps.emulation_init import PATH, init_program
from installer.steps.toolchain_images import load, loading

_REGISTER_SECONDS = 20.0


class Emulation(Step):
    """Runs the container that registers emulators, with the binfmt image, privileged and without a network.

    Args:
        job: what is wanted; without an archive an image that Docker lacks comes from the local registry.
        runs: whether the kernel runs programs of a platform.
    """

    name = "emulation"

    def __init__(
        self, job: DesiredState, host: Host, progress: Progress, runs: Callable[[Platform], bool] = kernel.runs
    ) -> None:
        self._job, self._host, self._progress, self._runs = job, host, progress, runs
        self._failure: Optional[str] = None

    def _missing(self) -> list[Platform]:
        """List what the kernel does not run, without what it cannot be asked about: that would be missing for ever."""
        native = self._job.host_platform.architecture
        return [
            platform
            for platform in self._job.platforms
            if platform.architecture != native and kernel.knows(platform) and not self._runs(platform)
        ]

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
        missing = [platform.architecture for platform in self._missing()]
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
            image=tool.name,
            labels={
                LABEL_ROLE: "emulation",
                LABEL_WANTED: wanted,
                LABEL_ARCHITECTURES: names,
            },
            command=["--install", names],
            files={PATH: program},
            privileged=True,
            network=False,
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
            if not missing:
                return []
            change = Change("start", "container", EMULATION_CONTAINER, detail)
        elif container.labels.get(LABEL_WANTED) != self._wanted(tool, container).labels[LABEL_WANTED]:
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
        if self._host.engine.image_id(tool.name) is not None:
            return []
        return [Change("pull", "image", tool.name, "from the local registry")]

    def apply(self, changes: Sequence[Change]) -> None:
        tool = self._tool()
        if tool is None:
            return
        try:
            if isinstance(self._job, Job):
                load(self._job, self._host, tool, self._progress)
            elif self._fetching(tool):
                self._host.engine.pull(tool.name)
            self._start(tool)
        except HostError as error:
            self._failure = str(error)

    def explain(self, change: Change) -> str:
        lost = ", ".join(map(str, self._missing()))
        if lost:
            return f"the kernel does not run {lost} any more: `docker run --platform` fails, and builds may"
        return f"emulation will not survive a reboot: the container `{EMULATION_CONTAINER}` is gone or was changed"

    def _start(self, tool: Tool) -> None:
        engine = self._host.engine
        container = self._container()
        wanted = self._wanted(tool, container)
        if container is not None:
            if container.labels.get(LABEL_WANTED) != wanted.labels[LABEL_WANTED]:
                unregister(self._host, container, container.labels.get(LABEL_ARCHITECTURES, "").split(","))
            engine.remove_container(container.name)
        entrypoint, _ = engine.image_start(tool.name)
        engine.create_container(NewContainer(**{**vars(wanted), "entrypoint": [PATH, *entrypoint]}))
        self._wait(tool, wanted)

    def _wait(self, tool: Tool, wanted: NewContainer) -> None:
        deadline = time.monotonic() + _REGISTER_SECONDS
        while True:
            refused = self._missing()
            if not refused:
                return
            # The program exits with 0 whatever happens, and ends with what is in force, as JSON.
            log = self._host.engine.logs(wanted.name, 200)
            if _supported(log) or time.monotonic() > deadline:
                break
            time.sleep(0.1)
        refused = self._missing()
        if refused:
            known = f"; it says that the kernel runs {', '.join(_supported(log))}" if _supported(log) else ""
            raise HostError(
                f"`{tool.name} --install {wanted.labels[LABEL_ARCHITECTURES]}` did not register "
                f"{', '.join(map(str, refused))}{known}\n{log[-2000:]}",
                hint=f"docker logs {wanted.name}",
            )

    def notes(self) -> Sequence[str]:
        missing = self._missing()
        if not missing:
            return []
        names = ", ".join(map(str, missing))
        notes = [
            f"this kernel does not run {names}: builds use the emulators inside the BuildKit image, and "
            "`docker run --platform` does not work for them"
        ]
        obstacle = f"registering emulators failed: {self._failure}" if self._failure else self._obstacle()
        return [*notes, obstacle] if obstacle else notes


def unregister(host: Host, container: Container, architectures: Sequence[str]) -> None:
    """Have the image of the container take what it registered out of the kernel again."""
    if any(architectures):
        host.engine.run(container.image_id, ["--uninstall", ",".join(architectures)], privileged=True)


def _supported(log: str) -> list[str]:
    try:
        value = json.loads(log[log.rindex("{") : log.rindex("}") + 1])
        return [str(name) for name in value["supported"]]
    except (ValueError, KeyError, TypeError):
        return []


class RemoveEmulation(Step):
    """Takes the emulators that installing registered out of the kernel, and removes the container that does it."""

    name = "emulation"

    def __init__(self, host: Host) -> None:
        self._host = host

    def look(self) -> Sequence[Change]:
        container = self._host.engine.container(EMULATION_CONTAINER)
        if container is None or container.labels.get(LABEL_ROLE) != "emulation":
            return []
        names = container.labels.get(LABEL_ARCHITECTURES, "")
        registered = [Change("unregister", "emulation", f"linux/{name}") for name in names.split(",") if name]
        return [*registered, Change("remove", "container", container.name)]

    def apply(self, changes: Sequence[Change]) -> None:
        container = self._host.engine.container(EMULATION_CONTAINER)
        if container is not None:
            unregister(self._host, container, container.labels.get(LABEL_ARCHITECTURES, "").split(","))
            self._host.engine.remove_container(container.name)
