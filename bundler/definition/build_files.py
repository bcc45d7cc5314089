"""Which files below a directory say how something is built, by their names alone."""

from __future__ import annotations

import dataclasses
import fnmatch
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Optional

# What the tools take by themselves, in their order: compose-go, cli/options.go; buildx, bake/bake.go. Compose takes
# the first of each of the first two; Bake takes all of the first and of the last.
COMPOSE = ("compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml")
COMPOSE_OVERRIDES = tuple(
    f"{stem}.override.{suffix}" for stem in ("compose", "docker-compose") for suffix in ("yml", "yaml")
)
BAKE = ("docker-bake.json", "docker-bake.hcl")
BAKE_OVERRIDES = ("docker-bake.override.json", "docker-bake.override.hcl")
_COMPOSE_LIKE = re.compile(r"(?:docker-)?compose(?:[._-].*)?\.ya?ml", re.IGNORECASE)
_BAKE_LIKE = re.compile(r"docker-bake(?:[._-].*)?\.(?:hcl|json)", re.IGNORECASE)
# `Dockerfile`, and the word with something before or behind it: Dockerfile-worker, api.Containerfile, Dockerfile2.
_DOCKERFILE = re.compile(r"(?:.*[._-])?(?:docker|container)file(?:\d+|[._-].*)?", re.IGNORECASE)
_COMPOSE_FILE_LINE = re.compile(
    r"""^[ \t]*(?:export[ \t]+)?COMPOSE_FILE[ \t]*[=:][ \t]*(["']?)(.*?)\1(?:[ \t]+#.*)?[ \t\r]*$""", re.MULTILINE
)
# Directories that hold no sources: what tools keep for themselves. .devcontainer, .github and the like do.
_SKIPPED = frozenset({".git", ".hg", ".svn", ".jj", "node_modules", "__pycache__", ".tox", ".nox", ".terraform"})
# Files that mark a directory as one that a tool has filled: Python's virtual environments, and caches.
_MARKS = frozenset({"pyvenv.cfg", "CACHEDIR.TAG"})


@dataclasses.dataclass(frozen=True)
class Folder:
    """A directory that has files of interest.

    `names` are its files. `is_named` says that a user named it, so that the environment's COMPOSE_FILE and
    BUILDX_BAKE_FILE speak of it.
    """

    path: Path
    names: frozenset[str]
    is_named: bool

    @property
    def dockerfiles(self) -> list[Path]:
        return [self.path / name for name in sorted(self.names) if is_dockerfile(name)]

    def compose(self, environment: Mapping[str, str]) -> Optional[list[str]]:
        """Return the files that `docker compose` reads here; an empty list leaves it to Compose, None is none."""
        told = environment if self.is_named else {}
        if compose_files_told(self.path if ".env" in self.names else None, told):
            return []
        chosen = [name for name in COMPOSE if name in self.names][:1]
        if not chosen:
            return None
        return chosen + [name for name in COMPOSE_OVERRIDES if name in self.names][:1]

    def bake(self, environment: Mapping[str, str]) -> Optional[list[str]]:
        """Return the files that `docker buildx bake` reads here; an empty list leaves it to Bake, None is none.

        A directory that has only Compose files is none for Bake: what it reads of them Compose reads better.
        """
        if self.is_named and environment.get("BUILDX_BAKE_FILE"):
            return []
        if not self.names.intersection((*BAKE, *BAKE_OVERRIDES)):
            return None
        return [name for name in (*COMPOSE, *BAKE, *BAKE_OVERRIDES) if name in self.names]

    def passed_over(self, bake: Optional[Sequence[str]], compose: Optional[Sequence[str]]) -> list[Path]:
        """Return the files that look like those of Bake or Compose, and that neither reads by itself.

        Where one of them was told what to read, nothing of the kind was forgotten.
        """
        taken = {*(bake or ()), *(compose or ())}
        likely = [
            name
            for files, pattern in ((bake, _BAKE_LIKE), (compose, _COMPOSE_LIKE))
            for name in self.names
            if files != [] and name not in taken and pattern.fullmatch(name)
        ]
        return [self.path / name for name in sorted(likely)]


def compose_files_told(directory: Optional[Path], environment: Mapping[str, str]) -> list[str]:
    """Return the Compose files that COMPOSE_FILE names, in the environment, else in a directory's .env; else none."""
    text = environment.get("COMPOSE_FILE", "")
    if not text and directory:
        try:
            found = _COMPOSE_FILE_LINE.search((directory / ".env").read_text(encoding="utf-8", errors="replace"))
        except OSError:
            found = None
        text = found[2] if found else ""
    return [name for name in text.split(environment.get("COMPOSE_PATH_SEPARATOR") or os.pathsep) if name]


def folders(directory: Path, exclude: Sequence[str]) -> Iterator[Folder]:
    """Go through a directory and those below it, but for what is excluded and what tools keep for themselves."""
    for parent, directories, names in os.walk(directory):
        place = Path(parent)
        if place != directory and _MARKS.intersection(names):
            directories.clear()
            continue

        def wanted(name: str, place: Path = place) -> bool:
            return not is_excluded((place / name).relative_to(directory).as_posix(), exclude)

        directories[:] = sorted(name for name in directories if name not in _SKIPPED and wanted(name))
        yield Folder(place, frozenset(filter(wanted, names)), place == directory)


def is_excluded(path: str, patterns: Sequence[str]) -> bool:
    """Tell whether a pattern fits a path: one with a slash the whole of it, another the last name in it."""
    for pattern in patterns:
        text = pattern.rstrip("/")
        if "/" not in text:
            fits = fnmatch.fnmatchcase(PurePosixPath(path).name, text)
        elif text.startswith("**/"):
            fits = fnmatch.fnmatchcase(f"/{path}", text)
        else:
            fits = fnmatch.fnmatchcase(path, text.removeprefix("./").lstrip("/"))
        if fits:
            return True
    return False


def is_dockerfile(name: str) -> bool:
    """Tell whether a file may be a Dockerfile, by its name."""
    return bool(_DOCKERFILE.fullmatch(name)) and not name.lower().endswith(".dockerignore")


def overrides_beside(file: Path) -> list[Path]:
    """Return what Compose or Bake would read besides a file when they were not told to read that one alone."""
    pairs = ((COMPOSE, COMPOSE_OVERRIDES), (BAKE, BAKE_OVERRIDES))
    names = [name for first, overrides in pairs if file.name in first for name in overrides]
    return [path for path in (file.with_name(name) for name in names) if path.is_file()]
