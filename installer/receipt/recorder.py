"""Writing the receipt while a run changes the host, so that whatever it is killed in is known to the next one."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Optional

from bundles.oci.digest import Digest
from installer.host.files import lock, missing_directories
from installer.host.host import Host
from installer.host.labels import REPLAY_CONTAINER
from installer.model.cluster import CLUSTER_BUILDER
from installer.model.job import DesiredState, Job
from installer.model.selection import Place, left_out, places
from installer.model.step import Change, Step, StepResult
from installer.model.tool import Tool
from installer.receipt.ledger import note_digests, note_interrupted, remember
from installer.receipt.receipt import BundleName, Elsewhere, InstalledImage, PushedName, Receipt, ReplacedTag


class Recorder:
    """Lists in a receipt what steps make, before they make it. `receipt` is what it has come to."""

    def __init__(self, receipt: Receipt, host: Host) -> None:
        self.receipt, self._host = receipt, host
        # The lock makes them too: what is missing is seen before.
        self._own_directories = missing_directories(host.places.state)

    def begin(self, step: Step, changes: Sequence[Change]) -> None:
        """Keep in mind on the host, whatever happens, what is about to be made."""
        self._save(made=remember(self.receipt.made, self._own_directories, changes, self._host.places))

    def end(self, result: StepResult) -> None:
        """Note of the files that a step wrote what they are."""
        if result.changes:
            self._save(made=note_digests(self.receipt.made, result.changes))

    def _replace(self, **values: Any) -> None:
        self.receipt = dataclasses.replace(self.receipt, **values)

    def _save(self, **values: Any) -> None:
        self._replace(**values)
        self.receipt.save(self._host.places)


class InstallRecorder(Recorder):
    """Writes the receipt of an installation, which carries on what earlier ones made.

    with recorder.locked():
        ...
        receipt = recorder.finish(results, rebuilt)
    """

    def __init__(self, job: Job, host: Host) -> None:
        super().__init__(_receipt(job, host), host)
        self._job = job
        self._was_finished = False
        self.had_replay = False
        """Whether the installation before had a replay service."""
        # Those of the installation before.
        self._tools: tuple[Tool, ...] = ()
        self._carry_on()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other runs from writing a receipt; until the lock is held, one may have written a new one."""
        with lock(self._host.places.state / "lock"):
            self._carry_on()
            yield

    def _carry_on(self) -> None:
        # The host itself is what counts, where the receipt cannot be read.
        before = Receipt.known(self._host.places)
        if before is not None:
            here, elsewhere = self._told_apart(before)
            self._replace(
                test=before.test,
                made=before.made,
                brought=self._inherited(dataclasses.replace(before, brought=here.brought)),
                replaced=here.replaced,
                elsewhere=elsewhere,
                garbage=before.garbage,
                # What is to go from a cluster is there until a step has taken it away.
                state=dataclasses.replace(self._job, cluster=self._job.cluster or before.state.cluster),
            )
            self._was_finished = before.finished is not None
            self._tools = tuple(before.state.tools.values())
            self.had_replay = before.state.replay is not None or REPLAY_CONTAINER in before.names_made("container")

    def _told_apart(self, before: Receipt) -> tuple[Elsewhere, tuple[Elsewhere, ...]]:
        """Return what was brought to the registry of this job, and what to others."""
        was, name = _registry(before.state), _registry(self._job)
        known = {each.registry: each for each in (*before.elsewhere, Elsewhere(was, before.brought, before.replaced))}
        here = known.pop(name, Elsewhere(name))
        return here, tuple(each for each in known.values() if each.brought or each.replaced)

    def _inherited(self, before: Receipt) -> tuple[PushedName, ...]:
        """Return what was brought, under the name of the bundle that it is of from now on.

        An upgrade takes the place of what is installed, whatever both are called. And what another bundle brought is
        this one's too, where it lists the same: neither may lose it when the other is pruned.
        """
        name, brought = self.receipt.bundle.name, before.brought
        if _data(before.state) != _data(self._job):
            # Under these names another registry has nothing, or something else.
            brought = tuple(dataclasses.replace(entry, role="") for entry in brought)
        if self._job.options.succeeds:
            brought = tuple(
                dataclasses.replace(entry, bundle=name) if entry.bundle == before.bundle.name else entry
                for entry in brought
            )
        listed = {
            (place.repository, place.image.tag, place.image.root.digest): _role(place)
            for place in places(self._job.images)
        }
        shared = {
            dataclasses.replace(entry, bundle=name, role=listed[entry.repository, entry.tag, entry.digest]): None
            for entry in brought
            if (entry.repository, entry.tag, entry.digest) in listed
        }
        return (*(entry for entry in brought if entry not in shared), *shared)

    def note_test(self, state: Optional[str]) -> None:
        """Record the state for which the test build passed; None, as whatever changes the host leaves it unproven."""
        self._replace(test=state)

    def begin(self, step: Step, changes: Sequence[Change]) -> None:
        """Keep in mind on the host also what is about to be pushed, and that builds are unproven."""
        self.note_test(None)
        pushed = {change.name: change.replaces for change in changes if change.kind in ("tag", "digest")}
        found = {place: place.image.root.digest for place in places(self._job.images) if place.name in pushed}
        self._note_replaced({place: Digest(old) for place in found if (old := pushed[place.name])})
        self._bring(found)
        super().begin(step, [change for change in changes if not self._is_of_others(change)])

    def _is_of_others(self, change: Change) -> bool:
        """Tell whether an image that loses its name in Docker is none that installing has loaded."""
        known = any(tool.is_image(change.name) for tool in self._tools)
        return change.action == "supersede" and not known and change.name not in self.receipt.names_made("image")

    def has_pushed(self, place: Place, digest: Digest) -> bool:
        """Tell whether installing pushed that digest to that place, so that it may move the tag."""
        return self.receipt.has_brought(place.repository, place.image.tag, digest)

    def _note_replaced(self, found: Mapping[Place, Digest]) -> None:
        new = [
            ReplacedTag(place.repository, str(place.image.tag), old, place.image.root.digest)
            for place, old in found.items()
        ]
        self._replace(replaced=tuple(dict.fromkeys((*self.receipt.replaced, *new))))

    def end(self, result: StepResult) -> None:
        """Record also what a step did, or that all of it was there."""
        receipt = self.receipt
        self._replace(steps=(*receipt.steps, result), notes=(*receipt.notes, *result.notes))
        super().end(result)
        if result.step == CLUSTER_BUILDER and receipt.state.cluster != self._job.cluster:
            self._save(state=self._job)

    def finish(self, results: Sequence[StepResult], rebuilt: Mapping[Place, Digest]) -> Receipt:
        """Record that everything is done, and return the receipt.

        Args:
            results: what each step did, in the order of the steps; they may have ended in another.
            rebuilt: the places that serve another index than the origin's, and its digest.
        """
        names = {f"{self._job.destination.host}/{place.name}": digest for place, digest in rebuilt.items()}
        if not (self._job.site and self._job.site.joined):
            self._bring(rebuilt)
        self._replace(
            steps=tuple(results),
            notes=tuple(note for result in results for note in result.notes),
            images=tuple(
                dataclasses.replace(image, rebuilt={name: names[name] for name in image.names if name in names})
                for image in self.receipt.images
            ),
            made=note_interrupted(self.receipt.made),
            finished=datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0),
        )
        # Else the one on the host does: nothing was changed since the run that ended with it.
        if self.receipt.changed or not self._was_finished:
            self._save()
        return self.receipt

    def _bring(self, digests: Mapping[Place, Digest]) -> None:
        name = self.receipt.bundle.name
        new = {
            PushedName(place.repository, place.image.tag, digest, name, _role(place)): None
            for place, digest in digests.items()
        }
        # What was brought last is last, also when it was there before.
        self._replace(brought=(*(entry for entry in self.receipt.brought if entry not in new), *new))


def _registry(state: DesiredState) -> str:
    """Return what tells the registries apart that a host may use one after the other."""
    return state.site.host if state.site else ""


def _data(state: DesiredState) -> tuple[object, ...]:
    """Return what tells apart where images are; two storages may have a bucket of the same name."""
    return state.data, state.site, state.storage and state.storage.endpoint


def _role(place: Place) -> str:
    """Return what a place is to builds beside being an image."""
    role = place.image.image.role
    return role if role in ("tape", "cache") else ""


def _receipt(job: Job, host: Host) -> Receipt:
    return Receipt(
        bundle=BundleName(job.archive.manifest.name, str(job.archive.digest), str(job.archive.path.absolute())),
        state=job,
        chosen=job.options.platforms,
        direct=job.options.direct,
        no_replay=not job.options.replay,
        config=str(host.places.buildkitd_config(job.builder)),
        images=tuple(
            InstalledImage(str(item.image.reference), item.image.role, item.root.digest, item.platforms, item.names)
            for item in job.images
        ),
        left_out=tuple(str(image.reference) for image in left_out(job.archive, job.images)),
    )
