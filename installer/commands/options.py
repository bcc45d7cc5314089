"""Options that commands share, or that are a subject of their own: the builder of a host, and an S3 storage."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any, Callable, Optional

import click

from bundles.errors import UsageError
from installer.model.cluster import Cluster
from installer.model.job import S3Options
from installer.model.registry.keys import Keys
from installer.model.registry.storage import is_bucket, parse_endpoint, parse_place, parse_region


def builder_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --node, --no-replay, --direct and --system, in this order."""
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
        click.option(
            "--node",
            "nodes",
            metavar="ssh://[USER@]HOST[:PORT]",
            multiple=True,
            help="Another machine with Docker, for the platform that it runs. May be given several times.",
        ),
    ):
        command = option(command)
    return command


def storage_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --storage and what goes with it; `storage_of` reads them."""
    for option in (
        click.option(
            "--s3-redirect/--no-s3-redirect",
            "s3_redirect",
            default=None,
            help="Whether who pulls is led to the storage, and so has to reach it; else (default) all comes through "
            "the registry.",
        ),
        click.option(
            "--s3-ca",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="The CA of the storage, a PEM file; without it the system of the registry's image has to trust it.",
        ),
        click.option(
            "--s3-credentials",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="The keys of the storage, as ~/.aws/credentials has them, or as variables. Without it --storage takes "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.",
        ),
        click.option("--s3-region", metavar="NAME", help="The region of the bucket (default: us-east-1)."),
        click.option(
            "--s3-endpoint", metavar="URL", help="Where the storage is, https://HOST[:PORT] or http://HOST[:PORT]."
        ),
        click.option(
            "--storage",
            metavar="s3://BUCKET/PREFIX",
            help="Keep the registry's data in a bucket of an S3 storage, in the place of --data. Registries of several "
            "hosts may serve the same.",
        ),
    ):
        command = option(command)
    return command


def storage_of(
    *,
    storage: Optional[str],
    s3_endpoint: Optional[str],
    s3_region: Optional[str],
    s3_credentials: Optional[Path],
    s3_ca: Optional[Path],
    s3_redirect: Optional[bool],
    data: Optional[str],
) -> tuple[S3Options, Optional[Keys]]:
    """Read what was given of an S3 storage, and the keys.

    Raises:
        UsageError: a value cannot be one, or does not go with --data.
    """
    options = S3Options(
        place=_read("--storage", parse_place, storage),
        endpoint=_read("--s3-endpoint", parse_endpoint, s3_endpoint),
        region=_read("--s3-region", parse_region, s3_region),
        redirect=s3_redirect,
        authority=s3_ca and s3_ca.absolute(),
    )
    if data is not None and is_bucket(data):
        raise UsageError("--data is a directory or a volume of this host", hint=f"--storage {data[:100]}")
    if data is not None and (s3_credentials or options != S3Options()):
        raise UsageError("--data does not go with --storage: the data is here or there", hint="leave one of them out")
    keys = Keys.read(s3_credentials) if s3_credentials else Keys.of_environment(os.environ) if storage else None
    return options, keys


def _read(name: str, parse: Callable[[str], Any], text: Optional[str]) -> Any:
    try:
        return None if text is None else parse(text)
    except UsageError as error:
        raise UsageError(f"{name}: {error.message}", hint=error.hint) from None


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
