"""Installing into a registry of the site: what is done here, what is not, and what is said before the first byte."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import io
import json
import os
from pathlib import Path
from typing import Any, Callable

import pytest

from bundles.archive.reader import Archive
from bundles.cli.app import run
from installer import preflight
from installer.host.host import Host
from installer.model.cluster import Cluster
from installer.model.job import Job, Options
from installer.model.registry.access import Access
from installer.model.registry.address import Address
from installer.model.registry.destination import Destination
from installer.receipt.receipt import BundleName, Receipt
from installer.receipt.recorder import InstallRecorder
from installer.steps.registry.container import FormerRegistry
from tests.support import fake_docker
from tests.support.archives import AMD64, Made, image, made
from tests.support.fake_engine import FakeEngine
from tests.support.fake_registry import Certificate, FakeRegistry
from tests.support.site_registries import PASSWORD
from tests.support.states import desired

Make = Callable[..., FakeRegistry]
USER = "robot$team"


class Site:
    """A host with a fake engine, an archive, and a registry of the site that wants TLS and a login."""

    def __init__(self, directory: Path, engine: FakeEngine, registry: FakeRegistry, environment: Any) -> None:
        self.directory, self.engine, self.registry = directory, engine, registry
        self.archive = _archive().write(directory / "offline.tar").path
        self.into = f"{registry.host}/team"
        self.ca = directory / "certificate.pem"
        endpoint = {"Name": "default", "Endpoints": {"docker": {"Host": f"unix://{engine.socket}"}}}
        self.docker = fake_docker.install(directory / "bin", endpoint=json.dumps([endpoint]))
        engine.root = str(directory)
        for name, value in {"HOME": directory, "PATH": self.docker}.items():
            environment.setenv(name, str(value))
        self.log_in()

    def log_in(self, password: str = PASSWORD, host: str = "") -> None:
        auth = base64.b64encode(f"{USER}:{password}".encode()).decode()
        (self.directory / ".docker").mkdir(exist_ok=True)
        (self.directory / ".docker/config.json").write_text(
            json.dumps({"auths": {host or self.registry.host: {"auth": auth}}})
        )

    def run(self, command: str, *arguments: object, code: int = 0) -> Any:
        """Run a command; gives its JSON document."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            done = run([command, *map(str, arguments), "--json"])
        assert done == code, out.getvalue() + err.getvalue()
        assert PASSWORD not in out.getvalue() + err.getvalue()
        return json.loads(out.getvalue())


def _archive() -> Made:
    """As a bundle has them: the toolchain for this host, and a base image."""
    return made(
        image("registry:3", "registry", (AMD64,), (9,)),
        image("moby/buildkit:buildx-stable-1", "buildkit", (AMD64,), (8,)),
        image("docker/buildx-bin:latest", "buildx", (AMD64,), (7,)),
        image("tonistiigi/binfmt:latest", "binfmt", (AMD64,), (6,)),
        image("debian:12", seeds=(1,)),
    )


@pytest.fixture
def site(tmp_path: Path, engine: FakeEngine, fake: Make, monkeypatch: pytest.MonkeyPatch) -> Site:
    registry = fake(
        tls=Certificate.make(tmp_path), auth="basic", users={USER: PASSWORD}, anonymous_pull=False,
    )  # fmt: skip
    return Site(tmp_path, engine, registry, monkeypatch)


def changes_of(document: Any) -> dict[str, list[tuple[str, str, str]]]:
    return {
        step["step"]: [(each["action"], each["kind"], each["name"]) for each in step["changes"]]
        for step in document["steps"]
    }


def test_the_plan_has_no_registry_of_ours(site: Site) -> None:
    plan = site.run("install", site.archive, "--into", site.into, "--ca", site.ca, "--plan")
    steps = changes_of(plan)
    assert plan["registry"] == site.into
    assert list(steps) == [
        "destination", "token server", "authority", "registry", "push", "images", "buildx", "emulation", "replay",
        "configuration", "builder", "test build",
    ]  # fmt: skip
    authority = str(site.directory / ".local/state/bundle/registry/site.pem")
    assert steps["authority"] == [("write", "file", authority)]
    assert ("push", "tag", "team/library/debian:12") in steps["push"]
    assert ("load", "image", f"{site.into}/moby/buildkit:buildx-stable-1") in steps["images"]
    # Nobody starts it here, and in the site's registry it is for other hosts.
    assert ("push", "tag", "team/library/registry:3") in steps["push"]
    assert not [change for change in steps["images"] if "registry:3" in change[2]]
    assert site.engine.done == []
    assert not Path(authority).exists()
    assert site.registry.uploads == {}
    assert {each.method for each in site.registry.seen()} <= {"GET", "HEAD", "POST", "DELETE"}


