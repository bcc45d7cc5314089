"""The end of the proxy that answers from tapes. It asks nobody but the registry that has them."""

from __future__ import annotations

import json
import re
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from bundles.archive.tape.url import normalise
from bundles.errors import BundleError, UsageError
from bundles.oci.descriptor import Descriptor
from bundles.proxy.playback import play
from bundles.proxy.server import Handler, Reply, Request, Response
from installer.replay.blobs import Blobs
from installer.replay.library import Library

MISS = "not recorded: "
# Seconds that a request waits for the tapes; a build that begins with Docker itself may be that early.
_PATIENCE = 60.0
# What was said this many lines ago is said again: `status` shows what was asked for last, and somewhat more than these.
_RECENT = 16
# Pulls of images as distribution-spec v1.1 has them.
_PULL = re.compile(r"/v2/(?:[a-z0-9._/-]+/(?:manifests|blobs|referrers|tags)/[^/]+)?")

# What to type when something was not recorded; where there is a network, then here.
RECORD_AGAIN = "bundle record WHAT -o app.record; bundle create --record app.record -o offline.tar"
THEN_HERE = "python3 offline.tar upgrade"


class Replayer(Handler):
    """Answers what was recorded, and 404 to everything else, which is written down once.

    Args:
        library: the tapes.
        blobs: where the contents are.
        say: takes a line for the log.
        name: names the settings, for whoever asks the service itself how it is.
    """

    # What was sent is only compared.
    holds_bodies = False

    def __init__(self, library: Library, blobs: Blobs, say: Callable[[str], None], name: str) -> None:
        self._library, self._blobs, self._say, self._name = library, blobs, say, name
        self._said: deque[str] = deque(maxlen=_RECENT)
        self._lock = threading.Lock()

    def answer(self, request: Request, reply: Reply) -> None:
        try:
            url = normalise(request.url)
        except UsageError as error:
            return reply(Response.text(400, error.message))
        if not self._library.wait(_PATIENCE):
            return reply(Response.text(503, "the registry, which has the tapes, does not answer: bundle doctor"))
        found = self._library.find(request)
        if found is None and self._library.is_partial and not _is_pull(request, url):
            # It may be there: whoever asks again should get it, and nobody should record it anew.
            return reply(
                Response.text(503, f"{url} is on no tape that could be read, and not all could: bundle doctor")
            )
        if found is None:
            return reply(self._missing(request, url))
        read = _nothing if request.method == "HEAD" else partial(self._read, url)
        try:
            response = play(found, request, read)
        except BundleError as error:
            self._say_once(f"lost: {url}: {error.message}")
            return reply(Response.text(502, f"{url} was recorded, and {error.message}: bundle doctor"))
        return reply(response)

    def answer_own(self, request: Request, reply: Reply) -> None:
        read = self._library.to_json()
        state: dict[str, Any] = {
            "service": "offline-bundle replay",
            "name": self._name,
            "refusal": self._blobs.refusal,
            **read,
        }
        reply(Response.text(200, json.dumps(state)))

    def _missing(self, request: Request, url: str) -> Response:
        if _is_pull(request, url):
            # What no mirror has, BuildKit asks of the image's own registry. `check` names such images.
            return Response.text(404, f"{url}: this host has no network")
        self._say_once(f"{MISS}{request.method} {url}")
        return Response.text(
            404,
            f"{request.method} {url} was not recorded, and this host has no network.\n"
            f"Next, where there is one (WHAT was recorded then): {RECORD_AGAIN}\n"
            f"Then here: {THEN_HERE}",
            "not recorded",
        )

    def _read(self, url: str, content: Descriptor, start: int, size: int) -> Iterable[bytes]:
        return self._watched(url, self._blobs.open(content, start, size))

    def _watched(self, url: str, pieces: Iterator[bytes]) -> Iterator[bytes]:
        try:
            yield from pieces
        except OSError as error:
            self._say_once(f"lost: {url}: {error}")
            raise

    def _say_once(self, line: str) -> None:
        with self._lock:
            if line in self._said:
                return
            self._said.append(line)
        self._say(line)


def _is_pull(request: Request, url: str) -> bool:
    """Tell whether BuildKit looks for an image. What ADD and RUN fetch comes through it, too."""
    is_buildkit = request.headers.get("user-agent", "").startswith("buildkit/")
    return is_buildkit and request.method in ("GET", "HEAD") and bool(_PULL.fullmatch(urlsplit(url).path))


def _nothing(content: Descriptor, start: int, size: int) -> Iterable[bytes]:
    """Stand for a body that is not sent."""
    return ()
