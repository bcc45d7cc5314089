"""What `check` says of steps: cached, replayed, changed, missing; and what needs nothing is passed over."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Optional

import pytest

from bundles.archive.tape.answer import Answer, Tape
from bundles.archive.tape.manifest import CONFIG_TYPE, manifest_of
from bundles.archive.tape.record import MEDIA_TYPE, Recorded, RecordedBuild, RecordedStep
from bundles.dockerfile.steps import steps
from bundles.oci.descriptor import OCI_MANIFEST
from bundles.oci.digest import Digest
from bundles.oci.platform import Platform
from bundles.registry.transport import Transport
from installer.model.registry.address import Address
from installer.model.registry.destination import Destination
from installer.model.replay import Replay, ReplayedTape
from installer.registry.client import Registry
from installer.registry.recordings import KnownBuild, Recordings
from tests.support.fake_registry import FakeRegistry
from tests.support.records import PLATFORMS, answer
from tests.support.states import desired

RECORDED = """\
FROM debian:12 AS build
RUN apt-get update && apt-get install -y gcc
RUN make
FROM debian:12
ADD https://get.corp/tool /tool
RUN pip install --index-url https://pypi.corp/simple six
COPY --from=build /out /
"""
CACHE = "app"
TAPE = Tape([answer("https://get.corp/tool", b"tool"), answer("https://pypi.corp/simple/six/", b"six")])


def judged(recordings: Recordings, text: str, platforms: tuple[Platform, ...] = PLATFORMS) -> list[tuple[object, ...]]:
    found = recordings.verdicts(steps(text, "Dockerfile", platforms, {}), platforms)
    return [(verdict.line, verdict.outlook.value, verdict.url, verdict.cache) for verdict in found]


@pytest.fixture
def build() -> KnownBuild:
    found = tuple(RecordedStep(step.step, step.chain) for step in steps(RECORDED, "Dockerfile", PLATFORMS, {}))
    return KnownBuild(RecordedBuild("app", "Dockerfile", None, PLATFORMS, found), CACHE)


def test_as_it_was_recorded(build: KnownBuild) -> None:
    assert judged(Recordings([build], [TAPE]), RECORDED) == [
        (2, "cached", None, CACHE),
        (3, "cached", None, CACHE),
        (5, "cached", None, CACHE),
        (6, "cached", None, CACHE),
    ]


def test_what_was_changed(build: KnownBuild) -> None:
    changed = RECORDED.replace("AS build\n", "AS build\nENV NEW=1\n").replace("six\n", "seven\n")
    changed = changed.replace("corp/tool /tool", "corp/other /tool")
    changed += "RUN curl -fsS https://get.corp/tool | sh\nRUN curl https://new.corp/x\nRUN curl $URL\nRUN true\n"
    assert judged(Recordings([build], [TAPE]), changed) == [
        (3, "replayed", None, None),
        (6, "missing", "https://get.corp/other", None),
        (7, "changed", None, None),
        (9, "changed", None, None),
        (10, "missing", "https://new.corp/x", None),
        (11, "changed", None, None),
    ]


def test_another_platform_is_not_recorded(build: KnownBuild) -> None:
    platforms = (*PLATFORMS, Platform("linux", "riscv64"))
    outlooks = [outlook for _, outlook, *_ in judged(Recordings([build], [TAPE]), RECORDED, platforms)]
    assert outlooks == ["changed", "replayed", "changed"]


def test_where_nothing_was_recorded() -> None:
    assert judged(Recordings([], []), RECORDED) == [
        (2, "unrecorded", None, None),
        (5, "unrecorded", None, None),
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
        ('["apt-get", "update"]', True),
        ('bash -c "apt-get update"', True),
        ("<<EOF\ncurl https://x.corp/\nEOF", True),
        ('echo "docs: https://docs.example/"', False),
        ("curl -o x https://h.corp/a?x=1&y=2", True),
    ],
)
def test_what_seems_to_ask_the_network(run: str, asks: bool) -> None:
    assert bool(judged(Recordings([], []), f"FROM scratch\nRUN {run}\n")) is asks


@pytest.mark.parametrize(
    ("add", "outlook"),
    [
        ("https://get.corp/tool /a", "replayed"),
        ('["https://get.corp/tool", "/a"]', "replayed"),
        ('"https://get.corp/tool" /a', "replayed"),
        ("--checksum=sha256:0 https://get.corp/tool /a", "replayed"),
        ("https://get.corp/tool?x=1&y=2 /a", "missing"),
        ("https://get.corp/ /a", "missing"),
        ("https://get.corp/gone /a", "missing"),
        ("https://get.corp/$VERSION /a", "changed"),
    ],
)
def test_what_is_added(add: str, outlook: str) -> None:
    tape = Tape([*TAPE, Answer("GET", "https://get.corp/gone", 404)])
    assert [found[1] for found in judged(Recordings([], [tape]), f"FROM scratch\nADD {add}\n")] == [outlook]
    unneeded = f"FROM scratch\nADD {add}\nFROM scratch\n"
    assert judged(Recordings([], [tape]), unneeded) == []


def test_a_record_of_the_cache_alone_replays_nothing(build: KnownBuild) -> None:
    alone = dataclasses.replace(build, replays=False)
    changed = RECORDED.replace("AS build\n", "AS build\nENV NEW=1\n")
    assert judged(Recordings([alone], []), changed)[0] == (3, "unrecorded", None, None)


@pytest.mark.parametrize(
    ("site", "repository"),
    [
        (None, "offline-bundle/tape"),
        (("team/a", False), "team/a/offline-bundle/tape"),
        (("team", True), "team/offline-bundle_tape"),
    ],
)
def test_they_are_read_from_the_registry(
    registry: FakeRegistry,
    connect: Callable[..., Transport],
    build: KnownBuild,
    site: Optional[tuple[str, bool]],
    repository: str,
) -> None:
    recorded = Recorded("app", "v0.34.2", PLATFORMS, (), (), (build.build,))
    registry.add(CONFIG_TYPE, TAPE.to_bytes())
    registry.add(MEDIA_TYPE, recorded.to_bytes())
    for each, body in zip(TAPE, (b"tool", b"six")):
        assert each.content
        registry.add(each.content.media_type, body)
    root = registry.tag(repository, "app", registry.add(OCI_MANIFEST, manifest_of(TAPE, recorded)))
    gone = Digest.of(b"pruned")
    replay = Replay(5080, (ReplayedTape("app", (root.digest,)), ReplayedTape("old", (gone,))))
    address, destination = Address.parse(registry.host), Destination(registry.host, *site) if site else None
    state = desired(address, data="v", host_platform=PLATFORMS[0], platforms=PLATFORMS, replay=replay, site=destination)
    found = Recordings.read(state, Registry(connect(), registry.host))
    assert judged(found, RECORDED)[0] == (2, "cached", None, CACHE)
