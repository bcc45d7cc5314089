"""Uninstalling goes by the marks too: a receipt that was lost and written anew lists nothing that was there."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shlex
from pathlib import Path
from typing import Any

import pytest

from bundles.oci.descriptor import Descriptor
from bundles.oci.platform import Platform
from bundles.oci.reference import Reference
from installer.commands.uninstall import _everything, _steps
from installer.host.host import Host
from installer.host.paths import Places
from installer.model.cluster import Cluster
from installer.model.registry.address import Address
from installer.model.tool import Tool
from installer.receipt.ledger import LedgerEntry
from installer.receipt.receipt import BundleName, Receipt
from installer.steps.builder.builder import RemoveBuilder
from installer.steps.emulation import RemoveEmulation
from installer.steps.leftovers import RemoveFiles, RemovePassing
from installer.steps.registry.container import RemoveRegistry
from installer.steps.toolchain_images import RemoveImages
from tests.support.fake_engine import FakeEngine
from tests.support.states import desired
from tests.support.tools import give, tool

AMD64 = Platform("linux", "amd64")
BUILDER = "buildx_buildkit_cross-builder0"
BINFMT = tool("tonistiigi/binfmt:latest")


@pytest.fixture
def host(engine: FakeEngine, tmp_path: Path) -> Host:
    places = Places(tmp_path / "docker", tmp_path / "buildx", tmp_path / "state", proc=tmp_path / "proc", root=tmp_path)
    return Host(engine.engine, None, places)  # type: ignore[arg-type]


def installed(*made: tuple[str, str]) -> Receipt:
    state = desired(Address.parse("localhost:5000"), builder="cross-builder")
    return Receipt(BundleName("x", "sha256:1", "x.tar"), state, made=tuple(LedgerEntry(*entry) for entry in made))


def registry_labels(address: str = "localhost:5000") -> dict[str, str]:
    return {
        "offline-bundle.role": "registry",
        "offline-bundle.address": address,
        "offline-bundle.data": "bundle-registry",
    }


def test_container_and_volume_go_by_their_labels(engine: FakeEngine, host: Host) -> None:
    engine.add("registry", registry_labels())
    engine.volumes["bundle-registry"] = {"offline-bundle.role": "registry"}
    step = RemoveRegistry(installed(), host, data=True)
    changes = step.look()
    assert [(change.kind, change.name) for change in changes] == [
        ("container", "registry"),
        ("volume", "bundle-registry"),
    ]
    step.apply(changes)
    assert (engine.containers, engine.volumes, list(step.notes())) == ({}, {}, [])


def test_what_is_of_another_installation_stays_and_is_named(engine: FakeEngine, host: Host) -> None:
    engine.add("registry", registry_labels("192.168.10.10:5000"))
    engine.volumes["bundle-registry"] = {}
    step = RemoveRegistry(installed(), host, data=True)
    assert step.look() == []
    notes = list(step.notes())
    assert [note.rpartition("; ")[2] for note in notes] == [
        "docker rm -f registry",
        "docker volume rm bundle-registry",
    ]
    # Docker would refuse, half-way, to remove a volume that is in use.
    step = RemoveRegistry(installed(("volume", "bundle-registry")), host, data=True)
    assert step.look() == []
    del engine.containers["registry"]
    assert [change.kind for change in step.look()] == ["volume"]


def test_a_registry_without_our_mark_is_not_looked_at(engine: FakeEngine, host: Host) -> None:
    engine.add("registry", {})
    step = RemoveRegistry(installed(("container", "registry")), host, data=True)
    assert (list(step.look()), list(step.notes())) == ([], [])


def test_emulation_goes_by_its_label(engine: FakeEngine, host: Host) -> None:
    emulation(engine)
    step = RemoveEmulation(BINFMT, host)
    assert [change.action for change in step.look()] == ["unregister", "unregister", "remove"]
    engine.add("bundle-binfmt", {})
    assert step.look() == []


ARM64 = "7f454c460201010000000000000000000200b700"
TABLE = {
    "qemu-aarch64": f"enabled\ninterpreter /usr/bin/qemu-aarch64\nflags: OCF\noffset 0\nmagic {ARM64}\n",
    "qemu-riscv64": "enabled\ninterpreter /usr/bin/qemu-riscv64\nflags: F\noffset 0\n"
    "magic 7f454c460201010000000000000000000200f300\n",
    "python3.11": "enabled\ninterpreter /usr/bin/python3.11\nflags: \noffset 0\nmagic a70d0d0a\n",
}


def kernel_table(host: Host, **changed: str) -> Path:
    """Have a kernel's table of emulators; `changed` are interpreters of entries, `_` for `-`."""
    table = host.places.binfmt
    table.mkdir(parents=True)
    for name, text in {"register": "", "status": "enabled\n", **TABLE}.items():
        path = changed.get(name.replace("-", "_"))
        (table / name).write_text(text.replace(f"/usr/bin/{name}\n", f"{path}\n") if path else text)
    return table


