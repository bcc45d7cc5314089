"""One answer of the network, and the tape: all of them, found by what was asked for. docs/network.md has the format."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Optional
from urllib.parse import urljoin

from bundles.archive.tape.url import has_secret, is_secret, normalise
from bundles.errors import ArchiveError, NewerFormatError, UsageError
from bundles.oci.descriptor import Descriptor
from bundles.oci.digest import Digest
from bundles.oci.image import parse_json

VERSION = 1
_OCTETS = "application/octet-stream"
_MEDIA_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,126}/[a-z0-9][a-z0-9!#$&^_.+-]{0,126}")
# A registry looks into what a manifest calls an image's part, and we into what is ours; what was downloaded is neither.
_PARTS_OF_IMAGES = ("application/vnd.oci.", "application/vnd.docker.", "application/vnd.offline-bundle.")
# What belongs to one connection, one session or one moment, and what the replay says itself.
_DROPPED = frozenset(
    {
        "accept-ranges", "age", "alt-svc", "authentication-info", "cache-control", "connection", "content-length",
        "content-security-policy", "date", "expect-ct", "keep-alive", "nel", "permissions-policy",
        "proxy-authenticate", "proxy-authentication-info", "proxy-connection", "referrer-policy", "refresh",
        "report-to", "reporting-endpoints", "server", "server-timing", "set-cookie", "set-cookie2", "sourcemap",
        "strict-transport-security", "te", "trailer", "transfer-encoding", "upgrade", "vary", "via",
        "www-authenticate", "x-sourcemap",
    }
)  # fmt: skip
# What BuildKit takes out of requests, and what an answer says it varies with though its content does not.
_NOT_VARYING = frozenset({"", "*", "accept-encoding", "user-agent", "origin", "range"})
# Headers whose value is an address; of Link several, each in brackets.
_ADDRESSES = frozenset({"location", "content-location", "link"})
_LINKED = re.compile("<([^>]*)>")


@dataclasses.dataclass(frozen=True)
class Answer:
    """What was asked, and what came. Names of headers are in lower case.

    Args:
        method: GET, HEAD, POST, ...
        url: as `normalise` returns it.
        status: of HTTP.
        headers: those that matter to a client. An answer to HEAD keeps its content-length.
        content: the body; None when it is empty.
        asked: headers of the request that the answer may depend on, `accept` always; empty for one that was not sent.
        body: the digest of the request's body; None when it had none.
        login: a login, a cookie or a token went along: the content may not be public.
    """

    method: str
    url: str
    status: int
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    content: Optional[Descriptor] = None
    asked: Mapping[str, str] = dataclasses.field(default_factory=dict)
    body: Optional[Digest] = None
    login: bool = False

    def __post_init__(self) -> None:
        if normalise(self.url) != self.url:
            raise UsageError(f"`{normalise(self.url)}` is not on a tape in its one spelling, or with a secret in it")
        if not re.fullmatch("[A-Z]+", self.method) or not 200 <= self.status <= 599:
            raise UsageError(f"`{self.method[:20]} {self.status}` is no method with a final status of HTTP")
        for name, value in (*self.headers.items(), *self.asked.items()):
            if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9a-z-]+", name) or "\r" in value or "\n" in value:
                raise UsageError(f"`{self.url}` has a header that HTTP does not know")

    @classmethod
    def from_json(cls, value: Any) -> Answer:
        """Read one answer.

        Raises:
            UsageError: it is not one.
        """
        try:
            headers, asked = dict(value.get("headers", {})), dict(value.get("asked", {}))
            if not all(isinstance(text, str) for text in (*headers.values(), *asked.values())):
                raise UsageError("a header on the tape is no text")
            content = None
            if "digest" in value:
                media_type = media_type_of(headers.get("content-type", ""))
                content = Descriptor.from_json(
                    {"mediaType": media_type, "digest": value["digest"], "size": value["size"]}
                )
            body = Digest(value["body"]) if "body" in value else None
            login = value.get("login", False) is True
            # Another version may have known fewer names of secrets.
            url = normalise(value["url"])
            return cls(value["method"], url, value["status"], headers, content, asked, body, login)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UsageError(f"an answer on the tape is not one ({type(error).__name__}: {error})") from None

    def to_json(self) -> dict[str, Any]:
        """Return the answer as an object; what is empty is left out."""
        value: dict[str, Any] = {"method": self.method, "url": self.url, "status": self.status}
        if self.headers:
            value["headers"] = dict(sorted(self.headers.items()))
        if self.asked:
            value["asked"] = dict(sorted(self.asked.items()))
        if self.content:
            value.update(digest=str(self.content.digest), size=self.content.size)
        if self.body:
            value["body"] = str(self.body)
        if self.login:
            value["login"] = True
        return value

    def fits(self, headers: Mapping[str, str]) -> bool:
        """Tell whether a request with these headers is the one that was answered."""
        return all(headers.get(name, "") == value for name, value in self.asked.items())


class Tape:
    """Answers by method, URL and digest of the request's body; several where they depend on headers."""

    def __init__(self, answers: Iterable[Answer] = ()) -> None:
        self._answers: dict[tuple[str, str, Optional[Digest]], list[Answer]] = {}
        for answer in answers:
            self.add(answer)

    def __iter__(self) -> Iterator[Answer]:
        """Go through all answers, by URL."""
        answers = (answer for same in self._answers.values() for answer in same)
        return iter(sorted(answers, key=lambda a: (a.url, a.method, str(a.body), sorted(a.asked.items()))))

    def __len__(self) -> int:
        return sum(map(len, self._answers.values()))

    def add(self, answer: Answer) -> None:
        """Take an answer in; it takes the place of an earlier one to the same request."""
        same = self._answers.setdefault((answer.method, answer.url, answer.body), [])
        same[:] = [*(other for other in same if other.asked != answer.asked), answer]

    def find_exact(
        self, method: str, url: str, headers: Mapping[str, str], body: Optional[Digest] = None
    ) -> Optional[Answer]:
        """Find the answer to this very request. Names of headers are in lower case."""
        same = self._answers.get((method, normalise(url), body), ())
        return next((answer for answer in same if answer.fits(headers)), None)

    def find(
        self, method: str, url: str, headers: Mapping[str, str], body: Optional[Digest] = None
    ) -> Optional[Answer]:
        """Find the best answer: to this very request, else to the same URL with other headers, a good one first.

        HEAD is also answered by what GET was.
        """
        exact = self.find_exact(method, url, headers, body)
        if exact:
            return exact
        same = self._answers.get((method, normalise(url), body)) or ()
        if not same and method == "HEAD":
            return self.find("GET", url, headers)
        return min(same, key=lambda answer: answer.status, default=None)

    @property
    def contents(self) -> tuple[Descriptor, ...]:
        """What was downloaded, each content once, by digest."""
        found = {answer.content.digest: answer.content for answer in self if answer.content}
        return tuple(found[digest] for digest in sorted(found, key=str))

    @classmethod
    def parse(cls, data: bytes) -> Tape:
        """Read what `to_bytes` wrote.

        Raises:
            NewerFormatError: a later version wrote it.
            ArchiveError: it is not a tape.
        """
        try:
            value = parse_json(data, "the tape")
            if isinstance(value.get("version"), int) and value["version"] > VERSION:
                raise NewerFormatError(f"the tape has version {value['version']}: this program reads {VERSION}")
            if value.get("version") != VERSION or not isinstance(value.get("answers"), list):
                raise UsageError("it has no version or no list of answers")
            return cls(map(Answer.from_json, value["answers"]))
        except UsageError as error:
            raise ArchiveError(f"the tape cannot be read: {error.message}") from None

    def to_bytes(self) -> bytes:
        """Return the tape as JSON with a line for each answer: the same answers, the same bytes."""
        lines = ",\n".join(json.dumps(answer.to_json(), separators=(",", ":")) for answer in self)
        return f'{{"version":{VERSION},"answers":[\n{lines}\n]}}\n'.encode()


