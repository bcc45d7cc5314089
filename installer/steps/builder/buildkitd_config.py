"""The builder's buildkitd.toml: its registry, its mirrors, and the CA of the replay service."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Optional

from bundles.errors import Problem
from bundles.runtime.program import quote
from installer.host.files import is_writable, read_optional, write_atomically
from installer.host.host import Host
from installer.model.job import DesiredState
from installer.model.registry.access import Access
from installer.model.registry.address import Address
from installer.model.step import Change, Step
from installer.steps.builder.instance import builder_mark

FIRST_LINE = "# Written by `bundle install`."
# A registry that does not exist: buildx copies the `ca` of a registry's section into the builder's container.
AUTHORITY_HOST = "replay.invalid"


class BuildkitdConfig(Step):
    """Writes buildkitd.toml."""

    name = "configuration"

    def __init__(self, job: DesiredState, host: Host) -> None:
        self._host, self._builder = host, job.builder
        self._path = host.places.buildkitd_config(job.builder)
        self._text = wanted_config(job, host).encode()
        self._mirrors = ", ".join(job.mirrors)

    def problems(self) -> Sequence[Problem]:
        if not is_writable(self._path):
            directory = quote(self._path.parent)
            return [Problem(str(self._path), "it cannot be written", f"sudo chown -R $USER {directory}")]
        found = read_optional(self._path)
        foreign = found is not None and not found.startswith(FIRST_LINE.encode())
        # With a builder of ours it is ours, whatever became of it since.
        if foreign and builder_mark(self._host, self._builder) is None:
            path = quote(self._path)
            hint = f"mv {path} {path}.old, or choose another name with --builder"
            return [Problem(str(self._path), "it is not one that this program wrote", hint)]
        return []

    def look(self) -> Sequence[Change]:
        found = read_optional(self._path)
        if found == self._text:
            return []
        action = "write" if found is None else "rewrite"
        return [Change(action, "file", str(self._path), f"mirrors for {self._mirrors}", len(self._text))]

    def apply(self, changes: Sequence[Change]) -> None:
        write_atomically(self._path, [self._text], 0o644)

    def explain(self, change: Change) -> str:
        state = "is gone" if change.action == "write" else "is not as it was written: mirrors may be missing"
        return f"`{change.name}` {state}"


def authority_file(host: Host) -> Path:
    """Return the file with the CA of the replay service."""
    return host.places.replay / "ca.pem"


def wanted_config(job: DesiredState, host: Host) -> str:
    """Return the content of buildkitd.toml for the wanted state."""
    return config_text(job.destination.host, job.access, job.mirrors, authority_file(host) if job.replay else None)


def config_text(registry: str, access: Access, mirrors: Mapping[str, str], authority: Optional[Path] = None) -> str:
    """Return the content of buildkitd.toml for a registry, HOST or HOST:PORT; the same input gives the same text.

    With an `authority`, the file of the replay service's CA, what RUN steps fetch goes through BuildKit's proxy.
    """
    # JSON strings are TOML basic strings. What stands before the first section belongs to none.
    lines = [
        f"{FIRST_LINE} BuildKit reads it when the builder is created, so run `bundle install`",
        "# again rather than editing it.",
        *(["proxyNetwork = true"] if authority else []),
        "",
        *(
            [f"[registry.{json.dumps(AUTHORITY_HOST)}]", f"  ca = [{json.dumps(str(authority))}]", ""]
            if authority
            else []
        ),
        f"[registry.{json.dumps(registry)}]",
        *([] if access.tls else ["  http = true", "  insecure = true"]),
        # BuildKit would speak plain HTTP on a loopback address.
        *(["  http = false"] if access.tls and Address.of_host(registry).is_loopback else []),
        *([f"  ca = [{json.dumps(access.authority)}]"] if access.authority else []),
    ]
    for source, mirror in mirrors.items():
        lines += ["", f"[registry.{json.dumps(source)}]", f"  mirrors = [{json.dumps(mirror)}]"]
    return "\n".join(lines) + "\n"
