"""The options that `create` and `lock` share: how registries are reached, and how archives of ours are read."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Optional, TypeVar

import click

from bundler.definition.spec import mirrored
from bundler.sources.files.kinds import Reading
from bundles.archive.signature import Signers
from bundles.errors import UsageError
from bundles.registry.certificates import standard_directories
from bundles.registry.credentials import Credentials
from bundles.registry.transport import Settings
from bundles.registry.urls import insecure_hosts
from bundles.runtime.progress import Progress

_PATH = click.Path(path_type=Path)
_F = TypeVar("_F", bound=Callable[..., Any])


@dataclasses.dataclass(frozen=True)
class Registries:
    """How registries are reached: `mirrors` maps a registry to the hosts that are tried in its stead."""

    mirrors: Mapping[str, tuple[str, ...]]
    settings: Settings

    def settings_that_say(self, progress: Progress) -> Settings:
        """Return the settings with which people are told what is waited for."""
        return dataclasses.replace(self.settings, say=progress.message)


def registry_options(function: _F) -> Callable[..., Any]:
    """Add --mirror, --insecure-registry and --ca; the function gets them as one `registries: Registries`."""

    @click.option("--mirror", "mirrors", multiple=True, metavar="HOST=HOST:PORT", help="Read HOST's images from there.")
    @click.option(
        "--insecure-registry", "insecure", multiple=True, metavar="HOST", help="Allow plain HTTP, or any TLS."
    )
    @click.option("--ca", "ca_file", type=_PATH, help="Trust the certificates in this PEM file too.")
    @functools.wraps(function)
    def command(
        *args: Any, mirrors: Sequence[str], insecure: Sequence[str], ca_file: Optional[Path], **kwargs: Any
    ) -> Any:
        hosts: dict[str, tuple[str, ...]] = {}
        for host, mirror in (pair(text, "--mirror", "docker.io=mirror.corp:5000") for text in mirrors):
            name = mirrored(host)
            hosts[name] = (*hosts.get(name, ()), mirror)
        settings = Settings(
            insecure=insecure_hosts(insecure),
            ca_file=ca_file,
            certs_d=standard_directories(),
            credentials=Credentials().get,
        )
        return function(*args, registries=Registries(hosts, settings), **kwargs)

    return command


def reading_options(function: _F) -> Callable[..., Any]:
    """Add --parts, --allowed-signers and --signer for `bundle:`; the function gets them as one `reading: Reading`."""

    @click.option(
        "--parts",
        "directories",
        multiple=True,
        metavar="DIR",
        type=_PATH,
        help="Look for parts of bundle:FILE there too.",
    )
    @click.option(
        "--allowed-signers", metavar="FILE", type=_PATH, help="Refuse a bundle:FILE not signed by one of these."
    )
    @click.option("--signer", metavar="IDENTITY", help="It must be signed by this one of them.")
    @functools.wraps(function)
    def command(
        *args: Any,
        directories: tuple[Path, ...],
        allowed_signers: Optional[Path],
        signer: Optional[str],
        **kwargs: Any,
    ) -> Any:
        if signer and not allowed_signers:
            raise UsageError("--signer needs --allowed-signers", hint="--allowed-signers FILE --signer IDENTITY")
        trusted = Signers(allowed_signers, signer) if allowed_signers else None
        return function(*args, reading=Reading(directories, trusted), **kwargs)

    return command


def pair(text: str, option: str, example: str) -> tuple[str, str]:
    """Split KEY=VALUE.

    Raises:
        UsageError: one of the two is missing.
    """
    key, equals, value = text.partition("=")
    if not equals or not key or not value:
        raise UsageError(f"`{option} {text}` is not of the form KEY=VALUE: expected such as {option} {example}")
    return key, value
