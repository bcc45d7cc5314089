"""What is to be recorded, from a file that names several builds: bundle.toml, a Bake file, a Compose file."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bundler.definition.build import BakeTarget, Build, name_of, unique
from bundler.definition.build_files import overrides_beside
from bundler.definition.bundle_toml import read_definition
from bundler.definition.docker_tools import MissingToolError, Tool, read_bake, read_compose
from bundles.errors import Problem, UsageError
from bundles.oci.platform import Platform
from bundles.runtime.program import own_command, quote

# As buildx tells what is elsewhere from a directory (build/utils.go, IsRemoteURL).
_ELSEWHERE = re.compile(r"(?:https?|git|ssh)://|git@|github\.com/", re.IGNORECASE)
_LINKED = "target:"
_BAKE, _COMPOSE = (".hcl", ".json"), (".yaml", ".yml")
# What says where results go, or comes from where a recording must not look: a step that is cached asks for nothing.
_NOT_RECORDED = frozenset({"tags", "output", "cache-from", "cache-to", "call", "labels", "annotations"})


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What a file says is to be recorded.

    Args:
        name: of the record.
        builds: in the order in which they are made.
        folder: where the record is put when nothing else is said.
        platforms: for the builds that do not say theirs.
        mirrors: a registry -> the hosts that are asked in its stead.
        notes: what people should know of the reading.
    """

    name: str
    builds: tuple[Build, ...]
    folder: Path = Path()
    platforms: tuple[Platform, ...] = ()
    mirrors: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()


def is_elsewhere(context: str) -> bool:
    """Tell whether a context is not of this machine: git's, or the address of an archive."""
    return bool(_ELSEWHERE.match(context))


def is_file_of_builds(path: Path) -> bool:
    """Tell whether a path is that of a file, or can only be meant as one that names builds."""
    return path.is_file() or (path.suffix in (".toml", *_BAKE, *_COMPOSE) and not path.is_dir())


def read_builds(path: Path, names: Sequence[str]) -> Wanted:
    """Read the builds of a file, all of them or those that are named and what they are made of.

    Args:
        path: `*.toml`, `*.hcl`, `*.json`, `*.yaml` or `*.yml`.
        names: of the builds of a bundle.toml, of Bake's targets or groups, of Compose's services.

    Raises:
        UsageError: the file is not there or not understood, has no such build, or one that cannot be recorded.
    """
    place, file = quote(path.parent), quote(path)
    if not path.is_file():
        raise UsageError(
            f"`{path}` is not there", hint="name a directory, a bundle.toml, a Bake file or a Compose file"
        )
    if path.suffix == ".toml":
        wanted = _from_toml(path, names)
    elif path.suffix in _BAKE:
        wanted = _from_bake(path, names)
    elif path.suffix in _COMPOSE:
        wanted = _from_compose(path, names)
    else:
        raise UsageError(
            f"`{path}` is no file that names builds: expected bundle.toml, a Bake file (.hcl, .json) or a Compose file "
            "(.yaml, .yml)",
            hint=f"for a Dockerfile name its context, too: {own_command('record')} {place} -f {file}",
        )
    if not wanted.builds:
        raise UsageError(f"`{path}` has nothing to build")
    return wanted


def _from_toml(path: Path, names: Sequence[str]) -> Wanted:
    definition = read_definition(path)
    if not definition.builds:
        raise UsageError(f"`{path}` has no [[build]]", hint='add one: [[build]] and below it context = "app"')
    chosen = _chosen(path, names, [build.name for build in definition.builds])
    builds = tuple(build for build in definition.builds if build.name in chosen)
    name = definition.name or _folder_name(path)
    return Wanted(name, builds, path.parent, definition.platforms, definition.mirrors)


def _from_bake(path: Path, names: Sequence[str]) -> Wanted:
    files, notes = _files(path)
    document = read_bake(_tool("buildx", path), path.parent, files, os.environ, names)
    targets = _mapping(document.get("target"), path)
    # What begins with a line is there for others to inherit, by custom.
    hidden = {name for name in targets if name.startswith("_")} if not names else set[str]()
    wanted = [name for name in targets if name not in hidden]
    wanted = [name for name in targets if name in {*wanted, *(n for w in wanted for n in _needed(w, targets))}]
    return Wanted(_folder_name(path), _builds(path, wanted, targets), notes=notes)


