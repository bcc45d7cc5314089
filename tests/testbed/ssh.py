"""OpenSSH for hosts: what its packages hold, copied into a host that runs, and a server that lets another host in."""

from __future__ import annotations

import subprocess
from pathlib import Path

from . import debian
from .apt import archive
from .commands import run
from .host import Host

_SUITE = "sid"
_PACKAGES = ("openssh-server", "openssh-client")
_DOCUMENTS = ("doc", "info", "lintian", "locale", "man")
_KEY = "/root/.ssh/id_ed25519"


def _make(directory: Path) -> None:
    status = debian.engine_root(_SUITE).path / "root/var/lib/dpkg/status"
    with archive(_SUITE, "amd64") as packages:
        for package in packages.packages(_PACKAGES, status.read_bytes()):
            run("dpkg-deb", "--extract", str(package), str(directory / "root"))
    for folder in _DOCUMENTS:
        run("rm", "-rf", str(directory / "root/usr/share" / folder))
    # The packages make it when they are configured. What sshd does without a word in it is what is wanted.
    (directory / "root/etc/ssh/sshd_config").touch()


SSH = debian.Product("host/ssh", f"2 {_SUITE} {_PACKAGES}", _make, (debian.engine_root(_SUITE),), seconds=15)


def install_ssh(host: Host) -> None:
    """Put OpenSSH's client and server into a running host of Debian sid."""
    run("cp", "-a", f"{SSH.make() / 'root'}/.", str(host.path("/")))
    host.run("ldconfig")


def let_in(client: Host, server: Host) -> subprocess.Popen[str]:
    """Let root of one host into another by a key; its own key the client has still to be told. Returns the server."""
    client.run("mkdir", "-p", "-m", "700", "/root/.ssh")
    if not client.path(_KEY).exists():
        client.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", _KEY)
    server.run("mkdir", "-p", "-m", "700", "/root/.ssh", "/run/sshd")
    server.path("/root/.ssh/authorized_keys").write_text(client.path(f"{_KEY}.pub").read_text())
    server.run("sh", "-c", "getent passwd sshd || useradd --system --home-dir /run/sshd --shell /usr/sbin/nologin sshd")
    server.run("ssh-keygen", "-A")
    return start_sshd(server)


def start_sshd(server: Host) -> subprocess.Popen[str]:
    """Start the server of a host."""
    null = subprocess.DEVNULL
    return server.popen("/usr/sbin/sshd", "-D", stdin=null, stdout=null, stderr=null, start_new_session=True)


def trust(client: Host, *servers: Host) -> None:
    """Tell the client the keys of servers, as a person does who has compared them."""
    lines = []
    for server in servers:
        keys = [path.read_text().split()[:2] for path in sorted(server.path("/etc/ssh").glob("ssh_host_*_key.pub"))]
        lines += [f"{server.address} {kind} {key}\n" for kind, key in keys]
    client.path("/root/.ssh/known_hosts").write_text("".join(lines))
