"""What `check` says to bundle of what is missing."""

from __future__ import annotations

from bundles.dockerfile.images import Use
from bundles.oci.platform import Platform
from bundles.oci.reference import Reference
from installer.commands.check import Availability, bundle_lines

AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64")


def answer(name: str, platform: Platform, missing: bool = True) -> Availability:
    return Availability(Use(Reference.parse(name), platform, "Dockerfile:1", "FROM"), "gone" if missing else None)


def test_images_are_asked_for_with_the_platforms_that_they_are_used_for() -> None:
    answers = [
        answer("two:1", AMD64),
        answer("two:1", ARM64, missing=False),
        answer("one:1", AMD64),
        answer("one:1", AMD64),
        answer("there:1", ARM64, missing=False),
    ]
    assert bundle_lines(answers, [AMD64, ARM64]) == [
        'platforms = ["linux/amd64", "linux/arm64"]',
        'images = ["two:1", { image = "one:1", platforms = ["linux/amd64"] }]',
    ]
    assert bundle_lines([answer("there:1", AMD64, missing=False)], [AMD64]) == []
