"""What of a build was recorded, as the registry has it: which of its steps, and which addresses."""

from __future__ import annotations

import dataclasses
import enum
import re
from collections.abc import Sequence
from typing import Optional

from bundles.archive.tape.answer import Tape
from bundles.archive.tape.manifest import record_of
from bundles.archive.tape.record import Recorded, RecordedBuild
from bundles.dockerfile.steps import Step
from bundles.errors import ArchiveError, ContentError, NotFoundError, UsageError
from bundles.oci.image import parse_manifest
from bundles.oci.platform import Platform
from installer.model.job import DesiredState
from installer.model.replay import tape_repository
from installer.registry.client import Registry

# What mostly asks the network for something. Others may, and then 404 says so when they are built.
_FETCHES = re.compile(
    r"(?:^|[\s;&|(])(?:\S*/)?(?:apt|apt-get|apk|dnf|yum|microdnf|zypper|pacman|pip3?|pipx|uv|poetry|conda|mamba|npm|npx|"
    r"yarn|pnpm|gem|bundle|cargo|go (?:get|install|mod)|mvn|gradle|composer|dotnet|curl|wget|"
    r"git (?:clone|fetch|pull|submodule))(?=$|[\s;&|)])"
)
_ADDRESS = re.compile(r"https?://[^\s<>|;(){}\\,]+")
# What stands around words in JSON and in quotes.
_QUOTES = str.maketrans(dict.fromkeys("\"'`[]", " "))


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

    `url` is the address that is not there. `cache` is the name of the cache that has the step.
    """

    line: int
    text: str
    outlook: Outlook
    url: Optional[str] = None
    cache: Optional[str] = None


@dataclasses.dataclass(frozen=True)
class KnownBuild:
    """A recorded build, the name of its cache, and whether there is anything to replay."""

    build: RecordedBuild
    cache: str
    replays: bool = True


class Recordings:
    """The tapes that are replayed on a host, and what they were recorded of."""

    def __init__(self, builds: Sequence[KnownBuild], tapes: Sequence[Tape]) -> None:
        self._builds, self._tapes = builds, tapes

    @classmethod
    def read(cls, state: DesiredState, registry: Registry) -> Recordings:
        """Read them from the registry; what is not there any more is passed over, as the service does it.

        Raises:
            NetworkError: the registry failed.
        """
        builds: list[KnownBuild] = []
        tapes = []
        repository = tape_repository(state.destination)
        for digest in (digest for tape in (state.replay.tapes if state.replay else ()) for digest in tape.manifests):
            try:
                manifest = parse_manifest(registry.get_manifest(repository, str(digest))[1])
                tape = Tape.parse(registry.read_config(repository, manifest.config))
                record = record_of(manifest)
                recorded = Recorded.parse(registry.read_config(repository, record)) if record else None
            except (NotFoundError, ContentError, ArchiveError, UsageError):
                continue
            tapes += [tape] if len(tape) else []
            if recorded:
                builds += [KnownBuild(build, recorded.cache_of(build.name), len(tape) > 0) for build in recorded.builds]
        return cls(builds, tapes)

    def verdicts(self, steps: Sequence[Step], platforms: Sequence[Platform]) -> list[Verdict]:
        """Judge what of a build was recorded, or asks the network; what else there is needs nothing.

        Args:
            steps: those of the Dockerfile.
            platforms: that are built for.
        """
        return [verdict for step in steps if (verdict := self._judge(step, platforms))]

    def _judge(self, step: Step, platforms: Sequence[Platform]) -> Optional[Verdict]:
        text = f"{step.keyword} {step.text}"
        known = [build for build in self._builds if set(platforms) <= set(build.build.platforms)]
        for build in known:
            if any(recorded.chain == step.chain for recorded in build.build.steps):
                return Verdict(step.line, text, Outlook.CACHED, cache=build.cache)
        words = "\n".join([step.text, *step.heredocs]).translate(_QUOTES)
        urls = _ADDRESS.findall(words)
        if step.keyword == "RUN" and not _FETCHES.search(words):
            return None
        if any(recorded.step == step.step for build in known if build.replays for recorded in build.build.steps):
            return Verdict(step.line, text, Outlook.REPLAYED)
        if not self._tapes:
            return Verdict(step.line, text, Outlook.UNRECORDED)
        for url in (url for url in urls if "$" not in url):
            # In a RUN, what only begins what was asked for is an index, a mirror, a registry.
            if not self._has(url, begins=step.keyword == "RUN"):
                return Verdict(step.line, text, Outlook.MISSING, url=url)
        is_there = step.keyword == "ADD" and urls and not any("$" in url for url in urls)
        return Verdict(step.line, text, Outlook.REPLAYED if is_there else Outlook.CHANGED)

    def _has(self, url: str, *, begins: bool) -> bool:
        try:
            found = [tape.find("GET", url, {}) for tape in self._tapes]
        except UsageError:
            return False
        if any(answer and answer.status < 400 for answer in found):
            return True
        return begins and any(answer.url.startswith(url) for tape in self._tapes for answer in tape)