def _from_compose(path: Path, names: Sequence[str]) -> Wanted:
    files, notes = _files(path)
    document = read_compose(_tool("compose", path), path.parent, files, os.environ)
    services = _mapping(document.get("services"), path)
    built = {name: service for name, service in services.items() if service.get("build")}
    # Bake knows no dots in names.
    known = {name: re.sub(r"[^a-zA-Z0-9_-]", "_", name) for name in built}
    secrets = _mapping(document.get("secrets"), path)
    try:
        targets = {known[name]: _compose_target(service, known, secrets) for name, service in built.items()}
    except (AttributeError, TypeError, KeyError) as error:
        raise UsageError(f"`{path}`: docker compose config printed something unexpected ({error})") from None
    chosen = [known[name] for name in _chosen(path, names, list(built))]
    wanted = [name for name in targets if name in {*chosen, *(n for c in chosen for n in _needed(c, targets))}]
    return Wanted(_folder_name(path), _builds(path, wanted, targets), notes=notes)


def _chosen(path: Path, names: Sequence[str], known: Sequence[str]) -> Sequence[str]:
    """Return the names that are wanted: those that are given, else all."""
    for name in names:
        if name not in known:
            raise UsageError(
                f"`{path}` builds no `{name}`: expected {', '.join(known) or 'a file that builds something'}"
            )
    return names or known


def _files(path: Path) -> tuple[list[str], tuple[str, ...]]:
    """Return the files that the tool reads where it takes this one by itself."""
    beside = overrides_beside(path)
    return [path.name, *(file.name for file in beside)], tuple(f"{file} is read, too" for file in beside)


def _tool(name: str, path: Path) -> Tool:
    try:
        return Tool.find(name)
    except MissingToolError as error:
        hint = f"install it, or record the directories one by one: {own_command('record')} app/"
        raise MissingToolError(f"`{path}`: {error.message}", hint=hint) from None


def _folder_name(path: Path) -> str:
    return name_of(path.resolve().parent.name)


def _mapping(value: Any, path: Path) -> dict[str, dict[str, Any]]:
    value = value or {}
    if not isinstance(value, dict) or not all(isinstance(inner, dict) for inner in value.values()):
        raise UsageError(f"`{path}`: docker printed something unexpected")
    return value


def _linked(target: Mapping[str, Any]) -> Iterator[str]:
    """List the targets that a target takes as contexts."""
    for context in (target.get("contexts") or {}).values():
        if context.startswith(_LINKED):
            yield context[len(_LINKED) :]