def emulation(engine: FakeEngine) -> None:
    labels = {"offline-bundle.role": "emulation", "offline-bundle.architectures": "arm64,s390x"}
    identity = give(engine, BINFMT)
    engine.add("bundle-binfmt", labels).image = engine.ids[identity] = identity
    engine.images[identity] = {"/usr/bin/qemu-aarch64": b"emulator"}


def test_the_emulator_that_the_image_registered_is_taken_out(engine: FakeEngine, host: Host) -> None:
    emulation(engine)
    kernel_table(host)
    step = RemoveEmulation(BINFMT, host)
    changes = step.look()
    assert [change.name for change in changes] == ["linux/arm64", "bundle-binfmt"]
    step.apply(changes)
    assert ["--uninstall", "qemu-aarch64"] in engine.commands
    assert (engine.containers, step.notes()) == ({}, [])


@pytest.mark.parametrize(
    ("interpreter", "on_host"),
    [
        ("/usr/libexec/qemu-binfmt/aarch64-binfmt-P", True),
        ("/usr/bin/qemu-aarch64", True),
        ("/opt/emulators/qemu-aarch64", False),
    ],
    ids=["of a package", "of a package, under the name of ours", "of another container"],
)
def test_an_emulator_that_came_from_elsewhere_stays(
    engine: FakeEngine, host: Host, interpreter: str, on_host: bool
) -> None:
    emulation(engine)
    kernel_table(host, qemu_aarch64=interpreter)
    if on_host:
        place = host.places.root / interpreter.lstrip("/")
        place.parent.mkdir(parents=True)
        place.write_bytes(b"theirs")
    step = RemoveEmulation(BINFMT, host)
    changes = step.look()
    # Looking makes no container; what is none of the host's is compared with the image only then.
    assert engine.commands == []
    assert [change.action for change in changes] == (["remove"] if on_host else ["unregister", "remove"])
    step.apply(changes)
    assert not any("--uninstall" in command for command in engine.commands)
    (note,) = step.notes()
    assert note.startswith(f"the emulator `qemu-aarch64` stays in the kernel: {interpreter} is not")


def test_only_the_image_that_was_installed_runs_to_take_emulators_out(engine: FakeEngine, host: Host) -> None:
    emulation(engine)
    kernel_table(host)
    engine.containers["bundle-binfmt"].image = "sha256:" + "e" * 64
    ran: set[str] = set()
    engine.after("POST /containers/create", lambda: ran.update(each.image for each in engine.containers.values()))
    step = RemoveEmulation(BINFMT, host)
    changes = step.look()
    assert [change.action for change in changes] == ["unregister", "remove"]
    step.apply(changes)
    assert ["--uninstall", "qemu-aarch64"] in engine.commands
    assert ran - {"sha256:" + "e" * 64} == {str(BINFMT.config.digest)}
    assert (engine.containers, step.notes()) == ({}, [])


@pytest.mark.parametrize("known", [True, False], ids=["Docker lost it", "there was none"])
def test_without_the_image_that_was_installed_nothing_runs(engine: FakeEngine, host: Host, known: bool) -> None:
    emulation(engine)
    kernel_table(host)
    engine.containers["bundle-binfmt"].image = "sha256:" + "e" * 64
    engine.images.clear()
    step = RemoveEmulation(BINFMT if known else None, host)
    changes = step.look()
    assert [change.action for change in changes] == ["remove"]
    step.apply(changes)
    assert (engine.commands, engine.containers) == ([], {})
    (note,) = step.notes()
    assert note.startswith("the emulators for linux/arm64 stay in the kernel until it is started anew")


