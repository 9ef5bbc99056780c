"""Checks damaged SOG: one sentence that names file and reason, and no memory for what is a lie."""

import json
import os
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
from helpers.sog import PIXELS, by_hand, webp, write
from helpers.splats import in_range, refusal

from jax_gsplat_depth import io


def put(value, *keys):
    """Return a change of ``meta.json``: this value there, or nothing."""

    def changed(meta, pictures):
        for key in keys[:-1]:
            meta = meta[key]
        if value is None:
            del meta[keys[-1]]
        else:
            meta[keys[-1]] = value

    return changed


def picture(name, rows):
    return lambda meta, pictures: pictures.update({name: rows})


QUATS = np.array(PIXELS["quats"]) - [0, 0, 0, 1]


@pytest.mark.quick(name=["c"])
@pytest.mark.parametrize(
    "spoil, text",
    [
        (put(3, "version"), "version 3 of SOG: expected 1 or 2"),
        (put("2", "version"), "version 2 of SOG"),
        (put(0, "count"), "holds no Gaussian"),
        (put(-1, "count"), "count -1"),
        (put(5, "count"), "'sh0.webp' of 2 x 2 pixels: expected 5 or more"),
        (put(10**6, "count"), "promises 1000000 Gaussians in 20000000 bytes"),
        (put(3.0, "count"), "count 3.0"),
        (put(None, "means"), "no object means in meta.json"),
        (put([], "quats"), "no object quats in meta.json"),
        (put("yes", "antialias"), "antialias 'yes'"),
        (put("mip", "model"), "model 'mip' in meta.json: expected default, antialiased, 2dgs"),
        (put("default", "model"), "antialias and model in meta.json that contradict"),
        (put([0, 1], "means", "mins"), "no mins of means in meta.json: expected 3 finite numbers"),
        (put([0, 1, np.nan], "means", "maxs"), "no maxs of means"),
        (put([0, 1, 10**400], "means", "maxs"), "no maxs of means"),
        (put([0, 1, "2"], "means", "maxs"), "no maxs of means"),
        (put([9.0, 900.0, 0.0], "means", "maxs"), "means that are not finite in Gaussian 0"),
        (put([-900.0] * 256, "scales", "codebook"), "a scale of zero or less in Gaussian 0"),
        (put([900.0] * 256, "scales", "codebook"), "scales that are not finite in Gaussian 0"),
        (put([0.0] * 9, "scales", "codebook"), "uses code 255 of scales, which has only 9"),
        (put([0.0] * 257, "sh0", "codebook"), "no codebook of sh0"),
        (put([None, 1.0, "a"], "sh0", "codebook"), "no codebook of sh0"),
        (put([], "shN", "codebook"), "no codebook of shN"),
        (put(0, "shN", "bands"), "bands 0 in meta.json: expected a whole number from 1 to 3"),
        (put(2, "shN", "bands"), "a palette of 192 x 2 pixels: expected 512 x 2"),
        (put(65, "shN", "count"), "uses code 65 of the palette, which has only 65"),
        (put(129, "shN", "count"), "a palette of 192 x 2 pixels: expected 192 x 3"),
        (put(["means_l.webp"], "means", "files"), "names 1 files of means: expected 2"),
        (put([3], "sh0", "files"), "names 0 files of sh0: expected 1"),
        (put(["none.webp"], "sh0", "files"), "no readable 'none.webp'"),
        (put(["../a.webp"], "sh0", "files"), "no readable '../a.webp'"),
        (put(["/etc/passwd"], "sh0", "files"), "no readable '/etc/passwd'"),
        (put(["a\0b"], "sh0", "files"), "no readable 'a\\x00b'"),
        (put(["x" * 300], "sh0", "files"), "no readable"),
        (put(["meta.json"], "sh0", "files"), "'meta.json' that is neither WebP nor PNG"),
        (picture("quats", QUATS), "rotation of the reserved mode 251 in Gaussian 0"),
        (picture("quats", np.zeros((3, 2, 4))), "2 x 3 pixels: expected the size of others"),
    ],
)
@pytest.mark.parametrize("name", ["a.sog", "c"])
def test_damage(tmp_path, spoil, text, name):
    meta, pictures = by_hand(2)
    spoil(meta, pictures)
    assert text in refusal(write(tmp_path / name, meta, pictures))


@pytest.mark.parametrize(
    "spoil, text",
    [
        (put(None, "means", "shape"), "no count and no shape"),
        (put(["a"], "means", "shape"), "shape a in meta.json"),
        (put(None, "quats", "encoding"), "quats of an unknown encoding"),
        (put([1, 2, 3], "sh0", "maxs"), "no maxs of sh0"),
        (put([1.0], "shN", "maxs"), "no maxs of shN"),
        (picture("shN_centroids", np.zeros((2, 190, 3))), "a palette 190 pixels wide"),
        (picture("shN_centroids", np.zeros((1, 192, 3))), "code 65 of the palette, which has only"),
    ],
)
def test_damage_of_version_1(tmp_path, spoil, text):
    meta, pictures = by_hand(1)
    spoil(meta, pictures)
    assert text in refusal(write(tmp_path / "c", meta, pictures))


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b"[" * 9999, b"9" * 9999])
def test_meta_that_is_no_object(tmp_path, content):
    path = write(tmp_path / "c", *by_hand(2))
    (path / "meta.json").write_bytes(content)
    assert "meta.json" in refusal(path)


