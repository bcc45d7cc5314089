"""What keeps a machine from being a node: all of it, of every machine, in one report."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bundles.archive.reader import Archive
from bundles.archive.verify import check_documents
from bundles.oci.platform import Platform
from installer.host.docker.cli import DockerCLI
from installer.host.docker.remote import Ssh
from installer.host.host import Host
from installer.host.paths import Places
from installer.model.job import Job, Options
from installer.model.node import NodeAddress
from installer.model.registry.address import Address
from installer.model.replay import Replay
from installer.receipt.receipt import BundleName, Receipt
from installer.steps.builder.node_check import with_nodes
from installer.steps.builder.nodes import owner_of
from tests.support.archives import image, made
from tests.support.fake_engine import FakeEngine
from tests.support.fake_site import FakeSite

AMD64 = Platform("linux", "amd64")
LAN = Address.parse("192.168.10.10:5000")


class Asked:
    """A host whose archive has BuildKit for amd64 and arm64, and machines."""

    def __init__(self, archive: Archive, host: Host, site: FakeSite) -> None:
        self.archive, self.host, self.site = archive, host, site

    def job(self, *names: str, registry: Address = LAN) -> Job:
        nodes = tuple(NodeAddress.parse(f"ssh://{name}") for name in names)
        return Job.of(self.archive, Options(registry=registry, nodes=nodes), AMD64)

    def problems(self, *names: str, **values: Any) -> list[str]:
        """What is wrong: subject, message and next step in a line."""
        job = dataclasses.replace(self.job(*names), **values)
        return [f"{each.subject}: {each.message} -> {each.hint}" for each in with_nodes(job, self.host)[1]]


@pytest.fixture
def asked(engine: FakeEngine, tmp_path: Path) -> Iterator[Asked]:
    made(image("debian:12"), image("moby/buildkit:1", "buildkit")).write(tmp_path / "offline.tar")
    site = FakeSite(tmp_path / "site")
    places = Places(tmp_path / "docker", tmp_path / "site/buildx", tmp_path / "state", root=tmp_path)
    host = Host(engine.engine, DockerCLI(site.environment), places, ssh=Ssh(site.environment))
    with Archive(tmp_path / "offline.tar") as archive:
        check_documents(archive)
        yield Asked(archive, host, site)


def test_a_machine_becomes_a_node_with_the_buildkit_of_its_platform(asked: Asked) -> None:
    asked.site.add("arm-box", architecture="aarch64")
    asked.site.add("big")
    job, problems = with_nodes(asked.job("anna@arm-box", "big:22"), asked.host)
    assert problems == []
    assert [str(node.platform) for node in job.nodes] == ["linux/arm64", "linux/amd64"]
    arm, big = job.nodes
    assert arm.tool.manifest != big.tool.manifest and arm.tool.root == big.tool.root
    assert arm.name != big.name
    assert job.platforms_of(None) == ()
    assert [job.node_for(platform) for platform in job.platforms] == [big, arm]


def test_all_problems_are_in_one_report(asked: Asked) -> None:
    asked.site.add("old", version="19.3.0")
    asked.site.add("risc", architecture="riscv64")
    asked.site.add("full", free=1 << 20)
    asked.site.add("strange", architecture="aarch64", says="Host key verification failed.")
    asked.site.add("changed", says="WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!\nHost key verification failed.")
    asked.site.add("closed", says="x@closed: Permission denied (publickey).")
    asked.site.add("self", id="this")
    asked.site.add("first", id="same")
    found = asked.problems("old", "risc", "full", "strange", "changed", "x@closed", "self", "first", "first:22", "gone")
    assert [line.partition(": ")[0] for line in found] == [
        f"node ssh://{name}"
        for name in ("old", "risc", "full", "strange", "changed", "x@closed", "self", "first:22", "gone")
    ]
    for line, part in zip(
        found,
        (
            "Docker there is 19.3.0: expected 20.10 or newer",
            "it is linux/riscv64, and the builder is for linux/amd64, linux/arm64",
            "1.0 MiB are free for /var/lib/docker there",
            "not known here; what answers shows SHA256:",
            "it shows another host key than the one that is known",
            "ssh-copy-id x@closed",
            "it is this host itself",
            "it is the same machine as ssh://first",
            "ssh does not get there: ssh: connect to host gone port 22: Connection refused",
        ),
    ):
        assert part in line
    assert "agree to it once: ssh strange" in found[3]


def test_an_archive_without_buildkit_for_a_machine_says_what_to_create(asked: Asked, tmp_path: Path) -> None:
    asked.site.add("arm-box", architecture="aarch64")
    bundle = made(image("debian:12"), image("moby/buildkit:1", "buildkit", (AMD64,)))
    bundle.write(tmp_path / "amd64.tar")
    with Archive(tmp_path / "amd64.tar") as archive:
        check_documents(archive)
        (line,) = Asked(archive, asked.host, asked.site).problems("arm-box")
    assert "the archive has no BuildKit for that" in line
    assert "bundle create ... --host-platform linux/amd64,linux/arm64, where there is internet" in line


def test_no_other_machine_reaches_loopback_or_the_replay(asked: Asked) -> None:
    asked.site.add("arm-box", architecture="aarch64")
    lines = asked.problems("arm-box", address=Address.parse("localhost:5000"), replay=Replay(5080, ()))
    assert "no other machine reaches the registry at localhost:5000" in lines[0] and "--into" in lines[0]
    assert "--no-replay" in lines[1]
    # Nobody was asked in vain.
    assert asked.site.calls == []
    # And without nodes nothing is wrong with either.
    assert asked.problems(address=Address.parse("localhost:5000"), replay=Replay(5080, ())) == []


@pytest.mark.parametrize("environment", [[], ["OFFLINE_BUNDLE=0123456789abcdef.0123456789abcdef"]])
@pytest.mark.parametrize("known", [False, True])
def test_a_container_of_somebody_else_keeps_its_name(asked: Asked, environment: list[str], known: bool) -> None:
    asked.site.add("arm-box", architecture="aarch64")
    before, _ = with_nodes(asked.job("arm-box"), asked.host)
    (node,) = before.nodes
    if known:
        # That of a run which did not come to making its own.
        Receipt(BundleName("x", "sha256:1", "x.tar"), before).save(asked.host.places)
    with asked.site.machine("arm-box") as machine:
        machine["containers"][node.container] = {"image": "sha256:1", "environment": environment, "state": "running"}
    job, problems = with_nodes(asked.job("arm-box"), asked.host)
    assert problems == []
    assert [each.name for each in job.nodes] == [f"{node.name[:-2]}-2"]


def test_what_was_given_up_while_it_was_down_is_taken_up_again(asked: Asked) -> None:
    asked.site.add("arm-box", architecture="aarch64")
    (node,) = with_nodes(asked.job("arm-box"), asked.host)[0].nodes
    with asked.site.machine("arm-box") as machine:
        environment = [f"OFFLINE_BUNDLE={owner_of(asked.host)}.0123456789abcdef"]
        machine["containers"][node.container] = {"image": "x", "environment": environment, "state": "running"}
    (again,) = with_nodes(asked.job("arm-box"), asked.host)[0].nodes
    assert again.name == node.name


def test_a_node_that_buildx_has_on_record_keeps_its_name(asked: Asked) -> None:
    asked.site.add("arm-box", architecture="aarch64")
    asked.site.made("abc", "linux/amd64", "linux/arm64")
    (node,) = with_nodes(asked.job("anna@arm-box"), asked.host)[0].nodes
    options = ("--driver-opt", "image=x", "--driver-opt", "env.OFFLINE_BUNDLE=a.b", "--platform", "linux/arm64")
    create = ("buildx", "create", "--append", "--node", node.name, *options, str(node.address))
    asked.host.cli.run(create)
    with asked.site.machine("arm-box") as machine:
        environment = ["OFFLINE_BUNDLE=a.b"]
        machine["containers"][node.container] = {"image": "x", "environment": environment, "state": "running"}
    (again,) = with_nodes(asked.job("anna@arm-box"), asked.host)[0].nodes
    assert again.name == node.name


def test_nodes_stay_without_being_named_again(asked: Asked) -> None:
    asked.site.add("arm-box", architecture="aarch64")
    asked.site.add("big")
    before, _ = with_nodes(asked.job("arm-box"), asked.host)
    Receipt(BundleName("x", "sha256:1", "x.tar"), before).save(asked.host.places)
    job, problems = with_nodes(asked.job("big"), asked.host)
    assert (job.nodes[0], problems) == (before.nodes[0], [])
    assert [str(node.address) for node in job.nodes] == ["ssh://arm-box", "ssh://big"]
    asked.site.remove("arm-box")
    (line,) = asked.problems()
    assert line.endswith("node remove ssh://arm-box")


def test_where_ssh_is_not_that_of_the_builds_nodes_are_refused(
    asked: Asked, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked.site.add("arm-box", architecture="aarch64")
    relayed = {**asked.site.environment, "BUNDLE_RELAY": str(tmp_path)}
    asked.host = dataclasses.replace(asked.host, ssh=Ssh(relayed))
    (line,) = asked.problems("arm-box")
    assert "runs in a container" in line and "Python 3.9" in line
    monkeypatch.setattr("os.geteuid", lambda: 0)
    asked.host = dataclasses.replace(asked.host, ssh=Ssh({**asked.site.environment, "SUDO_UID": "1000"}))
    (line,) = asked.problems("arm-box")
    assert "under sudo ssh has root's keys" in line
