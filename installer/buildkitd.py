"""buildkitd.toml: how BuildKit finds images in the local registry.

BuildKit takes TLS and plain HTTP from the stanza of the mirror's own host, so the local registry has one; keys match
exactly and there is no wildcard, so each source registry has one too (buildkit: util/resolver/resolver.go).
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from installer.model.address import Address

FIRST_LINE = "# Written by `bundle install`."
"""How a file of ours begins."""


def config_text(address: Address, mirrors: Mapping[str, str]) -> str:
    """The content of buildkitd.toml for the registry at `address`; the same input gives the same text."""
    # JSON strings are TOML basic strings.
    lines = [
        f"{FIRST_LINE} BuildKit reads it when the builder is created, so run `bundle install`",
        "# again rather than editing it.",
        "",
        f"[registry.{json.dumps(str(address))}]",
        "  http = true",
        "  insecure = true",
    ]
    for registry, mirror in mirrors.items():
        lines += ["", f"[registry.{json.dumps(registry)}]", f"  mirrors = [{json.dumps(mirror)}]"]
    return "\n".join(lines) + "\n"
