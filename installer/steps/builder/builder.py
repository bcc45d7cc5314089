"""The builder that `docker buildx` makes of the archive's BuildKit, and its undo.

BuildKit runs privileged, and buildx makes its container anew, of the image that its driver option names, whenever it is
gone: it pulls that name first, and takes the local image of the name only when that fails. So the name has the digest
of the image in it, and not a tag, which anybody who reaches the registry may move.

BuildKit's configuration is read only when the container is made, so a builder whose state is another, as its mark says,
is made anew; its build cache, a volume, is kept.

Where builds are replayed, what RUN steps fetch goes through BuildKit's own proxy (`proxyNetwork`), and that asks the
replay service, which the HTTP_PROXY of BuildKit's environment names, trusting its CA.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from bundles.errors import HostError, Problem
from installer.host.docker.cli import CommandError
from installer.host.docker.container import Container
from installer.host.files import read_json_file, remove_tree
from installer.host.host import Host
from installer.host.labels import BUILDER_PREFIX, ENVIRONMENT, builder_container, fingerprint
from installer.host.paths import is_in_hosts
from installer.model.cluster import cluster_builder
from installer.model.job import DesiredState
from installer.model.step import Change, Step
from installer.model.tool import Tool
from installer.receipt.ledger import file_digest
from installer.receipt.receipt import Receipt
from installer.registry.connection import login_to
from installer.steps.builder.buildkitd_config import AUTHORITY_HOST, authority_file, wanted_config
from installer.steps.builder.instance import DRIVER_MARK, Instance, builder_mark, leave, read_instance
from installer.steps.toolchain_images import local_image

# Before this BuildKit does not send what its proxy network fetches through HTTP_PROXY.
_OLDEST_TO_REPLAY = (0, 33)


class Builder(Step):
    """Creates the builder, bootstraps it and selects it."""

    name = "builder"

    def __init__(self, job: DesiredState, host: Host) -> None:
        self._job, self._host = job, host
        self._name = job.builder
        self._config = host.places.buildkitd_config(self._name)
        self._container = builder_container(self._name)

    @property
    def builder(self) -> str:
        return self._name

    @property
    def logs(self) -> str:
        """The command that shows what BuildKit has to say."""
        return f"docker logs {self._container}"

    @property
    def _tool(self) -> Tool:
        """The BuildKit image."""
        tool = self._job.tool("buildkit")
        if tool is None:
            raise HostError(f"the archive has no buildkit image for {self._job.host_platform}")
        return tool

    @property
    def mark(self) -> str:
        """The name of the wanted state."""
        authority = self._job.access.authority
        return fingerprint(
            {
                "image": self._tool.pinned,
                "config": wanted_config(self._job, self._host),
                "options": self.options(),
                "platforms": self._platforms,
                # Of the files that are copied into the container.
                **({"ca": file_digest(authority_file(self._host))} if self._job.replay else {}),
                **({"registry": file_digest(Path(authority))} if authority else {}),
            }
        )

    @property
    def _platforms(self) -> str:
        return ",".join(map(str, self._job.platforms))

    def options(self) -> list[str]:
        """Return the options of buildx's driver, but for the image and the mark; those of nodes are the same."""
        replay, address = self._job.replay, self._job.address
        # The registry, or the replay service, listens on this host's loopback address: BuildKit must share it. And with
        # the host's network a container has its /etc/hosts.
        named_here = self._job.site is not None and is_in_hosts(address.host, self._host.places)
        options = ["network=host"] if address.is_loopback or replay or named_here else []
        if replay is None:
            return options
        past = ",".join(dict.fromkeys((address.host, *replay.direct)))
        return [
            *options,
            f"env.HTTP_PROXY={replay.proxy}",
            f"env.HTTPS_PROXY={replay.proxy}",
            # buildx reads an option as a line of CSV.
            f'"env.NO_PROXY={past}"' if "," in past else f"env.NO_PROXY={past}",
            f"env.SSL_CERT_FILE=/etc/buildkit/certs/{AUTHORITY_HOST}/ca.pem",
        ]

    def _is_outdated(self, container: Optional[Container]) -> bool:
        return container is not None and (
            container.environment.get(ENVIRONMENT) != self.mark or not self._tool.is_image(container.image_id)
        )

    def _instance(self) -> Optional[Instance]:
        return read_instance(self._host, self._name)

    def _is_selected(self) -> bool:
        current = read_json_file(self._host.places.buildx_config / "current")
        # Whoever prefers the cluster has said so.
        fine = [self._name, *([cluster_builder(self._name)] if self._job.cluster else [])]
        return current is not None and current.get("Name") in fine

    def problems(self) -> Sequence[Problem]:
        problems = []
        instance = self._instance()
        if instance is not None and instance.mark is None:
            problems.append(
                Problem(
                    f"builder `{self._name}`",
                    f"it is not one that this program made (driver {instance.driver})",
                    f"choose another name with --builder, or remove it: docker buildx rm {self._name}",
                )
            )
        elif instance is None:
            container = self._host.engine.container(self._container)
            if container is not None and ENVIRONMENT not in container.environment:
                problems.append(
                    Problem(
                        f"container `{self._container}`",
                        "it is a builder's that this program did not make, and that buildx has no record of here",
                        f"choose another name with --builder, or remove it: docker rm -f {self._container}",
                    )
                )
        return problems

    def look(self) -> Sequence[Change]:
        tool = self._tool
        detail = f"{tool.name} for {self._platforms}"
        where = "the registry" if self._job.site else "the local registry"
        pull = Change("pull", "image", tool.pinned, f"its name by digest, from {where}")
        instance = self._instance()
        if instance is None:
            return [pull, Change("create", "builder", self._name, detail)]
        container = self._host.engine.container(self._container)
        if instance.mark != self.mark or self._is_outdated(container):
            detail += "; the build cache is kept"
            others = [node.name for node in instance.nodes[1:] if not node.mark]
            if others:
                added = ", ".join(others)
                detail += f"; nodes that were added go: {added}; docker buildx create --append adds them again"
            return [pull, Change("recreate", "builder", self._name, detail)]
        changes = []
        if container is None or not container.is_running:
            changes.append(Change("start", "builder", self._name, detail))
        if not self._is_selected():
            changes.append(Change("select", "builder", self._name, "docker buildx use"))
        return changes

    def apply(self, changes: Sequence[Change]) -> None:
        instance = self._instance()
        container = self._host.engine.container(self._container)
        outdated = self._is_outdated(container)
        if instance is None or instance.mark != self.mark or outdated:
            self._refuse_old()
        if instance is not None and (instance.mark != self.mark or outdated):
            # The step `nodes` brings them back; buildx would ask their machines, which may be down.
            for node in instance.own_nodes:
                leave(self._host, self._name, node.name)
            self._host.cli.run(["buildx", "rm", "--keep-state", self._name])
            instance = None
            container = self._host.engine.container(self._container)
            outdated = container is not None
        if instance is None:
            if outdated:
                # buildx would take over a container that bears the name, with the configuration it was made with.
                self._host.engine.remove_container(self._container)
            self._create()
        else:
            self._docker(["buildx", "inspect", "--bootstrap", self._name])
            self._docker(["buildx", "use", self._name])

    def explain(self, change: Change) -> str:
        # The name by digest goes with the builder.
        pulled = "create" if self._instance() is None else "recreate"
        says = {
            "create": "is gone",
            "recreate": "was made with another image or configuration",
            "start": "does not run",
            "select": "is not the one that `docker buildx build` uses",
        }
        return f"the builder `{self._name}` {says[pulled if change.action == 'pull' else change.action]}"

    def _create(self) -> None:
        options = [f"image={self._image()}", *self.options(), f"{DRIVER_MARK}={self.mark}"]
        self._docker(
            [
                *("buildx", "create", "--name", self._name, "--driver", "docker-container"),
                *(part for option in options for part in ("--driver-opt", option)),
                *("--platform", self._platforms, "--buildkitd-config", str(self._config), "--use", "--bootstrap"),
            ]
        )

    def _image(self) -> str:
        """Return what buildx is to make the container of, now and whenever it is gone: a name with a digest.

        Docker's classic store knows an image by such a name only once it was pulled. Where it cannot pull, the id of
        the image does: buildx asks Docker Hub for it first, which nobody answers here, and nothing else can have it.
        """
        tool, engine = self._tool, self._host.engine
        with contextlib.suppress(HostError):
            engine.pull(tool.pinned, login_to(self._job))
        if tool.is_image(engine.image_id(tool.pinned)):
            return tool.pinned
        local = local_image(self._host, tool)
        if local is None:
            raise HostError(
                f"Docker does not have the image `{tool.name}`, and cannot pull `{tool.pinned}`",
                hint=f"docker pull {tool.pinned}",
            )
        return str(engine.image_id(local))

    def _refuse_old(self) -> None:
        """Ask the image, before the builder goes that is there.

        Raises:
            HostError: this BuildKit cannot send what RUN steps fetch to the replay service.
        """
        if self._job.replay is None:
            return
        said = self._host.engine.run(self._image(), ["--version"]).stdout
        match = re.search(r"\bv(\d+)\.(\d+)\.\S+", said)
        if match and (int(match[1]), int(match[2])) < _OLDEST_TO_REPLAY:
            raise HostError(
                f"`{self._tool.name}` is BuildKit {match[0]}, and replaying what was recorded needs v0.33 or later",
                hint="install with --no-replay; or, where there is internet: "
                "bundle create ... --toolchain buildkit=moby/buildkit:buildx-stable-1",
            )

    def _docker(self, arguments: Sequence[str]) -> None:
        try:
            self._host.cli.run(arguments)
        except CommandError as error:
            log = self._host.engine.logs(self._container)
            raise HostError(
                f"the builder `{self._name}` cannot be made: {error.message}" + (f"\nits log: {log}" if log else ""),
                hint="make what is named above possible, then run this again; it goes on",
            ) from None


