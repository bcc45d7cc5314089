"""Nodes: where they are, what they are called, and what goes to which."""

from __future__ import annotations

import pytest

from bundles.errors import UsageError
from bundles.oci.platform import Platform
from installer.model.node import Node, NodeAddress, node_name
from tests.support.tools import tool


@pytest.mark.parametrize(
    ("text", "shown", "arguments", "typed"),
    [
        ("ssh://anna@arm-box", "ssh://anna@arm-box", ["-l", "anna", "--", "arm-box"], "ssh anna@arm-box"),
        ("ssh://Arm-Box:22/", "ssh://Arm-Box:22", ["-p", "22", "--", "Arm-Box"], "ssh -p 22 Arm-Box"),
        ("ssh://a@[fd00::2]:2222", "ssh://a@[fd00::2]:2222", ["-l", "a", "-p", "2222", "--", "fd00::2"],
         "ssh -p 2222 a@fd00::2"),
    ],
)  # fmt: skip
def test_where_a_node_is(text: str, shown: str, arguments: list[str], typed: str) -> None:
    address = NodeAddress.parse(text)
    assert (str(address), list(address.arguments), address.typed) == (shown, arguments, typed)


@pytest.mark.parametrize(
    "text",
    ["arm-box", "tcp://arm-box", "ssh://", "ssh://a:secret@arm-box", "ssh://-oProxyCommand=x", "ssh://a@-x", "ssh://-l@x",
     "ssh://arm-box:0", "ssh://arm-box:70000", "ssh://arm-box/run/docker.sock", "ssh://a b"],
)  # fmt: skip
def test_what_is_no_node(text: str) -> None:
    with pytest.raises(UsageError, match="expected ssh://") as caught:
        NodeAddress.parse(text)
    assert "secret" not in str(caught.value)


def test_one_machine_is_one_however_its_name_is_written() -> None:
    names = ("ssh://a@Arm-Box", "ssh://a@arm-box", "ssh://b@arm-box", "ssh://a@arm-box:22")
    assert list(map(str, dict.fromkeys(map(NodeAddress.parse, names)))) == [names[0], *names[2:]]


def test_a_node_survives_its_document() -> None:
    node = Node(NodeAddress.parse("ssh://a@b:2"), "n-1", Platform("linux", "arm64"), tool("moby/buildkit:1"))
    assert Node.from_json(node.to_json()) == node
    assert (node.container, node.volume) == ("buildx_buildkit_n-1", "buildx_buildkit_n-1_state")


def test_names_of_nodes_tell_whose_they_are() -> None:
    assert node_name("cross-builder", "Anna", "Build_1.corp", []) == "cross-builder-anna-build-1-corp-1"
    assert node_name("b", "u", "h", ["b-u-h-1", "b-u-h-3"]) == "b-u-h-2"
    assert node_name("b", "...", "", []) == "b-host-1"
    assert len(node_name("b", "u" * 32, "h" * 64, [])) == 2 + 64 + 2
