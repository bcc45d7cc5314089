"""DER: the bytes of certificates and keys (X.690), as far as these need it; and PEM around them."""

from __future__ import annotations

import base64
import re
import time
from calendar import timegm
from collections.abc import Iterator

BOOLEAN, INTEGER, BITS, OCTETS, OBJECT_ID = 0x01, 0x02, 0x03, 0x04, 0x06
TEXT, UTC_TIME, GENERALIZED_TIME, SEQUENCE, SET = 0x0C, 0x17, 0x18, 0x30, 0x31


def tagged(tag: int, body: bytes) -> bytes:
    """Return a value: its tag, its length, its bytes."""
    size = len(body)
    if size < 128:
        return bytes([tag, size]) + body
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 128 | len(length)]) + length + body


def sequence(*parts: bytes) -> bytes:
    return tagged(SEQUENCE, b"".join(parts))


def integer(value: int) -> bytes:
    """Return a number that is not negative."""
    return tagged(INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def octets(body: bytes) -> bytes:
    return tagged(OCTETS, body)


def bits(body: bytes, unused: int = 0) -> bytes:
    """Return a row of bits, the last `unused` of which do not count."""
    return tagged(BITS, bytes([unused]) + body)


def object_id(text: str) -> bytes:
    """Return an object identifier, given as `1.2.840.10045.2.1`."""
    first, second, *rest = map(int, text.split("."))
    encoded = [first * 40 + second]
    for number in rest:
        group = [number & 127]
        while number := number >> 7:
            group.insert(0, number & 127 | 128)
        encoded += group
    return tagged(OBJECT_ID, bytes(encoded))


def moment(seconds: float) -> bytes:
    """Return a time, given in seconds since the epoch."""
    text = time.strftime("%Y%m%d%H%M%SZ", time.gmtime(seconds))
    # RFC 5280: UTCTime to the end of 2049, GeneralizedTime from then on.
    return tagged(UTC_TIME, text[2:].encode()) if text < "2050" else tagged(GENERALIZED_TIME, text.encode())


def read_moment(tag: int, body: bytes) -> float:
    """Read a time as seconds since the epoch.

    Raises:
        ValueError: it is none.
    """
    text = body.decode("ascii")
    if tag == UTC_TIME:
        text = ("19" if text >= "50" else "20") + text
    return float(timegm(time.strptime(text, "%Y%m%d%H%M%SZ")))


def values(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Give the tag and the bytes of each value in a row of them.

    Raises:
        ValueError: they are cut off.
    """
    while data:
        if len(data) < 2:
            raise ValueError("a value is cut off")
        start, size = 2, data[1]
        if size & 128:
            start += size & 127
            size = int.from_bytes(data[2:start], "big")
        if len(data) < start + size:
            raise ValueError("a value is cut off")
        yield data[0], data[start : start + size]
        data = data[start + size :]


def pem(label: str, data: bytes) -> str:
    """Return PEM: `label` is what stands between BEGIN and the dashes."""
    return f"-----BEGIN {label}-----\n{base64.encodebytes(data).decode()}-----END {label}-----\n"


def from_pem(label: str, text: bytes) -> list[bytes]:
    """Return what PEM holds of that label, in its order; other text around it is passed over.

    Raises:
        ValueError: it is no base64.
    """
    name = re.escape(label.encode())
    found = re.findall(rb"-----BEGIN " + name + rb"-----\s(.*?)-----END " + name + rb"-----", text, re.DOTALL)
    return [base64.b64decode(b"".join(body.split()), validate=True) for body in found]
