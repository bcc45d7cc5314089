"""What other clients of a site read to find images on its registry under their own names: containerd, podman, k3s.

containerd   docs/hosts.md: a directory for each registry; a path in a host's address is all of it with override_path
nerdctl      the same files; its logins are docker's
podman       containers-registries.conf(5), containers-registries.conf.d(5), containers-certs.d(5)
k3s          docs.k3s.io "Private Registry Configuration": an address with a path becomes one with override_path
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping

from installer.model.registry.access import USER
from installer.model.registry.destination import Destination

KINDS = ("containerd", "nerdctl", "podman", "k3s")
_CONTAINERD = "/etc/containerd/certs.d"
_PODMAN = "/etc/containers"
_K3S = "/etc/rancher/k3s"


@dataclasses.dataclass(frozen=True)
class ClientFile:
    """A file, and where it belongs."""

    path: str
    content: str


@dataclasses.dataclass(frozen=True)
class ClientFiles:
    """What a client needs: its files, and `advice`, what a person does besides, a line each."""

    files: tuple[ClientFile, ...]
    advice: tuple[str, ...]


def client_files(
    kind: str, destination: Destination, mirrors: Mapping[str, str], *, tls: bool, authority: str
) -> ClientFiles:
    """Return what a client needs.

    Args:
        kind: one of KINDS.
        destination: where the images are.
        mirrors: maps each registry that images come from to its mirror, as `installer.model.naming.mirrors` does.
        tls: whether the registry speaks TLS; else plain HTTP.
        authority: the certificates that have to be trusted besides the system's, in PEM; may be empty.
    """
    make = {"podman": _podman, "k3s": _k3s}.get(kind, _containerd)
    files = tuple(make(destination.host, mirrors, tls, authority))
    return ClientFiles(files, _advice(kind, destination.host))


def _containerd(host: str, mirrors: Mapping[str, str], tls: bool, authority: str) -> Iterator[ClientFile]:
    own = f"{_CONTAINERD}/{_directory(host)}"
    for source, mirror in {host: host, **mirrors}.items():
        path = mirror.partition("/")[2]
        lines = [
            f"server = {_text(_address(host, path, tls))}",
            'capabilities = ["pull", "resolve"]' if source != host else 'capabilities = ["pull", "resolve", "push"]',
            *(["override_path = true"] if path else []),
            *([f"ca = [{_text(f'{own}/ca.crt')}]"] if authority else []),
        ]
        yield ClientFile(f"{_CONTAINERD}/{_directory(source)}/hosts.toml", "\n".join(lines) + "\n")
    if authority:
        yield ClientFile(f"{own}/ca.crt", authority)


def _directory(registry: str) -> str:
    """Return what containerd calls the directory of a registry: with the port between underscores."""
    return re.sub(r":([0-9]+)$", r"_\1_", registry)


def _address(host: str, path: str, tls: bool) -> str:
    return f"http{'s' if tls else ''}://{host}" + (f"/v2/{path}" if path else "")


def _podman(host: str, mirrors: Mapping[str, str], tls: bool, authority: str) -> Iterator[ClientFile]:
    insecure = [] if tls else ["insecure = true"]
    lines = ["# Where a name without a registry is looked for.", 'unqualified-search-registries = ["docker.io"]']
    if insecure:
        lines += ["", "[[registry]]", f"location = {_text(host)}", *insecure]
    for source, mirror in mirrors.items():
        lines += ["", "[[registry]]", f"location = {_text(source)}"]
        lines += ["[[registry.mirror]]", f"location = {_text(mirror)}", *insecure]
    yield ClientFile(f"{_PODMAN}/registries.conf.d/50-bundle.conf", "\n".join(lines) + "\n")
    if authority:
        yield ClientFile(f"{_PODMAN}/certs.d/{host}/ca.crt", authority)


def _k3s(host: str, mirrors: Mapping[str, str], tls: bool, authority: str) -> Iterator[ClientFile]:
    # JSON strings are strings of YAML.
    lines = ["mirrors:"]
    for source, mirror in {host: host, **mirrors}.items():
        address = _address(host, mirror.partition("/")[2], tls)
        lines += [f"  {_text(source)}:", "    endpoint:", f"      - {_text(address)}"]
    if authority:
        lines += ["configs:", f"  {_text(host)}:", "    tls:", f"      ca_file: {_text(f'{_K3S}/bundle-ca.pem')}"]
    yield ClientFile(f"{_K3S}/registries.yaml", "\n".join(lines) + "\n")
    if authority:
        yield ClientFile(f"{_K3S}/bundle-ca.pem", authority)


def _text(value: str) -> str:
    return json.dumps(value)


def _advice(kind: str, host: str) -> tuple[str, ...]:
    """Say what a file cannot: how its client comes to read it, and where a login goes."""
    if kind == "containerd":
        return (
            "containerd reads them at each pull, once /etc/containerd/config.toml names the directory:",
            '  [plugins."io.containerd.cri.v1.images".registry]         # containerd 1: io.containerd.grpc.v1.cri',
            f'    config_path = "{_CONTAINERD}"',
            "login, in the same file, then systemctl restart containerd (pull secrets do not reach a mirror):",
            f'  [plugins."io.containerd.cri.v1.images".registry.configs."{host}".auth]',
            f'    username = "{USER}"',
            '    password = "..."',
        )
    if kind == "nerdctl":
        return (
            "nerdctl reads them at each pull; without root they belong into ~/.config/containerd/certs.d",
            f"login: nerdctl login {host}        # nerdctl 2 uses it for mirrors, too",
        )
    if kind == "podman":
        return ("podman, buildah and skopeo read them at each pull", f"login: podman login {host}")
    return (
        "on each node; then systemctl restart k3s, or k3s-agent",
        "login, in registries.yaml:",
        "  configs:",
        f'    "{host}":',
        "      auth:",
        f'        username: "{USER}"',
        '        password: "..."',
    )
