"""The end of the proxy that asks the network: passes each answer on and keeps it as it went by."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Callable, Optional
from urllib.parse import unquote, urljoin, urlsplit

from bundler.recording.directory import RecordDirectory, Spool, is_lost
from bundles.archive.tape.answer import Answer, asked_headers, kept_headers, media_type_of
from bundles.archive.tape.url import hides, is_secret, normalise, shown, spelt
from bundles.errors import BundleError, UnavailableError, UsageError, reason
from bundles.oci.descriptor import Descriptor
from bundles.proxy.playback import play
from bundles.proxy.server import Handler, Reply, Request, Response
from bundles.registry import connections

_BLOCK = 64 << 10
_ATTEMPTS = 3
# Headers of one connection. Bodies are asked for as they are, so that what is kept is what every client can read.
_HOP = frozenset(
    {
        "accept-encoding", "connection", "content-length", "expect", "host", "keep-alive", "proxy-authorization",
        "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade",
    }
)  # fmt: skip
# What asks for less than the whole. The tape has the whole, and the replay answers these from it.
_PARTIAL = frozenset({"range", "if-range", "if-none-match", "if-modified-since", "if-match", "if-unmodified-since"})
# What says "not now" or "not for you yet" is no answer to keep.
_TEMPORARY = frozenset({401, 403, 407, 408, 425, 429})
_REALM = re.compile(r'realm="([^"]+)"')
# What is asked of registries, by the paths of OCI's distribution-spec; others have files below /v2/, too.
_OF_REGISTRIES = re.compile(
    r"/v2/?|/v2/_catalog|/v2/[^/].*/(?:manifests/[^/]+|blobs/[a-z0-9]+(?:[+._-][a-z0-9]+)*:[0-9a-fA-F]{32,}|blobs/uploads/[^/]*"
    r"|referrers/[a-z0-9]+(?:[+._-][a-z0-9]+)*:[0-9a-fA-F]{32,}|tags/list)"
)
# What a request for a token says: for whom, for what.
_OF_TOKENS = re.compile(r"(?:^|&)(?:service|scope|account|client_id)=")


class _Body:
    """A body on its way from the network to a client: read to its end, also when the client leaves.

    Args:
        upstream: where it comes from.
        take: gets each piece.
        end: is called when it is whole, or with what cut it, before the client gets the last piece: what a client
            has whole is kept.
    """

    def __init__(
        self,
        upstream: connections.Response,
        take: Callable[[bytes], None],
        end: Callable[[Optional[BundleError]], None],
    ) -> None:
        self._upstream, self._take, self._end = upstream, take, end
        self._error: Optional[BundleError] = None
        self._next = self._read()

    def pieces(self) -> Iterator[bytes]:
        """Give what comes.

        Raises:
            ConnectionError: the rest does not come.
        """
        while data := self._next:
            self._next = self._read()
            yield data
        if self._error:
            raise ConnectionError(self._error.message)

    def drain(self) -> None:
        """Read what no client wanted."""
        while self._next:
            self._next = self._read()

    def _read(self) -> bytes:
        data = b""
        try:
            data = self._upstream.read(_BLOCK)
            self._take(data)
        except BundleError as error:
            self._error = error
        except OSError as error:
            self._error, data = BundleError(f"it cannot be written down: {reason(error)}"), b""
        if not data:
            self._end(self._error)
        return data


class Recorder(Handler):
    """Answers from the network, each request once: what was kept already is not asked for again.

    The pulls of BuildKit itself are passed on and not kept: images travel by themselves.

    Args:
        record: where answers are kept.
        network: the connections, with their proxies and CAs.
        backoff: seconds before the second try of a request that failed for the moment; it doubles with each one.
    """

    def __init__(self, record: RecordDirectory, network: connections.Connections, backoff: float = 1.0) -> None:
        self._record, self._network, self._backoff = record, network, backoff
        self._locks: defaultdict[tuple[object, ...], threading.Lock] = defaultdict(threading.Lock)
        self._images: set[str] = set()  # where registries have led pulls to
        self._realms: set[str] = set()  # who gives tokens for them
        self._signed: dict[str, str] = {}  # what a URL was before its secrets were hidden
        self._failed: dict[str, str] = {}
        self._ambiguous: set[str] = set()

    def notes(self) -> list[str]:
        """Say what people should know of the recording."""
        answers = list(self._record.tape)
        hosts = sorted({urlsplit(answer.url).netloc for answer in answers if answer.login})
        behind = [f"{host} was asked with a login: see whether what came from there may be passed on" for host in hosts]
        hidden = [f"{a.url}: the values of secrets are left out of it" for a in answers if hides(a.url)]
        sent = [
            f"{a.method} {a.url}: the answer is replayed to the same request only"
            for a in answers
            if a.body is not None
        ]
        several = [f"{url} differs with the secret in it: only the last answer is kept" for url in self._ambiguous]
        return [*behind, *dict.fromkeys(hidden), *dict.fromkeys(sent), *sorted(several), *self.failures()]

    def failures(self) -> list[str]:
        """Say what was asked for and not kept, and why."""
        return sorted(f"{url} was not recorded: {why}" for url, why in self._failed.items())

    def answer(self, request: Request, reply: Reply) -> None:
        try:
            # A client names the port of its CONNECT, a redirect that leads there does not.
            request = dataclasses.replace(request, url=spelt(request.url))
            url = normalise(request.url)
        except UsageError as error:
            return reply(Response.text(400, error.message))
        if self._is_pull(request):
            return self._pass_on(request, reply)
        key = (request.method, url, request.body_digest, request.headers.get("accept"))
        with self._locks[key]:
            known = self._known(request, url)
            return reply(play(known, request, self._record.read)) if known else self._keep(request, url, reply)

    def _known(self, request: Request, url: str) -> Optional[Answer]:
        """Return the answer that was kept already, when there is no reason to ask again."""
        known = self._record.tape.find_exact(request.method, url, request.headers, request.body_digest)
        if known is None or known.status >= 400 or (is_lost(self._record.tape, known) and not self._leads_on(known)):
            return None
        return None if request.url not in (url, self._signed.get(url, request.url)) and hides(url) else known

    def _leads_on(self, answer: Answer) -> bool:
        return answer.headers["location"] in self._signed

    def _is_pull(self, request: Request) -> bool:
        """Tell what BuildKit asks for an image from what it asks for ADD, with the same name of itself."""
        if not request.headers.get("user-agent", "").startswith("buildkit/"):
            return False
        if request.url in self._images or _OF_REGISTRIES.fullmatch(unquote(urlsplit(request.url).path)):
            return True
        place, _, query = request.url.partition("?")
        return place in self._realms and (request.method == "POST" or bool(_OF_TOKENS.search(query)))

    def _pass_on(self, request: Request, reply: Reply) -> None:
        try:
            upstream = self._send(request, request.url, _HOP)
        except BundleError as error:
            return reply(Response.text(502, error.message))
        with upstream:
            headers = {name.lower(): value for name, value in upstream.headers.items()}
            if "location" in headers:
                self._images.update(_addresses(urljoin(request.url, headers["location"])))
            for realm in _REALM.findall(headers.get("www-authenticate", "")):
                self._realms.update(_addresses(realm.partition("?")[0]))
            body = _Body(upstream, lambda piece: None, lambda error: None)
            return reply(Response(upstream.status, _passed(headers), _length(headers), body.pieces()))

    def _keep(self, request: Request, url: str, reply: Reply) -> None:
        true = self._signed.get(url, url) if request.url == url else request.url
        try:
            upstream = self._send(request, true, _HOP | _PARTIAL)
        except BundleError as error:
            self._failed[url] = shown(error.message)
            return reply(Response.text(502, error.message))
        headers = {name.lower(): value for name, value in upstream.headers.items()}
        passed = _passed(headers)
        if "location" in headers:
            passed["location"] = self._hide(urljoin(true, headers["location"]))
        spool = self._record.spool()

        def end(error: Optional[BundleError]) -> None:
            content = spool.close(media_type_of(headers.get("content-type", "")))
            try:
                if error:
                    raise error
                self._add(_answer(request, url, upstream.status, headers, content), request, spool)
            except BundleError as problem:
                self._failed[url] = problem.message
            finally:
                spool.path.unlink(missing_ok=True)

        with upstream:
            body = _Body(upstream, spool.write, end)
            if true != url:
                self._signed[url] = true
            reply(Response(upstream.status, passed, _length(headers), body.pieces()))
            body.drain()
        return None

    def _add(self, answer: Answer, request: Request, spool: Spool) -> None:
        before = self._record.tape.find_exact(request.method, request.url, request.headers, request.body_digest)
        if before and before.status == answer.status == 200 and before.content != answer.content:
            self._ambiguous.add(answer.url)
        self._failed.pop(answer.url, None)
        self._record.add(answer, spool)

    def _hide(self, location: str) -> str:
        """Return where a redirect leads without its secrets, and remember them for who follows it."""
        try:
            location, hidden = spelt(location), normalise(location)
        except UsageError:
            return location
        if hidden != location:
            self._signed[hidden] = location
        return hidden

    def _send(self, request: Request, url: str, dropped: frozenset[str]) -> connections.Response:
        """Ask the network; what failed for the moment is tried again where that changes nothing there."""
        headers = {name.title(): value for name, value in request.headers.items() if name not in dropped}
        body = request.body if request.body or request.method not in ("GET", "HEAD") else None
        attempts = _ATTEMPTS if body is None else 1
        for attempt in range(attempts):
            try:
                return self._network.send(request.method, url, headers, body)
            except UnavailableError:
                if attempt == attempts - 1:
                    raise
                time.sleep(self._backoff * 2**attempt)
        raise AssertionError


def _answer(
    request: Request, url: str, status: int, headers: Mapping[str, str], content: Optional[Descriptor]
) -> Answer:
    """Return what is kept of an answer.

    Raises:
        UsageError: it is none that another request should get.
    """
    if status in _TEMPORARY or status >= 500:
        raise UsageError(f"the last answer was {status}")
    if status >= 300:
        # What a page says to a redirect or an error is often the address again, with its secrets.
        content = None
    kept = kept_headers(url, headers)
    if request.method == "HEAD" and "content-length" in headers:
        kept["content-length"] = headers["content-length"]
    asked = asked_headers(headers.get("vary", ""), request.headers)
    login = any(map(is_secret, request.headers))
    return Answer(request.method, url, status, kept, content, asked, request.body_digest, login)


def _passed(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name not in _HOP and name != "alt-svc"}


def _length(headers: Mapping[str, str]) -> Optional[int]:
    length = headers.get("content-length", "")
    return int(length) if length.isdecimal() else None


def _addresses(text: str) -> Iterator[str]:
    """Give the address that a registry names, as it will be asked for, if it is one."""
    with contextlib.suppress(UsageError, ValueError):
        yield spelt(text)
