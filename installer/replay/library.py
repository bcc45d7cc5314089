"""The tapes of the replay service: read from the registry once it answers, and searched in their order."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Optional

from bundles.archive.tape.answer import Answer, Tape
from bundles.errors import BundleError, NotFoundError, UnavailableError
from bundles.oci.digest import Digest
from bundles.oci.image import parse_manifest
from bundles.proxy.server import Request
from installer.replay.blobs import Blobs


class Library:
    """Reads tapes in a thread of its own. The registry may be up later than this service: it is waited for.

    A tape that is not on the registry (any more), or cannot be read, is passed over.

    Args:
        blobs: the repository of the registry that has them.
        tapes: the digests of the manifests of each.
        say: takes a line for the log.
        backoff: seconds between two tries.
    """

    def __init__(
        self, blobs: Blobs, tapes: Sequence[Sequence[Digest]], say: Callable[[str], None], backoff: float = 0.5
    ) -> None:
        self._blobs, self._digests, self._say, self._backoff = blobs, tapes, say, backoff
        self._tapes: list[Tape] = []
        self._missing: list[Digest] = []
        self._loaded = threading.Event()
        threading.Thread(target=self._load, name="tapes", daemon=True).start()

    def wait(self, seconds: float) -> bool:
        """Wait until all that is there was read; False when that took longer."""
        return self._loaded.wait(seconds)

    def find(self, request: Request) -> Optional[Answer]:
        """Find what was recorded for a request: by the first tape that has it."""
        for tape in self._tapes:
            found = tape.find(request.method, request.url, request.headers, request.body_digest)
            if found:
                return found
        return None

    def to_json(self) -> dict[str, Any]:
        """Say how far it is: `loaded`, the number of answers, and the digests of what is not on the registry."""
        return {
            "loaded": self._loaded.is_set(),
            "answers": sum(map(len, self._tapes)),
            "missing": list(map(str, self._missing)),
        }

    def _load(self) -> None:
        for digests in self._digests:
            tape = Tape()
            for digest in digests:
                for answer in self._read(digest):
                    tape.add(answer)
            self._tapes.append(tape)
        self._loaded.set()

    def _read(self, digest: Digest) -> Tape:
        said = False
        while True:
            try:
                manifest = parse_manifest(self._blobs.manifest(digest))
                return Tape.parse(self._blobs.document(manifest.config))
            except UnavailableError as error:
                if not said:
                    self._say(f"waiting: {error.message}")
                said = True
                time.sleep(self._backoff)
            except NotFoundError:
                self._say(f"the tape {digest} is not on the registry: passed over")
                self._missing.append(digest)
                return Tape()
            except BundleError as error:
                self._say(f"the tape {digest} cannot be used, and is passed over: {error.message}")
                return Tape()