def test_what_is_wrong_there_and_here_is_said_together(site: Site) -> None:
    """The project does not exist, an instance of somebody else has the builder's name, and the tokens come from a
    server with the same private CA, which buildx does not know."""
    site.registry.auth, site.registry.projects = "bearer", frozenset({"team"})
    instances = site.directory / ".docker/buildx/instances"
    instances.mkdir(parents=True)
    (instances / "cross-builder").write_text(json.dumps({"Driver": "kubernetes", "Nodes": [{"Name": "a"}]}))
    host = site.registry.host
    document = site.run("install", site.archive, "--into", f"{host}/nowhere", "--ca", site.ca, code=4)
    problems = {problem["subject"]: problem for problem in document["error"]["problems"]}
    assert list(problems) == [
        f"`{host}/nowhere/library/registry` and 4 more",
        f"`{host}`, which gives the tokens for `{host}`",
        "builder `cross-builder`",
    ]
    hint = problems[f"`{host}`, which gives the tokens for `{host}`"]["hint"]
    assert "sudo update-ca-certificates; on RHEL and Fedora: sudo cp ca.pem /etc/pki/ca-trust/" in hint
    assert site.engine.done == []
    assert site.registry.repositories == {}


def test_the_builder_gets_the_ca_that_docker_has(site: Site) -> None:
    """From certs.d, where administrators put it; and none where everybody trusts who answers."""
    directory = site.directory / ".docker/certs.d" / site.registry.host
    directory.mkdir(parents=True)
    (directory / "ca.crt").write_bytes(site.ca.read_bytes())
    options = Options(site=Destination.parse(site.into), access=Access(tls=True))
    host = Host.this(os.environ, None)
    found = preflight._as_before(options, host)
    assert found.authorities == site.ca.read_bytes()
    assert found.access.authority == str(host.places.site_authority)
    (directory / "ca.crt").unlink()
    # Nobody here trusts it: the check of the destination says so, and no builder is given anything.
    assert preflight._as_before(options, host).authorities is None


def test_a_wrong_login_is_one_problem(site: Site) -> None:
    site.log_in("wrong")
    document = site.run("install", site.archive, "--into", site.into, "--ca", site.ca, code=4)
    (problem,) = document["error"]["problems"]
    assert problem["hint"].startswith(f"docker login {site.registry.host}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--registry", "localhost:5000"), "--registry does not go with --into"),
        (("--data", "/srv/x"), "--data does not go with --into"),
        (("--s3-endpoint", "https://s3.corp"), "--s3-endpoint does not go with --into"),
        (("--no-s3-redirect",), "--s3-redirect does not go with --into"),
        (("--flat",), "--flat does not go with --into: flat names have no mirror"),
        (("--insecure-registry", "other.corp"), "`other.corp` is not the registry of --into"),
    ],
)
def test_what_does_not_go_with_it_is_refused(site: Site, arguments: tuple[str, ...], message: str) -> None:
    document = site.run("install", site.archive, "--into", "harbor.corp/team", *arguments, code=2)
    assert message in document["error"]["message"]
    assert document["error"]["hint"]


@pytest.mark.parametrize(("option", "needs"), [("--ca", "--into or --cert"), ("--insecure-registry", "--into")])
def test_what_is_about_the_registry_of_a_site_needs_one(site: Site, option: str, needs: str) -> None:
    document = site.run("install", site.archive, option, "harbor.corp", code=2)
    assert document["error"]["message"] == f"{option} needs {needs}"


def test_tags_of_others_are_moved_with_consent_only(site: Site) -> None:
    """The plan names what each was; installing without --yes and nobody to ask is refused."""
    repository = site.registry.repository("team/library/debian")
    other = site.registry.index(site.registry.image("linux/amd64", seed="other"))
    site.registry.tag("team/library/debian", "12", other)
    arguments = ("install", site.archive, "--into", site.into, "--ca", site.ca)
    (problem,) = site.run(*arguments, code=4)["error"]["problems"]
    assert problem["subject"] == "consent"
    assert f"team/library/debian:12 ({other.digest} -> " in problem["message"]
    plan = site.run(*arguments, "--plan")
    replaced = [change for step in plan["steps"] for change in step["changes"] if change["replaces"]]
    assert [(change["name"], change["replaces"]) for change in replaced] == [
        ("team/library/debian:12", str(other.digest))
    ]
    assert repository.tags == {"12": other.digest}


