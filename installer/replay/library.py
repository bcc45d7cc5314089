"""The tapes of the replay service: read from the registry once it answers, and searched in their order."""

from __future__ import annotations

import dataclasses
import enum
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Optional

from bundles.archive.tape.answer import Answer, Tape
from bundles.errors import AuthenticationError, BundleError, NotFoundError, UnavailableError
from bundles.oci.digest import Digest
from bundles.oci.image import parse_manifest
from bundles.proxy.server import Request
from installer.replay.blobs import Blobs

# So many times the pause between two tries, what fails holds up the rest; later it is asked for that seldom.
_PATIENCE = 10
_LONGEST_PAUSE = 60.0


class _Why(enum.Enum):
    """Why a piece of a tape was not read. The value is what the service's state calls it."""

    MISSING = "missing"  # the registry does not have it
    UNAVAILABLE = "unavailable"  # the registry fails, or broke off
    REFUSED = "refused"  # the registry wants another login
    DAMAGED = "damaged"  # what came is none


@dataclasses.dataclass(frozen=True)
class _Absent:
    """A piece that was not read, the tape that it is of, and what was said of it."""

    tape: Tape
    why: _Why
    line: str


class Library:
    """Reads tapes in a thread of its own. The registry may be up later than this service: it is waited for.

    Once it gives anything, what it fails to give is waited for a little longer, then passed over, and so is what is
    not there or damaged. All of that is looked for again before anything is called missing.

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
        self._absent: dict[Digest, _Absent] = {}
        self._loaded = threading.Event()
        self._looking = threading.Lock()
        self._looked = 0.0
        threading.Thread(target=self._load, name="tapes", daemon=True).start()

    def wait(self, seconds: float) -> bool:
        """Wait until all that can be had was read; False when that took longer."""
        return self._loaded.wait(seconds)

    @property
    def is_partial(self) -> bool:
        """Whether the registry did not give something, so that what is not found may have been recorded."""
        reasons = (_Why.UNAVAILABLE, _Why.REFUSED)
        return any(absent.why in reasons for absent in list(self._absent.values()))

    def find(self, request: Request) -> Optional[Answer]:
        """Find what was recorded for a request.

        The first tape that has this very request counts; where none has, the best answer to the same URL with other
        headers does, on whichever tape it is.
        """
        return self._find(request) or (self._find(request) if self._look_again() else None)

    def _find(self, request: Request) -> Optional[Answer]:
        asked = request.method, request.url, request.headers, request.body_digest
        exact = (tape.find_exact(*asked) for tape in self._tapes)
        near = (tape.find(*asked) for tape in self._tapes)
        return next(filter(None, exact), None) or min(
            filter(None, near), key=lambda answer: answer.status, default=None
        )

    def to_json(self) -> dict[str, Any]:
        """Say how far it is: `loaded`, the number of answers, and the digests of what could not be read, and why."""
        self._look_again()
        absent = list(self._absent.items())
        return {
            "loaded": self._loaded.is_set(),
            "answers": sum(map(len, self._tapes)),
            **{why.value: [str(digest) for digest, item in absent if item.why is why] for why in _Why},
        }

    def _load(self) -> None:
        pieces = [(digest, tape) for tape, digests in zip(self._tapes, self._digests) for digest in digests]
        left, answered = pieces, 0.0
        while left and (not answered or time.monotonic() - answered < _PATIENCE * self._backoff):
            left = [piece for piece in left if not self._settle(*piece)]
            # A registry that gives nothing at all is being started.
            answered = answered or (time.monotonic() if len(left) < len(pieces) else 0.0)
            if left:
                time.sleep(self._backoff)
        self._loaded.set()
        pause = _PATIENCE * self._backoff
        while self.is_partial:
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
            self._look_again()

    def _look_again(self) -> bool:
        """Read what could not be read before and can be now; tell whether there was such."""
        with self._looking:
            if not self._loaded.is_set():
                return False
            before = len(self._absent)
            # To ask for what is not there costs nothing. The others may take their time each time.
            is_rested = time.monotonic() - self._looked > _PATIENCE * self._backoff
            for digest, absent in list(self._absent.items()):
                if is_rested or absent.why is _Why.MISSING:
                    self._settle(digest, absent.tape)
            if is_rested:
                self._looked = time.monotonic()
            return len(self._absent) < before

    def _settle(self, digest: Digest, tape: Tape) -> bool:
        """Add a piece to its tape, or note why not; False when the registry did not give it, but may have it."""
        try:
            manifest = parse_manifest(self._blobs.manifest(digest))
            for answer in Tape.parse(self._blobs.document(manifest.config)):
                tape.add(answer)
            self._absent.pop(digest, None)
            return True
        except NotFoundError:
            absent = _Absent(tape, _Why.MISSING, f"the tape {digest} is not on the registry: passed over")
        except AuthenticationError as error:
            absent = _Absent(tape, _Why.REFUSED, f"waiting for a login or a right: {error.message}")
        except UnavailableError as error:
            absent = _Absent(tape, _Why.UNAVAILABLE, f"waiting: {error.message}")
        except BundleError as error:
            line = f"the tape {digest} cannot be used, and is passed over: {error.message}"
            absent = _Absent(tape, _Why.DAMAGED, line)
        # What is wrong with the registry is so for all of them.
        is_new = all(absent.line != other.line for other in list(self._absent.values()))
        self._absent[digest] = absent
        if is_new:
            self._say(absent.line)
        return absent.why is not _Why.UNAVAILABLE
