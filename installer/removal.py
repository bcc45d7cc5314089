"""Taking away what installing made, and nothing else: each step is the reverse of one of installing.

What was made is what the receipt lists and what still bears our mark. A receipt that was lost and written anew does not
list what was there already: then the mark is enough, where it is of this installation. What a step cannot prove to be
ours, or what was changed since, it leaves, and says so.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from bundles.errors import Problem
from installer.binfmt import unregister
from installer.builder import builder_mark
from installer.host.docker_engine import Container
from installer.host.files import _remove_file, _remove_tree, _word, partial_of, write_atomically
from installer.host.host import Host
from installer.host.labels import (
    EMULATION_CONTAINER,
    ENVIRONMENT,
    LABEL_ARCHITECTURES,
    LABEL_ROLE,
    PASSING_CONTAINERS,
    REGISTRY_CONTAINER,
)
from installer.host.paths import PLUGIN
from installer.model.installed_registry import installed_address, installed_data, is_ours
from installer.model.job import is_directory
from installer.model.step import Change, Step
from installer.receipt.installed import Installed
from installer.receipt.ledger import file_digest

# What buildx keeps beside its builders, for itself.
_BUILDX_OWN = (".lock", ".buildNodeID", "current", "instances", "activity", "defaults", "refs", "history")
# How buildx names the container of a builder's node, before the builder's name and the node's number.
_BUILDER_PREFIX = "buildx_buildkit_"
_DOCKER_OWN = (".token_seed", ".token_seed.lock")


class RemovePassing(Step):
    """Removes the containers that a killed run has left: as long as they are there, Docker keeps images and volumes."""

    name = "left over"

    def __init__(self, host: Host) -> None:
        self._host = host

    def look(self) -> Sequence[Change]:
        found = map(self._host.engine.container, PASSING_CONTAINERS)
        return [
            Change("remove", "container", container.name, "an interrupted run has left it")
            for container in found
            if container is not None and LABEL_ROLE in container.labels
        ]

    def apply(self, changes: Sequence[Change]) -> None:
        for change in changes:
            self._host.engine.remove_container(change.name)


class RemoveBuilder(Step):
    """Removes the builders, with their build cache."""

    name = "builder"

    def __init__(self, installed: Installed, host: Host) -> None:
        self._made, self._host = installed.names_made("builder"), host
        self._names = list(dict.fromkeys((*self._made, installed.wanted.builder)))

    def _container(self, name: str) -> Optional[Container]:
        container = self._host.engine.container(f"{_BUILDER_PREFIX}{name}0")
        return container if container is not None and ENVIRONMENT in container.environment else None

    def look(self) -> Sequence[Change]:
        return [
            Change("remove", "builder", name, "with its build cache")
            for name in self._names
            if builder_mark(self._host, name) or (name in self._made and self._container(name))
        ]

    def apply(self, changes: Sequence[Change]) -> None:
        for change in changes:
            name = change.name
            if builder_mark(self._host, name):
                self._host.cli.run(["buildx", "rm", "--force", name])
            container = self._container(name)
            if container is not None:
                # buildx has no record of it any more.
                self._host.engine.remove_container(container.name)
                self._host.engine.remove_volume(f"{container.name}_state")
            for kind in ("activity", "refs"):
                _remove_tree(self._host.places.buildx_config / kind / name)

    def notes(self) -> Sequence[str]:
        going = {change.name for change in self.look()}
        names = [name[len(_BUILDER_PREFIX) : -1] for name in self._host.engine.container_names(_BUILDER_PREFIX)]
        left = [self._container(name) for name in names if name not in going]
        return [
            f"the container {container.name} stays: it is the builder of another user, or of an installation whose "
            f"receipt is lost; docker rm -f {container.name}; docker volume rm {container.name}_state"
            for container in left
            if container is not None
        ]


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


class RemoveRegistry(Step):
    """Removes the registry's container; its data only when that was asked for."""

    name = "registry"

    def __init__(self, installed: Installed, host: Host, *, data: bool) -> None:
        self._host, self._with_data = host, data
        self._made = installed.names_made("container")
        self._data, self._address = installed.wanted.data, installed.wanted.address
        self._volume_is_made = self._data in installed.names_made("volume")
        self._directory_is_ours = self._data in installed.names_made("directory")

    def _container(self) -> Optional[Container]:
        container = self._marked()
        return container if container is not None and self._is_of_this_installation(container) else None

    def _marked(self) -> Optional[Container]:
        container = self._host.engine.container(REGISTRY_CONTAINER)
        return container if container is not None and is_ours(container) else None

    def _is_of_this_installation(self, container: Container) -> bool:
        where = installed_address(container), installed_data(container)
        return container.name in self._made or where == (self._address, self._data)

    def _volume_is_ours(self) -> bool:
        container = self._marked()
        if container is not None and self._container() is None and installed_data(container) == self._data:
            # It is in use, and goes on to be.
            return False
        labels = self._host.engine.volume_labels(self._data)
        return labels is not None and (self._volume_is_made or labels.get(LABEL_ROLE) == "registry")

    def _directory(self) -> Optional[Path]:
        """What of a directory goes: all of it when it was made for us, else what the registry wrote there."""
        if not is_directory(self._data):
            return None
        place = self._host.places.seen(Path(self._data))
        place = place if self._directory_is_ours else place / "docker" / "registry"
        return place if place.exists() else None

    def problems(self) -> Sequence[Problem]:
        place = self._directory() if self._with_data else None
        if place is None or _may_remove(place):
            return []
        return [Problem(str(place), "it belongs to root", f"run this with sudo; or: sudo rm -r {_word(place)}")]

    def look(self) -> Sequence[Change]:
        container = self._container()
        changes = [] if container is None else [Change("remove", "container", container.name)]
        if not self._with_data:
            return changes
        if is_directory(self._data):
            place = self._directory()
            return [*changes, *([Change("remove", "directory", str(place), "all images in it")] if place else [])]
        if self._volume_is_ours():
            return [*changes, Change("remove", "volume", self._data, "all images in it")]
        return changes

    def apply(self, changes: Sequence[Change]) -> None:
        for change in changes:
            if change.kind == "container":
                self._host.engine.remove_container(change.name)
            elif change.kind == "volume":
                self._host.engine.remove_volume(change.name)
            else:
                _remove_tree(Path(change.name))

    def notes(self) -> Sequence[str]:
        return [*self._container_notes(), *self._data_notes(), *self._volume_notes()]

    def _volume_notes(self) -> Sequence[str]:
        return [
            f"the volume {name} stays: it holds the images of another installation; docker volume rm {name}"
            for name in self._host.engine.volumes_labelled(LABEL_ROLE, "registry")
            if name != self._data
        ]

    def _container_notes(self) -> Sequence[str]:
        container = self._marked()
        if container is None or self._is_of_this_installation(container):
            return []
        return [
            f"the container {container.name} stays: it is of another installation, at {installed_address(container)}; "
            f"docker rm -f {container.name}"
        ]

    def _data_notes(self) -> Sequence[str]:
        if self._with_data:
            if is_directory(self._data) or not self._host.engine.has_volume(self._data) or self._volume_is_ours():
                return []
            return [
                f"the volume {self._data} stays: it is in use, or this program did not make it; "
                f"docker volume rm {self._data}"
            ]
        if is_directory(self._data):
            there, command = self._directory() is not None, f"sudo rm -r {_word(self._data)}"
        else:
            there, command = self._host.engine.has_volume(self._data), f"docker volume rm {self._data}"
        return [f"the images stay in {self._data}; a new installation finds them there, or: {command}"] if there else []


