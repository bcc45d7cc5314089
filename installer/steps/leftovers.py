"""What is left of an installation once each step has undone its own: containers of moments, and files.

What was made is what the receipt lists and what still bears our mark. A receipt that was lost and written anew does not
list what was there already: then the mark is enough, where it is of this installation. What a step cannot prove to be
ours, or what was changed since, it leaves, and says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bundles.runtime.filesystem import partial_of
from bundles.runtime.program import quote
from installer.host.files import remove_directories, remove_file, remove_tree, write_atomically
from installer.host.host import Host
from installer.host.labels import LABEL_ROLE, PASSING_CONTAINERS
from installer.host.paths import PLUGIN
from installer.model.step import Change, Step
from installer.receipt.ledger import file_digest
from installer.receipt.receipt import Receipt

# What buildx keeps beside its builders, for itself.
_BUILDX_OWN = (".lock", ".buildNodeID", "current", "instances", "activity", "defaults", "refs", "history")
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


class RemoveFiles(Step):
    """Removes the files that were made and are unchanged, and what a killed run left half-written of them, puts a
    replaced plugin back, then the directories that were made for them and are empty; at last the receipt."""

    name = "files"

    def __init__(self, receipt: Receipt, host: Host) -> None:
        self._receipt, self._host = receipt, host
        self._changed: list[Path] = []
        self._unsure: list[Path] = []

    def look(self) -> Sequence[Change]:
        self._changed, self._unsure = [], []
        changes = []
        replaced = self._host.places.buildx_replaced
        written = [Path(name) for name in self._receipt.names_made("file")]
        for path in dict.fromkeys((*written, replaced, self._host.places.receipt)):
            if partial_of(path).exists():
                changes.append(Change("remove", "file", str(partial_of(path))))
        for entry in self._receipt.made:
            path = Path(entry.name)
            if entry.kind != "file" or not path.exists() or path == replaced:
                continue
            if file_digest(path) != entry.digest:
                (self._unsure if entry.writing else self._changed).append(path)
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
                remove_file(path)
        directories = [Path(name) for name in self._receipt.names_made("directory")]
        self._clear_bookkeeping(directories)
        # Interrupted before, the next run still knows what is left; and as long as there is a receipt, it is locked.
        remove_file(self._host.places.receipt)
        remove_file(self._host.places.state / "lock")
        remove_directories(directories)

    def notes(self) -> Sequence[str]:
        return [
            *(f"{path} stays: it was changed since it was installed" for path in self._changed),
            *(
                f"{path} stays: installing was interrupted when it was to be written, and it may be what was there "
                f"before; rm {quote(path)}"
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
                remove_tree(place) if place.is_dir() else remove_file(place)
        if docker in directories:
            for name in _DOCKER_OWN:
                remove_file(docker / name)
