"""Which image the test build is made from, and which node does it."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bundles.archive.reader import Archive
from bundles.archive.verify import check_documents
from bundles.errors import BundleError
from installer.host.docker.cli import CommandError
from installer.model.job import Job, Options
from installer.receipt.recorder import InstallRecorder
from installer.steps.builder.builder import Builder
from installer.steps.smoke_test import SmokeTest, _starts_shell, _was_built_with_shell
from tests.support.archives import image, made
from tests.support.fake_engine import FakeEngine
from tests.support.fake_registry import FakeRegistry
from tests.support.nodes import AMD64, Place, place_in


@pytest.mark.parametrize(
    ("config", "history", "expected"),
    [
        ({"Cmd": ["bash"]}, [], True),
        ({"Cmd": ["/bin/sh"]}, [], True),
        ({"Entrypoint": ["/app"], "Cmd": None}, [], False),
        ({"Cmd": ["python3"]}, [{"created_by": "RUN /bin/sh -c apt-get update # buildkit"}], True),
        ({"Cmd": ["/app"]}, [{"created_by": '/bin/sh -c #(nop)  CMD ["/app"]', "empty_layer": True}], False),
        ({}, [], False),
    ],
)
def test_which_images_have_a_shell(config: Any, history: Any, expected: bool) -> None:
    assert (_starts_shell(config) or _was_built_with_shell(history)) is expected


@pytest.fixture
def place(engine: FakeEngine, registry: FakeRegistry, tmp_path: Path) -> Iterator[Place]:
    with place_in(tmp_path, engine, registry) as found:
        found.site.add("arm-box", architecture="aarch64")
        found.bring(found.node("arm-box"))
        yield found


@pytest.fixture
def job(place: Place, tmp_path: Path) -> Iterator[Job]:
    made(image("debian:12"), image("moby/buildkit:1", "buildkit")).write(tmp_path / "offline.tar")
    with Archive(tmp_path / "offline.tar") as archive:
        check_documents(archive)
        options = Options(registry=place.state.address)
        yield dataclasses.replace(Job.of(archive, options, AMD64), nodes=place.state.nodes)


def test_there_is_a_build_for_each_platform_and_buildx_says_where(place: Place, job: Job) -> None:
    recorder = InstallRecorder(job, place.host)
    step = SmokeTest(job, place.host, [Builder(job, place.host)], recorder)
    assert len(step.look()) == 2
    step.apply(step.look())
    assert sorted(step.notes()) == ["built for linux/amd64: this host", "built for linux/arm64: ssh://anna@arm-box"]
    assert step.look() == []
    # With another node it is done again.
    alone = dataclasses.replace(job, nodes=())
    assert SmokeTest(alone, place.host, [Builder(alone, place.host)], recorder).look() != []


def test_a_node_that_has_no_builds_gets_one(
    place: Place, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it works shows here, and not when it takes the other's place."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    place.site.add("second", architecture="aarch64")
    place.bring(*job.nodes, place.node("second"))
    job = dataclasses.replace(job, nodes=place.state.nodes)
    recorder = InstallRecorder(job, place.host)
    step = SmokeTest(job, place.host, [Builder(job, place.host)], recorder)
    assert [change.detail.rpartition("; ")[2] for change in step.look()][2:] == ["on ssh://anna@arm-box"]
    step.apply(step.look())
    assert sorted(step.notes()) == [
        "built for linux/amd64: this host",
        "built for linux/arm64, to try it: ssh://anna@arm-box",
        "built for linux/arm64: ssh://anna@second",
    ]
    assert step.look() == []
    # buildx has everything as it was, and the directory in which it had not is gone.
    assert place.site.platforms()[job.nodes[0].name] == []
    assert list(temporary.iterdir()) == []
    place.site.remove("arm-box")
    again = SmokeTest(job, place.host, [Builder(job, place.host)], InstallRecorder(job, place.host))
    with pytest.raises(BundleError, match="on ssh://anna@arm-box: a test build FROM debian:12 failed"):
        again.apply(again.look())


def test_the_node_on_which_a_build_fails_is_named(place: Place, job: Job) -> None:
    step = SmokeTest(job, place.host, [Builder(job, place.host)], InstallRecorder(job, place.host))
    place.site.remove("arm-box")
    with pytest.raises(BundleError, match="on ssh://anna@arm-box: a test build FROM debian:12 failed") as caught:
        step.apply(step.look())
    assert f"does it reach {job.destination.host}?" in str(caught.value.hint)


def test_a_build_that_fails_on_a_cluster_is_not_a_nodes(
    place: Place, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = SimpleNamespace(builder="cross-builder-kubernetes", mark="m", logs="kubectl logs x")
    run = place.host.cli.run

    def docker(arguments: Sequence[str], stdin: str = "") -> str:
        if cluster.builder in arguments and "linux/amd64,linux/arm64" in arguments:
            raise CommandError("exit code 1: pod evicted")
        return "" if cluster.builder in arguments else run(arguments, stdin)

    monkeypatch.setattr(place.host.cli, "run", docker)
    builders = [Builder(job, place.host), cluster]
    step = SmokeTest(job, place.host, builders, InstallRecorder(job, place.host))
    with pytest.raises(
        BundleError, match=r"^a test build FROM debian:12 failed .*on cross-builder-kubernetes"
    ) as caught:
        step.apply(step.look())
    assert str(caught.value.hint).startswith("kubectl logs x; ")
