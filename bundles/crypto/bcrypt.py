"""The hash of a password as registries and web servers want it in their files: bcrypt (Provos and Mazieres, 1999).

The standard library has it only where the system's crypt does, and Python 3.13 not any more. Here are the Blowfish
cipher and its digits of pi, which are computed: a table of them would be the larger part of this file.
"""

from __future__ import annotations

import functools
import struct

_ALPHABET = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_ROUNDS = 16
_BOXES, _BOX = 4, 256
_MAGIC = b"OrpheanBeholderScryDoubt"
# What bcrypt reads of a password, its zero byte included.
_LONGEST = 72


def bcrypt(password: bytes, salt: bytes, cost: int) -> str:
    """Return the hash, `$2b$` with all that is needed to compare.

    Args:
        password: 1 to 72 bytes, none of them zero.
        salt: 16 bytes.
        cost: 4 to 31; the time, here a fraction of a second for 4, doubles with each. 4 is enough for a password that
            nobody can guess.

    Raises:
        ValueError: they are something else.
    """
    if not 0 < len(password) <= _LONGEST or b"\0" in password or len(salt) != 16 or not 4 <= cost <= 31:
        raise ValueError("bcrypt takes 1 to 72 bytes without zeros, a salt of 16 bytes and a cost of 4 to 31")
    key, salted, nothing = _words((password + b"\0")[:_LONGEST]), _words(salt), (0, 0)
    keys, boxes = map(list, _digits_of_pi())
    _expand(keys, boxes, key, salted[:4])
    for _ in range(1 << cost):
        _expand(keys, boxes, key, nothing)
        _expand(keys, boxes, salted, nothing)
    text = list(struct.unpack(">6I", _MAGIC))
    for at in range(0, len(text), 2):
        left, right = text[at : at + 2]
        for _ in range(64):
            left, right = _encrypt(keys, boxes, left, right)
        text[at : at + 2] = left, right
    # Its last byte was never part of the hash.
    return f"$2b${cost:02}${_encoded(salt)}{_encoded(struct.pack('>6I', *text)[:-1])}"


@functools.cache
def _digits_of_pi() -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the numbers that Blowfish begins with: the binary digits of pi behind the point, 32 to each."""
    count = _ROUNDS + 2 + _BOXES * _BOX
    size = 32 * count
    spare = 64
    one = 1 << (size + spare)
    # Machin: pi / 4 = 4 atan(1/5) - atan(1/239)
    pi = (4 * (4 * _arctangent(5, one) - _arctangent(239, one)) >> spare) & ((1 << size) - 1)
    words = struct.unpack(f">{count}I", pi.to_bytes(size // 8, "big"))
    return words[: _ROUNDS + 2], words[_ROUNDS + 2 :]


def _arctangent(inverse: int, one: int) -> int:
    """Return atan(1 / inverse), where `one` stands for 1."""
    power = one // inverse
    total, divisor, sign = power, 1, 1
    while power:
        power //= inverse * inverse
        divisor += 2
        sign = -sign
        total += sign * (power // divisor)
    return total


def _words(data: bytes) -> tuple[int, ...]:
    """Return the bytes, begun again as often as it takes, as 18 numbers of 32 bits."""
    return struct.unpack(">18I", (data * _LONGEST)[:_LONGEST])


def _expand(keys: list[int], boxes: list[int], key: tuple[int, ...], salt: tuple[int, ...]) -> None:
    """Mix a key and a salt into the numbers of the cipher."""
    for at in range(_ROUNDS + 2):
        keys[at] ^= key[at]
    left = right = 0
    turn = 0
    for numbers in (keys, boxes):
        for at in range(0, len(numbers), 2):
            left ^= salt[turn]
            right ^= salt[turn + 1]
            left, right = _encrypt(keys, boxes, left, right)
            numbers[at], numbers[at + 1] = left, right
            turn = (turn + 2) % len(salt)


def _encrypt(keys: list[int], boxes: list[int], left: int, right: int) -> tuple[int, int]:
    left ^= keys[0]
    for at in range(1, _ROUNDS + 1, 2):
        mixed = boxes[left >> 24] + boxes[256 + (left >> 16 & 255)] & 0xFFFFFFFF
        right ^= ((mixed ^ boxes[512 + (left >> 8 & 255)]) + boxes[768 + (left & 255)] & 0xFFFFFFFF) ^ keys[at]
        mixed = boxes[right >> 24] + boxes[256 + (right >> 16 & 255)] & 0xFFFFFFFF
        left ^= ((mixed ^ boxes[512 + (right >> 8 & 255)]) + boxes[768 + (right & 255)] & 0xFFFFFFFF) ^ keys[at + 1]
    return right ^ keys[_ROUNDS + 1], left


def _encoded(data: bytes) -> str:
    """Return bcrypt's own base64, without padding."""
    digits = ""
    for at in range(0, len(data), 3):
        piece = data[at : at + 3]
        number = int.from_bytes(piece.ljust(3, b"\0"), "big")
        digits += "".join(_ALPHABET[number >> shift & 63] for shift in (18, 12, 6, 0))[: len(piece) + 1]
    return digits
