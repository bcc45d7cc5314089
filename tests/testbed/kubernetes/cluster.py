"""A cluster of one node in a host of the testbed: API server, scheduler, controllers, kubelet and containerd.

    with Host(name="node", address="192.168.10.11", engine=False) as host, Cluster(host) as cluster:
        cluster.kubectl("get", "nodes")

Everything runs in the host and ends with it. Its kubelet keeps its hands off the machine: it finds the settings of the
kernel as it wants them, and makes no tree of control groups.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import tarfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.testbed import debian
from tests.testbed.errors import CommandError
from tests.testbed.host import Host
from tests.testbed.kubernetes.programs import ETCD, KUBERNETES, NETWORK, PARTS

PODS = "10.88.0"
PAUSE = "testbed/pause:1"
ADMIN = "admin"
_FOLDER = "/etc/kubernetes"
_LOGS = "/var/log/kubernetes"
# What the other parts are called by to the API server: name and group.
_USERS = {
    ADMIN: "system:masters",
    "controllers": "system:masters",
    "scheduler": "system:masters",
    "system:node:node": "system:nodes",
    "guest": "guests",
}

_CONTAINERD = f"""version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "docker.io/{PAUSE}"
  # Not every machine lets its root make a process harder to kill.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/opt/cni/bin"
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "/etc/containerd/certs.d"
"""
_NETWORK = {
    "cniVersion": "0.4.0",
    "name": "pods",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": True,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": f"{PODS}.0/24"}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }
    ],
}
_KUBELET = {
    "apiVersion": "kubelet.config.k8s.io/v1beta1",
    "kind": "KubeletConfiguration",
    "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
    "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
    "authorization": {"mode": "AlwaysAllow"},
    "cgroupDriver": "cgroupfs",
    "cgroupsPerQOS": False,
    "enforceNodeAllocatable": [],
    "failCgroupV1": False,
    "failSwapOn": False,
    "localStorageCapacityIsolation": False,
    "makeIPTablesUtilChains": False,
    "evictionHard": {"nodefs.available": "0%", "imagefs.available": "0%", "nodefs.inodesFree": "0%"},
    "imageGCHighThresholdPercent": 100,
    "imageGCLowThresholdPercent": 99,
    "resolvConf": "",
    "nodeStatusUpdateFrequency": "5s",
    "syncFrequency": "10s",
}


class Cluster:
    """A cluster on a host that is started, without an engine."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self._processes: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Cluster:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End everything, pods too, and remove their control groups, which are the machine's."""
        # The kubelet would start again what is ended.
        for process in reversed(self._processes):
            process.terminate()
            process.wait(20)
        self.host.run(
            "sh", "-c", "ctr -n k8s.io version >/dev/null 2>&1; pkill -9 -f containerd-shim; "
            "cat /sys/fs/cgroup/pids/k8s.io/*/cgroup.procs | xargs -r kill -9",
            check=False,
        )  # fmt: skip
        for tree in Path("/sys/fs/cgroup").glob("*/k8s.io"):
            for folder, _, _ in os.walk(tree, topdown=False):
                with suppress(OSError):
                    Path(folder).rmdir()

    @property
    def server(self) -> str:
        return f"https://{self.host.address}:6443"

    def start(self) -> None:
        """Start everything; when this returns the node is ready for pods.

        Raises:
            CommandError: some part of it has ended, or the node is not ready in time.
        """
        self._prepare()
        kubernetes = f"{_FOLDER}/"
        self._begin("containerd", "containerd")
        self._begin(
            "etcd", "etcd", "--data-dir=/var/lib/docker/etcd", "--unsafe-no-fsync", "--log-level=warn",
            "--listen-peer-urls=http://127.0.0.1:2380",
        )  # fmt: skip
        self._begin(
            "apiserver", "kube-apiserver", "--etcd-servers=http://127.0.0.1:2379", "--allow-privileged",
            f"--advertise-address={self.host.address}", "--service-cluster-ip-range=10.96.0.0/24",
            f"--cert-dir={kubernetes}", f"--token-auth-file={kubernetes}tokens.csv", "--authorization-mode=Node,RBAC",
            f"--service-account-key-file={kubernetes}accounts.key",
            f"--service-account-signing-key-file={kubernetes}accounts.key",
            "--service-account-issuer=https://kubernetes.default.svc", "--anonymous-auth=false",
            "--enable-priority-and-fairness=false",
        )  # fmt: skip
        self._wait("the API server", ("get", "--raw", "/readyz"))
        self._begin(
            "controllers", "kube-controller-manager", f"--kubeconfig={kubernetes}controllers.json",
            "--leader-elect=false", f"--service-account-private-key-file={kubernetes}accounts.key",
            f"--root-ca-file={kubernetes}apiserver.crt",
        )  # fmt: skip
        self._begin(
            "scheduler", "kube-scheduler", f"--kubeconfig={kubernetes}scheduler.json", "--leader-elect=false"
        )  # fmt: skip
        self.host.run("ctr", "--namespace", "k8s.io", "images", "import", "/var/lib/docker/pause.tar")
        self._begin(
            "kubelet", "kubelet", f"--kubeconfig={kubernetes}system:node:node.json",
            f"--config={kubernetes}kubelet.json", "--root-dir=/var/lib/docker/kubelet", "--hostname-override=node",
            f"--node-ip={self.host.address}",
        )  # fmt: skip
        self._wait("the node", ("wait", "--for=condition=Ready", "node/node", "--timeout=2s"))
        self._wait("the account of pods", ("get", "serviceaccount", "default"))

    def kubeconfig(self, user: str = ADMIN) -> dict[str, Any]:
        """Return what a client needs, as a document; its context is called `site`."""
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "site",
            "contexts": [{"name": "site", "context": {"cluster": "site", "user": user}}],
            "clusters": [
                {
                    "name": "site",
                    "cluster": {"server": self.server, "certificate-authority": f"{_FOLDER}/apiserver.crt"},
                }
            ],
            "users": [{"name": user, "user": {"token": f"token-of-{user}"}}],
        }

    @property
    def authority(self) -> Path:
        """The file with the certificate of the API server."""
        return self.host.path(f"{_FOLDER}/apiserver.crt")

    def kubectl(self, *arguments: str, input: str | None = None, check: bool = True) -> str:
        """Run kubectl on the node as the administrator, and return what it prints."""
        config = f"--kubeconfig={_FOLDER}/{ADMIN}.json"
        return self.host.run("kubectl", config, *arguments, input=input, check=check).stdout

    def logs(self) -> str:
        """Return the end of what each part has to say."""
        return self.host.run("sh", "-c", f"tail -n 15 {_LOGS}/*").stdout

    def _prepare(self) -> None:
        host = self.host
        host.copy_in(KUBERNETES.make(), "/usr/local/bin/kubernetes")
        for part in PARTS:
            host.path(f"/usr/local/bin/{part}").symlink_to("kubernetes")
        host.copy_in(ETCD.make(), "/usr/local/bin/etcd")
        for plugin in NETWORK.make().iterdir():
            host.copy_in(plugin, f"/opt/cni/bin/{plugin.name}")
        files = {
            "/etc/containerd/config.toml": _CONTAINERD,
            "/etc/cni/net.d/10-pods.conflist": json.dumps(_NETWORK),
            f"{_FOLDER}/kubelet.json": json.dumps(_KUBELET),
            f"{_FOLDER}/tokens.csv": "".join(
                f"token-of-{user},{user},{user},{group}\n" for user, group in _USERS.items()
            ),
        }
        for user in _USERS:
            files[f"{_FOLDER}/{user}.json"] = json.dumps(self.kubeconfig(user))
        for name, text in files.items():
            path = host.path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        host.path(_LOGS).mkdir(parents=True)
        _write_pause(host.path("/var/lib/docker/pause.tar"))
        host.run(
            "sh", "-ec",
            f"openssl genrsa -out {_FOLDER}/accounts.key 2048 2>/dev/null; mount --make-rshared /; "
            # A kubelet makes these so where they are not: they are the machine's, and stay as they are.
            "set -- vm/overcommit_memory 1 kernel/panic 10 kernel/panic_on_oops 1; while [ $# -gt 0 ]; do "
            "echo $2 > /run/setting-$2; mount --bind /run/setting-$2 /proc/sys/$1; "
            "shift 2; done; "
            "echo 1 > /proc/sys/net/ipv4/ip_forward; ip route replace default dev eth0",
        )  # fmt: skip

    def _begin(self, log: str, *argv: str) -> None:
        line = 'log=$1; shift; exec "$@" >"$log" 2>&1'
        self._processes.append(
            self.host.popen("sh", "-c", line, "sh", f"{_LOGS}/{log}.log", *argv, stdin=subprocess.DEVNULL)
        )

    def _wait(self, what: str, arguments: tuple[str, ...], patience: float = 120) -> None:
        deadline = time.monotonic() + patience
        while self.host.run("kubectl", f"--kubeconfig={_FOLDER}/{ADMIN}.json", *arguments, check=False).returncode:
            ended = [process.args for process in self._processes if process.poll() is not None]
            if ended or time.monotonic() > deadline:
                raise CommandError(["kubernetes"], f"{what} is not ready; ended: {ended}", self.logs())
            time.sleep(0.3)


def _write_pause(target: Path) -> None:
    """Write the image of what every pod begins with: a program that waits."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as files:
        files.add(debian.BUSYBOX.make() / "busybox-amd64", "bin/busybox")
    digest = hashlib.sha256(layer.getvalue()).hexdigest()
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": ["/bin/busybox", "sleep", "2147483647"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
    }
    members = {
        "layer.tar": layer.getvalue(),
        "config.json": json.dumps(config).encode(),
        "manifest.json": json.dumps([{"Config": "config.json", "RepoTags": [PAUSE], "Layers": ["layer.tar"]}]).encode(),
    }
    with tarfile.open(target, "w") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
