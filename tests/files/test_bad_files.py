"""Checks damaged .splat, .spz and compressed PLY files: one sentence that names file and reason."""

import gzip
import os
import re
import struct
import sys
import tracemalloc
import zlib

import numpy as np
import plyfile
import pytest
from helpers.splats import random_gaussians, refusal

from jax_gsplat_depth import io

KINDS = [".compressed.ply", ".splat", ".spz", "4.spz"]


@pytest.fixture(params=KINDS)
def good(request, tmp_path):
    """A good file of two Gaussians with SH of degree 1 where the format has it."""
    path = tmp_path / f"a{request.param}"
    write(path, random_gaussians(2, degree=1))
    return path


def write(path, gaussians):
    if path.name.endswith("4.spz"):
        if sys.version_info < (3, 14):
            pytest.importorskip("backports.zstd")
        io.write_spz(path, gaussians, version=4)
    else:
        io.save(path, gaussians)


def test_file_cut_anywhere(good):
    content = good.read_bytes()
    whole_records = [32] if good.suffix == ".splat" else []
    for length in set(range(len(content))) - set(whole_records):
        good.write_bytes(content[:length])
        refusal(good)


def test_flipped_bytes_give_gaussians_or_a_sentence(good):
    rng = np.random.default_rng(0)
    content = good.read_bytes()
    for _ in range(300):
        flipped = np.frombuffer(content, np.uint8).copy()
        flipped[rng.integers(0, len(content), 3)] = rng.integers(0, 256, 3)
        good.write_bytes(flipped.tobytes())
        try:
            gaussians = io.load(good)
        except ValueError as error:
            assert good.name in str(error) and "\n" not in str(error)
        else:
            for name in ("means", "quats", "scales", "opacities", "sh"):
                assert np.isfinite(getattr(gaussians, name)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_at_the_end(tmp_path, kind):
    path = tmp_path / f"a{kind}"
    write(path, random_gaussians(2, degree=1))
    before = io.load(path)
    with path.open("ab") as stream:
        stream.write(b"\1\2\3")
    if kind.endswith(".ply"):  # As in plain PLY, which tools cut from larger files.
        np.testing.assert_array_equal(io.load(path).means, before.means)
    else:
        assert "bytes" in refusal(path)


@pytest.mark.parametrize("suffix", [".ply", ".splat", ".spz"])
@pytest.mark.parametrize("content", [b"", b"\0", b"no such format", bytes(range(256)) * 9])
def test_other_content(tmp_path, suffix, content):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    if suffix != ".splat" or len(content) % 32:  # Any 32 bytes may be a Gaussian of .splat.
        refusal(path)


# .splat


@pytest.mark.parametrize("field, value, text", [(1, np.nan, "means"), (4, np.inf, "scales")])
def test_splat_with_numbers_that_are_not_finite(tmp_path, field, value, text):
    path = tmp_path / "a.splat"
    io.save(path, random_gaussians(3))
    content = bytearray(path.read_bytes())
    struct.pack_into("<f", content, 32 + 4 * field, value)
    path.write_bytes(content)
    assert f"has {text} that are not finite in Gaussian 1" in refusal(path)
    assert re.search("not finite: +1 Gaussians", io.describe(path))


def test_splat_with_a_zero_rotation(tmp_path):
    path = tmp_path / "a.splat"
    io.save(path, random_gaussians(3))
    path.write_bytes(path.read_bytes()[:-4] + b"\x80" * 4)
    assert "zero rotation in Gaussian 2" in refusal(path)


# .spz


def spz(path, *, version=3, n=1, degree=0, bits=12, flags=0, body=None, magic=b"NGSP"):
    body = bytes(20) if body is None else body
    header = struct.pack("<4sIIBBBB", magic, version, n, degree, bits, flags, 0)
    path.write_bytes(gzip.compress(header + body))
    return path


@pytest.mark.parametrize(
    "change, text",
    [
        ({"magic": b"NGSQ"}, "not an .spz file"),
        ({"version": 0}, "version 0"),
        ({"version": 4}, "version 4"),
        ({"version": 2**32 - 1}, "version 4294967295"),
        ({"n": 0, "body": b""}, "holds no Gaussian"),
        ({"n": 2}, "is truncated: expected 40 bytes"),
        ({"n": 2**32 - 1}, "promises 4294967295 Gaussians"),
        ({"degree": 5}, "SH degree 5"),
        ({"degree": 1}, "is truncated: expected 29 bytes"),
        ({"bits": 24}, "24 fractional bits"),
        ({"body": bytes(21)}, "holds more than its header says"),
        ({"body": b""}, "is truncated"),
        ({"version": 1, "body": struct.pack("<3e", 1, np.nan, 1) + bytes(10)}, "means that are"),
    ],
)
def test_spz_header(tmp_path, change, text):
    assert text in refusal(spz(tmp_path / "a.spz", **change))


def test_spz_that_would_unpack_to_very_much(tmp_path):
    """Neither the counts of the header nor the stream itself may ask for memory."""
    path = spz(tmp_path / "a.spz", body=bytes(2**26))
    liar = tmp_path / "b.spz"
    start = struct.pack("<4sIIBBBB", b"NGSP", 3, 2**31, 4, 12, 0, 0)
    packer = zlib.compressobj(wbits=31)
    liar.write_bytes(packer.compress(start + bytes(2**20)) + packer.flush())
    tracemalloc.start()
    try:
        assert "holds more than" in refusal(path)
        assert "too few for that" in refusal(liar)
        assert tracemalloc.get_traced_memory()[1] < 2**21
    finally:
        tracemalloc.stop()


def test_spz_that_expands_more_than_is_believed(tmp_path):
    """A true header, but a file of zeros: a few bytes must not take a hundred times the memory."""
    n = 300_000
    path = spz(tmp_path / "a.spz", n=n, body=bytes(20 * n))
    tracemalloc.start()
    try:
        assert "promises 300000 Gaussians in 6000000 bytes" in refusal(path)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
    assert len(io.load(path, max_expansion=1100).means) == n
    small = spz(tmp_path / "b.spz", n=n // 2, body=bytes(10 * n))
    assert len(io.load(small).means) == n // 2


def test_spz_damaged_checksum(tmp_path):
    path = spz(tmp_path / "a.spz")
    content = bytearray(path.read_bytes())
    content[-6] ^= 1
    path.write_bytes(content)
    assert "not a readable .spz file" in refusal(path)


@pytest.mark.parametrize(
    "place, value, text",
    [
        ((4, "<I"), 3, "version 3"),
        ((8, "<I"), 2**32 - 1, "promises 4294967295"),
        ((12, "<B"), 0, "6 streams: expected 5"),
        ((15, "<B"), 255, "255 streams: expected 6"),
        ((16, "<I"), 31, "its table of streams is not in the file"),
        ((16, "<I"), 2**32 - 1, "its table of streams is not in the file"),
        ((32, "<Q"), 2**64 - 1, "a stream of 18446744073709551615 bytes"),
        ((32, "<Q"), 3, "stream that is"),
        ((40, "<Q"), 2**63, "holds more than"),
        ((40, "<Q"), 0, "is truncated"),
        ((128, "<I"), 0, "no zstd frame"),
    ],
)
def test_spz_4_header(tmp_path, place, value, text):
    path = tmp_path / "4.spz"
    write(path, random_gaussians(2, degree=1))
    content = bytearray(path.read_bytes())
    struct.pack_into(place[1], content, place[0], value)
    path.write_bytes(content)
    assert text in refusal(path)


def test_spz_4_that_would_unpack_to_very_much(tmp_path):
    path = tmp_path / "4.spz"
    write(path, random_gaussians(1, degree=0))
    from jax_gsplat_depth.io._zstd import zstd_compress

    content = path.read_bytes()
    first = struct.unpack_from("<Q", content, 32)[0]
    bomb = zstd_compress(bytes(2**26))
    end = 32 + 5 * 16
    table = struct.pack("<Q", len(bomb)) + content[40:end]
    path.write_bytes(content[:32] + table + bomb + content[end + first :])
    tracemalloc.start()
    try:
        assert "holds more than" in refusal(path)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


# Compressed PLY


def edited(path, edit):
    """Write a good file whose elements ``edit`` changes, in place or by returning others."""
    io.write_compressed_ply(path, random_gaussians(300, degree=1))
    rows = {e.name: np.array(e.data) for e in plyfile.PlyData.read(path).elements}
    rows = edit(rows) or rows
    elements = [plyfile.PlyElement.describe(data, name) for name, data in rows.items()]
    plyfile.PlyData(elements, byte_order="<").write(path)
    return path


def retyped(element, kind):
    def edit(rows):
        names = rows[element].dtype.names
        rows[element] = np.array(rows[element].tolist(), [(name, kind) for name in names])

    return edit


def kept(element, choose):
    def edit(rows):
        return rows | {element: choose(rows[element])}

    return edit


def set_value(name, value):
    def edit(rows):
        rows["chunk"][name][1] = value

    return edit


@pytest.mark.parametrize(
    "edit, text",
    [
        (kept("chunk", lambda rows: rows[:1]), "1 chunks for 300 vertices"),
        (kept("chunk", lambda rows: np.repeat(rows, 2)), "4 chunks for 300 vertices"),
        (kept("vertex", lambda rows: rows[:0]), "holds no Gaussian"),
        (kept("sh", lambda rows: rows[:5]), "5 SH records of 9 properties: expected 300"),
        (kept("sh", lambda _: np.zeros(300, "u1,u1")), "300 SH records of 2 properties"),
        (lambda rows: {"vertex": rows["vertex"]}, "no chunk property min_x"),
        (retyped("chunk", "f8"), "min_x of type float64: expected float32"),
        (retyped("vertex", "f4"), "packed_position of type float32: expected uint32"),
        (retyped("sh", "u2"), "f_rest_0 of type uint16: expected uint8"),
        (set_value("min_y", np.nan), "means that are not finite in Gaussian 256"),
        (set_value("max_scale_z", np.inf), "scales that are not finite"),
        (set_value("max_scale_z", 1e4), "scales that are not finite"),
        (set_value("max_g", np.nan), "sh that are not finite in Gaussian 256"),
    ],
)
def test_compressed_ply(tmp_path, edit, text):
    assert text in refusal(edited(tmp_path / "a.ply", edit))


def test_compressed_ply_without_color_ranges(tmp_path):
    """An early form, which is no damage: colours are in 0..1 there."""

    def edit(rows):
        names = rows["chunk"].dtype.names[:12]
        values = [[row[name] for name in names] for row in rows["chunk"]]
        kinds = [(name, "f4") for name in names]
        rows["chunk"] = np.array([tuple(row) for row in values], kinds)

    gaussians = io.load(edited(tmp_path / "a.ply", edit))
    colors = 0.5 + 0.28209479177387814 * np.asarray(gaussians.sh[:, 0])
    assert colors.min() >= -1e-6 and colors.max() <= 1 + 1e-6


def test_compressed_ply_with_an_empty_element(tmp_path):
    """Some writers name the SH element at degree 0 as well; it has no properties then."""
    path = tmp_path / "a.compressed.ply"
    io.save(path, random_gaussians(300, degree=0))
    before = io.load(path)
    content = path.read_bytes()
    for count in (300, 0, 10**17):
        line = b"element sh %d\nend_header\n" % count
        path.write_bytes(content.replace(b"end_header\n", line, 1))
        after = io.load(path)
        assert after.sh.shape == (300, 1, 3)
        np.testing.assert_array_equal(after.means, before.means)


def test_absurd_counts_of_a_compressed_ply(tmp_path):
    path = tmp_path / "a.compressed.ply"
    io.save(path, random_gaussians(3, degree=0))
    content = path.read_bytes()
    for line, count in ((b"element vertex 3", 10**15), (b"element chunk 1", 10**15)):
        kind = line.rpartition(b" ")[0]
        path.write_bytes(content.replace(line, kind + b" %d" % count))
        assert "truncated" in refusal(path)


@pytest.mark.parametrize("suffix", [".ply", ".compressed.ply", ".splat"])
def test_signaling_nan(tmp_path, suffix):
    """NumPy warns of such a NaN where it converts it; only the sentence may come out."""
    path = tmp_path / f"a{suffix}"
    io.save(path, random_gaussians(3, degree=0))
    content = path.read_bytes()
    start = content.find(b"end_header\n") + 11 if suffix.endswith(".ply") else 0
    path.write_bytes(content[:start] + b"\0\0\xa0\x7f" + content[start + 4 :])
    refusal(path)
    assert "NaN" in io.describe(path)


# All of them


@pytest.mark.parametrize("suffix", [".ply", ".compressed.ply", ".splat", ".spz"])
def test_what_is_no_regular_file(tmp_path, suffix):
    """A FIFO would wait for a writer for ever."""
    path = tmp_path / f"a{suffix}"
    os.mkfifo(path)
    for read in (io.load, io.describe):
        with pytest.raises(ValueError, match=f"a{suffix} is a FIFO"):
            read(path)
