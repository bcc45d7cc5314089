"""What of a build was recorded, as the registry has it: which of its steps, and which addresses."""

from __future__ import annotations

import dataclasses
import enum
import re
from collections.abc import Iterator, Sequence
from typing import Optional

from bundles.archive.tape.answer import Tape
from bundles.archive.tape.manifest import record_of
from bundles.archive.tape.record import Recorded, RecordedBuild
from bundles.dockerfile.parser import parse
from bundles.dockerfile.steps import Step
from bundles.errors import ArchiveError, ContentError, NotFoundError, UsageError
from bundles.oci.image import parse_manifest
from bundles.oci.platform import Platform
from installer.model.replay import Replay
from installer.registry.client import Registry
from installer.replay.settings import TAPES

# What mostly asks the network for something. Others may, and then 404 says so when they are built.
_FETCHES = re.compile(
    r"(?:^|[\s;&|(])(?:\S*/)?(?:apt|apt-get|apk|dnf|yum|microdnf|zypper|pacman|pip3?|pipx|uv|poetry|conda|mamba|npm|npx|yarn|pnpm|"
    r"gem|bundle|cargo|go (?:get|install|mod)|mvn|gradle|composer|dotnet|curl|wget|git (?:clone|fetch|pull|submodule))"
    r"(?=$|[\s;&|)])"
)
_ADDRESS = re.compile(r"https?://[^\s\"'`<>|;&(){}\\,]+")


class Outlook(enum.Enum):
    """What becomes of a step. The value is what programs read."""

    CACHED = "cached"
    REPLAYED = "replayed"
    CHANGED = "changed"
    UNRECORDED = "unrecorded"
    MISSING = "missing"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What becomes of one step: `line` of the Dockerfile, its `text`, and for people the reason.

    `url` is the address that is not there. `cache` names the build whose cache has the step.
    """

    line: int
    text: str
    outlook: Outlook
    url: Optional[str] = None
    cache: Optional[str] = None


class Recordings:
    """The tapes that are replayed on a host, and what they were recorded of."""

    def __init__(self, builds: Sequence[RecordedBuild], tapes: Sequence[Tape]) -> None:
        self._builds, self._tapes = builds, tapes

    @classmethod
    def read(cls, replay: Optional[Replay], registry: Registry) -> Recordings:
        """Read them from the registry; what is not there any more is passed over, as the service does it.

        Raises:
            NetworkError: the registry failed.
        """
        builds: list[RecordedBuild] = []
        tapes = []
        for digest in (digest for tape in (replay.tapes if replay else ()) for digest in tape.manifests):
            try:
                manifest = parse_manifest(registry.get_manifest(TAPES, str(digest))[1])
                tapes.append(Tape.parse(registry.read_config(TAPES, manifest.config)))
                record = record_of(manifest)
                builds += Recorded.parse(registry.read_config(TAPES, record)).builds if record else ()
            except (NotFoundError, ContentError, ArchiveError, UsageError):
                continue
        return cls(builds, tapes)

    def verdicts(self, text: str, name: str, steps: Sequence[Step], platforms: Sequence[Platform]) -> list[Verdict]:
        """Judge what of a Dockerfile asks the network, or was recorded; what else there is needs nothing.

        Args:
            text: the Dockerfile.
            name: what messages call it.
            steps: its RUN instructions.
            platforms: that are built for.

        Raises:
            UsageError: it is no Dockerfile.
        """
        found = [*self._additions(text, name), *filter(None, (self._step(step, platforms) for step in steps))]
        return sorted(found, key=lambda verdict: verdict.line)

    def _step(self, step: Step, platforms: Sequence[Platform]) -> Optional[Verdict]:
        builds = [build for build in self._builds if set(platforms) <= set(build.platforms)]
        for build in builds:
            if any(recorded.chain == step.chain for recorded in build.steps):
                return Verdict(step.line, step.text, Outlook.CACHED, cache=build.name)
        if any(recorded.step == step.step for build in builds for recorded in build.steps):
            return Verdict(step.line, step.text, Outlook.REPLAYED)
        for url in _ADDRESS.findall(step.text):
            # What only begins what was asked for is an index, a mirror, a registry.
            if "$" not in url and self._tapes and not self._has(url, begins=True):
                return Verdict(step.line, step.text, Outlook.MISSING, url=url)
        if not _FETCHES.search(step.text) and not _ADDRESS.search(step.text):
            return None
        return Verdict(step.line, step.text, Outlook.CHANGED if self._tapes else Outlook.UNRECORDED)

    def _additions(self, text: str, name: str) -> Iterator[Verdict]:
        """Judge ADD of addresses."""
        instructions, _ = parse(text[1:] if text.startswith("\ufeff") else text, name)
        for item in instructions:
            for word in item.rest.split() if item.keyword == "ADD" else ():
                if _ADDRESS.fullmatch(word) and "$" not in word:
                    there = self._has(word, begins=False)
                    state = Outlook.REPLAYED if there else Outlook.MISSING if self._tapes else Outlook.UNRECORDED
                    yield Verdict(item.line, f"ADD {item.rest}", state, url=None if there else word)

    def _has(self, url: str, *, begins: bool) -> bool:
        try:
            if any(tape.find("GET", url, {}) for tape in self._tapes):
                return True
        except UsageError:
            return False
        return begins and any(answer.url.startswith(url) for tape in self._tapes for answer in tape)
