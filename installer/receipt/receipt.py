"""What was installed on this host: the document that a run writes there, and that later commands go by.

It is receipt.json in the user's state directory, and what `install --json` prints. It has these keys:

    bundle     name, digest, archive: what was installed
    registry   address, container, image, digest, data: where it is, and the volume or directory that holds its data;
               tls, ca (a PEM file) and password (a file): how it is spoken to; site, of a registry that was there
               before: host, prefix, flat, aliases, and then there is no container and no data; storage, when the data
               is in a bucket of an S3 storage, else null: bucket, prefix, endpoint, region, redirect, authority (a PEM
               file)
    host       the platform of the host
    tools      role to reference, root (digest), manifest and config (descriptors), name: toolchain images in Docker
    mirrors    registry that images come from to its mirror
    builder    name, image, platforms, chosen (those of --platform), config, the path of its buildkitd.toml, and nodes,
               for each its address, name, platform, and tool, its BuildKit image
    kubernetes context, namespace, replicas, rootless, volume, selector: where a second builder is; null without one
    replay     port, tapes (name, digests) and direct, the hosts that builds reach themselves: the service that answers
               what builds ask the network for; null when nothing is replayed
    noReplay   whether that was not wanted (--no-replay)
    direct     hosts given with --direct
    caches     what `docker buildx build --cache-from` takes for what was recorded, of this bundle, then of those that
               were installed beside it
    images     for each: reference, role, digest, platforms, names (what `docker pull` takes), and rebuilt, which maps
               those names that serve another index than the origin's to its digest
    leftOut    references that have none of the platforms asked for
    steps      for each: step, changed, and changes (action, kind, name, detail, size in bytes or null)
    notes      what a person should know
    changed    whether anything was
    test       names the state for which the test build passed, or null
    made       everything that installing ever made on this host and that is not under another heading: kind, name, and
               for a file its digest, as it was written, and `writing` until the step that writes it has ended
    brought    every tag and digest that installing ever pushed and that was not removed since: repository, tag or null,
               digest, and bundle, the name of the bundle that it is of; what two bundles have is listed for each; and
               role, `tape` or `cache`, where it is one that builds here may use
    replaced   every tag that installing took from others: repository, tag, digest, which it was, and by, which it is
               since; what it was stays in the registry under its digest
    elsewhere  what was brought to registries that this host used before: registry (HOST of a site's, empty for our
               own), brought and replaced
    garbage    whether `prune` was interrupted before the registry had collected what nothing refers to
    finished   when, in UTC; null when it did not end well
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
from collections.abc import Iterator, Mapping
from typing import Any, Optional

from bundles.errors import HostError, UsageError
from bundles.oci.digest import Digest
from bundles.oci.platform import Platform
from bundles.runtime.program import archive_command
from installer.host.files import lock, read_json_file, write_atomically
from installer.host.host import Host
from installer.host.labels import REGISTRY_CONTAINER
from installer.host.paths import Places
from installer.model.cluster import Cluster
from installer.model.job import DesiredState
from installer.model.node import Node
from installer.model.registry.access import Access
from installer.model.registry.address import Address
from installer.model.registry.destination import Destination
from installer.model.registry.installed import installed_address
from installer.model.registry.storage import S3Storage
from installer.model.replay import Replay
from installer.model.step import Change, StepResult
from installer.model.tool import Tool
from installer.receipt.ledger import Ledger, LedgerEntry
from installer.replay.settings import CACHES


@dataclasses.dataclass(frozen=True)
class BundleName:
    """Which bundle, and the path of its archive as it was then."""

    name: str
    digest: str
    archive: str


@dataclasses.dataclass(frozen=True)
class PushedName:
    """A tag, or without one a digest, that installing pushed into a repository of the registry for a bundle.

    `role` is `tape` or `cache` for what of a recorded build is on the registry; empty for all else.
    """

    repository: str
    tag: Optional[str]
    digest: Digest
    bundle: str = ""
    role: str = dataclasses.field(default="", compare=False)

    @classmethod
    def parse(cls, value: Any, bundle: str = "") -> PushedName:
        """Read what `to_json` gives; what has no bundle is of `bundle`."""
        return cls(
            str(value["repository"]),
            value["tag"],
            Digest(value["digest"]),
            str(value.get("bundle", bundle)),
            str(value.get("role", "")),
        )

    def to_json(self) -> dict[str, Any]:
        role = {"role": self.role} if self.role else {}
        return {
            "repository": self.repository, "tag": self.tag, "digest": str(self.digest), "bundle": self.bundle, **role
        }  # fmt: skip

    def __str__(self) -> str:
        return f"{self.repository}:{self.tag}" if self.tag else f"{self.repository}@{self.digest}"


@dataclasses.dataclass(frozen=True)
class ReplacedTag:
    """A tag that somebody else had pushed as `digest`, and that installing made `by`."""

    repository: str
    tag: str
    digest: Digest
    by: Digest

    @classmethod
    def parse(cls, value: Any) -> ReplacedTag:
        """Read what `to_json` gives."""
        return cls(str(value["repository"]), str(value["tag"]), Digest(value["digest"]), Digest(value["by"]))

    def to_json(self) -> dict[str, Any]:
        return {"repository": self.repository, "tag": self.tag, "digest": str(self.digest), "by": str(self.by)}


@dataclasses.dataclass(frozen=True)
class Elsewhere:
    """What installing brought to a registry that this host uses no more: the host of a site's, empty for our own.

    It is nothing that the registry of now has, whatever has the same names there.
    """

    registry: str
    brought: tuple[PushedName, ...] = ()
    replaced: tuple[ReplacedTag, ...] = ()

    @classmethod
    def parse(cls, value: Any) -> Elsewhere:
        """Read what `to_json` gives."""
        brought = (PushedName.parse(item) for item in value["brought"])
        return cls(str(value["registry"]), tuple(brought), tuple(map(ReplacedTag.parse, value["replaced"])))

    def to_json(self) -> dict[str, Any]:
        return {
            "registry": self.registry,
            "brought": [entry.to_json() for entry in self.brought],
            "replaced": [entry.to_json() for entry in self.replaced],
        }


@dataclasses.dataclass(frozen=True)
class InstalledImage:
    """An image of the bundle. `rebuilt` maps those of its names that stand for another index to that one's digest."""

    reference: str
    role: str
    digest: Digest
    platforms: tuple[Platform, ...]
    names: tuple[str, ...]
    rebuilt: Mapping[str, Digest] = dataclasses.field(default_factory=dict)

    @property
    def served(self) -> dict[str, Digest]:
        """Each name, with the digest it has to stand for."""
        return {name: self.rebuilt.get(name, self.digest) for name in self.names}

    @classmethod
    def parse(cls, value: Any) -> InstalledImage:
        """Read what `to_json` gives."""
        return cls(
            str(value["reference"]),
            str(value["role"]),
            Digest(value["digest"]),
            _platforms(value["platforms"]),
            tuple(map(str, value["names"])),
            {str(name): Digest(digest) for name, digest in value["rebuilt"].items()},
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "reference": self.reference,
            "role": self.role,
            "digest": str(self.digest),
            "platforms": list(map(str, self.platforms)),
            "names": list(self.names),
            "rebuilt": {name: str(digest) for name, digest in self.rebuilt.items()},
        }


