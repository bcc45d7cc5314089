"""Keys and signatures on the curve P-256 (FIPS 186-4).

The standard library has none, and what runs on a host travels in the archive and is pure Python. The arithmetic takes
no constant time: who can measure it is on this machine.
"""

from __future__ import annotations

import functools
import hashlib
import secrets
from typing import Optional

_P = 2**256 - 2**224 + 2**192 + 2**96 - 1
_N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_G = (
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
)
_Point = Optional[tuple[int, int]]


def _add(first: _Point, second: _Point) -> _Point:
    if first is None or second is None:
        return first or second
    (x1, y1), (x2, y2) = first, second
    if x1 == x2:
        if (y1 + y2) % _P == 0:
            return None
        slope = (3 * x1 * x1 - 3) * pow(2 * y1, -1, _P)
    else:
        slope = (y2 - y1) * pow(x2 - x1, -1, _P)
    x = (slope * slope - x1 - x2) % _P
    return x, (slope * (x1 - x) - y1) % _P


def _multiply(factor: int) -> tuple[int, int]:
    """Multiply the curve's base point; `factor` is from 1 to N - 1."""
    result: _Point = None
    point: _Point = _G
    while factor:
        if factor & 1:
            result = _add(result, point)
        point = _add(point, point)
        factor >>= 1
    if result is None:
        raise ValueError("a factor of N has no point")
    return result


def new_key() -> int:
    """Make a private key: a number from 1 to N - 1."""
    return secrets.randbelow(_N - 1) + 1


def is_key(number: int) -> bool:
    """Tell whether a number can be a private key."""
    return 0 < number < _N


@functools.lru_cache(maxsize=4)  # the CA's and the hosts', for every certificate again
def public_key(key: int) -> bytes:
    """Return the point of a private key, uncompressed (SEC 1)."""
    x, y = _multiply(key)
    return b"\x04" + x.to_bytes(32, "big") + y.to_bytes(32, "big")


def sign(key: int, message: bytes) -> tuple[int, int]:
    """Return r and s of an ECDSA signature over the SHA-256 of `message`."""
    value = int.from_bytes(hashlib.sha256(message).digest(), "big")
    while True:
        nonce = new_key()
        r = _multiply(nonce)[0] % _N
        s = pow(nonce, -1, _N) * (value + r * key) % _N
        if r and s:
            return r, s
