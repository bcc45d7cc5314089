"""The builder's place on Kubernetes: its names, and the way to the namespace that it is in."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from bundles.errors import HostError
from installer.host.files import read_optional
from installer.host.host import Host
from installer.host.kubectl import Namespace
from installer.host.labels import LABEL_ROLE, LABEL_WANTED, fingerprint
from installer.model.cluster import Cluster, cluster_builder
from installer.model.job import DesiredState
from installer.model.tool import ROOTLESS, Tool
from installer.registry.connection import login_to

ROLE = {LABEL_ROLE: "builder"}


@dataclasses.dataclass(frozen=True)
class Place:
    """Where the builder on Kubernetes of an installation is.

    `state` is that of the installation as far as it goes for that builder: it has its name, and nothing is replayed,
    since the service that does answers on this host alone.
    """

    cluster: Cluster
    state: DesiredState
    host: Host

    @classmethod
    def of(cls, job: DesiredState, host: Host) -> Place:
        """Return the place of an installation that has one.

        Raises:
            HostError: it has none.
        """
        if job.cluster is None:
            raise HostError("this installation has no builder on Kubernetes")
        return cls(job.cluster, dataclasses.replace(job, builder=cluster_builder(job.builder), replay=None), host)

    @property
    def builder(self) -> str:
        return self.state.builder

    @property
    def node(self) -> str:
        """buildx's name for the builder's only node."""
        return f"{self.builder}0"

    @property
    def workload(self) -> str:
        """What buildx calls the node's Deployment or StatefulSet: buildx, driver/kubernetes/factory.go."""
        return self.node.replace("_", "-")

    @property
    def kind(self) -> str:
        return "statefulset" if self.cluster.volume else "deployment"

    @property
    def account(self) -> str:
        """The name of the service account and of the pull secret."""
        return f"{self.workload}-pull"

    @property
    def trial(self) -> str:
        """The name of the pod of moments that tries to pull."""
        return f"{self.workload}-trial"

    @property
    def has_login(self) -> bool:
        """Whether nodes need a login to pull."""
        if self.state.site is None:
            return self.state.access.password is not None
        return login_to(self.state) is not None

    @property
    def key(self) -> str:
        """What only this installation knows; empty until `ClusterAccess` has made it up."""
        return (read_optional(self.host.places.cluster_key) or b"").decode(errors="replace")

    @property
    def owner(self) -> str:
        """The name of this installation among those that make something in the cluster; empty until it has a key."""
        return self.key and fingerprint({"owner": self.key})

    def mark(self, **state: Any) -> str:
        """Return the mark of what this installation makes there for a wanted state: whose it is, and a name for that.

        Everybody may read it who sees the namespace: with the key, nobody can try logins against it.
        """
        return f"{self.owner}.{fingerprint({**state, 'key': self.key})}"

    def is_own(self, value: dict[str, Any]) -> bool:
        """Tell whether this installation made something in the cluster, for whatever state."""
        return bool(self.owner) and mark_of(value).startswith(f"{self.owner}.")

    @property
    def kubeconfig(self) -> Path:
        """The file by which buildx finds the cluster: it takes no context, but the current one of a file."""
        return self.host.places.kubeconfig(self.builder)

    @property
    def namespace(self) -> Namespace:
        """The namespace, as who asks from now on."""
        file = self.kubeconfig
        access = ["--kubeconfig", str(file)] if file.exists() else ["--context", self.cluster.context]
        return Namespace(self.host.kubectl, access, self.cluster.namespace)

    @property
    def as_user(self) -> Namespace:
        """The namespace, by the context of the user's kubeconfig."""
        return Namespace(self.host.kubectl, ["--context", self.cluster.context], self.cluster.namespace)

    @property
    def tool(self) -> Tool:
        """The BuildKit image of the pods.

        Raises:
            HostError: the archive has none.
        """
        role = ROOTLESS if self.cluster.rootless else "buildkit"
        tool = self.state.tool(role)
        if tool is None:
            raise HostError(f"the archive has no {role} image for {self.state.host_platform}")
        return tool

    @property
    def selector(self) -> dict[str, str]:
        """The labels of nodes that take the pods: the image is for one architecture."""
        chosen = (label.partition("=") for label in self.cluster.selector)
        return {"kubernetes.io/arch": self.state.host_platform.architecture, **{key: value for key, _, value in chosen}}

    def __str__(self) -> str:
        return f"namespace {self.cluster.namespace} of {self.cluster.context}"


def wanted(mark: str) -> dict[str, str]:
    """Return the annotation that says whose something in a cluster is, and for which state."""
    return {LABEL_WANTED: mark}


def mark_of(value: dict[str, object]) -> str:
    """Return the mark of something in a cluster; empty when this program did not make it."""
    metadata = value.get("metadata")
    annotations = metadata.get("annotations") if isinstance(metadata, dict) else None
    return str((annotations or {}).get(LABEL_WANTED, ""))
