"""The hash against what others have published, and against the system's crypt."""

from __future__ import annotations

import ctypes
import ctypes.util

import pytest

from bundles.crypto.bcrypt import bcrypt

# Of the test suites of jBCrypt and OpenWall's crypt_blowfish: password, hash.
VECTORS = [
    ("a", "$2b$06$m0CrhHm10qJ3lXRY.5zDGO3rS2KdeeWLuGmsfGlMfOxih58VYVfxe"),
    ("abc", "$2b$06$If6bvum7DFjUnE9p2uDeDu0YHzrHM6tf.iqN8.yx.jNN1ILEf7h0i"),
    ("abcdefghijklmnopqrstuvwxyz", "$2b$06$.rCVZVOThsIa97pEDOxvGuRRgzG64bvtJ0938xuqzv18d3ZpQhstC"),
    ("U*U", "$2b$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW"),
    ("U*U*U", "$2b$05$XXXXXXXXXXXXXXXXXXXXXOAcXxm9kjPGEMsLznoKqmqw7tc8WCx4a"),
]
ALPHABET = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


def salt_of(text: str) -> bytes:
    """The 16 bytes of a hash's salt."""
    number = 0
    for letter in text[7:29]:
        number = number << 6 | ALPHABET.index(letter)
    return (number >> 4).to_bytes(16, "big")


@pytest.mark.parametrize(("password", "expected"), VECTORS)
def test_published_hashes(password: str, expected: str) -> None:
    assert bcrypt(password.encode(), salt_of(expected), int(expected[4:6])) == expected


@pytest.mark.parametrize("password", [b"hunter2", b"x" * 71, b"x" * 72, b"\xc3\xa9\xff"])
def test_the_systems_crypt_says_the_same(password: bytes) -> None:
    library = ctypes.util.find_library("crypt")
    if library is None:
        pytest.skip("this system has no libcrypt")
    crypt = ctypes.CDLL(library).crypt
    crypt.restype = ctypes.c_char_p
    ours = bcrypt(password, bytes(range(16)), 4)
    theirs = crypt(password, ours[:29].encode())
    if not (theirs or b"*").startswith(b"$2b$"):
        pytest.skip("this system's libcrypt has no bcrypt")
    assert ours.encode() == theirs


@pytest.mark.parametrize(
    ("password", "salt", "cost"),
    [
        (b"", bytes(16), 4),
        (b"x" * 73, bytes(16), 4),
        (b"a\0b", bytes(16), 4),
        (b"a", bytes(15), 4),
        (b"a", bytes(16), 3),
        (b"a", bytes(16), 32),
    ],
)
def test_what_it_does_not_take(password: bytes, salt: bytes, cost: int) -> None:
    with pytest.raises(ValueError, match="bcrypt takes"):
        bcrypt(password, salt, cost)