def kept_headers(url: str, headers: Mapping[str, str]) -> dict[str, str]:
    """Return what a tape keeps of an answer's headers (any case).

    Addresses in Location, Content-Location and Link become absolute, and their secrets go. Another header goes as a
    whole when its name is that of a secret, or there is one in its value.

    Raises:
        UsageError: the answer leads to what is no http or https URL.
    """
    came = {name.lower(): value for name, value in headers.items()}
    came = {name: value for name, value in came.items() if name not in _DROPPED and not is_secret(name)}
    kept = {name: value for name, value in came.items() if name not in _ADDRESSES and not has_secret(value)}
    if "location" in came:
        kept["location"] = normalise(urljoin(url, came["location"]))
    with contextlib.suppress(UsageError, ValueError):
        if "content-location" in came:
            kept["content-location"] = normalise(urljoin(url, came["content-location"]))
    with contextlib.suppress(UsageError, ValueError):
        if "link" in came:
            kept["link"] = _LINKED.sub(lambda match: f"<{normalise(urljoin(url, match[1]))}>", came["link"])
    return kept


def asked_headers(vary: str, headers: Mapping[str, str]) -> dict[str, str]:
    """Return which of a request's headers its answer may depend on, as its Vary says; never a secret."""
    names = {"accept"} | {name.strip().lower() for name in vary.split(",")} - _NOT_VARYING
    asked = {name: headers.get(name, "") for name in names if not is_secret(name)}
    return {name: value for name, value in asked.items() if not has_secret(value)}


def media_type_of(content_type: str) -> str:
    """Return the media type under which a manifest lists content that came with this Content-Type."""
    media_type = content_type.partition(";")[0].strip().lower()
    if not _MEDIA_TYPE.fullmatch(media_type) or media_type.startswith(_PARTS_OF_IMAGES):
        return _OCTETS
    return media_type