def test_pictures_are_measured_before_they_are_decoded(tmp_path):
    """Headers of 268 million pixels; and a picture that is cut off or something else."""
    path = write(tmp_path / "c", *by_hand(2))
    good = (path / "sh0.webp").read_bytes()
    huge = bytearray(good)
    assert huge[12:16] == b"VP8L"
    struct.pack_into("<I", huge, 21, 16382 | 16382 << 14 | 1 << 28)
    vp8x = b"RIFF\0\0\0\0WEBPVP8X" + struct.pack("<II3s3s", 10, 0, b"\xfe?\0", b"\xfe?\0")
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", 16383, 16383) + bytes(9)
    tracemalloc.start()
    try:
        for data in (bytes(huge), vp8x, png):
            (path / "sh0.webp").write_bytes(data)
            assert "promises 3 Gaussians in 5368053780 bytes" in refusal(path)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
    for data in (good[:-20], good[:30], webp(np.zeros((2, 2)), "PNG")):
        (path / "sh0.webp").write_bytes(data)
        assert "has a damaged picture 'sh0.webp'" in refusal(path)
    (path / "sh0.webp").write_bytes(b"GIF89a" + bytes(40))
    assert "neither WebP nor PNG" in refusal(path)


def test_a_file_that_expands_more_than_is_believed(tmp_path):
    """All Gaussians are alike, so few bytes stand for very many."""
    n = 500
    meta, pictures = by_hand(2)
    del meta["antialias"], meta["shN"], pictures["shN_centroids"], pictures["shN_labels"]
    meta["count"] = n * n
    pictures = {name: np.full((n, n, len(rows[0][0])), 253) for name, rows in pictures.items()}
    path = write(tmp_path / "a.sog", meta, pictures)
    assert "promises 250000 Gaussians in 5000000 bytes" in refusal(path)
    assert len(io.load(path, max_expansion=1e5).means) == n * n


def test_zip_files(tmp_path):
    path = tmp_path / "a.sog"
    path.write_bytes(b"PK no zip file")
    assert "not a .sog file, which is a zip file" in refusal(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("means_l.webp", b"")
    assert "has 0 files meta.json" in refusal(path)
    write(path, *by_hand(2))
    content = path.read_bytes()
    for length in range(0, len(content), 61):
        path.write_bytes(content[:length])
        refusal(path)
    place = content.index(b"sh0.webp") + 40
    path.write_bytes(content[:place] + b"\xff" + content[place + 1 :])
    assert "no readable 'sh0.webp'" in refusal(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("meta.json", b"{}")
    assert "compression method 14" in refusal(path)


def test_a_member_that_is_longer_than_it_says(tmp_path):
    """The directory promises 3 bytes, but the stream has 8 MiB."""
    path = tmp_path / "a.sog"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("meta.json", bytes(2**23), compresslevel=9)
    content = bytearray(path.read_bytes())
    assert "of more than 1048576 bytes" in refusal(path)
    for mark, place in ((b"PK\1\2", 24), (b"PK\3\4", 22)):
        struct.pack_into("<I", content, content.index(mark) + place, 3)
    path.write_bytes(content)
    tracemalloc.start()
    try:
        assert "no readable 'meta.json'" in refusal(path)
        assert tracemalloc.get_traced_memory()[1] < 2**21
    finally:
        tracemalloc.stop()


def test_what_is_no_regular_file(tmp_path):
    path = write(tmp_path / "c", *by_hand(2))
    for name in ("scales.webp", "meta.json"):
        (path / name).unlink()
        os.mkfifo(path / name)
    with pytest.raises(ValueError, match="unknown suffix"):
        io.load(path)
    with pytest.raises(ValueError, match=r"meta.json is a FIFO, not a regular file"):
        io.load(path / "meta.json")
    (path / "meta.json").unlink()
    (path / "meta.json").write_text(json.dumps(by_hand(2)[0]))
    assert "no readable 'scales.webp' (a FIFO, not a regular file)" in refusal(path)
    os.mkfifo(tmp_path / "a.sog")
    with pytest.raises(ValueError, match=r"a.sog is a FIFO"):
        io.load(tmp_path / "a.sog")
    with pytest.raises(FileNotFoundError):
        io.load(tmp_path / "none" / "meta.json")


def test_a_folder_that_cannot_be_written_has_no_meta(tmp_path):
    """It must not name pictures of which some are those of another scene."""
    folder = tmp_path / "scene"
    io.save(folder / "meta.json", in_range(9, 1))
    (folder / "sh0.webp").unlink()
    (folder / "sh0.webp").mkdir()
    with pytest.raises(OSError):
        io.save(folder / "meta.json", in_range(9, 1))
    assert not (folder / "meta.json").exists()
