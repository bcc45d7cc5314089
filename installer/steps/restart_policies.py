"""Containers that come back with Docker: their restart policy, where somebody has changed it."""

from __future__ import annotations

from collections.abc import Sequence

from installer.host.host import Host
from installer.host.labels import (
    EMULATION_CONTAINER,
    ENVIRONMENT,
    LABEL_ROLE,
    REGISTRY_CONTAINER,
    REPLAY_CONTAINER,
    builder_container,
)
from installer.model.job import DesiredState
from installer.model.step import Change, Step

_COMES_BACK = frozenset({"always", "unless-stopped"})


class RestartPolicies(Step):
    """Gives our containers a policy with which Docker starts them again. Those that are gone are passed over."""

    name = "restart"

    def __init__(self, job: DesiredState, host: Host) -> None:
        self._host = host
        # buildx gives its containers `unless-stopped`.
        self._policies = {
            **({} if job.site else {REGISTRY_CONTAINER: "always"}),
            EMULATION_CONTAINER: "always",
            REPLAY_CONTAINER: "always",
            builder_container(job.builder): "unless-stopped",
        }

    def look(self) -> Sequence[Change]:
        changes = []
        for name, policy in self._policies.items():
            container = self._host.engine.container(name)
            marked = container is not None and (LABEL_ROLE in container.labels or ENVIRONMENT in container.environment)
            if container is not None and marked and container.restart not in _COMES_BACK:
                changes.append(Change("set", "restart policy", name, policy))
        return changes

    def apply(self, changes: Sequence[Change]) -> None:
        for change in changes:
            self._host.engine.set_restart_policy(change.name, self._policies[change.name])

    def explain(self, change: Change) -> str:
        return f"the container `{change.name}` does not come back when Docker is restarted or the host is booted"
