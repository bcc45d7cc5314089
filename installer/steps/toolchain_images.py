"""Toolchain images on their way into Docker: only those that this host needs, one platform of each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from bundles.archive.docker_archive import SavedImage, docker_archive
from bundles.archive.image_tar import ImageTar
from bundles.errors import HostError, Problem
from bundles.oci.reference import Reference
from bundles.runtime.progress import Progress
from installer.host.host import Host
from installer.host.paths import PLUGIN
from installer.model.job import Job
from installer.model.step import Change, Step
from installer.model.tool import Tool
from installer.receipt.receipt import Receipt


def load(job: Job, host: Host, tool: Tool, progress: Progress) -> bool:
    """Bring a toolchain image into Docker under its name; False when it is there already."""
    if tool.is_image(host.engine.image_id(tool.name)):
        return False
    there = _under_another_name(host, tool)
    if there is not None:
        host.engine.tag(there, tool.name)
        return True
    left = left_to_base(job, host, tool)
    if left:
        raise HostError(f"{left.subject}: {left.message}", hint=left.hint)
    saved = _saved(job, tool)
    with progress.task(f"load {tool.reference.familiar}", saved.content_size) as task:
        host.engine.load(saved.stream(job.archive, task.advance))
    if not tool.is_image(host.engine.image_id(tool.name)):
        raise HostError(f"Docker loaded `{tool.name}`, and what it has now is another image", hint="docker images")
    return True


def local_image(host: Host, tool: Tool) -> Optional[str]:
    """Return what Docker can be given to start exactly this image; None when Docker does not have it.

    That is its name, for people, as long as the name stands for it: it is one under the registry, where others push,
    and whoever pulls it here makes it theirs.
    """
    if tool.is_image(host.engine.image_id(tool.name)):
        return tool.name
    return _under_another_name(host, tool)


def left_to_base(job: Job, host: Host, tool: Tool) -> Optional[Problem]:
    """Explain why an image that a delta leaves to its base cannot be loaded; None when it can."""
    left = job.archive.left_to_base(tool.manifest)
    if not left or tool.is_image(host.engine.image_id(tool.name)) or _under_another_name(host, tool):
        return None
    bases = " and ".join(f"`{base.name}` {base.digest}" for base in job.archive.manifest.bases)
    return Problem(
        f"image {tool.reference.familiar}",
        f"Docker does not have it, and this archive leaves {len(left)} of its layers to {bases}",
        "install that one first, then this one again",
    )


def _under_another_name(host: Host, tool: Tool) -> Optional[str]:
    """Return the id of the image when Docker has it already, or None."""
    names = (str(tool.config.digest), str(tool.manifest.digest), str(tool.root), tool.pinned)
    ids = map(host.engine.image_id, names)
    return next((found for found in ids if tool.is_image(found)), None)


def loading(job: Job, host: Host, tool: Tool) -> list[Change]:
    """List what `load` would do."""
    if tool.is_image(host.engine.image_id(tool.name)):
        return []
    old = host.engine.image_id(tool.name)
    # An image that loses its name would stay for ever, and nobody would know whose it was.
    detail = f"what {tool.name} was; `prune` removes it if it was installed"
    changes = [] if old is None else [Change("supersede", "image", old, detail)]
    if _under_another_name(host, tool):
        return [*changes, Change("tag", "image", tool.name, "Docker has it under another name")]
    return [*changes, Change("load", "image", tool.name, "into Docker", _saved(job, tool).content_size)]


def _saved(job: Job, tool: Tool) -> ImageTar:
    """Return what Docker is given."""
    content = job.archive.read_image(tool.manifest)
    return docker_archive([SavedImage(tool.manifest, content, Reference.parse(tool.name))])


class LoadImage(Step):
    """The image of the registry, or BuildKit's: parts of one step, as the registry need not wait for the larger one.

    BuildKit's is loaded although the registry has it too: the builder is made of it where Docker cannot pull, as
    through a proxy that does not know the LAN.
    """

    name = "images"

    def __init__(self, job: Job, host: Host, progress: Progress, role: str) -> None:
        self._job, self._host, self._progress = job, host, progress
        self._role, self._tool = role, job.tool(role)

    def problems(self) -> Sequence[Problem]:
        if self._tool is None:
            platform = self._job.host_platform
            hint = f"bundle create ... --host-platform {platform}, where there is internet"
            return [Problem(f"the {self._role} image", f"the archive has none for {platform}", hint)]
        left = left_to_base(self._job, self._host, self._tool)
        return [left] if left else []

    def look(self) -> Sequence[Change]:
        return loading(self._job, self._host, self._tool) if self._tool else []

    def apply(self, changes: Sequence[Change]) -> None:
        if self._tool:
            load(self._job, self._host, self._tool, self._progress)


class RemoveImages(Step):
    """Removes images that were loaded into Docker. One that a container of somebody else uses stays.

    Args:
        keep: the names of those that are still needed.
    """

    name = "docker images"

    def __init__(self, receipt: Receipt, host: Host, keep: Sequence[str] = ()) -> None:
        self._host = host
        names = receipt.names_made("image")
        buildx = receipt.state.tool("buildx")
        if buildx is not None and any(Path(name).name == PLUGIN for name in receipt.names_made("file")):
            # It is loaded to take the plugin out of it, and removed at once: there only when a run was killed between.
            names = [*names, buildx.name]
        self._names = [name for name in names if name not in keep]
        self._kept: Sequence[str] = ()

    def look(self) -> Sequence[Change]:
        engine = self._host.engine
        # One that is known by its id only goes when nobody has given it a name.
        return [
            Change("remove", "image", name)
            for name in self._names
            if engine.image_id(name) and not (name.startswith("sha256:") and engine.image_names(name))
        ]

    def apply(self, changes: Sequence[Change]) -> None:
        for change in changes:
            self._host.engine.remove_image(change.name)
        self._kept = [change.name for change in self.look()]

    def notes(self) -> Sequence[str]:
        return [f"the image {name} stays: something else uses it" for name in self._kept]
