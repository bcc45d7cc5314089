"""Options that `install` and `join` share: what of a host's builder is chosen in both."""

from __future__ import annotations

import functools
from typing import Any, Callable, Optional

import click

from bundles.errors import UsageError
from installer.model.cluster import Cluster


def builder_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --no-replay, --direct and --system, in this order."""
    for option in (
        click.option(
            "--system", is_flag=True, help="Put the buildx plugin where all users of this host have it (as root)."
        ),
        click.option(
            "--direct",
            metavar="HOST",
            multiple=True,
            help="With recorded builds: a host that builds reach themselves, such as a mirror of the site.",
        ),
        click.option("--no-replay", is_flag=True, help="Do not replay what recorded builds took from the network."),
    ):
        command = option(command)
    return command


def cluster_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --kubernetes and what goes with it; the command gets `cluster` and `without_cluster`.

    Raises:
        UsageError: when the command is called, of what does not go together.
    """

    @functools.wraps(command)
    def wrapper(
        *,
        kubernetes: Optional[str],
        without_cluster: bool,
        namespace: Optional[str],
        replicas: Optional[int],
        rootless: bool,
        volume: Optional[str],
        selector: tuple[str, ...],
        **others: Any,
    ) -> Any:
        given: dict[str, Any] = {
            "namespace": namespace,
            "replicas": replicas,
            "rootless": rootless or None,
            "volume": volume,
            "selector": selector or None,
        }
        chosen = {name: value for name, value in given.items() if value is not None}
        if kubernetes is None and chosen:
            option = {"volume": "cache-volume", "selector": "node-selector"}.get(first := next(iter(chosen)), first)
            raise UsageError(f"--{option} needs --kubernetes", hint="kubectl config get-contexts")
        if kubernetes is not None and without_cluster:
            raise UsageError("--kubernetes and --no-kubernetes do not go together", hint="leave one out")
        cluster = None if kubernetes is None else Cluster(kubernetes, **chosen)
        return command(cluster=cluster, without_cluster=without_cluster, **others)

    for option in (
        click.option(
            "--node-selector",
            "selector",
            metavar="KEY=VALUE",
            multiple=True,
            help="With --kubernetes: a label that the nodes of the pods have.",
        ),
        click.option(
            "--cache-volume",
            "volume",
            metavar="SIZE",
            help="With --kubernetes: a persistent volume for the cache of each pod, such as 50Gi (buildx 0.34).",
        ),
        click.option("--rootless", is_flag=True, help="With --kubernetes: pods without privileges."),
        click.option("--replicas", type=int, metavar="N", help="With --kubernetes: how many pods (default: 1)."),
        click.option("--namespace", metavar="NAME", help="With --kubernetes: where in it (default: default)."),
        click.option(
            "--no-kubernetes", "without_cluster", is_flag=True, help="Take the builder on Kubernetes away again."
        ),
        click.option(
            "--kubernetes",
            metavar="CONTEXT",
            help="A second builder, on the cluster that kubectl knows by this context: NAME-kubernetes. Without it, an "
            "installed one stays.",
        ),
    ):
        wrapper = option(wrapper)
    return wrapper
