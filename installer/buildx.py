"""The buildx plugin of the docker command: taken out of the archive when the host's is missing or too old."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from bundles.errors import HostError, Problem
from bundles.progress import Progress
from installer.files import is_writable, missing_directories, read_optional, write_atomically
from installer.host import Host
from installer.images import left_to_base, load
from installer.job import Job
from installer.step import Change, Step

# --buildkitd-config came with 0.13 (buildx#2273).
OLDEST_BUILDX = (0, 13)
_VERSION = re.compile(r"\bv?(\d+)\.(\d+)\.\d+")


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

    def _found(self) -> Optional[str]:
        """The version of the plugin that docker uses, or None without one."""
        done = self._host.cli.try_run(["buildx", "version"])
        match = _VERSION.search(done.stdout)
        return match.group(0) if done.code == 0 and match else None

    def _is_needed(self) -> bool:
        return _is_old(self._found())

    def problems(self) -> Sequence[Problem]:
        if not self._host.cli.is_installed or not self._is_needed():
            return []
        path = self._path
        found = self._found()
        state = (
            f"`docker buildx` is {found}, older than {_text(OLDEST_BUILDX)}" if found else "there is no `docker buildx`"
        )
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
            return [Problem("buildx", f"{state}, and `{own}` comes before what --system installs", f"rm {own}")]
        if not is_writable(path):
            return [
                Problem(
                    "buildx",
                    f"{state}, and `{path}` cannot be written",
                    "run this with sudo" if self._job.options.system else f"sudo chown -R $USER {path.parent.parent}",
                )
            ]
        return []

    def look(self) -> Sequence[Change]:
        tool = self._job.tool("buildx")
        if tool is None or not self._is_needed():
            return []
        found = self._found()
        why = f"the host has {found}" if found else "the host has none"
        path = self._path
        copy = Change("copy", "file", str(self._host.places.buildx_replaced), f"what {path} was")
        return [*([copy] if path.exists() else []), Change("install", "file", str(path), why)]

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
        if old is not None:
            write_atomically(self._host.places.buildx_replaced, [old], 0o755)
        loaded = load(self._job, self._host, tool, self._progress)
        try:
            write_atomically(path, self._host.engine.read_file(tool.name, "/buildx"), 0o755)
        finally:
            if loaded:
                self._host.engine.remove_image(tool.name)
        if self._is_needed():
            done = self._host.cli.try_run(["buildx", "version"])
            raise HostError(
                f"`{path}` is in place, and `docker buildx version` does not work: "
                f"{(done.stderr or done.stdout).strip()}",
                hint=f"see whether its file system forbids programs (noexec): findmnt -T {path}; "
                "sudo and --system put it into /usr/local/lib/docker/cli-plugins",
            )


def _is_old(version: Optional[str]) -> bool:
    match = _VERSION.match(version or "")
    return match is None or (int(match.group(1)), int(match.group(2))) < OLDEST_BUILDX


def _text(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
