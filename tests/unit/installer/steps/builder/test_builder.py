"""The builder and its buildkitd.toml."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Optional

import pytest

from bundles.errors import HostError
from bundles.oci.reference import Reference
from installer.host.labels import ENVIRONMENT
from installer.host.paths import Places
from installer.model.cluster import Cluster
from installer.model.naming import mirrors
from installer.model.registry.access import PLAIN, Access
from installer.model.registry.address import Address
from installer.model.registry.destination import Destination
from installer.model.replay import Replay
from installer.steps.builder.builder import Builder
from installer.steps.builder.buildkitd_config import BuildkitdConfig, config_text
from tests.support.fake_engine import FakeEngine
from tests.support.tools import give, tool

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LOCAL = Address("localhost", 5000)


def test_buildkitd_toml_reads_back() -> None:
    references = map(Reference.parse, ["debian:12", "ghcr.io/a/b:1", "registry.corp:5001/a:1", "ghcr.io/c:2"])
    text = config_text(str(LOCAL), PLAIN, mirrors(references, Destination.of(LOCAL)))
    assert tomllib.loads(text) == {
        "registry": {
            "localhost:5000": {"http": True, "insecure": True},
            "docker.io": {"mirrors": ["localhost:5000"]},
            "ghcr.io": {"mirrors": ["localhost:5000/ghcr.io"]},
            "registry.corp:5001": {"mirrors": ["localhost:5000/registry.corp_5001"]},
        }
    }


def test_docker_hub_is_always_mirrored_and_the_registry_never_mirrors_itself() -> None:
    lan = Address.parse("192.168.10.10:5000")
    found = mirrors([Reference.parse("192.168.10.10:5000/tools/x:1")], Destination.of(lan))
    assert found == {"docker.io": "192.168.10.10:5000"}
    assert tomllib.loads(config_text(str(lan), PLAIN, found))["registry"]["docker.io"] == {
        "mirrors": ["192.168.10.10:5000"]
    }


def test_with_a_replay_what_steps_fetch_goes_through_buildkits_proxy(tmp_path: Path) -> None:
    found = mirrors([], Destination.of(LOCAL))
    plain = config_text(str(LOCAL), PLAIN, found)
    text = config_text(str(LOCAL), PLAIN, found, tmp_path / "ca.pem")
    assert tomllib.loads(text) == {
        "proxyNetwork": True,
        "registry": {"replay.invalid": {"ca": [str(tmp_path / "ca.pem")]}, **tomllib.loads(plain)["registry"]},
    }
    assert "proxy" not in plain


def places(root: Path) -> Places:
    return Places.of({"HOME": str(root / "home"), "BUNDLE_HOST": str(root)})


def config_step(root: Path) -> BuildkitdConfig:
    job: Any = SimpleNamespace(
        destination=Destination("localhost:5000"), access=PLAIN, builder="cross-builder", mirrors={}, replay=None
    )
    host: Any = SimpleNamespace(places=places(root))
    return BuildkitdConfig(job, host)


def test_somebody_elses_buildkitd_toml_is_not_written_over(tmp_path: Path) -> None:
    step = config_step(tmp_path)
    path = places(tmp_path).buildkitd_config("cross-builder")
    path.parent.mkdir(parents=True)
    path.write_text("[worker.oci]\n")
    (problem,) = step.problems()
    assert (problem.subject, problem.message) == (str(path), "it is not one that this program wrote")
    assert problem.hint == f"mv {path} {path}.old, or choose another name with --builder"
    # Ours may be as old as it likes.
    path.write_text("# Written by `bundle install`. BuildKit reads it.\n# mine\n")
    assert step.problems() == []
    path.unlink()
    assert step.problems() == []
    step.apply(step.look())
    assert step.problems() == []


def test_the_buildkitd_toml_of_our_builder_is_ours_whatever_became_of_it(tmp_path: Path) -> None:
    path = places(tmp_path).buildkitd_config("cross-builder")
    record = places(tmp_path).buildx_config / "instances" / "cross-builder"
    record.parent.mkdir(parents=True)
    node = {"Name": "cross-builder0", "DriverOpts": {f"env.{ENVIRONMENT}": "abc"}}
    record.write_text(json.dumps({"Name": "cross-builder", "Driver": "docker-container", "Nodes": [node]}))
    path.write_text("[x]\n")
    assert config_step(tmp_path).problems() == []


BUILDKIT = tool("moby/buildkit:1")


def builder(
    engine: FakeEngine,
    root: Path,
    replay: Optional[Replay] = None,
    address: Address = LOCAL,
    site: Optional[Destination] = None,
) -> Builder:
    job: Any = SimpleNamespace(
        address=address,
        destination=Destination.of(address),
        site=site,
        access=PLAIN,
        builder="cross-builder",
        mirrors={},
        replay=replay,
        cluster=None,
        platforms=("linux/arm64",),
        tool=lambda role: BUILDKIT,
    )
    host: Any = SimpleNamespace(engine=engine.engine, places=places(root))
    return Builder(job, host)


def test_the_builder_is_made_of_a_digest_and_never_of_a_tag(engine: FakeEngine, tmp_path: Path) -> None:
    """Docker cannot pull here: it has the image as it was pulled before, or only as it was loaded."""
    step = builder(engine, tmp_path)
    config = give(engine, BUILDKIT)
    assert step._image() == config
    engine.images[BUILDKIT.pinned] = {}
    engine.ids[BUILDKIT.pinned] = config
    assert step._image() == f"localhost:5000/moby/buildkit@{BUILDKIT.manifest.digest}"
    # A name by digest that stands for something else proves nothing; and then nobody has the image.
    engine.ids[BUILDKIT.pinned] = engine.ids[BUILDKIT.name] = "sha256:" + "e" * 64
    with pytest.raises(HostError, match="does not have the image"):
        step._image()


def test_a_builder_that_runs_another_image_is_made_anew(engine: FakeEngine, tmp_path: Path) -> None:
    step = builder(engine, tmp_path)
    config = places(tmp_path).buildx_config
    (config / "instances").mkdir(parents=True)
    node = {"Name": "cross-builder0", "DriverOpts": {f"env.{ENVIRONMENT}": step.mark}}
    record = {"Name": "cross-builder", "Driver": "docker-container", "Nodes": [node]}
    (config / "instances/cross-builder").write_text(json.dumps(record))
    (config / "current").write_text(json.dumps({"Name": "cross-builder"}))
    container = engine.add("buildx_buildkit_cross-builder0", {}, **{ENVIRONMENT: step.mark})
    container.image = str(BUILDKIT.manifest.digest)
    assert step.look() == []
    # Whoever builds on the cluster by choice goes on to, where there is one.
    (config / "current").write_text(json.dumps({"Name": "cross-builder-kubernetes"}))
    assert [change.action for change in step.look()] == ["select"]
    step._job.cluster = Cluster("site")  # type: ignore[misc]
    assert step.look() == []
    container.image = "sha256:" + "e" * 64
    pull, change = step.look()
    assert change.action == "recreate"
    assert step.explain(pull) == step.explain(change)


def test_nodes_that_a_user_added_to_the_builder_do_not_go_without_a_word(engine: FakeEngine, tmp_path: Path) -> None:
    record = places(tmp_path).buildx_config / "instances" / "cross-builder"
    record.parent.mkdir(parents=True)
    details = []
    for names in (("cross-builder0",), ("cross-builder0", "fast", "far")):
        nodes: list[dict[str, Any]] = [{"Name": name, "DriverOpts": {}} for name in names]
        nodes[0]["DriverOpts"] = {f"env.{ENVIRONMENT}": "what an older one wanted"}
        record.write_text(json.dumps({"Name": "cross-builder", "Driver": "docker-container", "Nodes": nodes}))
        pull, change = builder(engine, tmp_path).look()
        assert (pull.action, pull.name) == ("pull", BUILDKIT.pinned)
        assert (change.action, change.name) == ("recreate", "cross-builder")
        details.append(change.detail)
    kept = "localhost:5000/moby/buildkit:1 for linux/arm64; the build cache is kept"
    assert details[0] == kept
    assert details[1].startswith(f"{kept}; nodes that were added go: fast, far; ")


def test_a_builder_sends_to_the_replay_what_is_not_the_registrys(engine: FakeEngine, tmp_path: Path) -> None:
    plain = builder(engine, tmp_path)
    assert plain.options() == ["network=host"]
    lan = Address.parse("192.168.10.10:5000")
    assert builder(engine, tmp_path, address=lan).options() == []
    step = builder(engine, tmp_path, Replay(5081, (), ("mirror.corp:8080", ".corp")), lan)
    assert step.options() == [
        "network=host",
        "env.HTTP_PROXY=http://127.0.0.1:5081",
        "env.HTTPS_PROXY=http://127.0.0.1:5081",
        '"env.NO_PROXY=192.168.10.10,mirror.corp:8080,.corp"',
        "env.SSL_CERT_FILE=/etc/buildkit/certs/replay.invalid/ca.pem",
    ]
    assert builder(engine, tmp_path, Replay(5081, ())).options()[3] == "env.NO_PROXY=localhost"


def test_another_ca_makes_another_builder(engine: FakeEngine, tmp_path: Path) -> None:
    """buildx copies the file when it makes the builder."""
    ca = places(tmp_path).replay / "ca.pem"
    ca.parent.mkdir(parents=True)
    marks = []
    for text in ("one", "two"):
        ca.write_text(text)
        marks.append(builder(engine, tmp_path, Replay(5080, ())).mark)
    assert len({*marks, builder(engine, tmp_path).mark}) == 3


@pytest.mark.parametrize(
    "said, refused",
    [
        ("buildkitd github.com/moby/buildkit v0.32.2 abcdef", True),
        ("buildkitd github.com/moby/buildkit v0.33.0 abcdef", False),
        ("buildkitd github.com/moby/buildkit v1.0.0-rc1 abcdef", False),
        ("buildkitd of our own", False),
    ],
)
def test_a_buildkit_that_cannot_replay_is_refused_before_the_builder_goes(
    said: str, refused: bool, engine: FakeEngine, tmp_path: Path
) -> None:
    give(engine, BUILDKIT)
    engine.images[BUILDKIT.pinned] = {}
    engine.ids[BUILDKIT.pinned] = str(BUILDKIT.config.digest)
    engine.log = said.encode()
    builder(engine, tmp_path)._refuse_old()
    assert engine.commands == []
    step = builder(engine, tmp_path, Replay(5080, ()))
    if refused:
        with pytest.raises(HostError, match=r"is BuildKit v0\.32\.2, and replaying") as caught:
            step._refuse_old()
        assert "--no-replay" in str(caught.value.hint)
    else:
        step._refuse_old()
    assert engine.commands == [["--version"]]


@pytest.mark.parametrize(
    ("table", "options"),
    [
        ("10.0.0.5 harbor.corp harbor\n", ["network=host"]),
        ("127.0.0.1 localhost\n# 10.0.0.5 harbor.corp\n", []),
    ],
)
def test_a_name_that_only_this_host_knows_needs_its_network(
    engine: FakeEngine, tmp_path: Path, table: str, options: list[str]
) -> None:
    """A container with a network of its own asks a name server, and does not read the host's /etc/hosts."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/hosts").write_text(table)
    site = Destination.parse("harbor.corp/team")
    assert builder(engine, tmp_path, address=Address("harbor.corp", 443), site=site).options() == options


@pytest.mark.parametrize(("host", "lines"), [("localhost:5000", ["http = false"]), ("192.168.10.10:5000", [])])
def test_with_tls_no_builder_falls_back_to_plain_http(host: str, lines: list[str]) -> None:
    """BuildKit does so on loopback addresses unless it is told otherwise."""
    text = config_text(host, Access(True, "/state/ca.pem"), {"docker.io": host})
    stanza = text.partition(f'[registry."{host}"]\n')[2].partition("\n\n")[0]
    assert [line.strip() for line in stanza.splitlines()] == [*lines, 'ca = ["/state/ca.pem"]']
