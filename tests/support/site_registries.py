"""Registries that sites have, as modes of the fake one: what each answers, from its sources or from reports of users.

harbor   2.15: src/server/middleware/{v2auth,immutable,quota}, src/server/registry/manifest.go, src/lib/http/error.go,
         src/controller/artifact/controller.go
nexus    3: reports of users (GoogleContainerTools/jib#3057); a deployment policy is an immutable tag
gitlab   reports of users (estesp/manifest-tool#53)
ecr      reports of users (int128/docker-manifest-create-action#63, aws/containers-roadmap#2380); it mounts nothing
         that no manifest names yet
gitea    routers/api/packages/container/{errors,manifest,container}.go
zot      2.1.20 without `dedupe`, as it answered: with `dedupe` it mounts
olareg   0.2.2 with tokens and rights to some repositories, as it answered
nginx    distribution 3 behind a small client_max_body_size (which is 1m when nobody says anything)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Optional

from bundles.registry.auth import Credential
from tests.support.fake_registry import ARTIFACT_NOT_FOUND, MANIFEST_BLOB_UNKNOWN, Refusal

PASSWORD = "hunter2-site"
# What pushes below `team/` may need.
REPOSITORIES = frozenset(
    f"team/{name}" for name in ("library/registry", "library/debian", "library/python", "ghcr.io/team/gcc")
)


@dataclasses.dataclass(frozen=True)
class Site:
    """A mode: the options of `FakeRegistry`, who logs in, and what it says to who moves an immutable tag."""

    name: str
    options: Mapping[str, Any]
    user: str = ""
    immutable: Optional[Refusal] = None

    @property
    def all_options(self) -> dict[str, Any]:
        users = {"users": {self.user: PASSWORD}, "anonymous_pull": False} if self.user else {}
        return {**users, **self.options}

    def credentials(self, host: str, repository: str) -> tuple[Credential, ...]:
        return (Credential(self.user, PASSWORD),) if self.user else ()


_BASIC = {"WWW-Authenticate": 'Basic realm="harbor"'}
_MOUNT_REFUSED = Refusal(401, "UNAUTHORIZED", "authentication required", headers={"WWW-Authenticate": ""})

SITES = (
    Site(
        "harbor",
        {
            "auth": "bearer",
            "projects": frozenset({"team"}),
            "sparse_index": ARTIFACT_NOT_FOUND,
            "catalog": Refusal(401, "UNAUTHORIZED", "unauthorized to list catalog", headers=_BASIC),
            "tag_deletion": Refusal(400, "UNSUPPORTED", "unsupported digest {}"),
            "held": Refusal(412, "VIOLATE_FOREIGN_KEY_CONSTRAINT", "the deleting artifact is referenced by others"),
        },
        "robot$team+push",
        Refusal(412, "PRECONDITION", "Failed to process request due to 'library/debian:{}' configured as immutable."),
    ),
    Site(
        "nexus",
        {"auth": "basic", "sparse_index": Refusal(400, "MANIFEST_INVALID", "manifest invalid"), "mounts": False},
        "ci",
        Refusal(400, "BLOB_UPLOAD_INVALID", "blob upload invalid", "Repository does not allow updating assets: team"),
    ),
    Site(
        "gitlab",
        {
            "auth": "bearer",
            "mounts": _MOUNT_REFUSED,
            "sparse_index": MANIFEST_BLOB_UNKNOWN,
            "catalog": Refusal(404, "NAME_UNKNOWN", "no such page"),
        },
        "gitlab-ci-token",
    ),
    Site(
        "ecr",
        {
            "auth": "basic",
            "created": REPOSITORIES,
            "mounts": False,
            "digest_header": False,
            "sparse_index": Refusal(
                404, "MANIFEST_BLOB_UNKNOWN", "Images with digests '[{}]' required for pushing image do not exist"
            ),
        },
        "AWS",
        Refusal(
            400,
            "TAG_INVALID",
            "The image tag '{}' already exists in the 'app' repository and cannot be overwritten because the "
            "repository is immutable.",
        ),
    ),
    Site(
        "gitea",
        {"auth": "bearer", "sparse_index": Refusal(404, "MANIFEST_BLOB_UNKNOWN", "blob unknown to registry")},
        "ci",
    ),
    Site(
        "zot",
        {"auth": "basic", "mounts": False, "sparse_index": Refusal(400, "MANIFEST_INVALID", "manifest invalid")},
        "ci",
    ),
    Site(
        "olareg",
        {
            "auth": "bearer",
            "closed": True,
            "sparse_index": MANIFEST_BLOB_UNKNOWN,
            "catalog": Refusal(404, "NAME_UNKNOWN", "no such page"),
        },
        "ci",
    ),
    Site("nginx", {"largest_body": 20_000}),
)
