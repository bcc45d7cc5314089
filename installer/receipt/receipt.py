"""What an installation did, printed at its end and kept on the host: later commands go by it.

The document (`--json`, and receipt.json in the user's state directory) has these keys:

    bundle     name, digest, archive: what was installed
    registry   address, container, image, digest, data: where it is, and the volume or directory that holds its data
    host       the platform of the host
    tools      role to reference, root (digest), manifest and config (descriptors), name: toolchain images in Docker
    mirrors    registry that images come from to its mirror
    builder    name, image, platforms, chosen (those of --platform), and config, the path of its buildkitd.toml
    images     for each: reference, role, digest, platforms, names (what `docker pull` takes), and rebuilt, which maps
               those names that serve another index than the origin's to its digest
    leftOut    references that have none of the platforms asked for
    steps      for each: step, changed, and changes (action, kind, name, detail, size in bytes or null)
    notes      what a person should know
    changed    whether anything was
    test       names the state for which the test build passed, or null
    made       everything that installing ever made on this host and that is not under another heading: kind, name, and
               for a file its digest, as it was written, and `writing` until the step that writes it has ended
    brought    every tag and digest that installing ever pushed and that was not removed since: repository, tag or null,
               digest
    garbage    whether `prune` was interrupted before the registry had collected what nothing refers to
    finished   when, in UTC; null when it did not end well
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any, Optional

from bundles.errors import HostError
from bundles.oci.digest import Digest
from installer.host.files import missing_directories, read_json_file, write_atomically
from installer.host.host import Host
from installer.host.labels import REGISTRY_CONTAINER
from installer.model.job import Job
from installer.model.selection import Place, left_out, places
from installer.model.step import Change, Step
from installer.receipt.ledger import note_digests, note_interrupted, remember


class Receipt:
    """The receipt of one run, which carries on what earlier ones made.

    `test` names the state for which the test build passed; every change before it voids it.
    """

    def __init__(self, job: Job, host: Host) -> None:
        self._job, self._host = job, host
        # The lock makes them too: what is missing is seen before.
        self._own_directories = missing_directories(host.places.state)
        self._steps: list[dict[str, Any]] = []
        self._notes: list[str] = []
        self._rebuilt: dict[str, str] = {}
        self._finished: Optional[str] = None
        self.read()

    def read(self) -> None:
        """Carry on what the receipt on the host says. To be called again once the lock is held: until then another run
        may have written a new one."""
        try:
            before = read_json_file(self._host.places.receipt) or {}
        except HostError:
            # A receipt that cannot be read is written anew; the host itself is what counts.
            before = {}
        test, made, brought = before.get("test"), before.get("made"), before.get("brought")
        self.test: Optional[str] = test if isinstance(test, str) else None
        self._made: list[dict[str, Any]] = list(made) if isinstance(made, list) else []
        self._brought: list[dict[str, Any]] = list(brought) if isinstance(brought, list) else []
        self._garbage = before.get("garbage") is True
        self._was_finished = isinstance(before.get("finished"), str)

    @property
    def changed(self) -> bool:
        return any(step["changed"] for step in self._steps)

    @property
    def is_due(self) -> bool:
        """Whether the one on the host does not do: something was changed, or it is of a run that did not end."""
        return self.changed or not self._was_finished

    @property
    def notes(self) -> Sequence[str]:
        return self._notes

    def begin(self, changes: Sequence[Change]) -> None:
        """Keep in mind on the host, whatever happens, what is about to be made, and that builds are unproven."""
        self.test = None
        remember(self._made, self._own_directories, changes, self._host)
        pushed = {change.name for change in changes if change.kind in ("tag", "digest")}
        self._bring({place: str(place.image.root.digest) for place in places(self._job.images) if place.name in pushed})
        self.save()

    def end(self, step: Step, changes: Sequence[Change]) -> None:
        """Record what a step did, or with no changes that all of it was there."""
        self._steps.append(
            {"step": step.name, "changed": bool(changes), "changes": [change.to_json() for change in changes]}
        )
        self._notes += step.notes()
        if changes:
            note_digests(self._made, changes)
            self.save()

    def finish(self, rebuilt: Mapping[Place, Digest]) -> None:
        """Everything is done. `rebuilt` has the places that serve another index than the origin's, and its digest."""
        self._rebuilt = {f"{self._job.address}/{place.name}": str(digest) for place, digest in rebuilt.items()}
        self._bring({place: str(digest) for place, digest in rebuilt.items()})
        note_interrupted(self._made)
        self._finished = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")

    def _bring(self, digests: Mapping[Place, str]) -> None:
        for place, digest in digests.items():
            entry = {"repository": place.repository, "tag": place.image.tag, "digest": digest}
            if entry not in self._brought:
                self._brought.append(entry)

    def save(self) -> None:
        """Keep it on the host, readable for the user only."""
        data = (json.dumps(self.document(), indent=2) + "\n").encode()
        write_atomically(self._host.places.receipt, [data], 0o600)

    def document(self) -> dict[str, Any]:
        """The receipt as the object described above."""
        job = self._job
        registry, buildkit = job.tool("registry"), job.tool("buildkit")
        tools = {role: tool.to_json() for role, tool in job.tools.items()}
        return {
            "bundle": {
                "name": job.archive.manifest.name,
                "digest": str(job.archive.digest),
                "archive": str(job.archive.path.absolute()),
            },
            "registry": {
                "address": str(job.address),
                "container": REGISTRY_CONTAINER,
                "image": registry and str(registry.reference),
                "digest": registry and str(registry.root),
                "data": job.data,
            },
            "builder": {
                "name": job.builder,
                "image": buildkit and buildkit.name,
                "platforms": [str(platform) for platform in job.platforms],
                "chosen": [str(platform) for platform in job.options.platforms],
                "config": str(self._host.places.buildkitd_config(job.builder)),
            },
            "host": str(job.host_platform),
            "tools": tools,
            "mirrors": dict(job.mirrors),
            "images": [
                {
                    "reference": str(item.image.reference),
                    "role": item.image.role,
                    "digest": str(item.root.digest),
                    "platforms": [str(platform) for platform in item.platforms],
                    "names": list(item.names),
                    "rebuilt": {name: self._rebuilt[name] for name in item.names if name in self._rebuilt},
                }
                for item in job.images
            ],
            "leftOut": [str(image.reference) for image in left_out(job.archive, job.images)],
            "steps": self._steps,
            "notes": self._notes,
            "changed": self.changed,
            "test": self.test,
            "made": self._made,
            "brought": self._brought,
            "garbage": self._garbage,
            "finished": self._finished,
        }
