"""The replay service: everything it is made of, once its port is open (see start)."""

from __future__ import annotations

import hashlib
import io
import os
import signal
import socket
import sys
import threading
from pathlib import Path

from bundles.proxy.certificates import Authority
from bundles.proxy.server import ProxyServer
from bundles.registry.tls import trusting
from bundles.runtime.terminal import one_line
from installer.replay.blobs import Blobs
from installer.replay.library import Library
from installer.replay.registry import Registry
from installer.replay.replayer import Replayer
from installer.replay.settings import AUTHORITIES, LOGINS, Settings, parse_logins


def serve(directory: Path, data: bytes, listener: socket.socket) -> None:
    """Serve until the process is told to end.

    Args:
        directory: with what else it is told.
        data: the settings.
        listener: listens on the port of the settings.
    """
    # The first process of a container has no handler that ends it; and a handler of Python's may wait for a thread that
    # waits. So the signal is waited for, by this thread alone.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    settings = Settings.parse(data)
    say = _Log()
    context = trusting(directory / AUTHORITIES) if settings.tls else None
    logins = parse_logins((directory / LOGINS).read_bytes())
    registry = Registry(settings.registry, settings.address, context, logins)
    blobs = Blobs(registry, settings.repository)
    # That one has a patience of its own.
    library = Library(Blobs(registry, settings.repository, patience=0), settings.tapes, say)
    server = ProxyServer(listener, Authority(directory), Replayer(library, blobs, say, name_of(data)))
    say(f"answers on 127.0.0.1:{server.port}; tapes: {len(settings.tapes)}")
    signal.sigwait({signal.SIGTERM})
    os._exit(0)


def name_of(settings: bytes) -> str:
    """Return a short name for settings."""
    return hashlib.sha256(settings).hexdigest()[:16]


class _Log:
    """Writes lines, whichever thread has them. `docker logs` shows them on terminals, and anybody may have asked."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # A locale that cannot say a letter is no reason to answer nobody.
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")

    def __call__(self, line: str) -> None:
        with self._lock:
            sys.stdout.write(f"{one_line(line)}\n")
            sys.stdout.flush()