def _needed(name: str, targets: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return a target and those that it takes as contexts, which can take others."""
    found: dict[str, None] = {}
    waiting = [name]
    while waiting:
        each = waiting.pop()
        if each not in found and each in targets:
            found[each] = None
            waiting += _linked(targets[each])
    return list(found)


def _builds(path: Path, names: Sequence[str], targets: Mapping[str, Mapping[str, Any]]) -> tuple[Build, ...]:
    """Make builds of targets.

    Raises:
        UsageError: some of them cannot be recorded; all of these at once.
    """
    problems = [Problem(f"{path}[{name}]", what, hint) for name in names for what, hint in _unrecordable(targets[name])]
    if problems:
        refused = {problem.subject for problem in problems}
        # A target is no way out when one that it takes as a context is none.
        good = [n for n in names if not refused.intersection(f"{path}[{each}]" for each in _needed(n, targets))]
        others = f"record the others: {own_command('record')} {quote(path)} {' '.join(good)}" if good else None
        raise UsageError(f"{len(refused)} of {len(names)} builds cannot be recorded", hint=others, problems=problems)
    builds = []
    for name in names:
        try:
            builds.append(_build(path, name, targets))
        except (AttributeError, TypeError) as error:
            raise UsageError(f"`{path}[{name}]`: docker printed something unexpected ({error})") from None
    return unique(builds, "name the targets that are wanted, one of these only")


def _build(path: Path, name: str, targets: Mapping[str, Mapping[str, Any]]) -> Build:
    target, folder = targets[name], path.parent
    inline = target.get("dockerfile-inline")
    context = folder / _local(target.get("context") or ".")
    own = {each: _recorded(targets[each]) for each in _needed(name, targets)}
    try:
        platforms = tuple(map(Platform.parse, target.get("platforms") or ()))
    except UsageError as error:
        raise UsageError(f"`{path}[{name}]`: {error.message}") from None
    return Build(
        name_of(name),
        context,
        None if inline is not None else context / _local(target.get("dockerfile") or "Dockerfile"),
        target.get("target"),
        {key: value for key, value in (target.get("args") or {}).items() if value is not None},
        platforms,
        bake=BakeTarget(name, own, folder, path.name, inline),
    )


def _local(text: str) -> str:
    return text[len("cwd://") :] if text.startswith("cwd://") else text


def _recorded(target: Mapping[str, Any]) -> dict[str, Any]:
    """Return a target without what does not matter to a recording, or would spoil it."""
    kept = {key: value for key, value in target.items() if key not in _NOT_RECORDED}
    # The provenance is what says which images it was.
    attest = [item for item in target.get("attest") or () if "provenance" not in str(item)]
    return {**kept, "attest": attest} if attest else {key: kept[key] for key in kept if key != "attest"}


def _unrecordable(target: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Say what keeps a target from being recorded, and what to do."""
    context = str(target.get("context") or ".")
    if is_elsewhere(context):
        yield f"is built from `{context}`, which is not on this machine", "git clone it, and record the directory"
    dockerfile = str(target.get("dockerfile") or "")
    if is_elsewhere(dockerfile):
        yield f"has its Dockerfile at `{dockerfile}`", "download it, and let the target name the file"
    for key, value in (target.get("contexts") or {}).items():
        if is_elsewhere(str(value)):
            yield (
                f"takes the context `{key}` from `{value}`, which is not on this machine",
                "git clone it, and let the target name the directory",
            )
    if target.get("network") == "host":
        yield "has `network` host: its steps go past what records them", "take `network` out of the target"
    for entitlement in target.get("entitlements") or ():
        yield (
            f"wants the entitlement `{entitlement}`, which the recording's builder does not grant",
            "take it out of the target, or record what needs no privileges",
        )


def _compose_target(
    service: Mapping[str, Any], known: Mapping[str, str], secrets: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the target of Bake that a service's `build` is."""
    build = service["build"]
    contexts = {}
    for key, value in (build.get("additional_contexts") or {}).items():
        kind, colon, name = value.partition(":")
        contexts[key] = f"{_LINKED}{known[name]}" if kind == "service" and colon else value
    target = {
        "context": build.get("context"),
        "contexts": contexts,
        "dockerfile": build.get("dockerfile"),
        "dockerfile-inline": build.get("dockerfile_inline"),
        "args": build.get("args"),
        "target": build.get("target"),
        "platforms": build.get("platforms") or ([service["platform"]] if service.get("platform") else None),
        "network": build.get("network"),
        "entitlements": build.get("entitlements") or (["security.insecure"] if build.get("privileged") else None),
        "ssh": build.get("ssh"),
        "secret": [_secret(secret, secrets) for secret in build.get("secrets") or ()],
        "extra-hosts": _hosts(build.get("extra_hosts") or ()),
        "shm-size": str(build["shm_size"]) if build.get("shm_size") else None,
        "ulimits": [_limit(name, value) for name, value in (build.get("ulimits") or {}).items()],
    }
    return {key: value for key, value in target.items() if value not in (None, [], {})}


def _secret(secret: Mapping[str, Any], known: Mapping[str, Mapping[str, Any]]) -> str:
    own = known[secret["source"]]
    where = f"env={own['environment']}" if own.get("environment") else f"src={own['file']}"
    return f"id={secret.get('target') or secret['source']},{where}"


def _hosts(value: Any) -> dict[str, str]:
    """Return hosts and addresses, from the list that Compose prints or the object that it once printed."""
    if isinstance(value, dict):
        return {host: ",".join(each) if isinstance(each, list) else each for host, each in value.items()}
    return dict(re.split("[=:]", text, maxsplit=1) for text in value)


def _limit(name: str, value: Any) -> str:
    return f"{name}={value['soft']}:{value['hard']}" if isinstance(value, dict) else f"{name}={value}"
