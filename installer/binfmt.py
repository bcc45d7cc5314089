"""Emulation in the kernel (binfmt_misc), for the platforms that the host cannot run.

Builds need it only with a BuildKit image that brings no emulators of its own (the official one does); `docker run
--platform` always does. So a kernel without it is never a reason to stop: the receipt says what is missing, and the
test build at the end says whether builds work.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Optional

from bundles.errors import HostError
from bundles.platform import Platform
from bundles.progress import Progress
from installer import kernel
from installer.host import Host
from installer.images import load
from installer.job import Job, Tool
from installer.step import Change, Step


class Emulation(Step):
    """Registers emulators with the archive's binfmt image, run once and privileged.

    Args:
        runs: whether the kernel runs programs of a platform.
    """

    name = "emulation"

    def __init__(
        self, job: Job, host: Host, progress: Progress, runs: Callable[[Platform], bool] = kernel.runs
    ) -> None:
        self._job, self._host, self._progress, self._runs = job, host, progress, runs
        self._failure: Optional[str] = None

    def _missing(self) -> list[Platform]:
        native = self._job.host_platform.architecture
        return [
            platform for platform in self._job.platforms if platform.architecture != native and not self._runs(platform)
        ]

    def _tool(self) -> Optional[Tool]:
        """The image to do it with, where it can be done."""
        return None if self._obstacle() else self._job.tool("binfmt")

    def _obstacle(self) -> Optional[str]:
        if self._job.tool("binfmt") is None:
            return "the archive has no binfmt image, which would register emulators in the kernel"
        if self._host.engine.info().is_rootless:
            return "rootless Docker cannot register emulators in the kernel"
        table = self._host.places.binfmt
        if not (table / "register").exists():
            # Since Linux 6.7 the table is emptied when its last mount goes, here the one inside the container.
            mount = f"sudo mount -t binfmt_misc binfmt_misc {table}"
            return f"the kernel's table of emulators is not mounted here: {mount}, then run this again"
        return None

    def look(self) -> Sequence[Change]:
        tool = self._tool()
        missing = self._missing()
        if tool is None or not missing:
            return []
        return [
            Change("register", "emulation", str(platform), f"in the kernel, with {tool.name}, privileged")
            for platform in missing
        ]

    def apply(self, changes: Sequence[Change]) -> None:
        tool = self._tool()
        if tool is None:
            return
        try:
            load(self._job, self._host, tool, self._progress)
            self._register(tool)
        except HostError as error:
            self._failure = str(error)

    def _register(self, tool: Tool) -> None:
        missing = self._missing()
        architectures = ",".join(dict.fromkeys(platform.architecture for platform in missing))
        outcome = self._host.engine.run(tool.name, ["--install", architectures], privileged=True)
        # The program exits with 0 whatever happens, and says what is in force as JSON.
        supported = _supported(outcome.stdout)
        refused = [platform for platform in missing if not self._runs(platform)]
        if refused:
            known = f"; it says that the kernel runs {', '.join(supported)}" if supported else ""
            raise HostError(
                f"`{tool.name} --install {architectures}` did not register {', '.join(map(str, refused))}{known}\n"
                f"{(outcome.stderr.strip() or outcome.stdout.strip())[-2000:]}"
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


def _supported(stdout: str) -> list[str]:
    try:
        value = json.loads(stdout[stdout.index("{") :])
        return [str(name) for name in value["supported"]]
    except (ValueError, KeyError, TypeError):
        return []
