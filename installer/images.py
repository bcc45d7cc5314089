"""Toolchain images on their way into Docker: only those that this host needs, one platform of each."""

from __future__ import annotations

from collections.abc import Sequence

from bundles.errors import HostError, Problem
from bundles.progress import Progress
from installer.dockerarchive import content_size, stream
from installer.host import Host
from installer.job import Job, Tool
from installer.step import Change, Step


def load(job: Job, host: Host, tool: Tool, progress: Progress) -> bool:
    """Bring a toolchain image into Docker under its name; False when it is there already."""
    if tool.is_image(host.engine.image_id(tool.name)):
        return False
    size = content_size(job.archive, tool.manifest)
    with progress.task(f"load {tool.reference.familiar}", size) as task:
        host.engine.load(stream(job.archive, tool.manifest, tool.name, task.advance))
    if not tool.is_image(host.engine.image_id(tool.name)):
        raise HostError(f"Docker loaded `{tool.name}`, and what it has now is another image", hint="docker images")
    return True


class LoadImages(Step):
    """The images of the registry and of BuildKit.

    BuildKit's is loaded although the registry has it too: buildx falls back to the local image when Docker cannot pull,
    as from a LAN address that the daemon has not been told about.
    """

    name = "images"

    def __init__(self, job: Job, host: Host, progress: Progress) -> None:
        self._job, self._host, self._progress = job, host, progress
        self._tools = [tool for tool in map(job.tool, ("registry", "buildkit")) if tool]

    def problems(self) -> Sequence[Problem]:
        platform = self._job.host_platform
        return [
            Problem(
                f"the {role} image",
                f"the archive has none for {platform}",
                f"bundle create ... --host-platform {platform}, where there is internet",
            )
            for role in ("registry", "buildkit")
            if self._job.tool(role) is None
        ]

    def look(self) -> Sequence[Change]:
        return [
            Change("load", "image", tool.name, "into Docker", content_size(self._job.archive, tool.manifest))
            for tool in self._tools
            if not tool.is_image(self._host.engine.image_id(tool.name))
        ]

    def apply(self, changes: Sequence[Change]) -> None:
        for tool in self._tools:
            load(self._job, self._host, tool, self._progress)
