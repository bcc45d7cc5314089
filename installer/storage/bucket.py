"""Requests to a bucket of an S3 storage, signed as it wants them (AWS Signature Version 4).

There are libraries for that, and none that travels: botocore is larger than all else in the archive's program. What a
check needs is one signature and a dozen requests.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import email.utils
import hashlib
import hmac
import html
import http.client
import re
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Optional
from urllib.parse import quote

from bundles.errors import NetworkError, UnreachableError, reason
from bundles.registry.tls import trusting
from installer.model.registry.keys import Keys
from installer.model.registry.storage import S3Storage

_TIMEOUT = 10.0
_LIMIT = 1 << 20


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the storage said. `code` is its word for an error, `date` its clock."""

    status: int
    data: bytes
    region: Optional[str]
    date: Optional[datetime.datetime]

    @property
    def is_good(self) -> bool:
        return 200 <= self.status < 300

    @property
    def code(self) -> str:
        return self.element("Code")

    def element(self, name: str) -> str:
        """Return the text of the first XML element of that name; empty without one, or where it is no such answer."""
        match = re.search(rf"<{name}>([^<]{{1,300}})</{name}>", self.data.decode(errors="replace"))
        text = html.unescape(match[1]) if match else ""
        return "".join(letter for letter in text if letter.isprintable())


class Bucket:
    """A bucket: one connection a request, directly, as the registry's container has it.

    answer = Bucket(storage, keys).send("GET", query={"list-type": "2", "prefix": "team/"})

    Args:
        storage: where it is.
        keys: what requests are signed with.
        timeout: seconds to connect, and seconds without a byte; a request as a whole has twice as many from there on.
    """

    def __init__(self, storage: S3Storage, keys: Keys, *, timeout: float = _TIMEOUT) -> None:
        self._storage, self._keys, self._timeout = storage, keys, timeout

    def send(self, method: str, key: str = "", query: Optional[Mapping[str, str]] = None, body: bytes = b"") -> Answer:
        """Send a request for an object, or without `key` for the bucket. The answer may have any status.

        Raises:
            UnreachableError: nothing answers.
            NetworkError: its certificate is not trusted, or what answers speaks no HTTP.
        """
        path = "/" + quote(f"{self._storage.bucket}/{key}" if key else self._storage.bucket, safe="/-_.~")
        words = "&".join(f"{quote(k, safe='-_.~')}={quote(v, safe='-_.~')}" for k, v in sorted((query or {}).items()))
        headers = self._signed(method, path, words, body)
        endpoint = self._storage.endpoint
        try:
            with contextlib.closing(self._connect()) as connection:
                connection.connect()
                with _at_most(2 * self._timeout, connection.sock):
                    connection.request(method, f"{path}?{words}" if words else path, body or None, headers)
                    response = connection.getresponse()
                    data = response.read(_LIMIT)
        except ssl.SSLError as error:
            raise _untrusted(self._storage, error) from None
        except OSError as error:
            why = "timed out" if isinstance(error, TimeoutError) and not error.strerror else reason(error)
            raise UnreachableError(
                f"the S3 storage `{endpoint}` does not answer: {why}", hint=f"curl -v {endpoint}"
            ) from None
        except http.client.HTTPException:
            raise NetworkError(
                f"what answers at `{endpoint}` does not speak HTTP", hint=f"curl -v {endpoint}"
            ) from None
        date = response.getheader("Date")
        return Answer(response.status, data, response.getheader("x-amz-bucket-region"), _moment(date))

    def _connect(self) -> http.client.HTTPConnection:
        origin, authority = self._storage.origin, self._storage.authority
        if origin.scheme == "http":
            return http.client.HTTPConnection(origin.host, origin.port, timeout=self._timeout)
        try:
            context = trusting(Path(authority)) if authority else trusting()
        except OSError as error:
            raise NetworkError(
                f"the CA file `{authority}` cannot be used: {reason(error)}", hint="--s3-ca FILE"
            ) from None
        return http.client.HTTPSConnection(origin.host, origin.port, timeout=self._timeout, context=context)

    def _signed(self, method: str, path: str, query: str, body: bytes) -> dict[str, str]:
        now = datetime.datetime.now(datetime.timezone.utc)
        digest = hashlib.sha256(body).hexdigest()
        headers = {
            "host": self._storage.endpoint.partition("://")[2],
            "x-amz-content-sha256": digest,
            "x-amz-date": f"{now:%Y%m%dT%H%M%SZ}",
            **({"x-amz-security-token": self._keys.token} if self._keys.token else {}),
        }
        signed = authorization(self._storage.region, self._keys, now, f"{method}\n{path}\n{query}", headers)
        return {**headers, "authorization": signed}


def authorization(region: str, keys: Keys, now: datetime.datetime, request: str, headers: Mapping[str, str]) -> str:
    """Return the header that proves who sends a request.

    Args:
        region: of the bucket.
        keys: of who sends it.
        now: when.
        request: its method, path and query, a line each; the last two percent-encoded, the query sorted by name, every
            name with its `=`.
        headers: all that are signed, lower case; among them x-amz-content-sha256.
    """
    names = ";".join(sorted(headers))
    lines = [request, *(f"{name}:{headers[name]}" for name in sorted(headers)), "", names]
    canonical = "\n".join([*lines, headers["x-amz-content-sha256"]])
    scope = f"{now:%Y%m%d}/{region}/s3/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{now:%Y%m%dT%H%M%SZ}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = f"AWS4{keys.secret}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    return f"AWS4-HMAC-SHA256 Credential={keys.identity}/{scope}, SignedHeaders={names}, Signature={signature}"


@contextlib.contextmanager
def _at_most(seconds: float, sock: socket.socket) -> Iterator[None]:
    """Bound what goes on over a connection: its own timeout begins anew with each byte.

    Raises:
        TimeoutError: it was not over in time.
    """
    is_late = threading.Event()

    def end() -> None:
        is_late.set()
        with contextlib.suppress(OSError):  # it is closed
            # Not SSLSocket's own: that takes the TLS state away from under the thread that reads.
            socket.socket.shutdown(sock, socket.SHUT_RDWR)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    except (OSError, http.client.HTTPException):
        if not is_late.is_set():
            raise
    finally:
        timer.cancel()
    if is_late.is_set():
        # What was read until then may look whole.
        raise TimeoutError


def _moment(text: Optional[str]) -> Optional[datetime.datetime]:
    try:
        return email.utils.parsedate_to_datetime(text) if text else None
    except (TypeError, ValueError):
        return None


def _untrusted(storage: S3Storage, error: ssl.SSLError) -> NetworkError:
    if isinstance(error, ssl.SSLCertVerificationError):
        return NetworkError(
            f"the certificate of `{storage.endpoint}` is not trusted: {error.verify_message.lower()}; its CA has "
            "to be given",
            hint="--s3-ca FILE",
        )
    why = str(error.reason or "the connection was cut").lower().replace("_", " ")
    return NetworkError(f"TLS with `{storage.endpoint}` failed: {why}", hint=f"curl -v {storage.endpoint}")
