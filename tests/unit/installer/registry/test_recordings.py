"""What `check` says of steps: cached, replayed, changed, missing; and what needs nothing is passed over."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bundles.archive.tape.answer import Tape
from bundles.archive.tape.manifest import CONFIG_TYPE, manifest_of
from bundles.archive.tape.record import MEDIA_TYPE, Recorded, RecordedBuild, RecordedStep
from bundles.dockerfile.steps import steps
from bundles.oci.descriptor import OCI_MANIFEST
from bundles.oci.digest import Digest
from bundles.oci.platform import Platform
from bundles.registry.transport import Transport
from installer.model.replay import Replay, ReplayedTape
from installer.registry.client import Registry
from installer.registry.recordings import Recordings
from tests.support.fake_registry import FakeRegistry
from tests.support.records import PLATFORMS, answer

RECORDED = """\
FROM debian:12 AS build
RUN apt-get update && apt-get install -y gcc
RUN make
FROM debian:12
ADD https://get.corp/tool /tool
RUN pip install --index-url https://pypi.corp/simple six
COPY --from=build /out /
"""
TAPE = Tape([answer("https://get.corp/tool", b"tool"), answer("https://pypi.corp/simple/six/", b"six")])


def judged(recordings: Recordings, text: str, platforms: tuple[Platform, ...] = PLATFORMS) -> list[tuple[object, ...]]:
    found = recordings.verdicts(text, "Dockerfile", steps(text, "Dockerfile", platforms, {}), platforms)
    return [(verdict.line, verdict.outlook.value, verdict.url, verdict.cache) for verdict in found]


@pytest.fixture
def build() -> RecordedBuild:
    found = steps(RECORDED, "Dockerfile", PLATFORMS, {})
    return RecordedBuild(
        "app", "Dockerfile", None, PLATFORMS, tuple(RecordedStep(step.step, step.chain) for step in found)
    )


def test_as_it_was_recorded(build: RecordedBuild) -> None:
    assert judged(Recordings([build], [TAPE]), RECORDED) == [
        (2, "cached", None, "app"),
        (3, "cached", None, "app"),
        (5, "replayed", None, None),
        (6, "cached", None, "app"),
    ]


def test_what_was_changed(build: RecordedBuild) -> None:
    changed = RECORDED.replace("AS build\n", "AS build\nENV NEW=1\n").replace("six\n", "seven\n")
    changed = changed.replace("corp/tool /tool", "corp/other /tool")
    changed += "RUN curl -fsS https://get.corp/tool | sh\nRUN curl https://new.corp/x\nRUN curl $URL\nRUN true\n"
    assert judged(Recordings([build], [TAPE]), changed) == [
        (3, "replayed", None, None),
        (4, "replayed", None, None),
        (6, "missing", "https://get.corp/other", None),
        (7, "changed", None, None),
        (9, "changed", None, None),
        (10, "missing", "https://new.corp/x", None),
        (11, "changed", None, None),
    ]


def test_another_platform_is_not_recorded(build: RecordedBuild) -> None:
    platforms = (*PLATFORMS, Platform("linux", "riscv64"))
    outlooks = [outlook for _, outlook, *_ in judged(Recordings([build], [TAPE]), RECORDED, platforms)]
    assert outlooks == ["changed", "replayed", "changed"]


def test_where_nothing_was_recorded() -> None:
    assert judged(Recordings([], []), RECORDED) == [
        (2, "unrecorded", None, None),
        (5, "unrecorded", "https://get.corp/tool", None),
        (6, "unrecorded", None, None),
    ]


@pytest.mark.parametrize(
    ("run", "asks"),
    [
        ("apk add curl", True),
        ("go mod download", True),
        ("go version", False),
        ("git clone x", True),
        ("git log", False),
        ("./apt-get-like", False),
        ("/usr/bin/npm ci", True),
        ("npm ci", True),
        ("make curl.o", False),
    ],
)
def test_what_seems_to_ask_the_network(run: str, asks: bool) -> None:
    assert bool(judged(Recordings([], []), f"FROM scratch\nRUN {run}\n")) is asks


def test_they_are_read_from_the_registry(
    registry: FakeRegistry, connect: Callable[..., Transport], build: RecordedBuild
) -> None:
    recorded = Recorded("app", "v0.34.2", PLATFORMS, (), (), (build,))
    registry.add(CONFIG_TYPE, TAPE.to_bytes())
    registry.add(MEDIA_TYPE, recorded.to_bytes())
    for each, body in zip(TAPE, (b"tool", b"six")):
        assert each.content
        registry.add(each.content.media_type, body)
    root = registry.tag("offline-bundle/tape", "app", registry.add(OCI_MANIFEST, manifest_of(TAPE, recorded)))
    gone = Digest.of(b"pruned")
    replay = Replay(5080, (ReplayedTape("app", (root.digest,)), ReplayedTape("old", (gone,))))
    found = Recordings.read(replay, Registry(connect(), registry.host))
    assert judged(found, RECORDED)[0] == (2, "cached", None, "app")