@dataclasses.dataclass(frozen=True)
class Receipt:
    """The document. `state` is what the host was to be, `config` the path of the builder's buildkitd.toml."""

    bundle: BundleName
    state: DesiredState
    chosen: tuple[Platform, ...] = ()
    direct: tuple[str, ...] = ()
    no_replay: bool = False
    config: str = ""
    images: tuple[InstalledImage, ...] = ()
    left_out: tuple[str, ...] = ()
    steps: tuple[StepResult, ...] = ()
    notes: tuple[str, ...] = ()
    test: Optional[str] = None
    made: Ledger = ()
    brought: tuple[PushedName, ...] = ()
    replaced: tuple[ReplacedTag, ...] = ()
    elsewhere: tuple[Elsewhere, ...] = ()
    garbage: bool = False
    finished: Optional[datetime.datetime] = None

    @classmethod
    def find(cls, places: Places) -> Optional[Receipt]:
        """Read the receipt on the host; None when there is none.

        Raises:
            HostError: it is not a receipt.
        """
        document = read_json_file(places.receipt)
        try:
            return None if document is None else cls.parse(document)
        except (KeyError, TypeError, ValueError, AttributeError, UsageError) as error:
            raise HostError(
                f"`{places.receipt}` is not a receipt of this version: {error}",
                hint=f"{archive_command('install')} writes it anew",
            ) from None

    @classmethod
    def known(cls, places: Places) -> Optional[Receipt]:
        """Read the receipt on the host; None when there is none, or one that cannot be read, which is written anew."""
        try:
            return cls.find(places)
        except HostError:
            return None

    @classmethod
    def read(cls, host: Host) -> Receipt:
        """Read the receipt of what is installed.

        Raises:
            HostError: nothing is, or it is not a receipt.
        """
        receipt = cls.find(host.places)
        if receipt is None:
            raise _nothing(host)
        return receipt

    @classmethod
    @contextlib.contextmanager
    def locked(cls, host: Host) -> Iterator[Receipt]:
        """Read the receipt while nobody else can write another one; to be saved within this context only.

        Raises:
            BundleError: another run holds the lock.
            HostError: as `read` does.
        """
        # Where nothing is installed the lock would leave a directory.
        cls.read(host)
        with lock(host.places.state / "lock"):
            yield cls.read(host)

    def save(self, places: Places) -> None:
        """Keep it on the host, readable for the user only."""
        write_atomically(places.receipt, [(json.dumps(self.to_json(), indent=2) + "\n").encode()], 0o600)

    @property
    def changed(self) -> bool:
        return any(step.changes for step in self.steps)

    @property
    def caches(self) -> tuple[str, ...]:
        """What `--cache-from` takes: the bundle's caches, then those of bundles beside it, the newest of them first.

        By digest: whoever may push could have any result of a step under the tag.
        """
        found = {
            image.served[image.names[0]]: image.names[0].partition("@")[0]
            for image in self.images
            if image.role == "cache"
        }
        beside: dict[str, dict[str, Digest]] = {}
        for entry in self.brought:
            if entry.role == "cache" and entry.bundle != self.bundle.name:
                name = f"{entry.repository}:{entry.tag}" if entry.tag else entry.repository
                beside.setdefault(entry.bundle, {})[name] = entry.digest
        for names in reversed(list(beside.values())):
            for name, digest in names.items():
                found.setdefault(digest, f"{self.state.destination.host}/{name}")
        return tuple(f"type=registry,ref={name}@{digest}" for digest, name in found.items())

    def cache_of(self, build: Optional[str]) -> Optional[str]:
        """Return what `--cache-from` takes for a recorded build, None when its cache is not here."""
        return next((cache for cache in self.caches if f"/{CACHES}:{build}@" in cache), None)

    def names_made(self, kind: str) -> list[str]:
        return [entry.name for entry in self.made if entry.kind == kind]

    def has_brought(self, repository: str, tag: Optional[str], digest: Digest) -> bool:
        """Tell whether installing pushed that digest under that tag, for whatever bundle."""
        return any((entry.repository, entry.tag, entry.digest) == (repository, tag, digest) for entry in self.brought)

    @classmethod
    def parse(cls, document: dict[str, Any]) -> Receipt:
        """Read what `to_json` gives.

        Raises:
            KeyError, TypeError, ValueError, AttributeError, UsageError: it is something else.
        """
        bundle, registry, builder, finished = (document[key] for key in ("bundle", "registry", "builder", "finished"))
        return cls(
            bundle=BundleName(str(bundle["name"]), str(bundle["digest"]), str(bundle["archive"])),
            state=DesiredState(
                address=Address.parse(registry["address"]),
                data=str(registry["data"] or ""),
                site=Destination.from_json(registry.get("site")),
                access=Access.from_json(registry),
                storage=S3Storage.from_json(registry.get("storage")),
                builder=str(builder["name"]),
                host_platform=Platform.parse(document["host"]),
                platforms=_platforms(builder["platforms"]),
                tools={role: Tool.from_json(value) for role, value in document["tools"].items()},
                mirrors={str(key): str(value) for key, value in document["mirrors"].items()},
                replay=Replay.from_json(document.get("replay")),
                nodes=tuple(map(Node.from_json, builder.get("nodes", ()))),
                cluster=Cluster.from_json(document.get("kubernetes")),
            ),
            chosen=_platforms(builder["chosen"]),
            direct=tuple(map(str, document.get("direct", ()))),
            no_replay=document.get("noReplay") is True,
            config=str(builder["config"]),
            images=tuple(map(InstalledImage.parse, document["images"])),
            left_out=tuple(map(str, document["leftOut"])),
            steps=tuple(
                StepResult(str(step["step"]), tuple(Change(**change) for change in step["changes"]))
                for step in document["steps"]
            ),
            notes=tuple(map(str, document["notes"])),
            test=document["test"],
            made=tuple(map(LedgerEntry.parse, document["made"])),
            brought=tuple(PushedName.parse(item, str(bundle["name"])) for item in document["brought"]),
            replaced=tuple(map(ReplacedTag.parse, document.get("replaced", ()))),
            elsewhere=tuple(map(Elsewhere.parse, document.get("elsewhere", ()))),
            garbage=document["garbage"] is True,
            finished=None if finished is None else datetime.datetime.fromisoformat(finished),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the receipt as the object described above."""
        state = self.state
        registry, buildkit = state.tool("registry"), state.tool("buildkit")
        return {
            "bundle": dataclasses.asdict(self.bundle),
            "registry": {
                "address": str(state.address),
                "container": None if state.site else REGISTRY_CONTAINER,
                "image": registry and str(registry.reference),
                "digest": registry and str(registry.root),
                "data": state.data or None,
                "site": state.site and state.site.to_json(),
                "storage": state.storage and state.storage.to_json(),
                **state.access.to_json(),
            },
            "builder": {
                "name": state.builder,
                "image": buildkit and buildkit.name,
                "platforms": list(map(str, state.platforms)),
                "chosen": list(map(str, self.chosen)),
                "config": self.config,
                "nodes": [node.to_json() for node in state.nodes],
            },
            "host": str(state.host_platform),
            "tools": {role: tool.to_json() for role, tool in state.tools.items()},
            "mirrors": dict(state.mirrors),
            "kubernetes": state.cluster and state.cluster.to_json(),
            "replay": state.replay and state.replay.to_json(),
            "noReplay": self.no_replay,
            "direct": list(self.direct),
            "caches": list(self.caches),
            "images": [image.to_json() for image in self.images],
            "leftOut": list(self.left_out),
            "steps": [step.to_json() for step in self.steps],
            "notes": list(self.notes),
            "changed": self.changed,
            "test": self.test,
            "made": [entry.to_json() for entry in self.made],
            "brought": [entry.to_json() for entry in self.brought],
            "replaced": [entry.to_json() for entry in self.replaced],
            "elsewhere": [entry.to_json() for entry in self.elsewhere],
            "garbage": self.garbage,
            "finished": self.finished and self.finished.isoformat(timespec="seconds"),
        }


def _platforms(values: Any) -> tuple[Platform, ...]:
    return tuple(map(Platform.parse, values))


def _nothing(host: Host) -> HostError:
    path = host.places.receipt
    address = installed_address(host.engine.container(REGISTRY_CONTAINER))
    if address:
        return HostError(
            f"there is no receipt at `{path}`, and a registry of this program at {address}: another user installed it, "
            "or the receipt is lost",
            hint=f"run this as that user (or with sudo); or write a receipt of your own: {archive_command('install')}",
        )
    return HostError(f"nothing is installed here: there is no receipt at `{path}`", hint=archive_command("install"))
