"""Changes bytes at random: flips, cuts, copies, numbers that are rarely thought of."""

import random
import re
import struct

_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_FLOATS = tuple(
    struct.pack("<f", x)
    for x in (0.0, -0.0, 1.0, -1.0, 1e-45, 3.4e38, float("inf"), -float("inf"), float("nan"))
) + (b"\0\0\xa0\x7f",)  # A signaling NaN.
_WORDS = (
    b"nan -nan inf -Infinity 1e999 -1 0 -0.0 1e-320 99999999999999999999 0x10 1_0 true null [] {} "
    b'"" "\xff" list comment element property end_header \xc3\xa9 ../../etc /dev/zero . ..'
).split(b" ") + [b"", b"[" * 3000, b"9" * 5000, b"\0", b"\n", b"\r\n"]
_TOKEN = re.compile(rb"[-+.\w]+")


def mutated(rng: random.Random, data: bytes) -> bytes:
    """Return the data with one to a few changes."""
    for _ in range(rng.choice((1, 1, 1, 1, 2, 4))):
        data = rng.choice(_CHANGES)(rng, data)
    return data


def _place(rng: random.Random, data: bytes) -> int:
    """Return a place, near the start for half of the calls: there are the headers."""
    limit = len(data) if rng.random() < 0.5 else min(len(data), 64)
    return rng.randrange(limit + 1)


def _flip(rng: random.Random, data: bytes) -> bytes:
    place = _place(rng, data)
    if place >= len(data):
        return data
    return data[:place] + bytes([data[place] ^ (1 << rng.randrange(8))]) + data[place + 1 :]


def _byte(rng: random.Random, data: bytes) -> bytes:
    place = _place(rng, data)
    return data[:place] + bytes([rng.randrange(256)]) + data[place + 1 :]


def _number(rng: random.Random, data: bytes) -> bytes:
    width = rng.choice((1, 2, 4, 8))
    value = (rng.choice(_NUMBERS) + rng.choice((-1, 0, 0, 1))) % 2 ** (8 * width)
    place = _place(rng, data) // width * width
    return (
        data[:place] + value.to_bytes(width, rng.choice(("little", "big"))) + data[place + width :]
    )


def _float(rng: random.Random, data: bytes) -> bytes:
    place = _place(rng, data)
    return data[:place] + rng.choice(_FLOATS) + data[place + 4 :]


def _cut(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _leave_out(rng: random.Random, data: bytes) -> bytes:
    place = _place(rng, data)
    return data[:place] + data[place + rng.choice((1, 2, 4, 16, 64)) :]


def _copy(rng: random.Random, data: bytes) -> bytes:
    start, place = _place(rng, data), _place(rng, data)
    part = data[start : start + rng.choice((1, 2, 4, 16, 64, 1024))]
    return data[:place] + part * rng.choice((1, 1, 2, 50)) + data[place:]


def _insert(rng: random.Random, data: bytes) -> bytes:
    place = _place(rng, data)
    return data[:place] + rng.randbytes(rng.choice((1, 2, 4, 16))) + data[place:]


def _word(rng: random.Random, data: bytes) -> bytes:
    """Put another word in the place of one; most of binary data has none that is long."""
    words = list(_TOKEN.finditer(data))
    if not words:
        return _byte(rng, data)
    word = rng.choice(words)
    return data[: word.start()] + rng.choice(_WORDS) + data[word.end() :]


def _swap_words(rng: random.Random, data: bytes) -> bytes:
    words = list(_TOKEN.finditer(data))
    if len(words) < 2:
        return _flip(rng, data)
    a, b = sorted(rng.sample(words, 2), key=lambda word: word.start())
    middle = data[a.end() : b.start()]
    return data[: a.start()] + b[0] + middle + a[0] + data[b.end() :]


def _line(rng: random.Random, data: bytes) -> bytes:
    """Leave a line out, or write it twice."""
    lines = data.split(b"\n")
    index = rng.randrange(len(lines))
    lines[index : index + 1] = [lines[index]] * rng.choice((0, 2))
    return b"\n".join(lines)


_CHANGES = (
    _flip,
    _byte,
    _number,
    _float,
    _cut,
    _leave_out,
    _copy,
    _insert,
    _word,
    _word,
    _swap_words,
    _line,
)
