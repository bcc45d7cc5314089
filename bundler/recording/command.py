"""The docker command that makes one build."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bundler.definition.build import BakeTarget, Build

# Compressing is most of what a recording adds to a build; the usual level takes half as long again for 6 % less.
_CACHE = "type=registry,mode=max,image-manifest=true,oci-mediatypes=true,compression=zstd,compression-level=1"


def command(build: Build, builder: str, cache: str, metadata: Path, quiet: bool = False) -> list[str]:
    """Return the arguments of docker.

    Args:
        build: what is built.
        builder: the name of the builder.
        cache: the reference to which BuildKit exports its cache.
        metadata: the file to which docker writes what it was made of; beside it stands what only this build needs.
        quiet: there is no progress.
    """
    export = f"{_CACHE},ref={cache}"
    common = ["--builder", builder, "--metadata-file", str(metadata), *(["--progress", "quiet"] if quiet else [])]
    if build.bake:
        file = metadata.with_name("bake.json")
        file.write_text(json.dumps(_escaped({"target": _targets(build.bake, export)})), encoding="utf-8")
        return ["buildx", "bake", *common, "--file", str(file), *build.options, build.bake.target]
    arguments = ["--cache-to", export, "--platform", ",".join(map(str, build.platforms))]
    for option, values in (
        ("--file", [str(build.dockerfile)] if build.dockerfile else []),
        ("--target", [build.target] if build.target else []),
        ("--build-arg", [key if value is None else f"{key}={value}" for key, value in build.arguments.items()]),
        ("--secret", build.secrets),
        ("--ssh", build.ssh),
    ):
        arguments += [part for value in values for part in (option, value)]
    return ["buildx", "build", *common, *arguments, *build.options, str(build.context)]


def _targets(bake: BakeTarget, export: str) -> dict[str, Any]:
    return {**bake.targets, bake.target: {**bake.targets[bake.target], "cache-to": [export]}}


def _escaped(value: Any) -> Any:
    """Return JSON in which Bake finds no variables."""
    if isinstance(value, str):
        return value.replace("${", "$${").replace("%{", "%%{")
    if isinstance(value, dict):
        return {key: _escaped(inner) for key, inner in value.items()}
    return [_escaped(inner) for inner in value] if isinstance(value, (list, tuple)) else value