class RemoveBuilder(Step):
    """Removes the builders, with their build cache."""

    name = "builder"

    def __init__(self, receipt: Receipt, host: Host) -> None:
        self._made, self._host = receipt.names_made("builder"), host
        self._names = list(dict.fromkeys((*self._made, receipt.state.builder)))

    def _container(self, name: str) -> Optional[Container]:
        container = self._host.engine.container(builder_container(name))
        return container if container is not None and ENVIRONMENT in container.environment else None

    def look(self) -> Sequence[Change]:
        return [
            Change("remove", "builder", name, "with its build cache")
            for name in self._names
            if builder_mark(self._host, name) or (name in self._made and self._container(name))
        ]

    def apply(self, changes: Sequence[Change]) -> None:
        for change in changes:
            name = change.name
            if builder_mark(self._host, name):
                self._host.cli.run(["buildx", "rm", "--force", name])
            container = self._container(name)
            if container is not None:
                # buildx has no record of it any more.
                self._host.engine.remove_container(container.name)
                self._host.engine.remove_volume(f"{container.name}_state")
            for kind in ("activity", "refs"):
                remove_tree(self._host.places.buildx_config / kind / name)

    def notes(self) -> Sequence[str]:
        going = {change.name for change in self.look()}
        names = [name[len(BUILDER_PREFIX) : -1] for name in self._host.engine.container_names(BUILDER_PREFIX)]
        left = [self._container(name) for name in names if name not in going]
        return [
            f"the container {container.name} stays: it is the builder of another user, or of an installation whose "
            f"receipt is lost; docker rm -f {container.name}; docker volume rm {container.name}_state"
            for container in left
            if container is not None
        ]
