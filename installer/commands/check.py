"""`bundle check`: would these Dockerfiles build here, from the local registry alone?"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Optional

import click

from bundles.cli.output import Output, common_options
from bundles.dockerfile.images import BuildSettings, Use, uses
from bundles.dockerfile.steps import steps
from bundles.errors import HostError, NetworkError, UsageError, reason
from bundles.oci.image import config_platform, parse_index, parse_manifest
from bundles.oci.platform import Platform
from bundles.runtime.program import own_command
from bundles.runtime.terminal import one_line
from installer.host.docker.cli import DockerCLI
from installer.host.docker.endpoint import EngineEndpoint
from installer.host.docker.engine import Engine
from installer.host.host import Host
from installer.host.paths import Places
from installer.host.sudo import environment_of_invoker
from installer.model.job import DesiredState
from installer.model.naming import repositories
from installer.receipt.receipt import Receipt
from installer.registry.client import Registry
from installer.registry.connection import transport_to
from installer.registry.recordings import Outlook, Recordings, Verdict

_SHOWN = 60


@dataclasses.dataclass(frozen=True)
class Availability:
    """An image that is needed for a platform. `missing` says what of it is not there, None when all is."""

    use: Use
    missing: Optional[str]


@click.command()
@click.argument("dockerfiles", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--build-arg", "arguments", metavar="NAME=VALUE", multiple=True, help="As for docker buildx build.")
@click.option(
    "--platform", "platforms", metavar="P,P", multiple=True, help="Build for these (default: the builder's platforms)."
)
@common_options
@click.pass_context
def check(
    ctx: click.Context, *, dockerfiles: tuple[Path, ...], arguments: tuple[str, ...], platforms: tuple[str, ...],
    output: Output,
) -> None:  # fmt: skip
    """Say of each image and platform that DOCKERFILES need whether the local registry has it.

    And of each RUN and ADD that asks the network whether it was recorded. A directory stands for the Dockerfile in it.
    Exit code 0 when everything is there, 5 when something is missing.
    """
    files = [_Dockerfile.read(path) for path in dockerfiles]
    # The engine is not asked, nor is the docker command, which would take longer than all the rest.
    environment = environment_of_invoker(os.environ)
    receipt = Receipt.read(Host(Engine(EngineEndpoint()), DockerCLI(environment), Places.of(environment)))
    state = receipt.state
    targets = Platform.parse_list(",".join(platforms)) or state.platforms
    settings = BuildSettings(targets, (state.host_platform,), dict(map(_argument, arguments)))
    found = [use for file in files for use in uses(file.text, file.name, settings)]
    with transport_to(state, attempts=1) as transport:
        registry = Registry(transport, state.destination.host)
        try:
            registry.ping()
        except NetworkError as error:
            raise HostError(
                f"the registry at {state.destination.host} does not answer: {error.message}", hint=own_command("doctor")
            ) from None
        answers = [Availability(use, missing(use, state, registry)) for use in found]
        recordings = Recordings.read(state, registry)
    judged = [(file.name, verdict) for file in files for verdict in file.verdicts(recordings, settings)]
    lines = bundle_lines(answers, targets)
    outlooks = {verdict.outlook for _, verdict in judged}
    builds = None if not lines and outlooks & {Outlook.CHANGED, Outlook.UNRECORDED} else not lines
    builds = False if Outlook.MISSING in outlooks else builds
    document = {
        "builds": builds,
        "images": [_to_json(answer) for answer in answers],
        "steps": [_step_to_json(name, verdict) for name, verdict in judged],
        "bundle.toml": lines,
    }
    output.result(
        document, _text(answers, lines, [_step_text(*each, receipt) for each in judged], _end(judged, builds))
    )
    if builds is False:
        ctx.exit(NetworkError.exit_code)


def _argument(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        # As docker does: the value is that of the environment.
        return name, os.environ.get(name, "")
    return name, value


@dataclasses.dataclass(frozen=True)
class _Dockerfile:
    """A Dockerfile: its text, and what messages call it."""

    text: str
    name: str

    @classmethod
    def read(cls, path: Path) -> _Dockerfile:
        place = path / "Dockerfile" if path.is_dir() else path
        try:
            return cls(place.read_text(encoding="utf-8", errors="replace"), str(place))
        except OSError as error:
            raise UsageError(f"`{place}` cannot be read: {reason(error)}") from None

    def verdicts(self, recordings: Recordings, settings: BuildSettings) -> list[Verdict]:
        """Judge what asks the network, in the stages that the last one needs."""
        found = steps(self.text, self.name, settings.targets, settings.arguments)
        return recordings.verdicts(found, settings.targets)


def missing(use: Use, state: DesiredState, registry: Registry) -> Optional[str]:
    """Say what keeps BuildKit from getting an image for a platform where its configuration makes it look."""
    reference = use.reference
    if reference.registry != state.destination.host and reference.registry not in state.mirrors:
        return f"nothing from {reference.registry} was ever installed, and BuildKit has no mirror for it"
    repository = repositories(reference, state.destination)[0]
    selector = str(reference.digest or reference.tag)
    if registry.manifest_digest(repository, selector) is None:
        return "the registry does not have it"
    root, data = registry.get_manifest(repository, selector)
    if not root.is_index:
        config = parse_manifest(data).config
        found = config_platform(registry.read_config(repository, config))
        return None if found is None or use.platform.best_of([found]) else f"it is for {found} only"
    children = {child.platform: child for child in parse_index(data) if child.platform}
    best = use.platform.best_of(list(children))
    if best is None:
        return f"its index has only {', '.join(map(str, _real(children)))}"
    if registry.manifest_digest(repository, str(children[best].digest)) is None:
        return f"the registry has other platforms of it, and not {best}"
    return None


def _real(platforms: Iterable[Platform]) -> list[Platform]:
    return [platform for platform in platforms if platform.os != "unknown"]


def bundle_lines(answers: Sequence[Availability], targets: Sequence[Platform]) -> list[str]:
    """Return the lines of bundle.toml that bring what is missing."""
    absent = [answer.use for answer in answers if answer.missing]
    if not absent:
        return []
    needed: dict[str, list[str]] = {use.reference.familiar: [] for use in absent}
    for use in (answer.use for answer in answers):
        # With the platforms that are there: the next bundle brings the image anew.
        needed.get(use.reference.familiar, []).append(str(use.platform))
    every = [str(platform) for platform in targets]
    return [
        f"platforms = {json.dumps(every)}",
        f"images = [{', '.join(_bundle_image(image, platforms, every) for image, platforms in needed.items())}]",
    ]


def _bundle_image(image: str, platforms: Sequence[str], every: Sequence[str]) -> str:
    """Return an entry of `images`, with its platforms when it may not exist for all that is built for."""
    own = list(dict.fromkeys(platforms))
    if set(own) == set(every):
        return json.dumps(image)
    return f"{{ image = {json.dumps(image)}, platforms = {json.dumps(own)} }}"


def _to_json(answer: Availability) -> dict[str, Any]:
    use = answer.use
    return {
        "reference": str(use.reference),
        "platform": str(use.platform),
        "where": use.where,
        "how": use.how,
        "missing": answer.missing,
    }


def _step_to_json(name: str, verdict: Verdict) -> dict[str, Any]:
    return {
        "where": f"{name}:{verdict.line}",
        "text": verdict.text,
        "outlook": verdict.outlook.value,
        "url": verdict.url,
        "cache": verdict.cache,
    }


def _step_text(name: str, verdict: Verdict, receipt: Receipt) -> str:
    text = one_line(verdict.text)
    cache = receipt.cache_of(verdict.cache)
    says = {
        Outlook.CACHED: f"recorded; not run again with --cache-from {cache}" if cache else "recorded: it is replayed",
        Outlook.REPLAYED: "recorded: it is replayed",
        Outlook.CHANGED: "not recorded as it stands: it works when it asks for nothing else than what was",
        Outlook.UNRECORDED: "nothing is recorded here: it needs a network",
        Outlook.MISSING: f"MISSING: {verdict.url} is not recorded",
    }
    return f"{name}:{verdict.line}: {text[:_SHOWN]}{'...' if text[_SHOWN:] else ''}: {says[verdict.outlook]}"


def _end(judged: Sequence[tuple[str, Verdict]], builds: Optional[bool]) -> Sequence[str]:
    """Sum up."""
    found = {verdict.outlook for _, verdict in judged}
    if Outlook.MISSING in found:
        return ["where there is internet: bundle record DIRECTORY -o app.record; bundle create --record app.record"]
    if builds is None:
        return ["every image is there; whether every step gets what it asks for shows when it is built"]
    if not builds:
        return []
    return [f"builds here: {'everything' if found else 'every image'} is there"]


def _text(answers: Sequence[Availability], lines: Sequence[str], steps: Sequence[str], end: Sequence[str]) -> str:
    rows = []
    for answer in answers:
        use = answer.use
        state = f"MISSING: {one_line(answer.missing)}" if answer.missing else "there"
        rows.append(f"{use.where}: {use.how} {use.reference.familiar} {use.platform}: {state}")
    rows += steps
    if lines:
        rows += [
            "",
            "in bundle.toml, where there is internet (then bundle create -f bundle.toml, and upgrade here):",
            *(f"    {line}" for line in lines),
        ]
    return "\n".join([*rows, *(["", *end] if end else [])])
