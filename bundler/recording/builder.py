"""A BuildKit of the recording's own: made for one build, its requests led to the recorder, gone afterwards."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Optional

from bundler.recording.docker import Docker
from bundles.errors import HostError
from bundles.registry.urls import is_loopback
from bundles.runtime.closeable import Closeable

# Before this BuildKit does not send what its proxy network fetches through HTTP_PROXY.
_OLDEST = (0, 33)
# The end keeps the name of a builder's node, to which buildx adds a number, from looking like another builder's. It
# also says what goes with the builder, for who finds one that was left: `i` is its image, which only it has brought.
_NAME = "bundle-record-{}-{}"
# A registry that does not exist: buildx copies the `ca` of a registry's section into the builder's container.
_CA_HOST = "record.invalid"
_VERSION = re.compile(r"^BuildKit(?: version)?:\s*(v?(\d+)\.(\d+)\S*)", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class BuilderSettings:
    """What the builder is like.

    Args:
        image: of BuildKit.
        proxy: the recorder's address.
        ca: the file with the recorder's CA.
        records_steps: RUN steps go through the recorder, too, and not only what BuildKit itself fetches.
        mirrors: a registry -> the hosts that are asked in its stead.
        insecure: hosts that may be spoken to without TLS, besides this machine's own.
        caches: where this machine's registry for caches is, host:port; it has no TLS.
    """

    image: str
    proxy: str
    ca: Path
    records_steps: bool = True
    mirrors: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    insecure: frozenset[str] = frozenset()
    caches: str = "127.0.0.1:0"

    def config(self) -> str:
        """Return the content of buildkitd.toml."""
        # JSON strings are TOML basic strings. What stands before the first section belongs to none.
        lines = [f"proxyNetwork = {str(self.records_steps).lower()}"]
        lines += [f"[registry.{json.dumps(_CA_HOST)}]", f"  ca = [{json.dumps(str(self.ca))}]"]
        for registry, mirrors in self.mirrors.items():
            lines += [f"[registry.{json.dumps(registry)}]", f"  mirrors = {json.dumps(mirrors)}"]
        # A mirror may be a part of a registry: host:port/path.
        hosts = {mirror.partition("/")[0] for mirrors in self.mirrors.values() for mirror in mirrors}
        loopback = {host for host in hosts if is_loopback(host.rpartition(":")[0] or host)}
        for host in sorted((loopback | self.insecure) - self.mirrors.keys()):
            lines += [f"[registry.{json.dumps(host)}]", "  http = true", "  insecure = true"]
        # BuildKit would try TLS first were it `insecure`, too.
        lines += [f"[registry.{json.dumps(self.caches)}]", "  http = true"]
        return "\n".join(lines) + "\n"

    def options(self) -> list[str]:
        """Return the options of buildx's docker-container driver."""
        # The recorder listens on this machine's loopback address, which BuildKit must share.
        return [
            f"image={self.image}",
            "network=host",
            f"env.HTTP_PROXY={self.proxy}",
            f"env.HTTPS_PROXY={self.proxy}",
            f"env.NO_PROXY={self.caches.rpartition(':')[0]}",
            f"env.SSL_CERT_FILE=/etc/buildkit/certs/{_CA_HOST}/ca.pem",
        ]


class TemporaryBuilder(Closeable):
    """Makes and starts a builder; closing it removes it with all that it holds, and the image that was pulled for it.

    Args:
        docker: the command.
        settings: what it is like.
        directory: where its configuration is written, in a file that nobody else needs.

    Raises:
        HostError: it cannot be made, or its BuildKit is too old.
    """

    def __init__(self, docker: Docker, settings: BuilderSettings, directory: Path) -> None:
        self._docker, self._settings = docker, settings
        self._is_closed = False
        self._before = _image(docker, settings.image)
        self.name = _NAME.format(os.getpid(), "b" if self._before else "i")
        config = directory / "buildkitd.toml"
        config.write_text(settings.config(), encoding="utf-8")
        create = ["buildx", "create", "--name", self.name, "--driver", "docker-container"]
        create += [part for option in settings.options() for part in ("--driver-opt", option)]
        try:
            docker.run([*create, "--buildkitd-config", str(config)])
            self.version = self._checked_version()
        except BaseException:
            self.close()
            raise

    def _checked_version(self) -> str:
        match = _VERSION.search(self._docker.run(["buildx", "inspect", "--bootstrap", self.name]))
        if match is None:
            return "unknown"
        if self._settings.records_steps and (int(match[2]), int(match[3])) < _OLDEST:
            raise HostError(
                f"`{self._settings.image}` is BuildKit {match[1]}: recording what RUN steps fetch needs v0.33 or later",
                hint="name a newer one with --buildkit-image moby/buildkit:buildx-stable-1, or use --cache-only",
            )
        return match[1]

    def close(self) -> None:
        if self._is_closed:
            return
        with contextlib.suppress(HostError):
            self._docker.run(["buildx", "rm", "--force", self.name])
            self._is_closed = True
        now = _image(self._docker, self._settings.image)
        with contextlib.suppress(HostError):
            if now and self._before is None:
                _remove_image(self._docker, self._settings.image)
            elif now and self._before and now != self._before:
                # The tag has moved on, and buildx has pulled what it stands for now.
                self._docker.run(["image", "tag", self._before, self._settings.image])
                _remove_image(self._docker, now)


def remove_leftovers(docker: Docker) -> None:
    """Remove the builders of recordings that were killed, and the images that these have brought."""
    for name in docker.builders:
        match = re.fullmatch(_NAME.format(r"(\d+)", "([bi])"), name)
        if match and not _runs(int(match[1])):
            image = ""
            with contextlib.suppress(HostError):
                container = f"buildx_buildkit_{name}0"
                image = docker.run(["container", "inspect", "--format", "{{.Config.Image}}", container]).strip()
            with contextlib.suppress(HostError):
                docker.run(["buildx", "rm", "--force", name])
                if image and match[2] == "i":
                    _remove_image(docker, image)


def _image(docker: Docker, name: str) -> Optional[str]:
    """Return the id of an image that is in Docker; None when it is not."""
    try:
        return docker.run(["image", "inspect", "--format", "{{.Id}}", name]).strip() or None
    except HostError:
        return None


def _remove_image(docker: Docker, name: str) -> None:
    """Remove an image, unless a container has it: that of another builder."""
    docker.run(["image", "rm", name])


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True
