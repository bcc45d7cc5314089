"""The keys of an S3 storage on the host, and what a registry's container is told."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Optional

import pytest

from installer.host.host import Host
from installer.host.paths import Places
from installer.model.job import DesiredState
from installer.model.registry.address import Address
from installer.model.registry.keys import Keys
from installer.model.registry.storage import S3Storage
from installer.steps.registry.container import RegistryContainer, RemoveRegistry
from installer.steps.registry.prune import CollectGarbage
from installer.steps.registry.storage import Storage, StorageFiles, kept_keys
from tests.support.fake_engine import FakeEngine
from tests.support.states import desired
from tests.support.tools import give, tool

KEYS = Keys("AKIASITE", "hunter2-of-the-storage")
PLACE = S3Storage("1234", "team", "http://192.168.10.9:9000")
REGISTRY = tool("registry:3")
unused: Any = None


def host_of(engine: FakeEngine, root: Path) -> Host:
    return Host(engine.engine, unused, Places.of({"HOME": str(root)}))


def state(storage: Optional[S3Storage]) -> DesiredState:
    return desired(
        Address.parse("127.0.0.1:5000"),
        data=str(storage) if storage else "v",
        platforms=(),
        tools={"registry": REGISTRY},
        storage=storage,
    )


def keep(host: Host, storage: S3Storage = PLACE) -> None:
    """Have the keys where an installation keeps them."""
    step = Storage(state(storage), host)
    step._keys = KEYS
    step.apply(step.look())


def test_the_keys_are_kept_for_their_owner_alone_and_go_with_the_bucket(engine: FakeEngine, tmp_path: Path) -> None:
    host = host_of(engine, tmp_path)
    keep(host)
    file = StorageFiles.of(host.places).keys
    assert file.stat().st_mode & 0o777 == 0o600
    assert kept_keys(host.places) == KEYS
    # Later runs are given none.
    assert Storage(state(PLACE), host).look() == []
    (change,) = Storage(state(None), host).look()
    assert (change.action, change.name) == ("remove", str(file))
    Storage(state(None), host).apply([change])
    assert not file.exists() and Storage(state(None), host).if_of_use() == []


def test_without_keys_a_person_is_told_what_to_give(engine: FakeEngine, tmp_path: Path) -> None:
    (problem,) = Storage(state(PLACE), host_of(engine, tmp_path)).problems()
    assert problem.message.startswith("there are no keys for it")
    assert "--storage s3://1234/team --s3-endpoint http://192.168.10.9:9000" in str(problem.hint)


def test_the_container_has_the_keys_in_a_file_and_nowhere_else(engine: FakeEngine, tmp_path: Path) -> None:
    host = host_of(engine, tmp_path)
    keep(host)
    give(engine, REGISTRY)
    container = RegistryContainer(state(PLACE), host, unused)
    wanted = container._wanted()
    assert wanted.private and wanted.binds == ()
    assert wanted.files == {"/bundle-registry/": b"", "/bundle-registry/s3-credentials": KEYS.to_file()}
    shown = json.dumps(dataclasses.asdict(dataclasses.replace(wanted, files={})), default=str)
    for secret in (KEYS.identity, KEYS.secret):
        assert secret not in shown
    # A bucket's name may look like a number to who reads YAML.
    assert wanted.environment["REGISTRY_STORAGE_S3_BUCKET"] == '"1234"'
    assert wanted.environment["AWS_SHARED_CREDENTIALS_FILE"] == "/bundle-registry/s3-credentials"
    assert [change.action for change in container.look()] == ["start"]


@pytest.mark.parametrize("alone", [False, True])
def test_garbage_of_a_bucket_is_only_collected_when_a_person_says_that_it_is_safe(
    engine: FakeEngine, tmp_path: Path, alone: bool
) -> None:
    engine.add("registry", {"offline-bundle.role": "registry"})
    receipt: Any = SimpleNamespace(state=state(PLACE))
    host = host_of(engine, tmp_path)
    problems = CollectGarbage(receipt, host, unused, unused, due=True, alone=alone).problems()
    assert len(problems) == (not alone)
    for problem in problems:
        assert "on each of those hosts: docker stop registry" in str(problem.hint)


def test_uninstalling_leaves_a_bucket_alone_and_says_so(engine: FakeEngine, tmp_path: Path) -> None:
    engine.add("registry", {"offline-bundle.role": "registry", "offline-bundle.data": str(PLACE)})
    receipt: Any = SimpleNamespace(state=state(PLACE), names_made=lambda kind: ["registry"])
    step = RemoveRegistry(receipt, host_of(engine, tmp_path), data=True)
    assert [str(change) for change in step.look()] == ["remove container registry"]
    (note,) = step.notes()
    assert note.startswith("what is in s3://1234/team stays")
    assert note.endswith(
        "aws --endpoint-url http://192.168.10.9:9000 s3 rm --recursive s3://1234/team/docker/registry/"
    )


def test_another_storage_with_a_bucket_of_that_name_is_said(engine: FakeEngine, tmp_path: Path) -> None:
    host = host_of(engine, tmp_path)
    keep(host)
    give(engine, REGISTRY)
    engine.add("registry", RegistryContainer(state(PLACE), host, unused)._wanted().labels)
    other = dataclasses.replace(PLACE, endpoint="http://192.168.10.8:9000")
    (change,) = RegistryContainer(state(other), host, unused).look()
    assert change.detail.endswith(
        "what is in s3://1234/team at http://192.168.10.9:9000 stays there and is no longer served"
    )
    (change,) = RegistryContainer(state(dataclasses.replace(PLACE, redirect=True)), host, unused).look()
    assert change.detail.endswith("the data is kept")
