"""Whether `docker buildx` can get tokens: it asks the token server itself, and trusts the system's CAs alone.

BuildKit leaves that to buildx, so that no login leaves the client. Neither buildkitd.toml nor certs.d says anything to
buildx; SSL_CERT_FILE does, and it would have to be in the environment of every build.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from bundles.errors import NetworkError, Problem
from bundles.registry.urls import Origin
from installer.host.host import Host
from installer.model.step import Check
from installer.registry.client import Registry
from installer.registry.trust import is_trusted, system_authorities

_NOT_A_NAME = re.compile(r"[^A-Za-z0-9.-]+")


class TokenServer(Check):
    """Asks the token servers that the registry has named meanwhile for their certificates. What a system trusts is its
    administrator's to change."""

    name = "token server"

    def __init__(self, registry: Registry, host: Host) -> None:
        self._registry, self._host = registry, host

    def problems(self) -> Sequence[Problem]:
        found = []
        for realm in sorted(self._registry.realms()):
            try:
                origin = Origin.of(realm)
            except NetworkError:
                continue
            if origin.scheme == "https" and not self._may_be_trusted(origin):
                found.append(self._problem(origin))
        return found

    def _may_be_trusted(self, origin: Origin) -> bool:
        root = self._host.places.root
        trusted = is_trusted(origin, system_authorities(root))
        return trusted is not False or is_trusted(origin, system_authorities(root, everything=True)) is not False

    def _problem(self, origin: Origin) -> Problem:
        name = _NOT_A_NAME.sub("-", origin.host)
        return Problem(
            f"`{origin.host_port}`, which gives the tokens for `{self._registry.host}`",
            "this system does not trust its certificate, and `docker buildx` asks it for tokens with the system's CAs",
            f"with its CA in ca.pem, on Debian and Ubuntu: sudo cp ca.pem /usr/local/share/ca-certificates/{name}.crt "
            f"&& sudo update-ca-certificates; on RHEL and Fedora: sudo cp ca.pem "
            f"/etc/pki/ca-trust/source/anchors/{name}.pem && sudo update-ca-trust",
        )
