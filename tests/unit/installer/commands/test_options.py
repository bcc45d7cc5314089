"""What `install` and `join` make of the options that they share."""

from __future__ import annotations

from typing import Any

import click
import pytest
from click.testing import CliRunner

from bundles.errors import UsageError
from installer.commands.options import cluster_options
from installer.model.cluster import Cluster


def chosen(*arguments: str) -> tuple[Any, Any]:
    """What a command is given."""
    found: list[tuple[Any, Any]] = []

    @click.command()
    @cluster_options
    def command(*, cluster: Any, without_cluster: Any) -> None:
        found.append((cluster, without_cluster))

    CliRunner().invoke(command, arguments, catch_exceptions=False)
    (pair,) = found
    return pair


def test_a_cluster_is_one_value() -> None:
    assert chosen() == (None, False)
    assert chosen("--no-kubernetes") == (None, True)
    assert chosen("--kubernetes", "site") == (Cluster("site", "default"), False)
    options = ("--namespace", "team", "--replicas", "2", "--rootless", "--cache-volume", "5Gi")
    labels = ("--node-selector", "disk=ssd", "--node-selector", "zone=a")
    cluster = Cluster("site", "team", 2, True, "5Gi", ("disk=ssd", "zone=a"))
    assert chosen("--kubernetes", "site", *options, *labels) == (cluster, False)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--replicas", "2"), "--replicas needs --kubernetes"),
        (("--cache-volume", "1Gi"), "--cache-volume needs --kubernetes"),
        (("--node-selector", "a=b"), "--node-selector needs --kubernetes"),
        (("--rootless",), "--rootless needs --kubernetes"),
        (("--kubernetes", "a", "--no-kubernetes"), "--kubernetes and --no-kubernetes do not go together"),
        (("--kubernetes", "a", "--replicas", "0"), "--replicas: 0 is no number of pods"),
    ],
)
def test_what_does_not_go_together(arguments: tuple[str, ...], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        chosen(*arguments)
