"""Taking images out of the registry that earlier bundles brought and the current one does not list.

Removing is done in the order that is safe to interrupt: tags, then image manifests, then the indexes above them, all
through the registry's API; at last the registry's own `garbage-collect`, while the registry is stopped.

`garbage-collect --delete-untagged` is never used. It walks down from tags, and what it has marked in one repository it
passes over in the next (distribution 3.1.2: registry/storage/garbagecollect.go): a sparse index in one repository and
the same index, whole, in another make it lose the layers of the children that only the second one has. It also takes
what somebody pushed by digest. Without that flag every manifest that a repository has is walked by itself, a child that
a sparse index lacks is passed over, and only blobs that no manifest anywhere refers to go. A manifest that cannot be
read ends it before anything is deleted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Optional

from bundles.errors import AuthenticationError, HostError, NetworkError, Problem
from bundles.oci.descriptor import Descriptor
from bundles.oci.digest import Digest
from bundles.runtime.program import own_command
from installer.host.files import directory_size
from installer.host.host import Host
from installer.host.labels import GARBAGE_CONTAINER, LABEL_ROLE, REGISTRY_CONTAINER
from installer.model.job import is_directory
from installer.model.registry.installed import is_ours
from installer.model.registry.storage import S3Storage
from installer.model.step import Change, Step
from installer.receipt.receipt import PushedName, Receipt
from installer.registry.client import Registry
from installer.registry.tree import Content, content
from installer.steps.registry.container import RegistryContainer

# What registries say to who wants to delete a tag, and they delete manifests only.
_NO_SINGLE_TAGS = frozenset({400, 405, 501})
# What they say of a manifest that an index lists. Harbor: it goes with the index, or after it.
_HELD = frozenset({409, 412})


class PruneImages(Step):
    """Removes the tags and manifests that installing brought, and that nothing needs any more.

    What somebody else pushed stays: a tag that was moved since, any other tag in the same repository, what a tag was
    before installing took it, and every manifest below one of those.

    Args:
        keep: what is to stay of what installing brought.
    """

    name = "images"

    def __init__(self, receipt: Receipt, registry: Registry, keep: Iterable[PushedName]) -> None:
        self._registry = registry
        self._keep = frozenset(keep)
        self._brought, self._replaced = receipt.brought, receipt.replaced
        self._moved: list[str] = []
        self._stuck: list[str] = []

    @property
    def left(self) -> list[PushedName]:
        """The part of what installing brought that is still to be remembered once this step is done."""
        return [entry for entry in self._brought if entry in self._keep]

    def problems(self) -> Sequence[Problem]:
        try:
            self._registry.ping()
        except NetworkError as error:
            return [Problem(f"registry {self._registry.host}", error.message, own_command("doctor"))]
        return []

    def notes(self) -> Sequence[str]:
        return [
            *(f"{name} stays: it is not what was installed" for name in self._moved),
            *(
                f"{name} stays: this registry deletes manifests and no single tags, and another has the manifest"
                for name in self._stuck
            ),
        ]

    def look(self) -> Sequence[Change]:
        return [change for change, _, _ in self._removals()]

    def apply(self, changes: Sequence[Change]) -> None:
        refused: list[tuple[str, str]] = []
        held: list[tuple[str, str]] = []
        for change, repository, selector in self._removals():
            try:
                self._registry.delete_manifest(repository, selector)
            except NetworkError as error:
                if change.kind == "tag" and error.status in _NO_SINGLE_TAGS:
                    # distribution 2 and Harbor remove no tag by itself; it goes with its manifest, below.
                    refused.append((repository, selector))
                elif change.kind == "manifest" and error.status in _HELD:
                    held.append((repository, selector))
                else:
                    raise self._explained(error) from None
        for repository, selector in held:
            try:
                self._registry.delete_manifest(repository, selector)
            except NetworkError as error:
                raise self._explained(error) from None
        self._stuck = [
            f"{repository}:{tag}" for repository, tag in refused if self._registry.manifest_digest(repository, tag)
        ]

    def _explained(self, error: NetworkError) -> NetworkError:
        """Say what to do about a registry that refuses to delete."""
        host = self._registry.host
        if isinstance(error, AuthenticationError):
            error.hint = f"docker login {host}, with an account that may delete there (Harbor: Maintainer)"
        elif error.status in (400, 405, 501):
            return NetworkError(
                f"`{host}` does not let images be deleted: {error.message}",
                hint=f"{own_command('prune --plan')} names them: delete them there by its web page or a retention "
                "policy; or have deleting allowed (distribution: REGISTRY_STORAGE_DELETE_ENABLED=true)",
                status=error.status,
            )
        return error

    def expected(self) -> int:
        """Count the bytes of the blobs and manifests that become garbage, as far as can be seen."""
        gone: dict[Digest, tuple[int, set[str]]] = {}
        for repository in self._repositories():
            doomed, kept = self._split(repository)
            for item in doomed:
                for blob in (*item.blobs, *item.documents):
                    if blob.digest not in kept:
                        gone.setdefault(blob.digest, (blob.size, set()))[1].add(repository)
        others = set(self._registry.repositories())
        return sum(
            size
            for digest, (size, own) in gone.items()
            if not any(self._registry.has_blob(name, digest) for name in others - own)
        )

    def _repositories(self) -> list[str]:
        return sorted({entry.repository for entry in self._brought if entry not in self._keep})

    def _removals(self) -> list[tuple[Change, str, str]]:
        """List every change with the repository and the tag or digest that goes, in order."""
        self._moved = []
        removals = []
        for repository in self._repositories():
            for tag in self._tags(repository):
                removals.append((Change("remove", "tag", f"{repository}:{tag}"), repository, tag))
            doomed, kept = self._split(repository)
            documents = {document.digest: document for item in doomed for document in reversed(item.documents)}
            # Children first: as long as a parent is there, an interrupted run can find what is left below it.
            for document in sorted(documents.values(), key=lambda document: document.is_index):
                if document.digest not in kept:
                    removals.append((_removal(repository, document), repository, str(document.digest)))
        return removals

    def _tags(self, repository: str) -> list[str]:
        """List the tags to remove: those that still are what was installed."""
        kept = {entry.tag for entry in self._keep if entry.repository == repository}
        known: dict[str, set[Digest]] = {}
        for entry in self._brought:
            if entry.repository == repository and entry.tag and entry.tag not in kept:
                known.setdefault(entry.tag, set()).add(entry.digest)
        found = []
        for tag, digests in known.items():
            now = self._registry.manifest_digest(repository, tag)
            if now in digests:
                found.append(tag)
            elif now is not None:
                self._moved.append(f"{repository}:{tag}")
        return found

    def _split(self, repository: str) -> tuple[list[Content], set[Digest]]:
        """Return what was brought and goes, and every digest, of blobs too, that something that stays needs."""
        entries = [entry for entry in self._brought if entry.repository == repository]
        going = set(self._tags(repository))
        selectors = [tag for tag in self._registry.tags(repository) if tag not in going]
        selectors += [str(entry.digest) for entry in (*entries, *self._keep) if self._stays(entry, repository)]
        selectors += [str(entry.digest) for entry in self._replaced if entry.repository == repository]
        kept: set[Digest] = set()
        for selector in dict.fromkeys(selectors):
            found = content(self._registry, repository, selector)
            if found:
                kept.update(item.digest for item in (*found.documents, *found.blobs))
        doomed = dict.fromkeys(str(entry.digest) for entry in entries if entry not in self._keep)
        contents = (content(self._registry, repository, digest) for digest in doomed)
        return [item for item in contents if item], kept

    def _stays(self, entry: PushedName, repository: str) -> bool:
        return entry.repository == repository and entry in self._keep


def _removal(repository: str, document: Descriptor) -> Change:
    what = "index" if document.is_index else str(document.platform or "manifest")
    return Change("remove", "manifest", f"{repository}@{document.digest}", what)


class CollectGarbage(Step):
    """Has the registry delete the blobs that nothing refers to. It is stopped meanwhile, and started again whatever
    happens: what a running one remembers of blobs would no longer be true, and what is being pushed is not yet
    referred to.

    Args:
        due: whether there is something to collect from an earlier run.
        alone: whether no other registry writes to the same bucket meanwhile, as a person has said.
    """

    name = "garbage"

    def __init__(
        self,
        receipt: Receipt,
        host: Host,
        images: PruneImages,
        registry: Registry,
        due: bool,
        *,
        alone: bool = False,
    ) -> None:
        self._host, self._images, self._due = host, images, due
        self._data, self._storage = receipt.state.data, receipt.state.storage
        self._alone = alone
        self._container = RegistryContainer(receipt.state, host, registry)
        self.freed: Optional[int] = None
        """The bytes that became free on the disk, None where that cannot be seen."""

    def problems(self) -> Sequence[Problem]:
        container = self._host.engine.container(REGISTRY_CONTAINER)
        if container is not None and is_ours(container):
            return [_of_others(self._storage)] if self._storage and not self._alone else []
        return [
            Problem("registry", "its container is gone, or is not the one that was installed", own_command("doctor"))
        ]

    def look(self) -> Sequence[Change]:
        removals = self._images.look()
        if not removals and not self._due:
            return []
        detail = f"in {self._data}; the registry stops for as long as that takes"
        return [Change("collect", "garbage", REGISTRY_CONTAINER, detail, self._images.expected())]

    def apply(self, changes: Sequence[Change]) -> None:
        engine = self._host.engine
        container = engine.container(REGISTRY_CONTAINER)
        if container is None:
            raise HostError(f"the container `{REGISTRY_CONTAINER}` is gone", hint=own_command("doctor"))
        _, command = engine.image_start(container.image_id)
        configurations = [word for word in command if word.endswith((".yml", ".yaml"))]
        if not configurations:
            raise HostError(f"the registry image does not say where its configuration is: {command}")
        before = self._size()
        engine.stop_container(container.name)
        try:
            outcome = engine.run(
                container.image_id,
                ["garbage-collect", configurations[-1]],
                name=GARBAGE_CONTAINER,
                labels={LABEL_ROLE: "garbage"},
                environment=container.environment,
                volumes_from=None if self._storage else container.name,
                network=None if self._storage else "none",
                files=self._container.files() if self._storage else None,
                ready=self._check_stopped,
            )
        finally:
            # A container that was made with other settings is left to `doctor`; this starts the one that is there.
            engine.start_container(container.name)
            self._container.wait()
        if outcome.code != 0:
            raise HostError(
                f"`registry garbage-collect` failed (exit code {outcome.code}); nothing that is needed is deleted\n"
                f"{(outcome.stderr.strip() or outcome.stdout.strip())[-2000:]}",
                hint="docker logs registry; then run this again",
            )
        after = self._size()
        self.freed = None if before is None or after is None else max(0, before - after)

    def _check_stopped(self) -> None:
        """Make sure that no install of another user, who has a lock of their own, has started the registry again."""
        container = self._host.engine.container(REGISTRY_CONTAINER)
        if container is not None and container.is_running:
            raise HostError(
                f"the container `{container.name}` was started by somebody else, and garbage is only collected "
                "while it is stopped",
                hint=f"{own_command('prune')}, when nobody else installs",
            )

    def _size(self) -> Optional[int]:
        if self._storage:
            return None
        with contextlib.suppress(HostError):
            if is_directory(self._data):
                return directory_size(self._host.places.seen(Path(self._data)))
            return self._host.engine.volume_size(self._data)
        return None


def _of_others(storage: S3Storage) -> Problem:
    """Return the problem of a bucket: a registry of another host cannot be seen from here, nor stopped.

    What is being pushed through it is not yet referred to, and would be taken for garbage; and what it remembers of
    blobs would no longer be true.
    """
    return Problem(
        f"storage {storage}",
        "registries of other hosts may serve the same bucket, and garbage is only safe to collect while all are "
        "stopped",
        "on each of those hosts: docker stop registry; then here: "
        f"{own_command('prune --others-stopped')}; then there: docker start registry",
    )
