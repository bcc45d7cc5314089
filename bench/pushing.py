"""Archive -> a registry that holds all tags, beside what others do for the same: ours, and one of a site over TLS."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import functools
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from bench.context import BUNDLE, Context
from bench.measure import Failed, Sample, in_rounds, measure, megabytes, say
from bench.report import Findings, Ratio, Table
from bench.workload import chosen, scratch_registry
from tests.support.fake_registry import Certificate
from tests.support.real_registry import RealRegistry
from tests.support.token_server import TokenServer

OURS, _OURS_AT_A_SITE = "push of bundle install", "bundle push"
_USER, _PASSWORD = "ci", "bench"

# $TARS has one OCI layout as a tar for each image; $TO is the registry. With TLS the options are empty.
_PEERS = {
    "regctl image import": """
        for tar in $TARS; do
            name=$(basename "$tar" .tar)
            $REGCTL image import $REG "$TO/library/${name%%_*}:${name##*_}" "$tar"
        done""",
    "tar -x + crane push": """
        for tar in $TARS; do
            name=$(basename "$tar" .tar)
            mkdir layout
            tar -xf "$tar" -C layout
            $CRANE push $CRANE_OPTIONS layout "$TO/library/${name%%_*}:${name##*_}" > /dev/null
            rm -r layout
        done""",
    "tar -x + skopeo copy": """
        for tar in $TARS; do
            name=$(basename "$tar" .tar)
            mkdir layout
            tar -xf "$tar" -C layout
            skopeo copy -q --all --preserve-digests $SKOPEO_OPTIONS oci:layout \
                "docker://$TO/library/${name%%_*}:${name##*_}"
            rm -r layout
        done""",
}


def run(context: Context) -> Findings:
    images = chosen(context.quick)
    say(f"push: {', '.join(images)}")
    material = context.directory("material")
    archive = material / "offline.tar"
    context.create(images, archive)
    for image, source in zip(images, context.workload(images).sources):
        measure(
            ["sh", "-ec", f"$REGCTL image export --host reg={context.registry},tls=disabled {source} $0",
             material / f"{image.replace(':', '_')}.tar"],
            context.environment(material),
        )  # fmt: skip
    plain = functools.partial(_push, context, images, _plain)
    site = functools.partial(_push, context, images, _site)
    tables, ratios, missed = [], [], []
    size = archive.stat().st_size
    for place, push, name, argv in (
        (_PLAIN, plain, OURS, [sys.executable, "-m", "bench.pushdriver", archive]),
        (_SITE, site, _OURS_AT_A_SITE, [BUNDLE, "push", "-q", archive]),
    ):
        say(f"push: {place}")
        runs: dict[str, Callable[[], Sample]] = {name: functools.partial(push, argv)}
        for peer, script in _PEERS.items():
            runs[peer] = functools.partial(push, ["sh", "-ec", script, "sh"])
        medians, failures = in_rounds(context.rounds, runs, say)
        tables.append(_table(context, len(images), size, place, name, medians))
        ratios += _ratios(place, name, medians)
        missed += [f"{place}, {peer}: {reason}" for peer, reason in failures.items()]
    shutil.rmtree(material)
    return Findings(tables, ratios, missed)


_PLAIN, _SITE = "push", "push over TLS, with a token for each repository"


def _table(context: Context, count: int, size: int, place: str, ours: str, medians: Mapping[str, Sample]) -> Table:
    return Table(
        place,
        f"{count} images, two platforms, {megabytes(size)} MB, into an empty registry (distribution 3, which "
        f"syncs what it keeps) on loopback; medians of {context.rounds}, in turn. Ours takes the one archive"
        + (", and pushes each image under two names; " if place == _PLAIN else ", and asks all repositories first; ")
        + "the others take a tar for each image. `written` and `extra disk` are the client's; what the registry keeps "
        "is the same for all.",
        ("tool", "s", "ratio", "CPU s", "peak MB", "written MB", "extra disk MB"),
        [
            (name, f"{sample.seconds:.2f}", f"{sample.seconds / medians[ours].seconds:.2f}", f"{sample.cpu:.2f}",
             megabytes(sample.memory), megabytes(sample.written), megabytes(sample.disk))
            for name, sample in medians.items()
        ] if ours in medians else [],
    )  # fmt: skip


def _ratios(place: str, name: str, medians: Mapping[str, Sample]) -> list[Ratio]:
    peers = {peer: sample.seconds for peer, sample in medians.items() if peer != name}
    if name not in medians or not peers:
        return []
    ours = medians[name]
    fastest = min(peers, key=peers.__getitem__)
    ratio = peers[fastest] / ours.seconds
    return [
        Ratio(f"{place}: fastest peer ({fastest}) / ours", "at least 1.5", f"{ratio:.2f}", ratio >= 1.5),
        Ratio(f"{place}: peak memory, MB", "under 100", megabytes(ours.memory), ours.memory < 100e6),
        Ratio(f"{place}: disk beyond the registry's data, MB", "0", megabytes(ours.disk), ours.disk < 1e6),
    ]


@dataclasses.dataclass(frozen=True)
class _Target:
    """An empty registry: its address, what is in the environment of who pushes, and where it keeps what it gets."""

    address: str
    environment: Mapping[str, str]
    storage: Path


@contextlib.contextmanager
def _plain(directory: Path, home: Path) -> Iterator[_Target]:
    with scratch_registry(directory) as address:
        options = {"REG": f"--host reg={address},tls=disabled", "CRANE_OPTIONS": "--insecure"}
        yield _Target(address, {**options, "SKOPEO_OPTIONS": "--dest-tls-verify=false"}, directory)


@contextlib.contextmanager
def _site(directory: Path, home: Path) -> Iterator[_Target]:
    """One with TLS, a CA of its own and a token server, whose login stands where `docker login` puts it."""
    certificate = Certificate.make(directory)
    accounts = {_USER: (_PASSWORD, {"pull", "push"})}
    with (
        TokenServer(directory, certificate, accounts, host="127.0.0.1") as tokens,
        RealRegistry("distribution3", directory, tls=certificate, tokens=tokens) as registry,
    ):
        login = base64.b64encode(f"{_USER}:{_PASSWORD}".encode()).decode()
        (home / "config.json").write_text(json.dumps({"auths": {registry.host: {"auth": login}}}))
        environment = {
            "DOCKER_CONFIG": str(home),
            "REGISTRY_AUTH_FILE": str(home / "config.json"),
            "SSL_CERT_FILE": str(certificate.file),
            **dict.fromkeys(("REG", "CRANE_OPTIONS", "SKOPEO_OPTIONS"), ""),
        }
        yield _Target(registry.host, environment, directory / "storage")


def _push(
    context: Context,
    images: tuple[str, ...],
    serve: Callable[[Path, Path], contextlib.AbstractContextManager[_Target]],
    argv: list[object],
) -> Sample:
    storage = context.directory("registry")
    home = context.directory("run")
    material = context.scratch / "material"
    with serve(storage, home) as target:
        environment = {
            **context.environment(home),
            **target.environment,
            "TO": target.address,
            "TARS": " ".join(str(path) for path in sorted(material.glob("*_*.tar"))),
            "PYTHONPATH": str(Path(__file__).parent.parent),
        }
        sample = measure([*argv, target.address], environment, home, home)
        _check(target.storage, images)
    shutil.rmtree(storage)
    shutil.rmtree(home)
    return sample


def _check(storage: Path, images: tuple[str, ...]) -> None:
    """Raise Failed unless the registry has all tags."""
    for image in images:
        repository, _, tag = image.partition(":")
        place = storage / "docker/registry/v2/repositories/library" / repository / "_manifests/tags" / tag / "current"
        if not (place / "link").is_file():
            raise Failed(f"`{image}` is not in the registry afterwards")