def test_the_lock_is_held_as_long_as_there_is_a_receipt(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    state = host.places.state
    state.mkdir()
    for name in ("lock", "receipt.json"):
        (state / name).write_text("{}")
    gone: list[str] = []
    unlink = Path.unlink

    def record(path: Path, missing_ok: bool = False) -> None:
        gone.append(path.name)
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", record)
    monkeypatch.setenv("BUNDLE_RELAY", str(host.places.root))
    made = installed(("directory", str(state)), ("directory", str(host.places.root / "never")))
    step = RemoveFiles(made, host)
    step.apply(step.look())
    assert gone[-2:] == ["receipt.json", "lock"]
    assert not state.exists()
    assert (host.places.root / "empty").read_text() == ""


def test_a_directory_that_is_mounted_in_the_container_is_left_to_the_script(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = host.places.docker_config / "cli-plugins"
    inner.mkdir(parents=True)

    def busy(path: Path) -> None:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(path))

    monkeypatch.setattr(Path, "rmdir", busy)
    monkeypatch.setenv("BUNDLE_RELAY", str(host.places.root))
    made = installed(("directory", str(inner.parent)), ("directory", str(inner)), ("directory", "/never/there"))
    RemoveFiles(made, host).apply(())
    assert (host.places.root / "empty").read_text() == f"{inner}\n{inner.parent}\n"


def test_a_builder_goes_by_its_mark(engine: FakeEngine, host: Host) -> None:
    engine.add(BUILDER, {}, OFFLINE_BUNDLE="1234")
    step = RemoveBuilder(installed(), host)
    assert step.look() == []
    (note,) = step.notes()
    assert note.endswith(f"docker rm -f {BUILDER}; docker volume rm {BUILDER}_state")
    record = host.places.buildx_config / "instances" / "cross-builder"
    record.parent.mkdir(parents=True)
    node: dict[str, Any] = {"DriverOpts": {"env.OFFLINE_BUNDLE": "1234"}}
    record.write_text(json.dumps({"Driver": "docker-container", "Nodes": [node]}))
    assert [change.name for change in step.look()] == ["cross-builder"]
    assert step.notes() == []
    record.write_text(json.dumps({"Driver": "docker-container", "Nodes": [{}]}))
    del engine.containers[BUILDER]
    assert step.look() == []


def test_a_builder_that_was_made_goes_without_a_record(engine: FakeEngine, host: Host) -> None:
    engine.add(BUILDER, {}, OFFLINE_BUNDLE="1234")
    assert len(RemoveBuilder(installed(("builder", "cross-builder")), host).look()) == 1


def test_marked_ones_under_other_names_are_named(engine: FakeEngine, host: Host) -> None:
    engine.add("buildx_buildkit_older0", {}, OFFLINE_BUNDLE="1234")
    engine.add("buildx_buildkit_theirs0", {})
    engine.volumes["older"] = {"offline-bundle.role": "registry"}
    engine.volumes["theirs"] = {}
    notes = [*RemoveBuilder(installed(), host).notes(), *RemoveRegistry(installed(), host, data=True).notes()]
    assert [note.rpartition("; ")[2] for note in notes] == [
        "docker volume rm buildx_buildkit_older0_state",
        "docker volume rm older",
    ]


def test_commands_to_type_keep_a_path_with_a_space_in_one_piece(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    (host.places.root / "srv/my data/docker/registry").mkdir(parents=True)
    found = installed()
    found = dataclasses.replace(found, state=dataclasses.replace(found.state, data="/srv/my data"))
    (note,) = RemoveRegistry(found, host, data=False).notes()
    assert note.endswith("or: sudo rm -r '/srv/my data'")
    (problem,) = RemoveRegistry(found, host, data=True).problems()
    # What is shown is the host's name of it, not the place in the container where it is seen.
    assert problem.subject == "/srv/my data/docker/registry"
    command = str(problem.hint).partition(", then")[0]
    assert shlex.split(command) == ["sudo", "rm", "-r", "/srv/my data/docker/registry"]
    (change,) = RemoveRegistry(found, host, data=True).look()
    assert change.name == "/srv/my data/docker/registry"
    RemoveRegistry(found, host, data=True).apply([change])
    assert not (host.places.root / "srv/my data/docker/registry").exists()


@pytest.mark.parametrize("name", ["bundle-garbage-collect", "bundle-copy"])
def test_what_a_killed_run_left_goes_first_by_its_label(engine: FakeEngine, host: Host, name: str) -> None:
    engine.add(name, {})
    step = RemovePassing(host)
    assert step.look() == []
    engine.add(name, {"offline-bundle.role": "any"})
    changes = step.look()
    assert [(change.kind, change.name) for change in changes] == [("container", name)]
    step.apply(changes)
    assert engine.containers == {}
    assert isinstance(_steps(installed(), host, True)[0], RemovePassing)


@pytest.mark.parametrize(("made", "goes"), [((), False), ((("file", "/home/x/cli-plugins/docker-buildx"),), True)])
def test_the_image_of_the_plugin_goes_where_it_was_loaded_for_it(
    made: tuple[tuple[str, str], ...], goes: bool, engine: FakeEngine, host: Host
) -> None:
    name = "localhost:5000/docker/buildx-bin:latest"
    one = Descriptor.of("application/vnd.oci.image.manifest.v1+json", b"{}")
    tool = Tool(Reference.parse("docker/buildx-bin:latest"), one.digest, one, one, name)
    found = installed(*made)
    found = dataclasses.replace(found, state=dataclasses.replace(found.state, tools={"buildx": tool}))
    assert RemoveImages(found, host).look() == []
    engine.images[name] = {}
    assert [change.name for change in RemoveImages(found, host).look()] == [name] * goes


def test_a_person_is_asked_about_the_builder_on_a_cluster_too(host: Host) -> None:
    receipt = installed()
    here = "registry and emulation (for all users of this host), builder"
    assert _everything(receipt, host, replays=False, data=False) == f"{here} and settings"
    cluster = dataclasses.replace(receipt.state, cluster=Cluster("site", "team"))
    receipt = dataclasses.replace(receipt, state=cluster)
    there = f"{here}, the builder cross-builder-kubernetes in namespace team of site"
    assert _everything(receipt, host, replays=False, data=False) == f"{there}, and settings"
    assert _everything(receipt, host, replays=False, data=True).startswith(
        f"{there} with the volumes of its cache, and settings, and every image in "
    )
