"""What is to be installed and how, settled before anything on the host is touched."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Optional

from bundles.archive.manifest import TOOLS
from bundles.archive.reader import Archive
from bundles.errors import UsageError
from bundles.oci.platform import Platform
from bundles.registry.auth import Credential
from installer.host.labels import REGISTRY_VOLUME
from installer.model.cluster import Cluster
from installer.model.naming import mirrors
from installer.model.node import Node, NodeAddress
from installer.model.registry.access import PLAIN, Access
from installer.model.registry.address import Address
from installer.model.registry.destination import Destination
from installer.model.registry.keys import Keys
from installer.model.registry.storage import S3Storage, is_bucket
from installer.model.replay import Replay
from installer.model.selection import Selected, select
from installer.model.tool import ROOTLESS, Tool, rootless_buildkit, tool_of

DEFAULT_REGISTRY = "localhost:5000"
DEFAULT_BUILDER = "cross-builder"
# What buildx itself accepts: buildx, store/util.go.
_BUILDER = re.compile(r"[a-z][a-z0-9._-]*", re.ASCII)


@dataclasses.dataclass(frozen=True)
class S3Options:
    """What the command line says of an S3 storage; None is what was not given, and stays what it is.

    `place` is a bucket and the prefix in it, `authority` the file of --s3-ca.
    """

    place: Optional[tuple[str, str]] = None
    endpoint: Optional[str] = None
    region: Optional[str] = None
    redirect: Optional[bool] = None
    authority: Optional[Path] = None


@dataclasses.dataclass(frozen=True)
class Options:
    """What the command line says. `data` and `registry` are None when they were not given.

    `nodes` are machines that the builder is to have besides those that it has.

    With `site` images go to a registry that is there already, below its prefix; `access` is how that one is spoken to,
    `ca_file` what of that was given now, and `authorities` the certificates that are to be its authority from now on;
    None where they stay what they are. `credential` is what docker is to log in there with; None where it has a login,
    or needs none.

    Without it the registry is our own: `tls` and `login` are None where they stay what they are. `certificate` and
    `key` are files that it is to show, of the CA in `ca_file`, else of one that the system trusts; without them it has
    a CA of its own.

    With `storage` its data is in a bucket, as it was settled from `s3`, which is what was given of that now; `s3_keys`
    are None where they stay what they are.

    `cluster` is None where it stays what it is, which with `without_cluster` it does not.

    With `succeeds` the archive takes the place of what is installed, also where its name is another. Without `replay`
    recorded builds are not replayed; `direct` are the hosts that builds then reach by themselves.
    """

    registry: Optional[Address] = None
    builder: str = DEFAULT_BUILDER
    nodes: tuple[NodeAddress, ...] = ()
    platforms: tuple[Platform, ...] = ()
    data: Optional[str] = None
    yes: bool = False
    system: bool = False
    succeeds: bool = False
    replay: bool = True
    direct: tuple[str, ...] = ()
    site: Optional[Destination] = None
    access: Access = PLAIN
    ca_file: Optional[Path] = None
    authorities: Optional[bytes] = None
    credential: Optional[Credential] = None
    tls: Optional[bool] = None
    login: Optional[bool] = None
    certificate: Optional[Path] = None
    key: Optional[Path] = None
    s3: S3Options = S3Options()
    s3_keys: Optional[Keys] = None
    storage: Optional[S3Storage] = None
    cluster: Optional[Cluster] = None
    without_cluster: bool = False

    def __post_init__(self) -> None:
        if not _BUILDER.fullmatch(self.builder) or self.builder == "default":
            raise UsageError(
                f"`{self.builder[:100]}` cannot be a builder's name: expected lower-case letters, digits, and . _ -"
            )


def is_directory(data: str) -> bool:
    """Tell whether a value of --data means a directory; else it is a volume's name, or a bucket."""
    return not is_bucket(data) and ("/" in data or data.startswith("."))


