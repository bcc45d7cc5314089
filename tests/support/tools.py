"""Toolchain images of a receipt, made of nothing: their digests follow from their names."""

from __future__ import annotations

from bundles.oci.descriptor import OCI_MANIFEST, Descriptor
from bundles.oci.digest import Digest
from bundles.oci.reference import Reference
from installer.model.tool import Tool
from tests.support.fake_engine import FakeEngine


def tool(name: str) -> Tool:
    """Make one that is called `localhost:5000/NAME` in Docker."""
    manifest, config = (f"{kind} of {name}".encode() for kind in ("manifest", "config"))
    return Tool(
        Reference.parse(name),
        Digest.of(f"root of {name}".encode()),
        Descriptor.of(OCI_MANIFEST, manifest),
        Descriptor.of("application/vnd.oci.image.config.v1+json", config),
        f"localhost:5000/{name}",
    )


def give(engine: FakeEngine, tool: Tool, image_id: str = "") -> str:
    """Have Docker know the image under its name; or by the name another one. Gives its id there."""
    engine.images[tool.name] = {}
    engine.ids[tool.name] = image_id or str(tool.config.digest)
    return engine.ids[tool.name]
