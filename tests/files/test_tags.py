"""Checks what files say about all of their Gaussians: kept from file to file, or refused."""

import dataclasses
import gzip
import struct
import sys
import warnings

import jax.numpy as jnp
import numpy as np
import plyfile
import pytest
from helpers.splats import HALF, changed, in_range, random_gaussians

import jax_gsplat_depth as jgd
from jax_gsplat_depth import io
from jax_gsplat_depth.io import Tags

PLY = [".ply", ".compressed.ply"]
MAP = (512345.678901234, 5.4e6 + 1 / 3, -0.1)


def with_comments(path, *comments):
    """A file whose header has these comments."""
    io.save(path, random_gaussians(3, degree=0))
    lines = b"".join(f"comment {comment}\n".encode() for comment in comments)
    path.write_bytes(path.read_bytes().replace(b"1.0\n", b"1.0\n" + lines, 1))
    return path


# PLY


@pytest.mark.parametrize("suffix", PLY)
@pytest.mark.parametrize("antialiased", [None, False, True])
@pytest.mark.parametrize("origin", [(0.0, 0.0, 0.0), MAP])
def test_ply_round_trip(tmp_path, suffix, antialiased, origin):
    path = tmp_path / f"a{suffix}"
    tags = Tags(antialiased, origin, comments=("Vertical axis: y", "made by hand"))
    io.save(path, random_gaussians(3), tags)
    again = io.read(path)
    assert again.tags == tags and not again.dropped
    io.save(tmp_path / f"b{suffix}", again.gaussians, again.tags)
    assert io.read(tmp_path / f"b{suffix}").tags == tags


@pytest.mark.parametrize("suffix", PLY)
def test_what_is_written_is_what_others_read(tmp_path, suffix):
    """Brush, SplatTransform and gsplat know this comment; no tags give no comments."""
    path = tmp_path / f"a{suffix}"
    io.save(path, random_gaussians(3), Tags(antialiased=True, origin=(1.5, 0.0, -2.0)))
    head = path.read_bytes().partition(b"end_header")[0]
    assert b"\ncomment SplatRenderMode: mip\n" in head
    assert b"\ncomment origin 1.5 0.0 -2.0\n" in head
    io.save(path, random_gaussians(3))
    assert b"comment" not in path.read_bytes().partition(b"end_header")[0]


@pytest.mark.parametrize("suffix", PLY)
@pytest.mark.parametrize(
    "comment, expected",
    [
        ("SplatRenderMode: mip", True),
        ("SplatRenderMode: default", False),
        ("splatrendermode:mip", True),
        ("postshot.anti_aliasing=1", True),
        ("postshot.anti_aliasing=0", False),
        ("antialiased 1", True),
        ("antialiased 0", False),
        ("antialiased: true", True),
        ("antialiased for your pleasure", None),
        ("origin of this file: a scan", None),
    ],
)
def test_comments_of_others(tmp_path, suffix, comment, expected):
    tags = io.read(with_comments(tmp_path / f"a{suffix}", comment)).tags
    assert tags == Tags(expected, comments=() if expected is not None else (comment,))


def test_comments_that_look_like_tags_do_not_contradict_them(tmp_path):
    comments = ("SplatRenderMode: mip", "origin 1 2 3", "made by hand")
    io.save(tmp_path / "a.ply", random_gaussians(3), Tags(antialiased=False, comments=comments))
    assert io.read(tmp_path / "a.ply").tags == Tags(False, comments=("made by hand",))


def test_a_very_long_comment_takes_no_time(tmp_path):
    comment = "antialiased" + 60_000 * " " + "x"
    assert io.read(with_comments(tmp_path / "a.ply", comment)).tags == Tags(comments=(comment,))


@pytest.mark.parametrize("suffix", PLY)
def test_names_in_a_file_do_not_reach_the_terminal(tmp_path, suffix):
    """Neither as more lines nor as commands that it obeys."""
    path = with_comments(tmp_path / f"a{suffix}", "\x1b[2Jgone\x07")
    assert "comments:        \\x1b[2Jgone\\x07" in io.describe(path)
    place = b"element vertex"
    content = path.read_bytes()
    path.write_bytes(content.replace(place, b"element \x1b[2J 0\n" + place, 1))
    with pytest.warns(io.FileWarning) as caught:
        io.load(path)
    assert "elements \\x1b[2J, which" in str(caught[0].message)
    path.write_bytes(
        content.replace(b"end_header", b"element \x1b[2J 1\nproperty \x1b x\nend_header")
    )
    with pytest.raises(ValueError, match="a.*ply") as error:
        io.load(path)
    assert str(error.value).isprintable()


