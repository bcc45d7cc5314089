"""The tapes of the replay service: read from the registry once it answers, and searched in their order."""

from __future__ import annotations

import contextlib
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

    A tape that cannot be read is passed over, and so is one that is not on the registry. Installing may bring that
    back: it is looked for again before anything is called missing.

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
        self._tapes = [Tape() for _ in tapes]
        self._missing: dict[Digest, Tape] = {}
        self._loaded = threading.Event()
        self._looking = threading.Lock()
        threading.Thread(target=self._load, name="tapes", daemon=True).start()

    def wait(self, seconds: float) -> bool:
        """Wait until all that is there was read; False when that took longer."""
        return self._loaded.wait(seconds)

    def find(self, request: Request) -> Optional[Answer]:
        """Find what was recorded for a request: by the first tape that has it."""
        return self._find(request) or (self._find(request) if self._look_again() else None)

    def _find(self, request: Request) -> Optional[Answer]:
        for tape in self._tapes:
            found = tape.find(request.method, request.url, request.headers, request.body_digest)
            if found:
                return found
        return None

    def to_json(self) -> dict[str, Any]:
        """Say how far it is: `loaded`, the number of answers, and the digests of what is not on the registry."""
        self._look_again()
        return {
            "loaded": self._loaded.is_set(),
            "answers": sum(map(len, self._tapes)),
            "missing": list(map(str, self._missing)),
        }

    def _load(self) -> None:
        for tape, digests in zip(self._tapes, self._digests):
            for digest in digests:
                self._wait_for(digest, tape)
        self._loaded.set()

    def _wait_for(self, digest: Digest, tape: Tape) -> None:
        said = False
        while True:
            try:
                return self._add(digest, tape)
            except NotFoundError:
                self._say(f"the tape {digest} is not on the registry: passed over")
                self._missing[digest] = tape
                return None
            except UnavailableError as error:
                if not said:
                    self._say(f"waiting: {error.message}")
                said = True
                time.sleep(self._backoff)

    def _look_again(self) -> bool:
        """Read what was not there when it was looked for, and is now; tell whether there was such."""
        with self._looking:
            before = len(self._missing)
            for digest, tape in list(self._missing.items()) if self._loaded.is_set() else ():
                with contextlib.suppress(NotFoundError, UnavailableError):
                    self._add(digest, tape)
                    del self._missing[digest]
            return len(self._missing) < before

    def _add(self, digest: Digest, tape: Tape) -> None:
        """Add a piece to its tape.

        Raises:
            NotFoundError, UnavailableError: it cannot be had now.
        """
        try:
            manifest = parse_manifest(self._blobs.manifest(digest))
            for answer in Tape.parse(self._blobs.document(manifest.config)):
                tape.add(answer)
        except (NotFoundError, UnavailableError):
            raise
        except BundleError as error:
            self._say(f"the tape {digest} cannot be used, and is passed over: {error.message}")
