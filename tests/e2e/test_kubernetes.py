"""A builder on a real cluster: a host with Docker and the registry, a node beside it, and a cable between them.

The tests go on from each other, in their order. `make kubernetes` runs them: to compile Kubernetes takes too long for
`make test`.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.variants import make_rootless
from tests.support.hosts import LAN, STATE
from tests.testbed import ORIGIN, Host, binfmt_without, debian, start_origin
from tests.testbed.kubernetes.cluster import PODS, Cluster
from tests.testbed.kubernetes.programs import BUILDX, KUBERNETES

pytestmark = pytest.mark.kubernetes

BUILDER = "cross-builder-kubernetes"
BOTH = ("--platform", "linux/amd64,linux/arm64")
DOCKERFILE = "FROM debian:12\nRUN uname -m > /machine\n"
SECURED = ("--registry", LAN, "--tls", "--login", "--yes")
MADE = "deployment,statefulset,configmap,secret,serviceaccount,pod,persistentvolumeclaim"


@pytest.fixture(scope="module", autouse=True)
def kernel() -> Iterator[None]:
    """The machine's kernel does not run arm64, and the node's is the machine's: meanwhile nobody else changes it."""
    with binfmt_without("arm64"):
        yield


@dataclasses.dataclass
class Site:
    """The host and the cluster."""

    host: Host
    cluster: Cluster
    before: list[str] = dataclasses.field(default_factory=list)

    def bundle(self, *arguments: str, code: int = 0) -> Any:
        """The JSON document of a command, run from the archive; its exit code has to be `code`."""
        done = self.host.run("python3", "/usb/offline.tar", *arguments, "--json", check=False, timeout=400)
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode == code, done.stdout + done.stderr + self.cluster.logs()
        return json.loads(done.stdout)

    def problems(self, *arguments: str) -> dict[str, str]:
        found = self.bundle(*arguments, code=4)["error"]["problems"]
        return {problem["subject"]: f"{problem['message']}; {problem['hint']}" for problem in found}

    def state(self) -> list[str]:
        """Everything of this host but what kubectl keeps of what it was told of a cluster."""
        lines = self.host.run("sh", "-c", STATE).stdout.splitlines()
        return [line for line in lines if "/root/.kube/cache" not in line]

    def build(self, *options: str, builder: str = BUILDER) -> str:
        command = ("docker", "buildx", "build", "--builder", builder, *BOTH, "--progress=plain", *options, "-")
        return self.host.run(*command, input=DOCKERFILE).stderr

    def kubectl(self, *arguments: str, input: str | None = None) -> str:
        return self.cluster.kubectl(*arguments, input=input)

    def ready(self) -> int:
        """How many pods of the builder are."""
        found = json.loads(self.kubectl("-n", "team", "get", "pod", "-o", "json"))["items"]
        return sum(
            each["ready"]
            for pod in found
            if "deletionTimestamp" not in pod["metadata"]
            for each in pod["status"].get("containerStatuses", ())
        )

    def made(self) -> set[str]:
        """What there is in the namespace beside what the cluster itself puts there."""
        names = self.kubectl("-n", "team", "get", MADE, "-o", "name").split()
        return set(names) - {"configmap/kube-root-ca.crt", "serviceaccount/default"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    start_origin()
    usb = tmp_path_factory.mktemp("usb")
    usb.chmod(0o755)
    make_rootless(ORIGIN, debian.ROOTLESS.make() / "layer-amd64.tar")
    rootless = "moby/buildkit:buildx-stable-1-rootless,platform=linux/amd64"
    command = ["create", "debian:12", "busybox:1.35", rootless, "--mirror", f"docker.io={ORIGIN}", "-q"]
    command += ["-o", str(usb / "offline.tar")]
    subprocess.run([sys.executable, "-c", "from bundles.cli.app import main; main()", *command], check=True)
    with (
        Host(engine=False) as host,
        Host(name="node", address="192.168.10.11", engine=False) as node,
    ):
        host.connect(node)
        host.run("ip", "route", "add", f"{PODS}.0/24", "via", node.address)
        host.mount_in(usb, "/usb", readonly=True)
        host.start_docker()
        with Cluster(node) as cluster:
            host.copy_in(KUBERNETES.make(), "/usr/local/bin/kubectl")
            host.copy_in(cluster.authority, "/etc/kubernetes/apiserver.crt")
            host.path("/root/.kube").mkdir()
            host.path("/root/.kube/config").write_text(json.dumps(cluster.kubeconfig()))
            site = Site(host, cluster)
            site.before = site.state()
            yield site


def changes_of(document: Any, *kinds: str) -> list[dict[str, Any]]:
    found = [change for step in document["steps"] for change in step["changes"]]
    return [change for change in found if not kinds or change["kind"] in kinds]


def test_what_is_wrong_is_said_at_once_and_nothing_is_touched(site: Site) -> None:
    site.kubectl("create", "namespace", "strict")
    site.kubectl("label", "namespace", "strict", "pod-security.kubernetes.io/enforce=baseline")
    here = site.problems("install", "--kubernetes", "nowhere")
    assert sorted(here) == ["--kubernetes", "context `nowhere`"]
    assert "localhost:5000" in here["--kubernetes"] and "192.168" in here["--kubernetes"]
    assert "does not exist" in here["context `nowhere`"] or "nowhere" in here["context `nowhere`"]
    gone = site.problems("install", *SECURED, "--kubernetes", "site", "--namespace", "team", "--node-selector", "a=b")
    assert gone["namespace `team`"].endswith("kubectl --context site create namespace team")
    assert "a=b" in gone["the nodes of `site`"]
    strict = site.problems("install", *SECURED, "--kubernetes", "site", "--namespace", "strict")["namespace `strict`"]
    assert 'violates PodSecurity "baseline:latest"' in strict
    site.host.run("sh", "-c", strict.rpartition("; ")[2])
    assert site.state() == site.before
    plan = site.bundle("install", *SECURED, "--kubernetes", "site", "--namespace", "strict", "--plan")
    assert [change["name"] for change in changes_of(plan, "kubernetes builder")] == [BUILDER]
    site.kubectl("delete", "namespace", "strict", "--wait=false")


def test_who_may_not_is_told_what_and_who_could_allow_it(site: Site) -> None:
    site.kubectl("create", "namespace", "team")
    site.host.path("/root/guest").write_text(json.dumps(site.cluster.kubeconfig("guest")))
    done = site.host.run(
        "python3", "/usb/offline.tar", "install", *SECURED, "--kubernetes", "site", "--namespace", "team", "--json",
        env={"KUBECONFIG": "/root/guest"}, check=False,
    )  # fmt: skip
    site.host.path("/root/guest").unlink()
    (problem,) = json.loads(done.stdout)["error"]["problems"]
    assert "guest may not get deployments, create deployments" in problem["message"]
    site.kubectl(*problem["hint"].partition("kubectl ")[2].split())
    assert site.kubectl("auth", "can-i", "create", "pods/exec", "-n", "team", "--as", "guest").strip() == "yes"
    assert site.state() == site.before


def test_a_node_that_cannot_pull_is_named_with_what_it_has_to_have(site: Site) -> None:
    """And when it has that, the next run goes on."""
    error = site.bundle("install", *SECURED, "--kubernetes", "site", "--namespace", "team", code=4)["error"]
    assert f"the node `node` cannot pull `{LAN}/" in error["message"]
    assert "/etc/rancher/k3s/registries.yaml" in error["message"]
    assert site.made() == {"secret/cross-builder-kubernetes0-pull", "serviceaccount/cross-builder-kubernetes0-pull"}
    # As a person would: each file under its name, up to the next one.
    for part in error["message"].split("on each node with containerd, ")[1:]:
        name, _, content = part.partition(":\n")
        file = site.cluster.host.path(name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content.partition("\non each node with k3s")[0] + "\n")
    receipt = site.bundle("install", *SECURED, "--kubernetes", "site", "--namespace", "team")
    tests = changes_of(receipt, "test image")
    assert [change["detail"].rpartition("; ")[2] for change in tests] == ["on cross-builder", f"on {BUILDER}"]
    assert receipt["kubernetes"]["namespace"] == "team"
    assert site.ready() == 1
    assert changes_of(site.bundle("install")) == []


def test_it_builds_for_both_platforms_from_the_mirror(site: Site) -> None:
    said = site.build("--no-cache", "--pull", "-t", f"{LAN}/app:1", "--push")
    assert "pushing manifest" in said
    for architecture in ("amd64", "arm64"):
        site.host.run("docker", "pull", "-q", "--platform", f"linux/{architecture}", f"{LAN}/app:1")
        shown = site.host.run("docker", "image", "inspect", f"{LAN}/app:1", "--format", "{{.Architecture}}").stdout
        site.host.run("docker", "rmi", f"{LAN}/app:1")
        assert shown.strip() == architecture
    # This host's own builder is the one that is selected.
    current = json.loads(site.host.path("/root/.docker/buildx/current").read_text())
    assert current["Name"] == "cross-builder"


def test_status_and_doctor_know_it(site: Site) -> None:
    status = site.bundle("status")
    assert status["healthy"] is True
    assert status["kubernetes"]["name"] == BUILDER and status["kubernetes"]["ready"] == 1
    site.kubectl("-n", "team", "delete", "deployment", "cross-builder-kubernetes0")
    site.kubectl("-n", "team", "delete", "secret", "cross-builder-kubernetes0-pull")
    findings = {finding["check"] for finding in site.bundle("doctor", code=4)["findings"]}
    assert findings == {"cluster access", "kubernetes builder"}
    assert site.bundle("doctor", "--fix")["left"] == []
    assert site.ready() == 1


def test_more_pods_when_that_is_asked_for(site: Site) -> None:
    receipt = site.bundle("install", "--kubernetes", "site", "--namespace", "team", "--replicas", "2")
    assert [change["action"] for change in changes_of(receipt, "kubernetes builder")] == ["recreate"]
    assert site.ready() == 2
    assert changes_of(site.bundle("upgrade")) == []


def test_with_a_volume_the_cache_outlives_the_pods_and_the_mirrors_stay(site: Site) -> None:
    """buildx forgets the configuration where it makes a volume."""
    wanted = ("install", "--kubernetes", "site", "--namespace", "team", "--cache-volume", "1Gi")
    assert "makes no volumes before 0.34" in site.problems(*wanted)["--cache-volume"]
    own = site.host.path("/root/.docker/cli-plugins/docker-buildx")
    brought = own.read_bytes()
    own.write_bytes(BUILDX.make().read_bytes())
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": "cache"},
        "spec": {
            "capacity": {"storage": "2Gi"},
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            "hostPath": {"path": "/var/lib/docker/volume", "type": "DirectoryOrCreate"},
        },
    }
    site.kubectl("create", "-f", "-", input=json.dumps(volume))
    site.bundle(*wanted)
    assert changes_of(site.bundle("install")) == []
    site.build()
    site.kubectl("-n", "team", "delete", "pod", "cross-builder-kubernetes0-0")
    deadline = time.monotonic() + 90
    while site.ready() == 0 and time.monotonic() < deadline:
        time.sleep(1)
    assert "CACHED" in site.build()
    # The older one does not know this builder any more; it knows the next one.
    site.bundle("install", "--kubernetes", "site", "--namespace", "team", "--rootless")
    own.write_bytes(brought)