def test_a_registry_of_ours_from_before_is_left_alone_and_said(site: Site) -> None:
    labels = {"role": "registry", "address": "localhost:5000", "data": "bundle-registry"}
    site.engine.add("registry", {f"offline-bundle.{name}": value for name, value in labels.items()})
    step = FormerRegistry(Host.this(os.environ, None))
    assert step.look() == []
    (note,) = step.notes()
    assert note.endswith("when nobody else does: docker rm -f registry; docker volume rm bundle-registry")
    plan = site.run("install", site.archive, "--into", site.into, "--ca", site.ca, "--plan")
    assert changes_of(plan)["registry"] == []
    site.engine.add("registry", {})
    assert step.notes() == []


def test_without_an_option_it_goes_where_it_went(site: Site) -> None:
    """As an address of our own registry stays; and --registry is another place."""
    host = Host.this(os.environ, None)
    state = desired(
        Address.of_host(site.registry.host),
        data="",
        site=Destination.parse(site.into),
        access=Access(tls=True, authority=str(host.places.site_authority)),
    )
    Receipt(BundleName("x", "sha256:1", "/x.tar"), state).save(host.places)
    host.places.registry.mkdir()
    host.places.site_authority.write_bytes(site.ca.read_bytes())
    found = preflight._as_before(Options(), host)
    # What builds elsewhere stays too, until it is to go.
    Receipt(BundleName("x", "sha256:1", "/x.tar"), dataclasses.replace(state, cluster=Cluster("site"))).save(
        host.places
    )
    assert preflight._as_before(Options(), host).cluster == Cluster("site")
    assert preflight._as_before(Options(without_cluster=True), host).cluster is None
    assert preflight._as_before(Options(cluster=Cluster("other")), host).cluster == Cluster("other")
    Receipt(BundleName("x", "sha256:1", "/x.tar"), state).save(host.places)
    assert (found.site, found.access) == (state.site, state.access)
    assert site.run("install", site.archive, "--plan")["registry"] == site.into
    own = Options(registry=Address.parse("localhost:5000"))
    assert preflight._as_before(own, host) == own
    assert preflight._as_before(Options(data="/srv/x"), host).site is None
    for wanted in (Options(tls=True), Options(login=True), Options(certificate=site.ca, key=site.ca)):
        assert preflight._as_before(wanted, host).site is None
    # The CA of then is that of one registry.
    other = Options(site=Destination.parse("harbor.invalid/team"), access=Access(tls=True))
    assert preflight._as_before(other, host).access.authority is None


@pytest.fixture
def corporate(tmp_path: Path, fake: Make, names: None) -> tuple[FakeRegistry, Certificate]:
    """A registry under a name, where a certificate counts, and its CA."""
    (tmp_path / "corporate").mkdir()
    authority = Certificate.make(tmp_path / "corporate")
    issued = authority.issue(tmp_path / "corporate", "registry.example")
    return fake(tls=issued, auth="basic", users={USER: PASSWORD}), authority


@pytest.mark.parametrize("command", ["install", "upgrade"])
def test_the_ca_that_was_given_once_is_enough_later(
    corporate: tuple[FakeRegistry, Certificate], site: Site, command: str
) -> None:
    """Where neither the system nor certs.d has it."""
    site.registry, authority = corporate
    place = Destination(f"registry.example:{site.registry.port}", "team")
    site.log_in(host=place.host)
    host = Host.this(os.environ, None)
    access = Access(tls=True, authority=str(host.places.site_authority))
    with Archive(site.archive) as archive:
        recorder = InstallRecorder(Job.of(archive, Options(site=place, access=access), AMD64), host)
        with recorder.locked():
            recorder.finish([], {})
    host.places.registry.mkdir()
    host.places.site_authority.write_bytes(authority.file.read_bytes())
    plan = site.run(command, site.archive, "--plan")
    assert plan["registry"] == str(place)
    assert changes_of(plan)["authority"] == []


def test_who_asks_for_the_wrong_protocol_is_told(site: Site, fake: Make) -> None:
    plain = fake()
    document = site.run("install", site.archive, "--into", f"{plain.host}/team", "--ca", site.ca, code=4)
    (problem,) = document["error"]["problems"]
    assert (problem["message"], problem["hint"]) == (
        "it speaks plain HTTP, and not TLS",
        f"--insecure-registry {plain.host}",
    )
    document = site.run("install", site.archive, "--into", site.into, "--insecure-registry", site.registry.host, code=4)
    (problem,) = document["error"]["problems"]
    assert (problem["message"], problem["hint"]) == (
        "it speaks TLS, and not plain HTTP",
        "give its CA instead: --ca FILE",
    )
