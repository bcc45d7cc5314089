"""record.json: what is written is read again, what is not of it is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bundles.archive.tape.record import Recorded, RecordedBuild, RecordedImage, RecordedStep
from bundles.errors import UsageError
from bundles.oci.digest import Digest
from bundles.oci.platform import Platform
from bundles.oci.reference import Reference

AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64")
STEP, CHAIN, IMAGE = (Digest("sha256:" + letter * 64) for letter in "abc")
RECORDED = Recorded(
    "team",
    "v0.34.2",
    (AMD64, ARM64),
    (RecordedImage(Reference.parse("debian:12"), IMAGE, (AMD64,)),),
    ("a note",),
    (
        RecordedBuild("api", "Dockerfile", None, (AMD64,), (RecordedStep(STEP, CHAIN),)),
        RecordedBuild("web", "web.Dockerfile", "final", (AMD64, ARM64)),
    ),
)


def test_what_is_written_is_read() -> None:
    value = json.loads(RECORDED.to_bytes())
    assert value["builds"] == [
        {
            "name": "api",
            "dockerfile": "Dockerfile",
            "target": None,
            "platforms": ["linux/amd64"],
            "steps": [{"step": str(STEP), "chain": str(CHAIN)}],
        },
        {
            "name": "web",
            "dockerfile": "web.Dockerfile",
            "target": "final",
            "platforms": ["linux/amd64", "linux/arm64"],
            "steps": [],
        },
    ]
    assert Recorded.parse(RECORDED.to_bytes()) == RECORDED
    assert [build.cache for build in RECORDED.builds] == ["cache-api", "cache-web"]


def test_a_record_from_before_has_no_builds() -> None:
    value = RECORDED.to_json()
    del value["builds"]
    assert Recorded.parse(json.dumps(value).encode()).builds == ()


@pytest.mark.parametrize(
    "change",
    [
        {"builds": [{}]},
        {"builds": [[]]},
        {"builds": 3},
        {"builds": [{**RECORDED.builds[0].to_json(), "name": "../x"}]},
        {"builds": [{**RECORDED.builds[0].to_json(), "steps": [{"step": "sha256:x", "chain": str(CHAIN)}]}]},
        {"builds": [{**RECORDED.builds[0].to_json(), "dockerfile": "\x1b[2J"}]},
        {"builds": [{**RECORDED.builds[0].to_json(), "target": 3}]},
        {"builds": [RECORDED.builds[0].to_json()] * 2},
        {"version": 2},
    ],
)
def test_what_is_not_of_a_record_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"record\.json|bundle name|digest"):
        Recorded.parse(json.dumps({**RECORDED.to_json(), **change}).encode())
