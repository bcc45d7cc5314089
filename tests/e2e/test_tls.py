"""Our own registry with TLS and a login, for the LAN: a real engine, real registry, real builds, no route anywhere.

One host from before the installation to after it; the tests build on each other, in their order.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import functools
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bundles.crypto.x509 import Signer, Validity, make_server, read_certificates, read_key
from tests.support.hosts import LAN, LOCAL, STATE

pytestmark = pytest.mark.e2e

ARCHIVE = "/usb/offline.tar"
FILES = "/root/.local/state/bundle/registry"
CA = f"{FILES}/ca.pem"
TRUSTED = f"/etc/docker/certs.d/{LAN}/ca.crt"
TAGS = ("library/debian:12", "debian:12", "library/busybox:1.35", "registry:3", "moby/buildkit:buildx-stable-1")
# Ask as a client would that has, or has not, the CA and the login: scheme, host, CA or -, login or -, paths.
ASK = """
import base64, ssl, sys, urllib.error, urllib.request
scheme, host, authority, login, *paths = sys.argv[1:]
context = ssl.create_default_context(cafile=None if authority == "-" else authority)
kinds = "application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"
headers = {"Accept": ", ".join(kinds)}
if login != "-":
    headers["Authorization"] = "Basic " + base64.b64encode(login.encode()).decode()
for path in paths:
    request = urllib.request.Request(f"{scheme}://{host}{path}", headers=headers)
    try:
        answer = urllib.request.urlopen(request, context=context)
        print(answer.status, answer.headers.get("Docker-Content-Digest"))
    except urllib.error.HTTPError as error:
        print(error.code, len(error.read()))
    except urllib.error.URLError as error:
        print("refused", str(error.reason).split("]")[0].split("[")[-1])
"""


@dataclasses.dataclass
class Site:
    """A host, what it was before, and what installing said."""

    host: Any
    before: list[str]
    text: str = ""
    processes: set[bytes] = dataclasses.field(default_factory=set)

    def bundle(self, *arguments: str, code: int = 0) -> Any:
        """Run a command with --json; the document."""
        command = ("python3", ARCHIVE, *arguments, "--json")
        done = self.host.run(*command, check=False, timeout=400)
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode == code, (done.stderr, done.stdout)
        return json.loads(done.stdout)

    def out(self, *argv: str) -> str:
        return str(self.host.run(*argv).stdout)

    def ask(
        self, *paths: str, scheme: str = "https", authority: str = f"{FILES}/ca.pem", login: str = "-"
    ) -> list[str]:
        return self.out("python3", "-c", ASK, scheme, LAN, authority, login, *paths).splitlines()

    @property
    def password(self) -> str:
        return self.out("cat", f"{FILES}/password").strip()

    def served(self, **how: str) -> list[str]:
        names = [name.rpartition(":") for name in TAGS]
        return self.ask(*(f"/v2/{repository}/manifests/{tag}" for repository, _, tag in names), **how)

    def findings(self) -> dict[str, list[str]]:
        done = self.host.run("python3", ARCHIVE, "doctor", "--json", check=False)
        found: dict[str, list[str]] = {}
        for finding in json.loads(done.stdout)["findings"]:
            found.setdefault(finding["check"], []).append(finding["message"])
        return found

    def state(self) -> list[str]:
        return self.out("sh", "-c", STATE).splitlines()

    def chain(self) -> list[str]:
        """The fingerprints of what the registry shows."""
        found = read_certificates(self.host.path(f"{FILES}/server.pem").read_bytes())
        return [each.fingerprint for each in found]


def changes_of(document: Any) -> dict[str, list[tuple[str, str, str]]]:
    return {
        step["step"]: [(each["action"], each["kind"], each["name"]) for each in step["changes"]]
        for step in document["steps"]
        if step["changes"]
    }


@pytest.fixture(scope="module")
def usb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with offline.tar, made by `bundle create` from the origin."""
    from tests.testbed import ORIGIN, start_origin

    start_origin()
    directory = tmp_path_factory.mktemp("usb")
    directory.chmod(0o755)
    command = ["create", "debian:12", "busybox:1.35", "--mirror", f"docker.io={ORIGIN}", "-q"]
    main = "from bundles.cli.app import main; main()"
    subprocess.run([sys.executable, "-c", main, *command, "-o", str(directory / "offline.tar")], check=True)
    return directory


