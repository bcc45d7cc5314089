"""Registries of two hosts over one bucket: a real S3 storage at the first host's address, its own CA, and a cable.

The tests go on from each other, in their order.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_registry import Certificate
from tests.support.hosts import LAN, STATE
from tests.support.real_registry import Lan
from tests.support.real_s3 import KEYS, RealS3

pytestmark = pytest.mark.e2e

SECOND = "192.168.10.20:5000"
BOTH = ("--platform", "linux/amd64,linux/arm64")
DOCKERFILE = "FROM debian:12\nRUN uname -m > /machine\n"
KEYS_FILE = "/root/.local/state/bundle/registry/s3-credentials"
VARIABLES = {"AWS_ACCESS_KEY_ID": KEYS.identity, "AWS_SECRET_ACCESS_KEY": KEYS.secret}


@dataclasses.dataclass
class Machine:
    """One of the two hosts."""

    host: Any
    before: list[str] = dataclasses.field(default_factory=list)

    def bundle(self, *arguments: str, archive: str = "offline", code: int = 0, env: Any = None) -> Any:
        """The JSON document of a command, run from an archive; its exit code has to be `code`."""
        command = ("python3", f"/usb/{archive}.tar", *arguments, "--json")
        done = self.host.run(*command, check=False, timeout=300, env=env)
        assert KEYS.secret not in done.stdout + done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode == code, done.stdout + done.stderr
        return json.loads(done.stdout)

    def out(self, *argv: str) -> str:
        return str(self.host.run(*argv).stdout)

    def state(self) -> list[str]:
        return self.out("sh", "-c", STATE).splitlines()

    def build(self, name: str, registry: str) -> None:
        """Build for both platforms, and push to a registry."""
        command = ("docker", "buildx", "build", *BOTH, "--progress=plain", "-t", f"{registry}/{name}", "--push", "-")
        self.host.run(*command, input=DOCKERFILE)


@dataclasses.dataclass
class Site:
    """Two hosts, and the storage: one bucket, by TLS and by plain HTTP."""

    first: Machine
    second: Machine
    tls: RealS3
    plain: RealS3
    directory: Path

    def install(self, *arguments: str) -> tuple[str, ...]:
        """What installs on the first host."""
        storage = ("--storage", "s3://registry/team", "--s3-endpoint", self.tls.endpoint, "--s3-ca", "/usb/ca.pem")
        return ("install", "--registry", LAN, "--yes", *storage, *arguments)

    @property
    def blobs(self) -> dict[str, Path]:
        """Digest to file of what the registries have stored."""
        root = self.directory / "objects/registry/team/docker/registry/v2/blobs/sha256"
        return {f"sha256:{path.parent.name}": path for path in root.glob("*/*/data")}

    def check_tags(self) -> int:
        """Everything that has a tag is there whole, but for platforms that nobody brought; gives the number of tags."""
        root = self.directory / "objects/registry/team/docker/registry/v2/repositories"
        found = list(root.glob("**/_manifests/tags/*/current/link"))
        blobs = self.blobs
        for link in found:
            pending = [link.read_text()]
            while pending:
                digest = pending.pop()
                data = blobs[digest].read_bytes()
                assert f"sha256:{hashlib.sha256(data).hexdigest()}" == digest
                value = json.loads(data) if data.startswith(b"{") else {}
                if "schemaVersion" in value:
                    pending += [each["digest"] for each in value.get("manifests", ()) if each["digest"] in blobs]
                    pending += [each["digest"] for each in (value.get("config"), *value.get("layers", ())) if each]
        return len(found)


def create(directory: Path, name: str, *images: str) -> None:
    from tests.testbed import ORIGIN

    command = ["create", *images, "--mirror", f"docker.io={ORIGIN}", "--name", "site"]
    command += ["-o", str(directory / f"{name}.tar")]
    subprocess.run([sys.executable, "-c", "from bundles.cli.app import main; main()", *command], check=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    from tests.testbed import Host, binfmt_clear, binfmt_restore, binfmt_state, start_origin

    start_origin()
    usb, directory = tmp_path_factory.mktemp("usb"), tmp_path_factory.mktemp("s3")
    usb.chmod(0o755)
    create(usb, "offline", "debian:12", "busybox:1.35")
    create(usb, "smaller", "debian:12")
    authority = Certificate.make(directory)
    (usb / "ca.pem").write_bytes(authority.file.read_bytes())
    (usb / "ca.pem").chmod(0o644)
    certificate = authority.issue(directory, "IP:192.168.10.10")
    kernel = binfmt_state()
    binfmt_clear("arm64")
    with Host(engine=False) as first, Host(name="second", address="192.168.10.20", engine=False) as second:
        first.connect(second)
        for host in (first, second):
            host.mount_in(usb, "/usb", readonly=True)
            host.start_docker()
        lan = Lan(first.init_pid, "192.168.10.10", 9443)
        with (
            RealS3(directory, tls=certificate, lan=lan) as tls,
            RealS3(directory, lan=dataclasses.replace(lan, port=9000)) as plain,
        ):
            site = Site(Machine(first), Machine(second), tls, plain, directory)
            for machine in (site.first, site.second):
                machine.before = machine.state()
            yield site
    binfmt_restore(kernel)


def changes_of(document: Any) -> list[dict[str, Any]]:
    return [change for step in document["steps"] for change in step["changes"]]


def test_what_is_wrong_is_said_before_anything_is_done(site: Site) -> None:
    wrong = {**VARIABLES, "AWS_SECRET_ACCESS_KEY": "wrong"}
    for env, message in ((wrong, "does not take the secret key"), ({}, "there are no keys for it")):
        (problem,) = site.first.bundle(*site.install(), env=env, code=4)["error"]["problems"]
        assert problem["subject"] == "storage s3://registry/team" and message in problem["message"]
    plan = site.first.bundle(*site.install("--plan"), env=VARIABLES)
    assert any(change["name"] == KEYS_FILE for change in changes_of(plan))
    assert site.first.state() == site.first.before
    assert site.tls.objects == []


def test_a_storage_that_is_lost_in_mid_push_is_named_and_the_next_run_goes_on(site: Site) -> None:
    command = ("python3", "/usb/offline.tar", *site.install(), "--json")
    process = site.first.host.popen(*command, env=VARIABLES, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not site.blobs:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    site.tls.__exit__()
    early = {digest: path.stat().st_mtime_ns for digest, path in site.blobs.items()}
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 5, stdout + stderr
    error = json.loads(stdout)["error"]
    assert f"the S3 storage `{site.tls.endpoint}` does not answer: connection refused" in error["message"]
    assert KEYS.secret not in stdout + stderr and "Traceback" not in stderr
    tagged = site.check_tags()
    site.tls.__enter__()
    # The keys need not be given again.
    receipt = site.first.bundle("install", "--yes")
    assert receipt["registry"]["data"] == "s3://registry/team"
    assert site.check_tags() > tagged
    assert {digest: site.blobs[digest].stat().st_mtime_ns for digest in early} == early
    assert changes_of(site.first.bundle("install", "--yes")) == []


def test_the_keys_are_in_a_file_of_their_owner_and_nowhere_else(site: Site) -> None:
    first = site.first
    assert first.host.path(KEYS_FILE).stat().st_mode & 0o777 == 0o600
    shown = (
        first.out("docker", "inspect", "registry") + first.out("docker", "logs", "registry") + first.out("ps", "axe")
    )
    shown += first.out("cat", "/root/.local/state/bundle/receipt.json") + json.dumps(first.bundle("status"))
    assert KEYS.secret not in shown and KEYS.identity not in shown
    found = first.host.run(
        "grep", "-rlF", KEYS.secret, "/root", "/etc", "/tmp", "/var/log", "/var/lib/docker/containers", check=False
    ).stdout
    assert found.split() == [KEYS_FILE]
    listed = first.out("docker", "exec", "registry", "ls", "-l", "/bundle-registry/s3-credentials")
    assert re.match(r"-r-------- +1 +0|-r-------- +1 +root", listed), listed
    # Where the images were to be, without a bucket.
    assert first.out("docker", "volume", "ls", "-q", "--filter", "name=bundle-registry") == ""


def test_a_second_host_finds_all_there_and_leads_who_pulls_to_the_storage(site: Site) -> None:
    before = {digest: path.stat().st_mtime_ns for digest, path in site.blobs.items()}
    storage = ("--storage", "s3://registry/team", "--s3-endpoint", site.plain.endpoint, "--s3-redirect")
    receipt = site.second.bundle("install", "--registry", SECOND, "--yes", *storage, env=VARIABLES)
    assert not [change for change in changes_of(receipt) if change["action"] in ("push", "upload")]
    assert {digest: path.stat().st_mtime_ns for digest, path in site.blobs.items()} == before
    (pulled,) = [digest for digest, path in site.blobs.items() if path.stat().st_size > 1 << 20][:1]
    repositories = site.directory / "objects/registry/team/docker/registry/v2/repositories"
    link = next(repositories.glob(f"**/_layers/sha256/{pulled[7:]}/link"))
    repository = str(link.parents[3].relative_to(repositories))
    asked = ("python3", "-c", HEAD, pulled, repository)
    assert site.first.out(*asked, LAN).split() == ["200"]
    assert site.second.out(*asked, SECOND).split() == ["307", site.plain.endpoint]


HEAD = """
import http.client, sys
connection = http.client.HTTPConnection(sys.argv[3])
connection.request("GET", f"/v2/{sys.argv[2]}/blobs/{sys.argv[1]}")
answer = connection.getresponse()
print(answer.status, (answer.getheader("Location") or "").partition("/registry/")[0])
"""


def test_what_is_built_through_one_is_pulled_through_the_other(site: Site) -> None:
    site.first.build("from-first:1", LAN)
    site.second.build("from-second:1", SECOND)
    for machine, registry, name in ((site.second, SECOND, "from-first"), (site.first, LAN, "from-second")):
        assert machine.out("docker", "run", "--rm", f"{registry}/{name}:1", "cat", "/machine") == "x86_64\n"
        machine.out("docker", "rmi", f"{registry}/{name}:1")
        assert machine.bundle("status")["healthy"] is True


def test_a_storage_that_is_away_is_what_is_said_to_be_wrong(site: Site) -> None:
    site.tls.__exit__()
    try:
        status = site.first.bundle("status", code=4)
        assert status["registry"]["storage"]["answers"] is False and status["registry"]["answers"] is False
        (finding,) = site.first.bundle("doctor", code=4)["findings"]
        assert finding["check"] == "storage" and f"`{site.tls.endpoint}` does not answer" in finding["message"]
    finally:
        site.tls.__enter__()
    # What makes the container anew has the keys still.
    site.first.out("docker", "rm", "-f", "-v", "registry")
    site.first.bundle("doctor", "--fix")
    assert site.first.bundle("status")["healthy"] is True


def test_pruning_waits_for_a_person_who_has_stopped_the_others(site: Site) -> None:
    site.first.bundle("upgrade", "--yes", archive="smaller")
    (problem,) = site.first.bundle("prune", archive="smaller", code=4)["error"]["problems"]
    assert "docker stop registry" in problem["hint"]
    before = site.blobs
    site.second.out("docker", "stop", "registry")
    try:
        done = site.first.bundle("prune", "--others-stopped", archive="smaller")
    finally:
        site.second.out("docker", "start", "registry")
    assert [change["name"] for change in changes_of(done) if change["kind"] == "tag"]
    gone = [path for digest, path in before.items() if digest not in site.blobs]
    assert len(gone) > 2
    site.check_tags()
    site.first.build("after:1", LAN)
    assert site.first.bundle("status", archive="smaller")["healthy"] is True
    # The other host had installed what is gone, and goes on with what is there.
    assert site.second.bundle("status", code=4)["healthy"] is False
    site.second.bundle("upgrade", "--yes", archive="smaller")
    assert site.second.bundle("status")["healthy"] is True


def test_moving_to_a_volume_brings_everything_there_and_leaves_the_bucket(site: Site) -> None:
    objects = site.tls.objects
    receipt = site.second.bundle("install", "--data", "bundle-registry", "--yes", archive="smaller")
    assert receipt["registry"]["storage"] is None
    assert [change for change in changes_of(receipt) if change["action"] == "upload"]
    assert not site.second.host.path(KEYS_FILE).exists()
    assert site.tls.objects == objects


def test_uninstalling_leaves_the_host_as_it_was_and_the_bucket_as_it_is(site: Site) -> None:
    objects = site.tls.objects
    for machine in (site.first, site.second):
        done = machine.bundle("uninstall", "--data", "--yes")
        left = [note for note in done["notes"] if note.startswith("what is in s3://registry/team stays")]
        assert len(left) == (machine is site.first)
        after = machine.state()
        assert sorted(set(after) - set(machine.before)) == []
        assert sorted(set(machine.before) - set(after)) == []
    assert site.tls.objects == objects
