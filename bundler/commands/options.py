"""Groups of command-line options: how registries are reached, and which Dockerfiles are looked through."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Optional, TypeVar

import click

from bundler.definition.spec import FromDaemon
from bundler.sources.docker_config import Credentials
from bundles.errors import UsageError
from bundles.registry.transport import Settings

_F = TypeVar("_F", bound=Callable[..., Any])


@dataclasses.dataclass(frozen=True)
class Registries:
    """How registries are reached: `mirrors` maps a registry to the hosts that are tried in its stead."""

    mirrors: Mapping[str, tuple[str, ...]]
    settings: Settings


def registry_options(function: _F) -> Callable[..., Any]:
    """Add --mirror, --insecure-registry and --ca; the function gets them as one `registries: Registries`."""

    @click.option("--mirror", "mirrors", multiple=True, metavar="HOST=HOST:PORT", help="Read HOST's images from there.")
    @click.option(
        "--insecure-registry", "insecure", multiple=True, metavar="HOST", help="Allow plain HTTP, or any TLS."
    )
    @click.option(
        "--ca", "ca_file", type=click.Path(path_type=Path), help="Trust the certificates in this PEM file too."
    )
    @functools.wraps(function)
    def command(
        *args: Any, mirrors: Sequence[str], insecure: Sequence[str], ca_file: Optional[Path], **kwargs: Any
    ) -> Any:
        hosts: dict[str, tuple[str, ...]] = {}
        for host, mirror in (pair(text, "--mirror", "docker.io=mirror.corp:5000") for text in mirrors):
            hosts[host] = (*hosts.get(host, ()), mirror)
        settings = Settings(insecure=frozenset(insecure), ca_file=ca_file, credentials=Credentials().get)
        return function(*args, registries=Registries(hosts, settings), **kwargs)

    return command


@dataclasses.dataclass(frozen=True)
class Look:
    """Which Dockerfiles to look through, and with which build arguments."""

    dockerfiles: tuple[Path, ...]
    build_args: Mapping[str, str]


def look_options(function: _F) -> Callable[..., Any]:
    """Add --dockerfile and --build-arg; the function gets them as one `look: Look`."""

    @click.option(
        "--dockerfile",
        "dockerfiles",
        multiple=True,
        metavar="PATH",
        type=click.Path(path_type=Path),
        help="Bundle what this needs: a Dockerfile, a directory, a Compose or Bake file.",
    )
    @click.option("--build-arg", "build_args", multiple=True, metavar="NAME[=VALUE]", help="As for docker build.")
    @functools.wraps(function)
    def command(*args: Any, dockerfiles: tuple[Path, ...], build_args: Sequence[str], **kwargs: Any) -> Any:
        return function(*args, look=Look(dockerfiles, dict(map(_build_arg, build_args))), **kwargs)

    return command


def _build_arg(text: str) -> tuple[str, str]:
    """NAME=VALUE, or NAME for the value that the environment gives it."""
    name, equals, value = text.partition("=")
    if not name or (not equals and name not in os.environ):
        raise UsageError(f"`--build-arg {text}` has no value: expected NAME=VALUE, or NAME that is in the environment")
    return name, value if equals else os.environ[name]


def pair(text: str, option: str, example: str) -> tuple[str, str]:
    """Split KEY=VALUE.

    Raises:
        UsageError: one of the two is missing.
    """
    key, equals, value = text.partition("=")
    if not equals or not key or not value:
        raise UsageError(f"`{option} {text}` is not of the form KEY=VALUE: expected such as {option} {example}")
    return key, value


@dataclasses.dataclass(frozen=True)
class Making:
    """What the command line says about layers that are made here. `threads` is 0 for all cores."""

    from_daemon: tuple[FromDaemon, ...]
    recompress: Optional[bool]
    level: Optional[int]
    threads: int


def making_options(function: _F) -> Callable[..., Any]:
    """Add --from-daemon, --recompress, --zstd-level and --zstd-threads; the function gets `making: Making`."""

    @click.option(
        "--from-daemon",
        multiple=True,
        metavar="[NAME=]IMAGE[,IMAGE]",
        help="Take IMAGE from the local Docker, or one image NAME from one of each platform.",
    )
    @click.option(
        "--recompress", type=click.Choice(["zstd"]), help="Base images' layers as zstd: this changes digests."
    )
    @click.option("--zstd-level", type=click.IntRange(1, 19), help="1 is fast, 19 is small.  [default: 9]")
    @click.option("--zstd-threads", type=click.IntRange(0, 256), default=0, help="[default: all cores]")
    @functools.wraps(function)
    def command(
        *args: Any,
        from_daemon: Sequence[str],
        recompress: Optional[str],
        zstd_level: Optional[int],
        zstd_threads: int,
        **kwargs: Any,
    ) -> Any:
        local = tuple(map(FromDaemon.parse, from_daemon))
        making = Making(local, True if recompress else None, zstd_level, zstd_threads)
        return function(*args, making=making, **kwargs)

    return command
