"""Checks damaged snapshots of the rasterizer: one sentence that names file and reason."""

import io
import json
import os
import pickle
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
from helpers.rasterizer_inputs import gaussians, settings

from jax_gsplat_depth.compat import load_snapshot
from jax_gsplat_depth.compat._rasterizer import _STATIC, _TRACED

HEADER = {name: getattr(settings(), name) for name in _STATIC}


def arrays():
    traced = {name: np.asarray(getattr(settings(), name), np.float32) for name in _TRACED}
    return traced | {name: np.asarray(value) for name, value in gaussians().items()}


def written(path, header=HEADER, save=np.savez, **changes):
    """A snapshot as the recorder writes it, with some entries changed or (None) left out."""
    values = {"settings": json.dumps(header, default=int)} | arrays() | changes
    save(path, **{name: value for name, value in values.items() if value is not None})
    return path


def refusal(path):
    with pytest.raises(ValueError, match=path.name) as error:
        load_snapshot(path)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.npz"


def test_good(path):
    snapshot = load_snapshot(str(written(path)))
    assert set(snapshot.arguments) == set(gaussians()) and not snapshot.cotangents
    for name, value in gaussians().items():
        np.testing.assert_array_equal(snapshot.arguments[name], value)
    snapshot.rasterizer(**snapshot.arguments)


def test_big_endian_and_column_order(path):
    shs = np.asfortranarray(np.asarray(gaussians()["shs"]).astype(">f4"))
    snapshot = load_snapshot(written(path, shs=shs))
    np.testing.assert_array_equal(snapshot.arguments["shs"], gaussians()["shs"])


@pytest.mark.parametrize(
    "changes, text",
    [
        ({"means3D": None}, "lacks 'means3D'"),
        ({"campos": None}, "lacks 'campos'"),
        ({"extra": np.zeros(3, np.float32)}, "holds 'extra'"),
        ({"header": HEADER | {"focal": 1}}, "holds 'focal'"),
        ({"header": {}}, "lacks 'debug'"),
        ({"header": [1]}, "its header is no object"),
        ({"settings": "{"}, "no snapshot"),
        ({"settings": "[" * 100_000}, "no snapshot"),
        ({"settings": None}, "settings"),
        ({"bg": np.arange(3)}, "type int64"),
        ({"bg": np.array("text")}, "'bg' has no floats"),
        ({"bg": np.zeros(3, np.float16)}, "'bg' has no floats"),
        ({"save": np.savez_compressed}, "unexpected entry"),
    ],
)
def test_wrong_content(path, changes, text):
    assert text in refusal(written(path, **changes))


def test_header_of_python_2(path):
    """NumPy reads such a number, but warns of it; the recorder never writes one."""
    content = written(path).read_bytes()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    entries["bg.npy"] = entries["bg.npy"].replace(b"(3,), }", b"(3L,),}")
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    assert load_snapshot(path).rasterizer.raster_settings.bg.shape == (3,)


def test_pickles_are_never_read(path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(path.with_name("owned")),)

    np.savez(path, settings=json.dumps(HEADER), bg=np.array([Evil()], object), allow_pickle=True)
    refusal(path)
    path.write_bytes(pickle.dumps(Evil()))
    refusal(path)
    assert not path.with_name("owned").exists()


def test_counts_that_would_fill_the_memory(path):
    written(path)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    stream = io.BytesIO()
    claim = {"descr": "<f4", "fortran_order": False, "shape": (2**40,)}
    np.lib.format.write_array_header_1_0(stream, claim)
    entries["means3D.npy"] = stream.getvalue() + bytes(64)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    tracemalloc.start()
    try:
        assert "shape (1099511627776,)" in refusal(path)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_entries_that_share_their_bytes(path):
    written(path)
    content = bytearray(path.read_bytes())
    for place in range(len(content) - 4):
        if content[place : place + 4] == b"PK\1\2":  # Sizes in the central directory.
            struct.pack_into("<II", content, place + 20, len(content) - 100, len(content) - 100)
    path.write_bytes(content)
    refusal(path)


def test_missing_file_and_others(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_snapshot(tmp_path / "none.npz")
    with pytest.raises(IsADirectoryError):
        load_snapshot(tmp_path)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ValueError, match="FIFO"):
        load_snapshot(tmp_path / "fifo")


def test_file_cut_anywhere(path):
    content = written(path).read_bytes()
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        refusal(path)


def test_flipped_bytes_give_a_snapshot_or_a_sentence(path):
    rng = np.random.default_rng(0)
    content = written(path).read_bytes()
    for _ in range(500):
        flipped = np.frombuffer(content, np.uint8).copy()
        flipped[rng.integers(0, len(content), 3)] = rng.integers(0, 256, 3)
        path.write_bytes(flipped.tobytes())
        try:
            load_snapshot(path)
        except ValueError as error:
            assert path.name in str(error) and "\n" not in str(error)
