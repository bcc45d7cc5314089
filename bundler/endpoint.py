"""The places an image may come from: a registry itself, or a mirror of it."""

from __future__ import annotations

import dataclasses
import re

from bundles.errors import UsageError

_HOST = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9.-]*|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?", re.ASCII)
_PREFIX = re.compile(r"[a-z0-9][a-z0-9._/-]*", re.ASCII)


@dataclasses.dataclass(frozen=True, order=True)
class Endpoint:
    """A host to ask, and what comes before the repository there."""

    host: str
    prefix: str = ""

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """Read `HOST[:PORT][/prefix]`.

        Raises:
            UsageError: anything else.
        """
        host, _, prefix = text.strip().partition("/")
        prefix = prefix.rstrip("/")
        if not _HOST.fullmatch(host) or (prefix and not _PREFIX.fullmatch(prefix)):
            # What stands before an @ is a login, which is nobody's business.
            shown = text.rpartition("@")[2]
            raise UsageError(
                f"`{shown[:100]}` is not a mirror: expected HOST[:PORT][/prefix], such as mirror.corp:5000/hub"
            )
        return cls(host, prefix)

    def repository(self, repository: str) -> str:
        """The name of a repository of the upstream registry here. Docker Hub's `library/` stays."""
        return f"{self.prefix}/{repository}" if self.prefix else repository

    def __str__(self) -> str:
        return f"{self.host}/{self.prefix}" if self.prefix else self.host