@pytest.fixture(scope="module", autouse=True)
def without_emulation() -> Iterator[None]:
    """The kernel's table is the machine's: meanwhile nobody else clears it."""
    from tests.testbed import binfmt_without

    with binfmt_without("arm64"):
        yield


@pytest.fixture(scope="module")
def site(usb: Path) -> Iterator[Site]:
    """A host on which the archive is installed for the LAN, with TLS and a login."""
    from tests.testbed import Host

    with Host(name="tls", daemon_config={"log-level": "warn"}) as host:
        host.mount_in(usb, "/usb", readonly=True)
        found = Site(host, host.run("sh", "-c", STATE).stdout.splitlines())
        found.text = install_watched(found)
        yield found


def install_watched(site: Site) -> str:
    """Install, and see what every process of the machine has on its command line meanwhile."""
    options = ("--registry", LAN, "--tls", "--login", "--yes", "--log-file", "/root/install.log")
    with site.host.popen(
        "python3", ARCHIVE, "install", *options, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as run:

        def watch() -> None:
            while run.poll() is None:
                for line in Path("/proc").glob("[0-9]*/cmdline"):
                    with contextlib.suppress(OSError):
                        site.processes.add(line.read_bytes())
                time.sleep(0.02)

        watcher = threading.Thread(target=watch)
        watcher.start()
        stdout, stderr = run.communicate()
        watcher.join()
    assert run.returncode == 0, stderr
    return str(stdout)


def test_the_receipt_has_the_fingerprint_and_shows_the_password_once(site: Site) -> None:
    (authority,) = read_certificates(site.host.path(f"{FILES}/ca.pem").read_bytes())
    assert f"SHA-256 {authority.fingerprint}\n" in site.text
    assert f"user bundle, password {site.password} (shown this once, and kept in {FILES}/password)" in site.text
    assert len(base64.urlsafe_b64decode(site.password + "==")) == 16
    again = site.host.run("python3", ARCHIVE, "install").stdout
    assert site.password not in again
    assert f"(password in {FILES}/password)" in again
    assert again.rstrip().endswith("nothing to do: everything was already there")


def test_a_second_run_changes_nothing_and_keeps_tls_and_login(site: Site) -> None:
    before = site.state()
    for options in ((), ("--tls", "--login"), ("--registry", LAN, "--tls")):
        document = site.bundle("install", *options)
        assert document["changed"] is False, document["steps"]
        assert document["registry"]["tls"] is True
        assert document["registry"]["password"] == f"{FILES}/password"
    assert site.bundle("upgrade")["changed"] is False
    assert site.state() == before


def test_an_ordinary_build_crosses_and_is_pushed_and_pulled(site: Site) -> None:
    dockerfile = 'FROM debian:12\nRUN uname -m > /machine\nCMD ["cat", "/machine"]\n'
    platforms = ("--platform", "linux/amd64,linux/arm64")
    site.host.run("docker", "buildx", "build", *platforms, "-t", f"{LAN}/app:1", "--push", "-", input=dockerfile)
    for platform, machine in (("linux/amd64", "x86_64"), ("linux/arm64", "aarch64")):
        site.host.run("docker", "pull", "-q", "--platform", platform, f"{LAN}/app:1")
        assert site.out("docker", "run", "--rm", "--platform", platform, f"{LAN}/app:1").strip() == machine
    toml = site.out("cat", "/root/.docker/buildx/buildkitd.cross-builder.toml")
    assert f'[registry."{LAN}"]\n  ca = ["{FILES}/ca.pem"]\n' in toml
    assert "http = true" not in toml
    assert "insecure" not in site.out("cat", "/etc/docker/daemon.json")


def test_who_has_no_login_or_not_the_ca_gets_nothing(site: Site) -> None:
    manifest = "/v2/library/debian/manifests/12"
    paths = ("/v2/", "/v2/_catalog", manifest)
    assert [line.split()[0] for line in site.ask(*paths)] == ["401"] * 3
    assert [line.split()[0] for line in site.ask(*paths, login="bundle:wrong")] == ["401"] * 3
    assert [line.split()[0] for line in site.ask(*paths, login=f"other:{site.password}")] == ["401"] * 3
    assert [line.split()[0] for line in site.ask(*paths, login=f"bundle:{site.password}")] == ["200"] * 3
    assert site.ask(manifest, authority="-", login=f"bundle:{site.password}")[0].startswith("refused")
    assert site.ask(manifest, scheme="http", login=f"bundle:{site.password}")[0].startswith("400")
    # Another user of the host, who trusts the CA as dockerd does and has no login.
    site.host.add_user("eve", ("docker",))
    pulled = site.host.run("docker", "pull", f"{LAN}/busybox:1.35", check=False, user="eve")
    assert pulled.returncode != 0
    assert "no basic auth credentials" in pulled.stderr
    # And with the login, but not the CA.
    site.host.run("mv", TRUSTED, "/root/ca.crt")
    refused = site.host.run("docker", "pull", f"{LAN}/busybox:1.35", check=False)
    site.host.run("mv", "/root/ca.crt", TRUSTED)
    assert refused.returncode != 0
    assert "x509" in refused.stderr
    site.host.run("docker", "pull", "-q", f"{LAN}/busybox:1.35")
    site.host.run("docker", "rmi", f"{LAN}/busybox:1.35")


def test_secrets_are_seen_nowhere(site: Site) -> None:
    """Not on a command line, in a log, in the receipt, by docker inspect: only in the files that are made for them."""
    password = site.password
    login = base64.b64encode(f"bundle:{password}".encode()).decode()
    lines = [site.out("sed", "-n", "2,3p", f"{FILES}/{name}").replace("\n", "") for name in ("ca.key", "server.key")]
    first = [site.out("sed", "-n", "2p", f"{FILES}/{name}").strip() for name in ("ca.key", "server.key")]
    assert all(len(line) > 60 for line in (*lines, *first))
    assert any(b"docker\0login\0" in line for line in site.processes)
    inspected = site.out(
        "sh", "-c", "docker inspect $(docker ps -aq); for c in $(docker ps -aq); do docker logs $c 2>&1; done"
    )
    kept = {password: {f"{FILES}/password"}, login: {"/root/.docker/config.json"}, first[0]: {f"{FILES}/ca.key"}}
    kept[first[1]] = {f"{FILES}/server.key"}
    for secret, own in kept.items():
        assert not [line for line in site.processes if secret.encode() in line]
        assert secret not in inspected
        assert secret == password or secret not in site.text
        places = "/root /etc /var/log /tmp /home /var/lib/docker/volumes /var/lib/docker/containers"
        found = site.host.run("sh", "-c", f"grep -rlF -e '{secret}' {places}", check=False).stdout.split()
        assert set(found) == own
    modes = site.out("sh", "-c", f"cd {FILES} && stat -c '%n %a' . *").splitlines()
    assert modes == [
        ". 700", "ca.key 600", "ca.pem 644", "htpasswd 600", "password 600", "server.key 600", "server.pem 644"
    ]  # fmt: skip
    inside = site.out("docker", "cp", "registry:/bundle-registry", "-")
    listed = site.host.run("sh", "-c", "docker cp registry:/bundle-registry - | tar -tv").stdout
    assert inside
    assert re.findall(r"^(\S+) .* bundle-registry/(\S+)$", listed, re.MULTILINE) == [
        ("-r--------", "htpasswd"),
        ("-r--------", "server.key"),
        ("-r--------", "server.pem"),
    ]


def test_the_doctor_renews_a_certificate_that_ends_soon_with_the_same_ca(site: Site) -> None:
    assert site.findings() == {}
    files = site.host.path(FILES)
    server, authority = site.chain()
    builder = site.out("docker", "inspect", "--format", "{{.Id}}", "buildx_buildkit_cross-builder0")
    key, authority_key = (read_key((files / name).read_bytes()) for name in ("server.key", "ca.key"))
    now = time.time()
    soon = make_server(
        ["192.168.10.10", "localhost", "127.0.0.1", "::1"],
        key,
        Signer("offline-bundle registry", authority_key),
        Validity(now - 86400, now + 10 * 86400),
    )
    (files / "server.pem").write_bytes(soon.encode() + (files / "ca.pem").read_bytes())
    found = site.findings()
    day = time.strftime("%Y-%m-%d", time.gmtime(now + 10 * 86400))
    assert found["certificates"] == [f"`{FILES}/server.pem` ends on {day}"]
    document = site.bundle("doctor", "--fix")
    assert document["left"] == []
    assert ("rewrite", "file", f"{FILES}/server.pem") in changes_of(document)["certificates"]
    renewed, same = site.chain()
    assert same == authority
    assert renewed != server
    show = f"import ssl; print(ssl.get_server_certificate(('192.168.10.10', 5000), ca_certs='{CA}'))"
    shown = site.out("python3", "-c", show)
    assert read_certificates(shown.encode())[0].fingerprint == renewed
    assert site.out("docker", "inspect", "--format", "{{.Id}}", "buildx_buildkit_cross-builder0") == builder
    assert site.bundle("install")["changed"] is False


@pytest.mark.parametrize(
    ("damage", "checks"),
    [
        (f"rm {TRUSTED}", {"trust"}),
        (f"docker logout {LAN}", {"login"}),
        (f"rm {FILES}/htpasswd", {"certificates", "registry"}),
        (f"echo nonsense > {FILES}/server.pem", {"certificates", "registry"}),
        (f"rm {FILES}/ca.key", {"certificates"}),
        (f"rm {FILES}/ca.pem", {"certificates", "configuration", "builder", "trust"}),
        (f"rm -r {FILES}", {"certificates", "registry", "builder", "trust", "login"}),
    ],
    ids=["trust", "login", "htpasswd", "certificate", "ca.key", "ca.pem", "all"],
)
def test_what_is_lost_is_found_and_made_again(site: Site, damage: str, checks: set[str]) -> None:
    site.out("sh", "-c", damage)
    found = site.findings()
    assert set(found) & {"certificates", "trust", "login"} == checks & {"certificates", "trust", "login"}, found
    assert site.bundle("doctor", "--fix", "--yes")["left"] == []
    assert site.findings() == {}
    assert site.served(login=f"bundle:{site.password}")[0].startswith("200 sha256:")
    site.host.run("docker", "pull", "-q", f"{LAN}/app:1")


def test_to_plain_http_and_back_the_data_stays(site: Site) -> None:
    before = site.served(login=f"bundle:{site.password}")
    assert all(line.startswith("200 sha256:") for line in before)
    plan = site.bundle("install", "--no-tls", "--yes", "--plan")
    document = site.bundle("install", "--no-tls", "--yes")
    assert changes_of(plan) == changes_of(document)
    changes = changes_of(document)
    assert "push" not in changes
    assert changes["registry"] == [("replace", "container", "registry")]
    assert site.ask("/v2/debian/manifests/12", scheme="http", authority="-") == [before[1]]
    assert site.served(scheme="http", authority="-") == before
    assert site.out("sh", "-c", f"ls -A {FILES} {TRUSTED} 2>/dev/null || true") in ("", f"{FILES}:\n")
    assert json.loads(site.out("cat", "/etc/docker/daemon.json"))["insecure-registries"] == [LAN]
    assert LAN not in json.loads(site.out("cat", "/root/.docker/config.json")).get("auths", {})
    assert site.bundle("install")["changed"] is False
    assert site.findings() == {}

    document = site.bundle("install", "--tls", "--login", "--yes")
    changes = changes_of(document)
    assert "push" not in changes
    assert changes["daemon"] == [("remove", "insecure registry", LAN)]
    assert json.loads(site.out("cat", "/etc/docker/daemon.json")) == {"log-level": "warn"}
    assert site.served(login=f"bundle:{site.password}") == before
    site.host.run("docker", "pull", "-q", f"{LAN}/app:1")
    assert site.bundle("install")["changed"] is False
    assert site.findings() == {}


def test_a_certificate_of_the_site_takes_the_place_of_our_own(site: Site, tmp_path: Path) -> None:
    pki = "/root/pki"
    for name, text in _issued(tmp_path).items():
        (tmp_path / name).write_text(text)
        site.host.copy_in(tmp_path / name, f"{pki}/{name}")
    given = ("--cert", f"{pki}/server.pem", "--key", f"{pki}/server.key", "--ca", f"{pki}/ca.pem")
    assert site.bundle("install", *given, "--yes")["changed"] is True
    login = f"bundle:{site.password}"
    assert {line[:3] for line in site.served(authority=f"{pki}/ca.pem", login=login)} == {"200"}
    site.out("docker", "pull", "-q", f"{LAN}/debian:12")
    site.out("docker", "image", "rm", f"{LAN}/debian:12")
    # What was given is not needed any more; and it stays.
    site.out("rm", "-r", pki)
    assert site.bundle("install")["changed"] is False
    assert site.bundle("doctor")["healthy"] is True
    # The way back to our own CA.
    assert site.bundle("install", "--no-tls", "--yes")["registry"]["tls"] is False
    assert site.bundle("install", "--tls", "--login", "--yes")["registry"]["tls"] is True
    assert {line[:3] for line in site.served(login=f"bundle:{site.password}")} == {"200"}


def _issued(directory: Path) -> dict[str, str]:
    """Make a company's CA, and a certificate of it for the LAN address: the files as they are handed over."""
    run = functools.partial(subprocess.run, check=True, capture_output=True, cwd=directory)
    new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    ca = [
        "-addext",
        "keyUsage=critical,keyCertSign",
        "-days",
        "300",
        "-subj",
        "/CN=Corp CA",
        "-keyout",
        "corp.key",
        "-out",
        "corp.pem",
    ]
    run(["openssl", "req", "-x509", *new, *ca])
    run(["openssl", "req", *new, "-subj", "/CN=registry", "-keyout", "leaf.key", "-out", "leaf.csr"])
    extensions = f"subjectAltName=IP:{LAN.partition(':')[0]}\nauthorityKeyIdentifier=keyid\nsubjectKeyIdentifier=hash\n"
    (directory / "names").write_text(extensions)
    sign = ["-CA", "corp.pem", "-CAkey", "corp.key", "-CAcreateserial", "-days", "200", "-extfile", "names"]
    run(["openssl", "x509", "-req", "-in", "leaf.csr", *sign, "-out", "leaf.pem"])
    names = {"ca.pem": "corp.pem", "server.pem": "leaf.pem", "server.key": "leaf.key"}
    return {name: (directory / file).read_text() for name, file in names.items()}


def test_uninstall_leaves_the_host_as_it_was(site: Site) -> None:
    # Of the other platform's only the image is left, without a name.
    site.host.run("sh", "-c", f"docker rmi {LAN}/app:1; docker image prune -f")
    plan = changes_of(site.bundle("uninstall", "--data", "--plan"))
    assert plan["login"] == [("log out", "login", LAN), ("remove", "file", "/root/.docker/config.json")]
    site.bundle("uninstall", "--data", "--yes")
    after = site.state()
    own = ("/root/install.log", "/home/eve", "/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow", "/etc/sub")
    own = (*own, "/var/mail/eve", "/var/spool/mail")
    left = [line for line in {*after} ^ {*site.before} if not any(place in line for place in own)]
    assert left == []


def test_a_user_of_an_old_engine_has_it_on_localhost(usb: Path) -> None:
    """Docker 20.10, no root: nothing of the system's is written, and the login is that user's alone."""
    from tests.testbed import Host

    with Host(name="oldtls", suite="bookworm") as host:
        host.mount_in(usb, "/usb", readonly=True)
        host.add_user("ann", ("docker",))
        settings = host.run("find", "/etc/docker", check=False).stdout

        def bundle(*arguments: str) -> Any:
            done = host.run("python3", ARCHIVE, *arguments, "--json", user="ann", check=False)
            assert done.returncode == 0, (done.stderr, done.stdout)
            return json.loads(done.stdout)

        document = bundle("install", "--tls", "--login")
        assert [step["step"] for step in document["steps"] if step["step"] == "trust" and step["changed"]] == []
        host.run(
            *(
                "docker",
                "buildx",
                "build",
                "--platform",
                "linux/amd64,linux/arm64",
                "-t",
                f"{LOCAL}/app:1",
                "--push",
                "-",
            ),
            input="FROM debian:12\nRUN uname -m > /machine\n",
            user="ann",
        )
        host.run("docker", "pull", "-q", f"{LOCAL}/app:1", user="ann")
        assert host.run("docker", "pull", f"{LOCAL}/app:1", check=False, user="root").returncode != 0
        assert bundle("install")["changed"] is False
        assert bundle("doctor")["healthy"] is True
        assert bundle("status")["registry"]["fingerprint"]
        assert host.run("find", "/etc/docker", check=False).stdout == settings
        # Root's installation has no keys to this registry, and says what to do.
        done = host.run("python3", ARCHIVE, "install", "--json", check=False)
        problems = {problem["subject"]: problem for problem in json.loads(done.stdout)["error"]["problems"]}
        assert "the keys of the installation that has its receipt in" in problems["container `registry`"]["message"]
        bundle("uninstall", "--data", "--yes")
        assert host.run("sh", "-c", "ls -A /home/ann/.docker /home/ann/.local", check=False).stdout == ""
