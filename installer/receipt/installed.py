"""What is installed on this host, as the receipt says."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

from bundles.errors import HostError, UsageError
from bundles.oci.digest import Digest
from bundles.oci.platform import Platform
from installer.host.files import lock, read_json_file, write_atomically
from installer.host.host import Host
from installer.host.labels import REGISTRY_CONTAINER
from installer.model.address import Address
from installer.model.installed_registry import installed_address
from installer.model.job import Tool, DesiredState


@dataclasses.dataclass(frozen=True)
class Brought:
    """A tag, or without one a digest, that installing pushed into a repository of the registry."""

    repository: str
    tag: Optional[str]
    digest: Digest

    def to_json(self) -> dict[str, Any]:
        return {"repository": self.repository, "tag": self.tag, "digest": str(self.digest)}

    @property
    def name(self) -> str:
        return f"{self.repository}:{self.tag}" if self.tag else f"{self.repository}@{self.digest}"


@dataclasses.dataclass(frozen=True)
class InstalledImage:
    """An image of the installed bundle: `served` maps each of its names to the digest it has to stand for."""

    reference: str
    role: str
    digest: Digest
    platforms: tuple[Platform, ...]
    served: dict[str, Digest]


@dataclasses.dataclass(frozen=True)
class Installed:
    """The receipt, read. `document` is all of it, and is what `save` writes."""

    document: dict[str, Any]
    wanted: DesiredState
    images: tuple[InstalledImage, ...]
    brought: tuple[Brought, ...]

    @classmethod
    def read(cls, host: Host) -> Installed:
        """Read the receipt.

        Raises:
            HostError: there is none, or it is not one.
        """
        path = host.places.receipt
        document = read_json_file(path)
        if document is None:
            raise _nothing(host, path)
        try:
            builder = document["builder"]
            return cls(
                document=document,
                wanted=DesiredState(
                    address=Address.parse(document["registry"]["address"]),
                    data=str(document["registry"]["data"]),
                    builder=str(builder["name"]),
                    host_platform=Platform.parse(document["host"]),
                    platforms=tuple(map(Platform.parse, builder["platforms"])),
                    tools={role: Tool.from_json(value) for role, value in document["tools"].items()},
                    mirrors={str(key): str(value) for key, value in document["mirrors"].items()},
                ),
                images=tuple(map(_image, document["images"])),
                brought=tuple(
                    Brought(str(item["repository"]), item["tag"], Digest(item["digest"]))
                    for item in document["brought"]
                ),
            )
        except (KeyError, TypeError, AttributeError, UsageError) as error:
            raise HostError(
                f"`{path}` is not a receipt of this version: {error}", hint="python3 ARCHIVE install writes it anew"
            ) from None

    @property
    def made(self) -> list[dict[str, Any]]:
        """What installing made on the host: kind, name, and of files the digest."""
        entries: list[dict[str, Any]] = self.document["made"]
        return entries

    def names_made(self, kind: str) -> list[str]:
        return [str(entry["name"]) for entry in self.made if entry.get("kind") == kind]

    @property
    def archive(self) -> str:
        """What `python3` is to be given to install again: the archive's path, as it was then."""
        return str(self.document["bundle"]["archive"])

    @property
    def finished(self) -> bool:
        """Whether the last installation ended well; else the receipt lists what it was about to bring."""
        return isinstance(self.document.get("finished"), str)

    @classmethod
    @contextlib.contextmanager
    def locked(cls, host: Host) -> Iterator[Installed]:
        """Read the receipt while nobody else can write another one; to be saved within this context only.

        Raises:
            BundleError: another run holds the lock.
            HostError: as `read` does.
        """
        # Where nothing is installed the lock would leave a directory.
        cls.read(host)
        with lock(host.places.state / "lock"):
            yield cls.read(host)

    def save(self, host: Host) -> None:
        write_atomically(host.places.receipt, [(json.dumps(self.document, indent=2) + "\n").encode()], 0o600)


def _image(value: Any) -> InstalledImage:
    digest = Digest(value["digest"])
    rebuilt = value["rebuilt"]
    return InstalledImage(
        reference=str(value["reference"]),
        role=str(value["role"]),
        digest=digest,
        platforms=tuple(map(Platform.parse, value["platforms"])),
        served={name: Digest(rebuilt.get(name, str(digest))) for name in value["names"]},
    )


def _nothing(host: Host, path: Path) -> HostError:
    address = installed_address(host.engine.container(REGISTRY_CONTAINER))
    if address:
        return HostError(
            f"there is no receipt at `{path}`, and a registry of this program at {address}: another user installed it, "
            "or the receipt is lost",
            hint="run this as that user (or with sudo); or write a receipt of your own: python3 ARCHIVE install",
        )
    return HostError(f"nothing is installed here: there is no receipt at `{path}`", hint="python3 ARCHIVE install")
