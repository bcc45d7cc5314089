"""The builder's other machines, with an ssh and a docker whose machines are files (tests/support/fake_site.py)."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from bundles.errors import ContentError, HostError
from bundles.oci.image import parse_manifest
from bundles.runtime.progress import Silent
from installer.diagnosis import Diagnosis
from installer.host.docker.remote import Ssh
from installer.receipt.ledger import LedgerEntry
from installer.receipt.receipt import BundleName, Receipt
from installer.steps.builder.nodes import RemoveNodes, describe_nodes
from tests.support.fake_engine import FakeEngine
from tests.support.fake_registry import FakeRegistry
from tests.support.nodes import AMD64, Place, place_in


@pytest.fixture
def place(engine: FakeEngine, registry: FakeRegistry, tmp_path: Path) -> Iterator[Place]:
    with place_in(tmp_path, engine, registry) as found:
        yield found


def test_a_node_gets_the_image_and_its_platform(place: Place) -> None:
    place.site.add("arm-box", architecture="aarch64")
    node = place.node("arm-box")
    assert place.actions(node) == ["load node image", "append node"]
    place.bring(node)
    with place.site.machine("arm-box") as machine:
        assert machine["images"] == {"offline-bundle/buildkit:cross-builder-here-arm-box": str(node.tool.config.digest)}
        assert list(machine["containers"]) == [node.container]
        assert machine["containers"][node.container]["image"] == str(node.tool.config.digest)
    assert place.site.platforms() == {"cross-builder0": ["linux/amd64"], node.name: ["linux/arm64"]}


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (lambda machine, name: machine["containers"][name].update(state="exited"), ["start node"]),
        (lambda machine, name: machine["containers"].clear(), ["make node"]),
        (lambda machine, name: machine["containers"][name].update(image="sha256:other"), ["make node"]),
        (
            lambda machine, name: (machine["containers"].clear(), machine["images"].clear()),
            ["load node image", "make node"],
        ),
    ],
)
def test_what_is_lost_on_a_node_comes_back(place: Place, damage: object, found: list[str]) -> None:
    place.site.add("arm-box", architecture="aarch64")
    node = place.node("arm-box")
    place.bring(node)
    with place.site.machine("arm-box") as machine:
        damage(machine, node.container)  # type: ignore[operator]
    assert place.actions(node) == found
    place.bring(node)


def test_the_node_that_came_last_has_the_platform(place: Place) -> None:
    for name in ("one", "two"):
        place.site.add(name, architecture="aarch64")
    one, two = place.node("one"), place.node("two")
    place.bring(one)
    step = place.bring(one, two)
    assert place.site.platforms() == {"cross-builder0": ["linux/amd64"], one.name: [], two.name: ["linux/arm64"]}
    assert step.notes() == [
        "ssh://anna@one builds nothing as long as ssh://anna@two is there: buildx gives linux/arm64 to one node"
    ]
    # And gives it back.
    place.bring(one)
    assert place.site.platforms() == {"cross-builder0": ["linux/amd64"], one.name: ["linux/arm64"]}
    place.bring()
    assert place.site.platforms() == {"cross-builder0": ["linux/amd64", "linux/arm64"]}


def test_a_node_of_this_hosts_platform_takes_its_builds(place: Place) -> None:
    place.site.add("big")
    node = place.node("big", AMD64)
    place.bring(node)
    assert place.site.platforms() == {"cross-builder0": ["linux/arm64"], node.name: ["linux/amd64"]}


def test_a_node_that_is_down_is_named_and_given_up(place: Place) -> None:
    place.site.add("arm-box", architecture="aarch64")
    node = place.node("arm-box")
    place.bring(node)
    place.site.remove("arm-box")
    step = place.wants(node)
    (change,) = step.look()
    assert (change.action, change.name) == ("reach", "ssh://anna@arm-box")
    assert "Connection refused" in step.explain(change)
    (entry,) = describe_nodes(place.state, place.host)
    assert not entry.answers and "Connection refused" in entry.text
    removal = RemoveNodes(place.host, [("cross-builder", node)])
    removal.apply(removal.look())
    (note,) = removal.notes()
    assert f"docker rm -f {node.container}; docker volume rm {node.container}_state; docker rmi {node.image}" in note
    place.bring()
    assert place.site.platforms() == {"cross-builder0": ["linux/amd64", "linux/arm64"]}


def test_under_sudo_a_node_is_not_taken_for_one_that_is_down(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.site.add("arm-box", architecture="aarch64")
    node = place.node("arm-box")
    step = place.bring(node)
    place.site.add("arm-box", says="Host key verification failed.")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    ssh = Ssh({**place.site.environment, "SUDO_UID": "1000"})
    monkeypatch.setattr(place.host.ssh, "obstacle", ssh.obstacle)
    (problem,) = RemoveNodes(place.host, [("cross-builder", node)]).problems()
    assert (problem.subject, problem.hint) == ("node ssh://anna@arm-box", ssh.obstacle()[1])  # type: ignore[index]
    assert RemoveNodes(place.host, []).problems() == []
    (entry,) = describe_nodes(place.state, place.host)
    assert not entry.answers and "not asked: under sudo" in entry.text and "run this without sudo" in entry.text
    (change,) = step.look()
    assert step.explain(change).startswith("ssh://anna@arm-box is not asked: under sudo ssh has root's keys")
    receipt = Receipt(BundleName("x", "sha256:1", "x.tar"), place.state)
    found = Diagnosis(receipt, place.host, place.client, Silent()).findings(thorough=False)
    (finding,) = [finding for finding in found if finding.check == "nodes"]
    assert finding.hint.startswith("run this without sudo") and finding.fixed_by is None


def test_a_docker_that_does_not_answer_is_named_too(place: Place) -> None:
    place.site.add("arm-box", architecture="aarch64")
    node = place.node("arm-box")
    place.bring(node)
    with place.site.machine("arm-box") as machine:
        machine["errors"] = ["Cannot connect to the Docker daemon"]
    step = place.wants(node)
    (change,) = step.look()
    said = "ssh://anna@arm-box does not answer: Docker does not answer there: Cannot connect to the Docker daemon"
    assert step.explain(change) == said


def test_nothing_of_ours_is_left_on_a_node(place: Place) -> None:
    place.site.add("arm-box", architecture="aarch64", volumes=["theirs"], images={"theirs:1": "sha256:1"})
    node = place.node("arm-box")
    place.bring(node)
    removal = RemoveNodes(place.host, [("cross-builder", node)])
    removal.apply(removal.look())
    with place.site.machine("arm-box") as machine:
        assert (machine["containers"], machine["volumes"]) == ({}, ["theirs"])
        assert machine["images"] == {"theirs:1": "sha256:1"}
    assert removal.notes() == []


@pytest.mark.parametrize("environment", [[], ["OFFLINE_BUNDLE=0123456789abcdef.0123456789abcdef"]])
def test_a_container_of_somebody_else_is_not_removed(place: Place, environment: list[str]) -> None:
    theirs = {"image": "sha256:1", "environment": environment, "state": "running"}
    node = place.node("arm-box")
    place.site.add(
        "arm-box",
        architecture="aarch64",
        containers={node.container: theirs},
        volumes=[node.volume],
        images={node.image: "sha256:1"},
    )
    step = place.wants(node)
    with pytest.raises(HostError, match=f"has a container `{node.container}` that was not made from here"):
        step.apply(step.look())
    removal = RemoveNodes(place.host, [("cross-builder", node)])
    removal.apply(removal.look())
    assert removal.notes() == [f"ssh://anna@arm-box keeps `{node.container}`, which was not made from here"]
    with place.site.machine("arm-box") as machine:
        assert machine["containers"] == {node.container: theirs}
        assert (machine["volumes"], machine["images"]) == ([node.volume], {node.image: "sha256:1"})


def test_two_users_of_one_host_do_not_undo_each_other(place: Place) -> None:
    place.site.add("arm-box", architecture="aarch64")
    node = place.node("arm-box")
    place.bring(node)
    record = place.site.record.read_text()
    places = place.host.places
    place.host = dataclasses.replace(place.host, places=dataclasses.replace(places, state=places.state.with_name("b")))
    place.host.cli.run(["buildx", "create", "--leave", "--name", "cross-builder", "--node", node.name])
    step = place.wants(node)
    with pytest.raises(HostError, match="was not made from here"):
        step.apply(step.look())
    place.site.record.write_text(record)
    place.host = dataclasses.replace(place.host, places=places)
    assert place.actions(node) == []


def test_a_builder_that_is_made_anew_finds_its_nodes_again(place: Place) -> None:
    place.site.add("arm-box", architecture="aarch64")
    node = place.node("arm-box")
    place.bring(node)
    place.host.cli.run(["buildx", "create", "--leave", "--name", "cross-builder", "--node", node.name])
    newer = dataclasses.replace(node, tool=place.node("newer").tool)
    place.bring(newer)
    with place.site.machine("arm-box") as machine:
        assert machine["containers"][node.container]["image"] == str(newer.tool.config.digest)


def test_an_image_that_somebody_has_named_keeps_that_name(place: Place) -> None:
    place.site.add("arm-box", architecture="aarch64")
    node = place.node("arm-box")
    place.bring(node)
    old = str(node.tool.config.digest)
    with place.site.machine("arm-box") as machine:
        machine["images"]["team/buildkit:1"] = old
    place.bring(dataclasses.replace(node, tool=place.node("newer").tool))
    with place.site.machine("arm-box") as machine:
        assert machine["images"]["team/buildkit:1"] == old


def test_another_buildkit_takes_the_place_of_the_one_before(place: Place) -> None:
    place.site.add("arm-box", architecture="aarch64")
    node = place.node("arm-box")
    place.bring(node)
    newer = dataclasses.replace(node, tool=place.node("newer").tool)
    assert place.actions(newer) == ["load node image", "append node"]
    place.bring(newer)
    with place.site.machine("arm-box") as machine:
        assert machine["images"] == {node.image: str(newer.tool.config.digest)}
        assert machine["containers"][node.container]["image"] == str(newer.tool.config.digest)
        assert machine["volumes"] == [node.volume]
    assert ["docker", "rmi", str(node.tool.config.digest)] in [shlex.split(call[-1]) for call in place.site.calls]


def test_nodes_of_a_builder_from_before_are_removed_too(place: Place) -> None:
    place.site.add("arm-box", architecture="aarch64")
    place.bring(place.node("arm-box"))
    made = (LedgerEntry("builder", "cross-builder"),)
    state = dataclasses.replace(place.state, builder="other", nodes=())
    removal = RemoveNodes.all_of(Receipt(BundleName("x", "sha256:1", "x.tar"), state, made=made), place.host)
    assert [change.name for change in removal.look()] == ["ssh://anna@arm-box"]
    removal.apply(removal.look())
    with place.site.machine("arm-box") as machine:
        assert (machine["containers"], machine["volumes"], machine["images"]) == ({}, [], {})
    assert removal.notes() == []


def test_what_somebody_appended_keeps_its_platform(place: Place) -> None:
    options = ("--driver-opt", "image=x", "--driver-opt", "env.OTHER=1", "--platform", "linux/arm64")
    place.site.add("theirs")
    place.host.cli.run(["buildx", "create", "--append", "--node", "theirs", *options, "ssh://x@theirs"])
    assert place.wants().look() == []
    assert place.site.platforms() == {"cross-builder0": ["linux/amd64"], "theirs": ["linux/arm64"]}


def test_what_the_registry_has_is_compared_on_the_way(place: Place) -> None:
    place.site.add("arm-box", architecture="aarch64")
    node = place.node("arm-box")
    digest = parse_manifest(place.registry.content[node.tool.manifest.digest]).layers[0].digest
    place.registry.content[digest] = bytes(len(place.registry.content[digest]))
    step = place.wants(node)
    with pytest.raises(ContentError, match="is something else"):
        step.apply(step.look())
    with place.site.machine("arm-box") as machine:
        assert machine["images"] == {}


def test_another_node_that_is_down_keeps_buildx_from_taking_one_more(place: Place) -> None:
    for name in ("one", "two"):
        place.site.add(name, architecture="aarch64")
    one, two = place.node("one"), place.node("two")
    place.bring(one)
    place.site.remove("one")
    step = place.wants(one, two)
    with pytest.raises(HostError, match="does not take the node"):
        step.apply(step.look())
    assert two.name not in place.site.platforms()
    place.site.bring_back("one")
    place.bring(one, two)