def test_comments_behind_an_element_count_as_well(tmp_path):
    path = tmp_path / "a.ply"
    io.save(path, random_gaussians(3, degree=0))
    place = b"element vertex 3\n"
    content = path.read_bytes()
    path.write_bytes(content.replace(place, place + b"comment SplatRenderMode: mip\n"))
    assert io.read(path).tags.antialiased is True


@pytest.mark.parametrize(
    "comments, text",
    [
        (["SplatRenderMode: mip", "antialiased 0"], "contradict each other on the tag antialiased"),
        (["origin 1 2 3", "origin 1 2 4"], "contradict each other on the tag origin"),
        (["origin 1 2 3.4.5"], "comment 'origin 1 2 3.4.5': expected three finite numbers"),
        (["origin 1 2 nan"], "expected three finite numbers"),
        (["origin 1 2 3\x00"], "comment 'origin 1 2 3\\x00': expected three finite numbers"),
    ],
)
def test_damaged_comments(tmp_path, comments, text):
    with pytest.raises(ValueError, match="a.ply") as error:
        io.load(with_comments(tmp_path / "a.ply", *comments))
    assert text in str(error.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"origin": (1, 2)},
        {"origin": (0, 0, np.inf)},
        {"origin": "123"},
        {"origin": None},
        {"comments": ("a\nb",)},
        {"comments": "made by hand"},
        {"comments": (1,)},
        {"fractional_bits": 24},
        {"fractional_bits": -1},
        {"fractional_bits": 11.5},
        {"antialiased": 1},
        {"antialiased": "no"},
    ],
)
def test_tags_that_no_file_can_hold(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        Tags(**fields)


@pytest.mark.parametrize("suffix", PLY)
def test_comments_too_long_to_be_read_again_are_refused(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    with pytest.raises(ValueError, match=f"a{suffix} would have a header of .* comments"):
        io.save(path, random_gaussians(3, degree=0), Tags(comments=("x" * 2**24,)))
    assert not path.exists()
    tags = Tags(comments=("x" * 60_000, *("y" * 1000,) * 400))
    io.save(path, random_gaussians(3, degree=0), tags)
    assert io.read(path).tags == tags


@pytest.mark.parametrize("suffix", PLY)
def test_a_comment_decides_no_form(tmp_path, suffix):
    comment = "has no packed_position before end_header"
    path = with_comments(tmp_path / f"a{suffix}", comment)
    assert io.read(path).tags.comments == (comment,)
    assert len(io.load(path.rename(tmp_path / "b.ply")).means) == 3


@pytest.mark.parametrize("suffix", PLY)
@pytest.mark.parametrize("text", [False, True])
def test_comments_that_are_not_ascii(tmp_path, suffix, text):
    path = with_comments(tmp_path / f"a{suffix}", "SplatRenderMode: mip", "AUTHOR Zo\u00eb")
    if text:
        path = with_comments(path, "SplatRenderMode: mip")
        data = plyfile.PlyData.read(path, mmap=False)
        data.text = True
        data.write(path)
        content = path.read_bytes().replace(b"1.0\n", "1.0\ncomment AUTHOR Zo\u00eb\n".encode(), 1)
        path.write_bytes(content)
    with pytest.warns(io.FileWarning, match=f"a{suffix} has comments that are not ASCII"):
        after = io.read(path)
    assert after.tags == Tags(True, comments=("AUTHOR Zo??",))
    path.write_bytes(path.read_bytes().replace("Zo\u00eb".encode(), b"Zo??"))
    before = io.read(path).gaussians
    for name in ("means", "quats", "scales", "opacities", "sh"):
        np.testing.assert_array_equal(getattr(after.gaussians, name), getattr(before, name))


def test_other_header_lines_that_are_not_ascii(tmp_path):
    """The line is left out in any case."""
    from jax_gsplat_depth.io._ply_file import read_elements

    path = with_comments(tmp_path / "a.ply", "made by hand")
    path.write_bytes(path.read_bytes().replace(b"comment made", "obj_info \u00eb".encode(), 1))
    elements, comments = read_elements(path)
    assert len(elements["vertex"]) == 3 and not comments


@pytest.mark.parametrize("suffix", PLY)
def test_what_a_ply_has_beyond_its_gaussians_is_named(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    io.save(path, random_gaussians(3))
    before = io.load(path)
    rows = {e.name: np.array(e.data) for e in plyfile.PlyData.read(path).elements}
    names = rows["vertex"].dtype.descr
    rows["vertex"] = np.array(
        [(*row.tolist(), 0.5) for row in rows["vertex"]], [*names, ("filter_3D", "f4")]
    )
    rows["camera"] = np.zeros(2, [("fov", "f4")])
    described = [plyfile.PlyElement.describe(data, name) for name, data in rows.items()]
    plyfile.PlyData(described, byte_order="<").write(path)
    with pytest.warns(io.FileWarning) as caught:
        after = io.load(path)
    words = [str(entry.message) for entry in caught]
    assert len(words) == 2 and all(f"a{suffix} has the" in text for text in words)
    assert "elements camera, which" in words[0] and "properties filter_3D, which" in words[1]
    np.testing.assert_array_equal(after.means, before.means)


@pytest.mark.parametrize("suffix", [*PLY, ".spz"])
def test_load_warns_of_tags_that_it_leaves_out(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    origin = (0.0, 0.0, 0.0) if suffix == ".spz" else MAP
    io.save(path, in_range(5, 0), Tags(antialiased=True, origin=origin))
    names = (
        "tag antialiased" if suffix == ".spz" else r"tags origin \(512345\.\d+ .*\) and antialiased"
    )
    readers = {".ply": io.read_ply, ".compressed.ply": io.read_compressed_ply, ".spz": io.read_spz}
    for load in (io.load, readers[suffix]):
        with pytest.warns(
            io.FileWarning, match=f"a{suffix} has the {names}, which only io.read"
        ) as w:
            load(path)
        assert len(w) == 1 and w[0].filename == __file__
    assert io.read(path).tags.antialiased
    io.save(path, in_range(5, 0), Tags(antialiased=False))
    io.load(path)


# .spz


def needs_zstd(version):
    if version == 4 and sys.version_info < (3, 14):
        pytest.importorskip("backports.zstd")


@pytest.mark.parametrize("version", [2, 3, 4])
@pytest.mark.parametrize("antialiased", [None, False, True])
def test_spz_round_trip(tmp_path, version, antialiased):
    needs_zstd(version)
    path = tmp_path / "a.spz"
    io.write_spz(path, in_range(5, 1), Tags(antialiased, fractional_bits=11), version=version)
    content = path.read_bytes()
    header = content if version == 4 else gzip.decompress(content)
    assert header[13:15] == bytes([11, bool(antialiased)])
    tags = io.read(path).tags
    assert tags == Tags(bool(antialiased), fractional_bits=11)
    io.save(tmp_path / "b.spz", io.read(path).gaussians, tags)
    assert io.read(tmp_path / "b.spz").tags == tags


def test_spz_takes_other_bits_where_those_of_the_tag_do_not_fit(tmp_path):
    gaussians = in_range(5, 0)
    means = 100 * gaussians.means
    io.save(tmp_path / "a.spz", changed(gaussians, means=means), Tags(fractional_bits=22))
    after = io.read(tmp_path / "a.spz")
    assert after.tags.fractional_bits < 22
    np.testing.assert_allclose(after.gaussians.means, means, atol=1e-4)


def spz_bytes(version, n=4):
    """A file before its compression, with any values."""
    rng = np.random.default_rng(0)
    sizes = [9, 1, 3, 3, 3 if version == 2 else 4, 24]
    columns = [rng.integers(0, 256, n * size, dtype=np.uint8).tobytes() for size in sizes]
    return struct.pack("<4sII4B", b"NGSP", version, n, 2, 20, 0, 6 if version == 4 else 0), columns


def write_spz(path, version, extensions=b"", flags=2):
    """Write those bytes with extension records."""
    header, columns = spz_bytes(version)
    header = header[:14] + bytes([flags]) + header[15:]
    if version < 4:
        path.write_bytes(gzip.compress(b"".join([header, *columns, extensions])))
        return path
    from jax_gsplat_depth.io._zstd import zstd_compress

    streams = [zstd_compress(column) for column in columns]
    sizes = zip(streams, columns, strict=True)
    table = b"".join(struct.pack("<QQ", len(packed), len(column)) for packed, column in sizes)
    start = header + struct.pack("<I", 32 + len(extensions))
    path.write_bytes(b"".join([start.ljust(32, b"\0"), extensions, table, *streams]))
    return path


def extension(kind, content):
    return struct.pack("<II", kind, len(content)) + content


ORBIT = extension(0xADBE0002, struct.pack("<3f", -0.5, 0.5, 1.0))


@pytest.mark.parametrize("version", [2, 3, 4])
def test_unknown_extensions_are_left_out_with_a_warning(tmp_path, version):
    needs_zstd(version)
    plain = io.load(write_spz(tmp_path / "a.spz", version))
    other = write_spz(tmp_path / "b.spz", version, ORBIT + extension(0x12345678, b"") + bytes(8))
    with pytest.warns(io.FileWarning) as caught:
        after = io.load(other)
    words = " ".join(str(entry.message) for entry in caught)
    assert "b.spz" in words and "SPZ_ADOBE_safe_orbit_camera" in words and "0x12345678" in words
    np.testing.assert_array_equal(after.means, plain.means)
    np.testing.assert_array_equal(after.sh, plain.sh)


@pytest.mark.parametrize(
    "data, name",
    [
        (ORBIT[:4] + ORBIT[8:], "SPZ_ADOBE_safe_orbit_camera"),  # The first form: no length.
        (extension(0xADBE0001, b"\5\4"), "SPZ_ADOBE_sh_quantization"),  # Of the usual range.
    ],
)
def test_extensions_that_change_nothing(tmp_path, data, name):
    plain = io.load(write_spz(tmp_path / "a.spz", 3))
    with pytest.warns(io.FileWarning, match=f"{name}.*left out"):
        after = io.load(write_spz(tmp_path / "b.spz", 3, data))
    np.testing.assert_array_equal(after.sh, plain.sh)


def test_unknown_flags_are_named(tmp_path):
    with pytest.warns(io.FileWarning, match="unknown flags 0xc0"):
        assert io.read(write_spz(tmp_path / "a.spz", 3, flags=0xC1)).tags.antialiased


@pytest.mark.parametrize("version", [3, 4])
@pytest.mark.parametrize(
    "data, text",
    [
        (ORBIT[:-1], "SPZ_ADOBE_safe_orbit_camera"),
        (extension(0xADBE0003, b"\6\0"), "damaged extension SPZ_ADOBE_coordinate_system"),
        (extension(0xADBE0003, struct.pack("<I", 17)), "damaged extension"),
        (extension(0xADBE0003, struct.pack("<I", 9)), "coordinate system LBD"),
        (extension(0xADBE0001, bytes(10)), "SPZ_ADOBE_sh_quantization"),
        (b"\1\2\3", "3 bytes after its extensions"),
    ],
)
def test_extensions_that_cannot_be_read(tmp_path, version, data, text):
    needs_zstd(version)
    with pytest.raises(ValueError, match="a.spz") as error, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        io.load(write_spz(tmp_path / "a.spz", version, data))
    assert text in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("version", [3, 4])
def test_extensions_have_a_limit(tmp_path, version):
    needs_zstd(version)
    data = extension(0x12345678, bytes(1 << 20))
    with pytest.raises(ValueError, match="extensions of more than 65536 bytes"):
        io.load(write_spz(tmp_path / "a.spz", version, data))
    many = b"".join(extension(kind, b"") for kind in range(1, 8193))
    with pytest.warns(io.FileWarning) as caught:
        io.load(write_spz(tmp_path / "a.spz", version, many))
    assert len(caught) == 1 and len(str(caught[0].message)) < 1000


SYSTEMS = ["RUB", "LDB", "RDB", "LUB", "RUB", "LDF", "RDF", "LUF", "RUF"]


def covariances(gaussians):
    half = (
        np.asarray(
            [[[float(x) for x in row] for row in rotation(q)] for q in np.asarray(gaussians.quats)]
        )
        * np.asarray(gaussians.scales)[:, None]
    )
    return half @ half.swapaxes(1, 2)


def rotation(quat):
    from jax_gsplat_depth._common.rotation import rotation_rows

    return rotation_rows(*(quat / np.linalg.norm(quat)))


@pytest.mark.parametrize("version", [3, 4])
@pytest.mark.parametrize("number", range(9))
def test_coordinate_systems(tmp_path, version, number):
    """The same bytes in another system are the mirrored scene: positions, shapes and colours."""
    needs_zstd(version)
    usual = io.load(write_spz(tmp_path / "a.spz", version))
    data = extension(0xADBE0003, struct.pack("<I", number))
    path = write_spz(tmp_path / "b.spz", version, data)
    if number == 0:
        with pytest.warns(io.FileWarning, match="does not say in which coordinate system"):
            other = io.load(path)
    else:
        other = io.load(path)
    mirror = np.array([1 if a == b else -1 for a, b in zip(SYSTEMS[number], "RUB", strict=True)])
    np.testing.assert_array_equal(other.means, np.asarray(usual.means) * mirror)
    expected = covariances(usual) * mirror[:, None] * mirror
    np.testing.assert_allclose(covariances(other), expected, rtol=1e-4, atol=1e-9)
    camera = jgd.Camera(jnp.eye(4), jnp.eye(3), width=8, height=8)  # In the middle.
    colors = [np.asarray(jgd.shade(g, camera)) for g in (usual, other)]
    np.testing.assert_allclose(*colors, atol=1e-5)
    assert colors[0].any()


# Formats without a place


@pytest.mark.parametrize("suffix", [".splat", ".spz"])
def test_an_origin_without_a_place_is_added(tmp_path, suffix):
    gaussians = in_range(50, 0)
    path = tmp_path / f"a{suffix}"
    io.save(path, gaussians, Tags(origin=(100.0, -20.0, 3.0)))
    after = io.read(path)
    assert after.tags.origin == (0, 0, 0)
    expected = np.asarray(gaussians.means, np.float64) + [100, -20, 3]
    np.testing.assert_allclose(after.gaussians.means, expected, atol=HALF / 2**15)


@pytest.mark.parametrize("suffix", [".splat", ".spz"])
def test_an_origin_that_would_spoil_the_positions_is_refused(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    with pytest.raises(ValueError, match=r"a\.s\w+ has no place for the tag origin \(512345\.6"):
        io.save(path, in_range(50, 0), Tags(origin=MAP))
    assert not path.exists()


def test_a_scene_that_is_coarse_anyway_takes_its_origin(tmp_path):
    gaussians = in_range(50, 0)
    far = changed(gaussians, means=gaussians.means + jnp.float32(3e5))
    io.save(tmp_path / "a.splat", far, Tags(origin=(1e5, 0.0, 0.0)))
    np.testing.assert_allclose(io.load(tmp_path / "a.splat").means[:, 0], far.means[:, 0] + 1e5)


def test_antialiased_without_a_place(tmp_path):
    with pytest.raises(ValueError, match="a.splat has no place for the tag antialiased"):
        io.save(tmp_path / "a.splat", in_range(5, 0), Tags(antialiased=True))
    assert not list(tmp_path.iterdir())
    io.save(tmp_path / "a.splat", in_range(5, 0), Tags(antialiased=False))
    assert io.read(tmp_path / "a.splat").tags == Tags()


def test_from_format_to_format(tmp_path):
    """The tags survive every path that has a place for them."""
    tags = Tags(antialiased=True, origin=(0.25, 0.5, 0.0))
    io.save(tmp_path / "a.ply", in_range(50, 1), tags)
    for before, after in [("a.ply", "b.compressed.ply"), ("b.compressed.ply", "c.ply")]:
        file = io.read(tmp_path / before)
        io.save(tmp_path / after, file.gaussians, file.tags)
    assert io.read(tmp_path / "c.ply").tags == tags
    file = io.read(tmp_path / "c.ply")
    io.save(tmp_path / "d.spz", file.gaussians, file.tags)
    moved = io.read(tmp_path / "d.spz")
    assert moved.tags == dataclasses.replace(Tags(True), fractional_bits=16)
    np.testing.assert_allclose(
        moved.gaussians.means, file.gaussians.means + jnp.array([[0.25, 0.5, 0]]), atol=1e-5
    )
