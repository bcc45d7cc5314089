"""certs.d: CAs and client certificates for single registries, where Docker and Podman keep them.

A directory is named after the registry, `HOST:PORT` (on Windows `HOSTPORT`), or `HOST` for port 443. Its `*.crt` are
CAs, and `*.cert` with the `*.key` of the same name is what this side shows (docs.docker.com "Verify repository client
with certificates").
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from bundles.errors import UsageError, reason
from bundles.registry.urls import Origin
from bundles.runtime.system import system


@dataclasses.dataclass(frozen=True)
class HostCertificates:
    """What to trust from one host besides the system's CAs, and what to show to it: certificates with their keys."""

    authorities: tuple[Path, ...] = ()
    own: tuple[tuple[Path, Path], ...] = ()


def standard_directories() -> tuple[Path, ...]:
    """Return where Docker and Podman look, the user's own places first."""
    home = Path.home()
    return (
        home / ".docker/certs.d",
        home / ".config/docker/certs.d",
        home / ".config/containers/certs.d",
        *system.CERTIFICATES,
    )


def find(directories: Sequence[Path], origin: Origin) -> HostCertificates:
    """Return what the first directory that knows the host has for it; nothing when none does.

    Raises:
        UsageError: it cannot be read, or a certificate has no key beside it.
    """
    names = [system.certificates_name(origin.host_port), *([origin.host] if origin.port == 443 else [])]
    for directory in (directory / name for directory in directories for name in names):
        try:
            files = sorted(directory.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise UsageError(f"`{directory}` cannot be read: {reason(error)}") from None
        own = tuple((file, file.with_suffix(".key")) for file in files if file.suffix == ".cert")
        for certificate, key in own:
            if key not in files:
                raise UsageError(f"`{certificate}` has no key: expected `{key.name}` beside it")
        return HostCertificates(tuple(file for file in files if file.suffix == ".crt"), own)
    return HostCertificates()
