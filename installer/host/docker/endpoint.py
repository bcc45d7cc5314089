"""Where Docker's engine is."""

from __future__ import annotations

import dataclasses
import json
from typing import Optional

from bundles.errors import HostError

_DEFAULT_HOST = "unix:///var/run/docker.sock"


@dataclasses.dataclass(frozen=True)
class EngineEndpoint:
    """Where the engine is, as the docker command sees it: DOCKER_HOST, else the current context.

    TLS is not supported: neither DOCKER_TLS_VERIFY nor a context's own certificates.
    """

    host: str = _DEFAULT_HOST
    context: str = "default"

    @classmethod
    def parse(cls, text: str, default_host: Optional[str]) -> EngineEndpoint:
        """Read the endpoint out of what `docker context inspect` prints.

        Raises:
            HostError: its output is not what it was up to Docker 29.
        """
        try:
            value = json.loads(text)[0]
            host = value["Endpoints"]["docker"]["Host"] or default_host or _DEFAULT_HOST
            return cls(str(host), str(value["Name"]))
        except (ValueError, LookupError, TypeError):
            raise HostError(
                "the answer of `docker context inspect` cannot be read", hint="docker context inspect"
            ) from None

    @property
    def socket_path(self) -> Optional[str]:
        """The path of a local socket, or None when the engine is reached over a network."""
        return self.host[7:] if self.host.startswith("unix://") else None
