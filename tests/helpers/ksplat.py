"""Builds ``.ksplat`` files byte by byte, independently of the reader."""

import struct

CENTERS = [(0.0, 0.0, 0.0), (5.0, -5.0, 10.0)]
"""Centres of the two buckets of a section."""

EDGE = 5.0


def header(n, level, sections=1, version=(0, 1), sh_range=(-2.0, 3.0)):
    """The first 4096 bytes."""
    data = struct.pack("<BBxxIIII", *version, sections, sections, n, n)
    data += struct.pack("<Hxx3f2f", level, 0, 0, 0, *sh_range)
    return data.ljust(4096, b"\0")


def section_header(n, level, degree, full=1, partial=1, bucket_size=2, steps=32767, **changes):
    """The 1024 bytes before a section."""
    values = {
        "n": n,
        "room": n,
        "bucket_size": bucket_size if level else 0,
        "buckets": full + partial if level else 0,
        "edge": EDGE if level else 0.0,
        "bucket_bytes": 12 if level else 0,
        "steps": steps if level else 0,
        "bytes": 0,
        "full": full if level else 0,
        "partial": partial if level else 0,
        "degree": degree,
    }
    return struct.pack("<IIIIfHxxIIIIH", *(values | changes).values()).ljust(1024, b"\0")


def gaussian(i, level, degree):
    """The bytes of a Gaussian, and what they stand for; it lies in bucket ``i // 2``."""
    number, size = ("f", 4) if level == 0 else ("e", 2)
    scales, quat, rgba = (0.5, 0.25 + i, 2.0), (0.5, -0.5, 0.5, 0.5), (0, 51, 255, 102 + i)
    if level == 0:
        mean = (1.5 * i, -2.0, 3.25)
        data = struct.pack("<3f", *mean)
    else:
        codes = (0, 32767 + i, 65534)
        step = EDGE / 2 / 32767
        mean = tuple(c + (k - 32767) * step for c, k in zip(CENTERS[i // 2], codes, strict=True))
        data = struct.pack("<3H", *codes)
    data += struct.pack(f"<7{number}4B", *scales, *quat, *rgba)
    n_rest = 3 * ((degree + 1) ** 2 - 1)
    if level == 2:
        stored = [(7 * k + i) % 256 for k in range(n_rest)]
        rest = [-2.0 + k / 255 * 5.0 for k in stored]
        data += bytes(stored)
    else:
        rest = [(k - i) / 16 for k in range(n_rest)]
        data += struct.pack(f"<{n_rest}{number}", *rest)
    assert len(data) == (44 if level == 0 else 24) + (4, 2, 1)[level] * n_rest and size
    return data, (mean, quat, scales, rgba, rest)


def section(level, degree, n=3):
    """The bytes after the headers: Gaussians 0 and 1 fill a bucket, 2 is in one of its own."""
    data = b""
    if level:
        data += struct.pack("<I", n - 2)
        data += b"".join(struct.pack("<3f", *center) for center in CENTERS)
    return data + b"".join(gaussian(i, level, degree)[0] for i in range(n))


def ksplat(level=1, degree=1):
    """A file with one section of three Gaussians."""
    return header(3, level) + section_header(3, level, degree) + section(level, degree)