@dataclasses.dataclass(frozen=True)
class DesiredState:
    """A host as it is to be, but for the content of the registry: the archive is not needed to see whether it is so.

    `platforms` are those the builder is for, `nodes` its other machines. `data` is the registry's volume, or an
    absolute directory, or the name of the bucket that `storage` says more of; empty where the registry is the site's.
    `mirrors` maps every registry that an image comes from to its mirror. `replay` is None when nothing is to be
    replayed. `site` is a registry that was there before, and where in it the images are; None when the registry is a
    container of this installation. `access` is how the registry is spoken to. `cluster` is where a second builder is,
    on Kubernetes; None without one.
    """

    address: Address
    data: str
    builder: str
    host_platform: Platform
    platforms: tuple[Platform, ...]
    tools: Mapping[str, Tool]
    mirrors: Mapping[str, str]
    replay: Optional[Replay]
    site: Optional[Destination]
    access: Access
    nodes: tuple[Node, ...]
    storage: Optional[S3Storage]
    cluster: Optional[Cluster]

    @property
    def destination(self) -> Destination:
        """Where images are: what their names begin with."""
        return self.site or Destination.of(self.address)

    def node_for(self, platform: Platform) -> Optional[Node]:
        """Return where builds for a platform go; None where that is this host.

        buildx gives each platform to one node, the last one of those that name it, and it has no other way of sharing.
        So a machine that runs it by itself has it, and with more than one of them the one that was added last.
        """
        found = (node for node in reversed(self.nodes) if node.platform.architecture == platform.architecture)
        return next(found, None)

    def platforms_of(self, node: Optional[Node]) -> tuple[Platform, ...]:
        """Return the platforms for which builds go to a node, or without one stay on this host."""
        return tuple(platform for platform in self.platforms if self.node_for(platform) == node)

    def tool(self, role: str) -> Optional[Tool]:
        """Return the toolchain image of that role for this host, or None when there is none."""
        return self.tools.get(role)


@dataclasses.dataclass(frozen=True)
class Job(DesiredState):
    """An archive, where it goes, and what of it."""

    archive: Archive
    options: Options
    images: tuple[Selected, ...]

    @classmethod
    def of(
        cls,
        archive: Archive,
        options: Options,
        host_platform: Platform,
        installed_address: Optional[Address] = None,
        installed_data: Optional[str] = None,
    ) -> Job:
        """Settle it: what was asked for, else what was installed before, else the default.

        Reads the archive's documents, which must have been checked. Left open is whether anything is replayed, and
        which nodes there are.
        """
        if options.site:
            address, data, destination = Address.of_host(options.site.host), "", options.site
        else:
            address = options.registry or installed_address or Address.parse(DEFAULT_REGISTRY)
            data, destination = options.data or installed_data or REGISTRY_VOLUME, Destination.of(address)
            data = str(options.storage) if options.storage else data
        images = select(archive, destination, options.platforms)
        found = ((role, tool_of(archive, role, host_platform, destination)) for role in TOOLS)
        tools = {role: tool for role, tool in found if tool}
        rootless = rootless_buildkit(archive, host_platform, destination)
        return cls(
            archive=archive,
            options=options,
            address=address,
            data=str(Path(data).absolute()) if is_directory(data) else data,
            builder=options.builder,
            host_platform=host_platform,
            platforms=options.platforms or archive.manifest.platforms or (host_platform,),
            tools={**tools, **({ROOTLESS: rootless} if rootless else {})},
            mirrors=mirrors((item.image.reference for item in images), destination),
            replay=None,
            images=images,
            site=options.site,
            access=options.access,
            nodes=(),
            storage=None if options.site else options.storage,
            cluster=options.cluster,
        )

    def base_images(self) -> Sequence[Selected]:
        """Return the images that Dockerfiles start from."""
        return [item for item in self.images if item.image.role == "base"]
