"""A cluster of Kubernetes that builds too: which, where in it, and what the builder's pods are to be."""

from __future__ import annotations

import dataclasses
import re
from typing import Any, Optional

from bundles.errors import UsageError

# RFC 1123, as the API server has it for namespaces; and a quantity of apimachinery's, of bytes.
_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", re.ASCII)
_QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?([kMGTPE]|[KMGTPE]i)?", re.ASCII)
_LABEL = re.compile(r"([-A-Za-z0-9_./]+)=([-A-Za-z0-9_.]*)", re.ASCII)
# The name of the step that makes it, and of that which takes it away, and its kind among what is made.
CLUSTER_BUILDER = "kubernetes builder"
# Between the names of the builder of a host and of that on Kubernetes.
_SUFFIX = "-kubernetes"


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Where the pods of a second builder are.

    Args:
        context: the name by which the user's kubeconfig has the cluster and who asks it.
        namespace: where everything is made; it has to be there.
        replicas: how many pods.
        rootless: whether they do without privileges; BuildKit's image has to be one for that.
        volume: the size of a persistent volume for each pod's cache, `10Gi`; None when the cache ends with its pod.
        selector: labels that a node has to have, `KEY=VALUE`.
    """

    context: str
    namespace: str = "default"
    replicas: int = 1
    rootless: bool = False
    volume: Optional[str] = None
    selector: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.context:
            raise UsageError("--kubernetes: a context has a name", hint="kubectl config get-contexts")
        if not _NAMESPACE.fullmatch(self.namespace):
            raise UsageError(
                f"--namespace: `{self.namespace[:100]}` is no namespace: expected lower-case letters, digits and -"
            )
        if self.replicas < 1:
            raise UsageError(f"--replicas: {self.replicas} is no number of pods: expected 1 or more")
        if self.volume is not None and not _QUANTITY.fullmatch(self.volume):
            raise UsageError(f"--cache-volume: `{self.volume[:100]}` is no size: expected one such as 50Gi")
        for label in self.selector:
            if not _LABEL.fullmatch(label):
                raise UsageError(f"--node-selector: `{label[:100]}` is no label: expected KEY=VALUE")

    def to_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "selector": list(self.selector)}

    @classmethod
    def from_json(cls, value: Any) -> Optional[Cluster]:
        """Read what `to_json` gives, or null.

        Raises:
            TypeError, KeyError, UsageError: it is something else.
        """
        return None if value is None else cls(**{**value, "selector": tuple(map(str, value["selector"]))})


def cluster_builder(builder: str) -> str:
    """Return the name of the builder on Kubernetes that stands beside a builder of this host."""
    return f"{builder}{_SUFFIX}"


def host_builder(builder: str) -> str:
    """Return the name of the builder of this host beside which one on Kubernetes stands."""
    return builder[: -len(_SUFFIX)]
