"""An image by any of its names; a mistyped one is answered with those that come near."""

from __future__ import annotations

from pathlib import Path

import pytest

from bundles.archive.manifest import BundleManifest
from bundles.archive.reader import Archive
from bundles.cli.image_argument import find_images
from bundles.errors import UsageError
from bundles.oci.reference import Reference
from tests.support.archives import image, made

NAMES = ("debian:12", "debian:bookworm", "ghcr.io/team/gcc:12", "busybox:1")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> BundleManifest:
    """Two names for one image, and two others."""
    seeds = {"debian:12": (1,), "debian:bookworm": (1,), "ghcr.io/team/gcc:12": (2,), "busybox:1": (3,)}
    sample = made(*(image(name, seeds=seeds[name]) for name in NAMES))
    path: Path = sample.write(tmp_path_factory.mktemp("archive") / "offline.tar").path
    with Archive(path) as archive:
        return archive.manifest


def found(manifest: BundleManifest, *names: str) -> list[str]:
    return [each.reference.familiar for each in find_images(manifest, names, "look")]


def test_every_name_that_is_shown_is_one(manifest: BundleManifest) -> None:
    digest = {each.reference.familiar: each.root.digest for each in manifest.images}
    assert digest["debian:12"] == digest["debian:bookworm"]
    for name in ("debian:12", "docker.io/library/debian:12", "library/debian:12", f"debian:12@{digest['debian:12']}"):
        assert found(manifest, name) == ["debian:12"]
    gcc = digest["ghcr.io/team/gcc:12"]
    for name in ("ghcr.io/team/gcc:12", f"ghcr.io/team/gcc@{gcc}", str(gcc)):
        assert found(manifest, name) == ["ghcr.io/team/gcc:12"]
    assert found(manifest, "busybox:1", "debian:12", "library/busybox:1") == ["busybox:1", "debian:12"]


def test_an_exact_name_is_before_others_of_its_digest(tmp_path: Path, manifest: BundleManifest) -> None:
    root = manifest.images[0].root
    sample = made(image("debian:12", seeds=(1,)), image(f"debian@{root.digest}", seeds=(1,)))
    with Archive(sample.write(tmp_path / "a.tar").path) as archive:
        assert found(archive.manifest, f"debian@{root.digest}") == [f"debian@{root.digest}"]
        with pytest.raises(UsageError, match="it is several"):
            found(archive.manifest, str(root.digest))


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("debian:13", "did you mean `debian:12` or `debian:bookworm`?"),
        ("debian", "did you mean `debian:12` or `debian:bookworm`?"),
        ("debain:12", "did you mean `debian:12`"),
        ("Debian:12", "did you mean `debian:12`"),
        ("gcc:12", "did you mean `ghcr.io/team/gcc:12`?"),
        ("nothing/like/it:7", "expected one of debian:12, debian:bookworm, ghcr.io/team/gcc:12, busybox:1"),
        ("UPPER/CASE!", "`UPPER/CASE!` is not an image reference"),
        ("sha256:" + "0" * 64, "it is not in the archive"),
        ("busybox:1@sha256:" + "0" * 64, "did you mean `busybox:1`?"),
    ],
)
def test_a_mistyped_name_is_answered_with_those_near_to_it(manifest: BundleManifest, typed: str, said: str) -> None:
    with pytest.raises(UsageError) as error:
        found(manifest, "debian:12", typed)
    (problem,) = error.value.problems
    assert problem.subject == typed
    assert said in problem.message
    assert error.value.hint == "look"


def test_all_that_is_wrong_is_said_at_once(manifest: BundleManifest) -> None:
    digest = manifest.images[0].root.digest
    with pytest.raises(UsageError) as error:
        found(manifest, "debian:1", "busybox:2", str(digest))
    assert [each.subject for each in error.value.problems] == ["debian:1", "busybox:2", str(digest)]
    assert error.value.problems[2].message == "it is several: expected one of debian:12, debian:bookworm"


def test_many_names_are_not_compared_with_every_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"app{number}:1" for number in range(50)]
    with Archive(made(*map(image, names)).write(tmp_path / "a.tar").path) as archive:
        compared: list[Reference] = []

        def equal(self: Reference, other: object) -> bool:
            compared.append(self)
            return str(self) == str(other)

        monkeypatch.setattr(Reference, "__eq__", equal)
        assert found(archive.manifest, *names) == names
    assert len(compared) < 10 * len(names)
