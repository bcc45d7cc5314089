"""Whether a registry of the site can be pushed to: it answers, is trusted, and takes the login and what is pushed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

from bundles.errors import AuthenticationError, NetworkError, NotFoundError, Problem
from bundles.registry.auth import login_command
from installer.model.registry.destination import Destination
from installer.model.step import Check
from installer.registry.client import Registry


class DestinationCheck(Check):
    """Asks before the first byte. It changes nothing but begins an upload, and ends it.

    Args:
        destination: where images go.
        registry: that is asked.
        repositories: those that are pushed to.
        tls: whether it is to speak TLS, or plain HTTP; None where either will do.
    """

    name = "destination"

    def __init__(
        self,
        destination: Destination,
        registry: Registry,
        repositories: Sequence[str],
        *,
        tls: Optional[bool] = None,
    ) -> None:
        self._destination, self._registry, self._repositories = destination, registry, repositories
        self._tls = tls

    def problems(self) -> Sequence[Problem]:
        host = self._destination.host
        try:
            self._registry.ping()
        except AuthenticationError as error:
            return [Problem(f"`{host}`", error.message, error.hint or login_command(host))]
        except NetworkError as error:
            return [Problem(f"`{host}`", error.message, error.hint or f"curl -v https://{host}/v2/")]
        if self._tls is False and self._registry.speaks_tls():
            # BuildKit would ask it in plain HTTP.
            return [Problem(f"`{host}`", "it speaks TLS, and not plain HTTP", "give its CA instead: --ca FILE")]
        if self._tls and not self._registry.speaks_tls():
            return [Problem(f"`{host}`", "it speaks plain HTTP, and not TLS", f"--insecure-registry {host}")]
        problems: dict[tuple[str, str], list[str]] = {}
        found = self._registry.in_parallel(self._refusal, self._repositories)
        for repository, refused in zip(self._repositories, found):
            if refused is not None:
                hint = refused.hint or self._hint(refused)
                problems.setdefault((refused.cause or refused.message, hint), []).append(repository)
        return [
            Problem(f"`{host}/{names[0]}`" + (f" and {len(names) - 1} more" if names[1:] else ""), message, hint)
            for (message, hint), names in problems.items()
        ]

    def _refusal(self, repository: str) -> Optional[NetworkError]:
        """Return why a repository cannot be written to; None when it can."""
        try:
            self._registry.check_write(repository)
        except NetworkError as error:
            return error
        return None

    def _hint(self, error: NetworkError) -> str:
        project = self._destination.prefix.partition("/")[0]
        if isinstance(error, AuthenticationError):
            return f"{login_command(self._destination.host)}, with an account that may push to it"
        if isinstance(error, NotFoundError):
            return f"see whether the project `{project}` exists there" if project else "name a project: HOST/PROJECT"
        return "whoever runs the registry knows why; its log says more"