def test_without_privileges(site: Site) -> None:
    assert changes_of(site.bundle("install")) == []
    (pod,) = json.loads(site.kubectl("-n", "team", "get", "pod", "-o", "json"))["items"]
    assert "privileged" not in pod["spec"]["containers"][0]["securityContext"]
    who = site.kubectl("-n", "team", "exec", pod["metadata"]["name"], "--", "id", "-u")
    assert who.strip() == "1000"
    site.build("--no-cache", "--pull", "-t", f"{LAN}/app:2", "--push")


def test_uninstalled_nothing_is_left_in_the_cluster_or_here(site: Site) -> None:
    plan = site.bundle("uninstall", "--data", "--plan")
    deed = site.bundle("uninstall", "--data", "--yes")
    assert changes_of(plan) == changes_of(deed)
    site.kubectl("-n", "team", "wait", "--for=delete", "pod", "--all", "--timeout=60s")
    assert site.made() == set()
    assert site.state() == site.before


def test_taken_away_alone(site: Site) -> None:
    site.bundle("install", *SECURED)
    before = site.state()
    # A registry with another CA: the node has to be told again.
    for name in ("ca.crt",):
        site.cluster.host.path(f"/etc/containerd/certs.d/{LAN.replace(':', '_')}_/{name}").write_text(
            site.host.path("/root/.local/state/bundle/registry/ca.pem").read_text()
        )
    site.bundle("install", "--kubernetes", "site", "--namespace", "team")
    assert site.ready() == 1
    receipt = site.bundle("install", "--no-kubernetes")
    assert receipt["kubernetes"] is None
    site.kubectl("-n", "team", "wait", "--for=delete", "pod", "--all", "--timeout=60s")
    assert site.made() == set()
    gone = [line for line in set(before) ^ set(site.state()) if "receipt.json" not in line]
    assert [line for line in gone if "kubernetes" in line] == []
    site.bundle("uninstall", "--data", "--yes")
    assert site.state() == site.before