class RemoveImages(Step):
    """Removes images that were loaded into Docker. One that a container of somebody else uses stays.

    Args:
        keep: the names of those that are still needed.
    """

    name = "docker images"

    def __init__(self, installed: Installed, host: Host, keep: Sequence[str] = ()) -> None:
        self._host = host
        names = installed.names_made("image")
        buildx = installed.wanted.tool("buildx")
        if buildx is not None and any(Path(name).name == PLUGIN for name in installed.names_made("file")):
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


class RemoveFiles(Step):
    """Removes the files that were made and are unchanged, and what a killed run left half-written of them, puts a
    replaced plugin back, then the directories that were made for them and are empty; at last the receipt."""

    name = "files"

    def __init__(self, installed: Installed, host: Host) -> None:
        self._installed, self._host = installed, host
        self._changed: list[Path] = []
        self._unsure: list[Path] = []

    def look(self) -> Sequence[Change]:
        self._changed, self._unsure = [], []
        changes = []
        replaced = self._host.places.buildx_replaced
        written = [Path(name) for name in self._installed.names_made("file")]
        for path in dict.fromkeys((*written, replaced, self._host.places.receipt)):
            if partial_of(path).exists():
                changes.append(Change("remove", "file", str(partial_of(path))))
        for entry in self._installed.made:
            path = Path(str(entry.get("name")))
            if entry.get("kind") != "file" or not path.exists() or path == replaced:
                continue
            if file_digest(path) != entry.get("digest"):
                (self._unsure if entry.get("writing") else self._changed).append(path)
            elif path.name == PLUGIN and replaced.exists():
                changes.append(Change("restore", "file", str(path), f"from {replaced}"))
            else:
                changes.append(Change("remove", "file", str(path)))
        for path in (replaced, self._host.places.receipt):
            if path.exists():
                changes.append(Change("remove", "file", str(path)))
        return changes

    def apply(self, changes: Sequence[Change]) -> None:
        for change in changes:
            path = Path(change.name)
            if change.action == "restore":
                write_atomically(path, [self._host.places.buildx_replaced.read_bytes()], 0o755)
            elif path != self._host.places.receipt:
                _remove_file(path)
        (self._host.places.state / "lock").unlink(missing_ok=True)
        directories = [Path(name) for name in self._installed.names_made("directory")]
        self._clear_bookkeeping(directories)
        # The receipt goes last: interrupted before, the next run still knows what is left.
        _remove_file(self._host.places.receipt)
        for directory in sorted(directories, key=lambda place: -len(place.parts)):
            with contextlib.suppress(OSError):
                directory.rmdir()

    def notes(self) -> Sequence[str]:
        return [
            *(f"{path} stays: it was changed since it was installed" for path in self._changed),
            *(
                f"{path} stays: installing was interrupted when it was to be written, and it may be what was there "
                f"before; rm {_word(path)}"
                for path in self._unsure
            ),
        ]

    def _clear_bookkeeping(self, directories: Sequence[Path]) -> None:
        """Remove what buildx and docker keep for themselves, where the directory was made for us and nothing else is
        there."""
        config, docker = self._host.places.buildx_config, self._host.places.docker_config
        if config in directories and not any((config / "instances").glob("*")):
            for name in _BUILDX_OWN:
                place = config / name
                _remove_tree(place) if place.is_dir() else _remove_file(place)
        if docker in directories:
            for name in _DOCKER_OWN:
                _remove_file(docker / name)


def _may_remove(place: Path) -> bool:
    return os.access(place, os.W_OK | os.X_OK) and os.access(place.parent, os.W_OK | os.X_OK)
