"""What lies beside an archive is used only when it is this user's own."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from bundler.create import Options, create
from bundler.sources.own_files import open_own
from bundles.errors import UsageError
from bundles.runtime.progress import Silent
from tests.support.archives import PROGRAM, example

SOMEBODY = 12345


def linked(path: Path, victim: Path) -> None:
    path.symlink_to(victim)


def second_name(path: Path, victim: Path) -> None:
    os.link(victim, path)


def of_somebody(path: Path, _: Path) -> None:
    path.write_bytes(b"planted")
    os.chown(path, SOMEBODY, SOMEBODY)


@pytest.mark.parametrize("name", ["offline.tar.partial", "offline.tar.journal"])
@pytest.mark.parametrize("plant", [linked, second_name, of_somebody])
def test_create_does_not_write_into_what_was_planted(
    name: str, plant: Callable[[Path, Path], None], tmp_path: Path
) -> None:
    if plant is of_somebody and os.geteuid() != 0:
        pytest.skip("only root can give a file to somebody else")
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    directory = tmp_path / "shared"
    directory.mkdir()
    plant(directory / name, victim)
    before = (directory / name).read_bytes()
    sample = example()
    with pytest.raises(UsageError, match=name):
        create(sample.spec, directory / "offline.tar", sample.source, Options(program=PROGRAM), Silent())
    assert (victim.read_bytes(), (directory / name).read_bytes()) == (b"precious", before)
    assert [path.name for path in directory.iterdir()] == [name]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to somebody else")
def test_whoever_owns_the_directory_may_own_what_is_in_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    of_somebody(path, path)
    with pytest.raises(UsageError, match=f"another user .uid {SOMEBODY}."):
        open_own(path, os.O_RDWR)
    os.chown(tmp_path, SOMEBODY, SOMEBODY)
    file = open_own(path, os.O_RDWR)
    assert os.read(file, 100) == b"planted"
    os.close(file)
