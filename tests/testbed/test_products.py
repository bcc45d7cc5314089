"""Products are made once, in the right order, and each target has what it needs. Nothing here needs root."""

from __future__ import annotations

import os
import subprocess
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from . import debian, origin
from .errors import SetupError
from .product import Product, expected, make_all, missing
from .targets import TARGETS


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BUNDLE_TESTBED_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def product(name: str, build: Callable[[Path], None], *needs: Product, seconds: float = 0) -> Product:
    return Product(name, "1", build, needs, seconds)


def test_what_is_needed_is_there_first_and_nothing_is_made_twice() -> None:
    made: list[str] = []

    def maker(name: str, *needs: Product) -> Product:
        def build(directory: Path) -> None:
            made.append(name)
            (directory / "text").write_text("".join((need.path / "text").read_text() for need in needs) + name)

        return product(name, build, *needs)

    ground = maker("ground")
    left, right = maker("left", ground), maker("right", ground)
    top = maker("top", left, right)
    assert {each.name for each in missing([top])} == {"ground", "left", "right", "top"}
    make_all([top, left])
    assert (top.path / "text").read_text() == "groundleftgroundrighttop"
    assert (made[0], sorted(made[1:3]), made[3:]) == ("ground", ["left", "right"], ["top"])
    assert missing([top]) == []
    make_all([top])
    assert len(made) == 4


def test_one_alone_makes_what_it_needs_too() -> None:
    ground = product("ground", lambda directory: (directory / "file").touch())
    assert product("top", lambda directory: None, ground).make().is_dir()
    assert (ground.path / "file").exists()


def test_what_the_longest_work_waits_for_is_started_first() -> None:
    """Of five that could start three do; the one that is short itself, but waited for, is among them."""
    started: list[str] = []
    all_started = threading.Event()

    def wait_for_three(name: str) -> Callable[[Path], None]:
        def build(directory: Path) -> None:
            started.append(name)
            if len(started) == 3:
                all_started.set()
            assert all_started.wait(10)

        return build

    short = product("short", wait_for_three("short"), seconds=1)
    others = [product(f"of {seconds} s", wait_for_three(f"of {seconds} s"), seconds=seconds) for seconds in range(2, 6)]
    last = product("last", lambda directory: None, short, seconds=60)
    assert expected([short, *others, last]) == 61
    assert expected([*others, *others, *others]) == 21  # two cores
    make_all([*others, last])
    assert sorted(started[:3]) == ["of 4 s", "of 5 s", "short"]


def test_what_fails_leaves_nothing_and_what_waits_for_it_is_not_made(cache: Path) -> None:
    def fail(directory: Path) -> None:
        (directory / "half").touch()
        raise OSError("the disk is full")

    broken = product("broken", fail)
    top = product("top", lambda directory: None, broken)
    with pytest.raises(OSError, match="the disk is full"):
        make_all([top])
    assert not broken.ready
    assert not top.ready
    assert list((cache / "broken").iterdir()) == []


def test_how_long_it_took_is_said_the_next_time(capsys: pytest.CaptureFixture[str]) -> None:
    def make(recipe: str) -> str:
        Product("thing", recipe, lambda directory: None, seconds=20).make()
        return capsys.readouterr().err

    assert "making thing (about 20 s on 2 cores)\n" in make("1")
    assert "making thing (0 s last time)\n" in make("2")
    assert make("2") == ""
    assert expected([Product("thing", "3", lambda directory: None, seconds=20)]) < 1


def test_each_target_has_the_images_of_the_one_before() -> None:
    names = [{image.name for image in target.images} for target in TARGETS.values()]
    assert names[0] < names[1] < names[2]


def test_the_demo_needs_only_what_it_shows() -> None:
    everything = missing([*TARGETS["demo"].products, origin.storage("demo")])
    assert {each.name for each in everything} == {
        "debian/applets", "debian/base", "debian/buildkit", "debian/buildx", "debian/busybox", "debian/docker",
        "debian/gcc", "debian/python", "go/tools", "host/sid", "origin", "qemu/debian", "qemu/none",
    }  # fmt: skip


def test_a_storage_that_is_there_serves_for_a_smaller_target() -> None:
    demo, test = (origin.storage(name) for name in ("demo", "test"))
    assert demo.path != test.path
    test.path.mkdir(parents=True)
    assert origin.storage("demo").path == test.path
    assert origin.storage("bench").path != test.path
    demo.path.mkdir(parents=True)
    assert origin.storage("demo").path == demo.path


def test_a_layer_has_what_the_packages_add(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for name in ("bin/program", "lib/library", "usr/share/doc/tool/copyright", "usr/lib/there", "var/lib/state/file"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    os.link(root / "bin/program", root / "bin/same")
    (root / "DEBIAN").mkdir()
    (root / "DEBIAN/control").write_text(
        "Package: tool\nVersion: 1\nArchitecture: all\nMaintainer: nobody <n@example>\nDescription: tool\n"
    )
    package = tmp_path / "tool.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "--build", root, package], check=True, capture_output=True)
    present = {".", "usr", "usr/bin", "usr/lib", "usr/lib/there", "usr/share", "var", "var/lib"}
    layer = tmp_path / "layer.tar"
    debian._write_layer(layer, [package], {"opt/here/cc": "gcc"}, present)
    with tarfile.open(layer) as archive:
        members = {member.name: member for member in archive}
        assert sorted(members) == [
            "opt", "opt/here", "opt/here/cc", "usr/bin/program", "usr/bin/same", "usr/lib/library", "usr/share/doc",
        ]  # fmt: skip
        for name in ("usr/bin/program", "usr/bin/same"):
            content = archive.extractfile(name)
            assert content is not None
            assert content.read() == b"bin/program"
        assert members["opt/here/cc"].linkname == "gcc"


def test_a_program_out_of_a_package(tmp_path: Path) -> None:
    (tmp_path / "root/usr/bin").mkdir(parents=True)
    (tmp_path / "root/usr/bin/tool").write_bytes(b"\x7fELF")
    (tmp_path / "root/DEBIAN").mkdir()
    (tmp_path / "root/DEBIAN/control").write_text(
        "Package: tool\nVersion: 1\nArchitecture: all\nMaintainer: nobody <n@example>\nDescription: tool\n"
    )
    package = tmp_path / "tool.deb"
    subprocess.run(["dpkg-deb", "--build", tmp_path / "root", package], check=True, capture_output=True)
    debian._copy_member(package, "usr/bin/tool", tmp_path / "tool")
    assert (tmp_path / "tool").read_bytes() == b"\x7fELF"
    with pytest.raises(SetupError, match=r"no `usr/bin/other` in tool\.deb"):
        debian._copy_member(package, "usr/bin/other", tmp_path / "other")
