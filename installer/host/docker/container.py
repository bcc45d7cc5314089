"""Containers: as they are, as they are to be made, and how what was run ended."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Optional


@dataclasses.dataclass(frozen=True)
class Container:
    """A container as it is now. `state` is Docker's word: created, running, exited, ...; `restart` its policy.

    `published` are the addresses and ports of the host that lead to it, as long as it runs.
    """

    id: str
    name: str
    image_id: str
    state: str
    labels: Mapping[str, str]
    environment: Mapping[str, str]
    restart: str = ""
    published: frozenset[tuple[str, int]] = frozenset()

    @property
    def is_running(self) -> bool:
        return self.state == "running"


@dataclasses.dataclass(frozen=True)
class NewContainer:
    """A container to be made, started again with Docker until somebody stops it.

    `publish` maps ports of the container to addresses and ports of the host. `entrypoint` and `command` are the image's
    own when they are None. `files` are put into it before it starts; a name that ends in / is a directory's. `network`
    is Docker's word: None for one of its own, `none`, which is for the kernel or the disk only, or `host`. What runs as
    another `user` than root has no rights beside that, none to gain, a /tmp that is its own, and at most 1 GiB of
    memory, 1,024 threads and 8 MB of log; the files are that user's alone to read, as root's are with `private`.
    """

    name: str
    image: str
    labels: Mapping[str, str]
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    publish: Mapping[int, Sequence[tuple[str, int]]] = dataclasses.field(default_factory=dict)
    binds: tuple[str, ...] = ()
    entrypoint: Optional[Sequence[str]] = None
    command: Optional[Sequence[str]] = None
    files: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    private: bool = False
    privileged: bool = False
    network: Optional[str] = None
    user: Optional[int] = None
    stop_signal: Optional[str] = None


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a command, or a container that was run, ended."""

    code: int
    stdout: str
    stderr: str
