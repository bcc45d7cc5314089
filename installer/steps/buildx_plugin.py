"""The buildx plugin of the docker command: taken out of the archive when the host's is missing or too old."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from packaging.version import Version

from bundles.errors import HostError, Problem
from bundles.runtime.program import quote
from bundles.runtime.progress import Progress
from installer.host.docker.cli import buildx_version
from installer.host.files import is_writable, missing_directories, read_optional, write_atomically
from installer.host.host import Host
from installer.model.job import Job
from installer.model.step import Change, Step
from installer.steps.toolchain_images import left_to_base, load

# --buildkitd-config came with 0.13 (buildx#2273).
OLDEST_BUILDX = Version("0.13")


class BuildxPlugin(Step):
    """Puts `/buildx` of the archive's buildx image into the user's cli-plugins directory.

    A plugin that is new enough is left alone, wherever it is. A too old one in the very place is kept beside our state.
    """

    name = "buildx"

    def __init__(self, job: Job, host: Host, progress: Progress) -> None:
        self._job, self._host, self._progress = job, host, progress

    @property
    def _path(self) -> Path:
        places = self._host.places
        return places.system_plugin if self._job.options.system else places.buildx_plugin

    def _is_needed(self) -> bool:
        found = buildx_version(self._host.cli)
        return found is None or found < OLDEST_BUILDX

    def problems(self) -> Sequence[Problem]:
        if not self._host.cli.is_installed or not self._is_needed():
            return []
        path = self._path
        found = buildx_version(self._host.cli)
        state = f"`docker buildx` is {found}, older than {OLDEST_BUILDX}" if found else "there is no `docker buildx`"
        if self._job.tool("buildx") is None:
            return [
                Problem(
                    "buildx",
                    f"{state}, and the archive has no buildx image for {self._job.host_platform}",
                    "install the package docker-buildx-plugin (Debian and Ubuntu also: docker-buildx)",
                )
            ]
        left = left_to_base(self._job, self._host, self._job.tools["buildx"])
        if left:
            return [left]
        own = self._host.places.buildx_plugin
        if self._job.options.system and own.exists():
            return [Problem("buildx", f"{state}, and `{own}` comes before what --system installs", f"rm {quote(own)}")]
        if not is_writable(path):
            directory = quote(path.parent.parent)
            return [
                Problem(
                    "buildx",
                    f"{state}, and `{path}` cannot be written",
                    "run this with sudo" if self._job.options.system else f"sudo chown -R $USER {directory}",
                )
            ]
        return []

    def look(self) -> Sequence[Change]:
        tool = self._job.tool("buildx")
        if tool is None or not self._is_needed():
            return []
        found = buildx_version(self._host.cli)
        why = f"the host has {found}" if found else "the host has none"
        path = self._path
        copy = Change("copy", "file", str(self._host.places.buildx_replaced), f"what {path} was")
        return [*([copy] if self._is_to_be_kept(path) else []), Change("install", "file", str(path), why)]

    def _is_to_be_kept(self, path: Path) -> bool:
        """Tell whether the plugin is the user's: with a copy there already, it may be ours, which did not work."""
        return path.exists() and not self._host.places.buildx_replaced.exists()

    def _content(self, image: str) -> Iterator[bytes]:
        """Read the plugin's bytes; the image they come from is gone before the plugin is in place.

        So an interrupted run, whenever it ends, leaves nothing that the next one does not look for.
        """
        try:
            yield from self._host.engine.read_file(image, "/buildx")
        finally:
            self._host.engine.remove_image(image)

    def apply(self, changes: Sequence[Change]) -> None:
        tool = self._job.tool("buildx")
        if tool is None:
            return
        path = self._path
        if self._job.options.system:
            for place in missing_directories(path.parent):
                place.mkdir()
                place.chmod(0o755)
        old = read_optional(path)
        if old is not None and self._is_to_be_kept(path):
            write_atomically(self._host.places.buildx_replaced, [old], 0o755)
        load(self._job, self._host, tool, self._progress)
        write_atomically(path, self._content(tool.name), 0o755)
        if self._is_needed():
            done = self._host.cli.try_run(["buildx", "version"])
            raise HostError(
                f"`{path}` is in place, and `docker buildx version` does not work: "
                f"{(done.stderr or done.stdout).strip()}",
                hint=f"see whether its file system forbids programs (noexec): findmnt -T {quote(path)}; "
                "sudo and --system put it into /usr/local/lib/docker/cli-plugins",
            )
