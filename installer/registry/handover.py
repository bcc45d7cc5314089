"""What a program elsewhere needs to reach the registry as this one does: the CAs to trust, and the logins."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator, Sequence
from pathlib import Path

from bundles.errors import AuthenticationError, HostError, UsageError, reason
from bundles.registry.auth import Credential
from bundles.registry.certificates import find, standard_directories
from bundles.registry.urls import Origin
from installer.model.job import DesiredState
from installer.registry.connection import credentials_of

# What OpenSSL looks at in a directory of CAs.
_HASHED = re.compile(r"[0-9a-f]{8}\.[0-9]+")


def authorities(state: DesiredState) -> bytes:
    """Return the CAs that are trusted of the registry, as PEM; empty for plain HTTP.

    A registry of the site may lead to a storage or a token server with a certificate of another CA: those of this host
    are trusted as well.

    Raises:
        HostError: a file cannot be read.
    """
    access = state.access
    if not access.tls:
        return b""
    own = [Path(access.authority)] if access.authority else []
    if state.site is None and own:
        return _read(own)
    try:
        known = find(standard_directories(), Origin.of(f"https://{state.destination.host}"))
    except UsageError as error:
        raise HostError(error.message, hint=error.hint) from None
    return _read([*own, *known.authorities, *_of_the_system()])


def logins(state: DesiredState, repository: str) -> Sequence[Credential]:
    """Return the logins for a repository of the registry, the best first.

    Raises:
        HostError: they cannot be read.
    """
    try:
        return tuple(credentials_of(state)(state.destination.host, repository))
    except (UsageError, AuthenticationError) as error:
        raise HostError(error.message, hint=error.hint) from None


def _of_the_system() -> Iterator[Path]:
    places = ssl.get_default_verify_paths()
    if places.cafile:
        yield Path(places.cafile)
    if places.capath:
        yield from sorted(path for path in Path(places.capath).iterdir() if _HASHED.fullmatch(path.name))


def _read(files: Sequence[Path]) -> bytes:
    texts = []
    for file in files:
        try:
            texts.append(file.read_bytes().strip())
        except OSError as error:
            raise HostError(f"the CA file `{file}` cannot be read: {reason(error)}") from None
    return b"".join(text + b"\n" for text in dict.fromkeys(texts))
