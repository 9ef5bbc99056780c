"""Makes a small good file of every format, and names the reader that has to take or refuse it."""

import dataclasses
import gzip
import io
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import plyfile
from helpers import ksplat
from helpers.captures import (
    HEIGHT,
    WIDTH,
    K,
    Scene,
    colmap_folder,
    nerf_folder,
    write_colmap,
    write_depths,
    write_json,
    write_photos,
)
from helpers.rasterizer_inputs import gaussians as rasterizer_inputs
from helpers.rasterizer_inputs import settings
from helpers.splats import random_gaussians
from PIL import Image

from jax_gsplat_depth import io as splats
from jax_gsplat_depth.compat import load_snapshot
from jax_gsplat_depth.compat._rasterizer import _STATIC, _TRACED
from jax_gsplat_depth.datasets import load_capture
from jax_gsplat_depth.frames import read_cameras
from jax_gsplat_depth.io._zstd import zstd_compress, zstd_decompress


@dataclasses.dataclass(frozen=True)
class Coding:
    """How the content of a file is taken out of its compression, and put back after a change."""

    decode: Callable[[bytes], bytes]
    encode: Callable[[bytes], bytes]


@dataclasses.dataclass(frozen=True)
class Target:
    """One kind of input.

    Attributes:
        make: Writes good files into a folder.
        read: Reads the folder.
        files: Those that are mutated.
        codings: How; the first for most of the inputs.
        share: How many inputs it gets, relative to others.
    """

    make: Callable[[Path], None]
    read: Callable[[Path], Any]
    files: tuple[str, ...]
    codings: tuple[Coding, ...] = ()
    share: int = 10


GZIP = Coding(gzip.decompress, lambda data: gzip.compress(data, 1))


def _zip_parts(data: bytes) -> bytes:
    """Return the entries of a zip one after another, with their names and lengths before them."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        parts = [(name.encode(), archive.read(name)) for name in archive.namelist()]
    return b"".join(struct.pack("<HI", len(n), len(c)) + n + c for n, c in parts)


def _zip_of_parts(data: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        names: set[str] = set()
        while len(data) >= 6:
            n_name, n_content = struct.unpack_from("<HI", data)
            name = data[6 : 6 + n_name].decode("latin-1").replace("\0", "") or "x"
            # It warns of names that are there.
            name = f"{len(names)}{name}" if name in names else name
            names.add(name)
            archive.writestr(zipfile.ZipInfo(name), data[6 + n_name :][:n_content])
            data = data[6 + n_name + n_content :]
    return stream.getvalue()


ZIP = Coding(_zip_parts, _zip_of_parts)


def _spz_4_parts(data: bytes) -> bytes:
    """Return head, extensions and table, and then the streams without their compression."""
    start = struct.unpack_from("<I", data, 16)[0]
    head = data[: start + 16 * data[15]]
    place, parts = len(head), [struct.pack("<I", len(head)), head]
    for i in range(data[15]):
        packed, size = struct.unpack_from("<QQ", data, start + 16 * i)
        parts.append(zstd_decompress(Path("seed"), data[place : place + packed], size))
        place += packed
    return b"".join(parts)


def _spz_4_of_parts(data: bytes) -> bytes:
    n_head = min(int.from_bytes(data[:4], "little"), len(data) - 4)
    head, streams = bytearray(data[4 : 4 + n_head]), data[4 + n_head :]
    start = struct.unpack_from("<I", head.ljust(20, b"\0"), 16)[0]
    packed = []
    for place in range(start, len(head) - 15, 16)[:255]:
        size = min(struct.unpack_from("<Q", head, place + 8)[0], len(streams))
        packed.append(zstd_compress(streams[:size]))
        streams = streams[size:]
        struct.pack_into("<Q", head, place, len(packed[-1]))
    return bytes(head) + b"".join(packed)


def _saved(name: str, degree: int = 1, **options: Any) -> Callable[[Path], None]:
    tags = splats.Tags(antialiased=True, origin=(1.5, 0.0, 2.0), comments=("made by a test",))

    def make(folder: Path) -> None:
        gaussians = random_gaussians(3, degree=degree)
        if options:
            splats.write_spz(folder / name, gaussians, splats.Tags(True), **options)
        else:
            splats.save(folder / name, gaussians, tags if name.endswith("ply") else None)

    return make


def _other_ply(kind: str, **form: Any) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        _saved("a.ply", 0)(folder)
        rows = np.array(plyfile.PlyData.read(folder / "a.ply")["vertex"].data)
        rows = rows.astype([(name, kind) for name in rows.dtype.names or ()])
        element = plyfile.PlyElement.describe(rows, "vertex")
        plyfile.PlyData([element], **form).write(folder / "a.ply")

    return make


def _spz_with_extensions(folder: Path) -> None:
    _saved("a.spz", version=3)(folder)
    content = bytearray(gzip.decompress((folder / "a.spz").read_bytes()))
    content[14] |= 2
    content += struct.pack("<III", 0xADBE0003, 4, 6) + struct.pack("<II3f", 0xADBE0002, 12, 0, 1, 2)
    (folder / "a.spz").write_bytes(gzip.compress(bytes(content)))


def _spz_1(folder: Path) -> None:
    header = struct.pack("<4sII4B", b"NGSP", 1, 2, 0, 0, 0, 0)
    (folder / "a.spz").write_bytes(gzip.compress(header + bytes(range(100, 132))))


def _ksplat(level: int) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / "a.ksplat").write_bytes(ksplat.ksplat(level, 2))

    return make


def _snapshot(folder: Path) -> None:
    arrays = {name: np.asarray(getattr(settings(), name), np.float32) for name in _TRACED}
    arrays |= {name: np.asarray(value) for name, value in rasterizer_inputs(2).items()}
    header = {name: getattr(settings(), name) for name in _STATIC}
    np.savez(folder / "a.npz", settings=json.dumps(header, default=int), **arrays)


def _cameras(folder: Path) -> None:
    scene = Scene(2)
    cameras = [
        {"name": n, "viewmat": v.tolist()} for n, v in zip("ab", scene.viewmats, strict=True)
    ]
    write_json(folder / "a.json", {"width": 6, "height": 4, "K": K.tolist(), "cameras": cameras})


def _transforms(folder: Path) -> None:
    data = nerf_folder(folder, Scene(2))
    data["frames"][1] |= {"k1": 0.01, "p2": 0.001, "fl_x": 14.0}
    data["applied_transform"] = np.eye(4)[:3].tolist()
    write_json(folder / "transforms.json", data)


def _depth(folder: Path) -> None:
    data = nerf_folder(folder, Scene(2))
    write_depths(folder, data, np.full((2, HEIGHT, WIDTH), 1500))
    write_json(folder / "transforms.json", data)


def _depth_array(suffix: str, write: Callable[..., None]) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        data = nerf_folder(folder, Scene(2))
        write(folder / f"0000{suffix}", np.full((HEIGHT, WIDTH), 1.5, np.float32))
        data["frames"][0]["depth_file_path"] = f"0000{suffix}"
        write_json(folder / "transforms.json", data)

    return make


def _sequence(folder: Path) -> None:
    np.savetxt(folder / "camera-intrinsics.txt", K)
    for stem in ("a", "b", "c"):
        Image.new("RGB", (WIDTH, HEIGHT)).save(folder / f"{stem}.color.png")
        np.savetxt(folder / f"{stem}.pose.txt", np.eye(4))


def _tum(folder: Path) -> None:
    np.savetxt(folder / "camera-intrinsics.txt", K)
    times = [f"{1305031102 + i / 8}" for i in range(4)]
    for i, time in enumerate(times):
        Image.new("RGB", (WIDTH, HEIGHT)).save(folder / f"{i}.png")
        Image.fromarray(np.ones((HEIGHT, WIDTH), np.uint16)).save(folder / f"d{i}.png")
        for name, words in (
            ("rgb", f"{i}.png"),
            ("depth", f"d{i}.png"),
            ("groundtruth", f"{i} 0 0 0 0 0 1"),
        ):
            with open(folder / f"{name}.txt", "a") as stream:
                stream.write(f"{time} {words}\n")


def _colmap_text(folder: Path) -> None:
    write_photos(folder / "images", Scene(2))
    write_colmap(folder / "sparse" / "0", Scene(2), text=True)


def _photo(suffix: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        scene = Scene(2)
        data = nerf_folder(folder, scene)
        data["frames"][0]["file_path"] = f"images/0000{suffix}"
        Image.fromarray(scene.images[0]).save(folder / "images" / f"0000{suffix}")
        write_json(folder / "transforms.json", data)

    return make


def _splats(name: str) -> Callable[[Path], Any]:
    def read(folder: Path) -> Any:
        # All of the path through the file, also where Gaussians are bad.
        return splats.read(folder / name, on_bad="drop").gaussians

    return read


def _json(name: str) -> Callable[[Path], Any]:
    return lambda folder: read_cameras(folder / name, (6, 4))


def _target(name: str, make: Callable[[Path], None], *codings: Coding) -> Target:
    return Target(make, _splats(name), (name,), codings)


_MODEL = tuple(f"sparse/0/{name}" for name in ("cameras", "images", "points3D"))

_SOG = tuple(
    f"{name}.webp"
    for name in ("means_l", "means_u", "scales", "quats", "sh0", "shN_centroids", "shN_labels")
)

TARGETS = {
    "ply": _target("a.ply", _saved("a.ply")),
    "ply_text": _target("a.ply", _other_ply("f4", text=True)),
    "ply_double": _target("a.ply", _other_ply("f8", byte_order=">")),
    "compressed_ply": _target("a.compressed.ply", _saved("a.compressed.ply")),
    "splat": _target("a.splat", _saved("a.splat")),
    "spz_1": _target("a.spz", _spz_1, GZIP),
    "spz_2": _target("a.spz", _saved("a.spz", version=2), GZIP),
    "spz_3": _target("a.spz", _spz_with_extensions, GZIP),
    "spz_4": _target("a.spz", _saved("a.spz", version=4), Coding(_spz_4_parts, _spz_4_of_parts)),
    "sog": _target("a.sog", _saved("a.sog"), ZIP),
    "sog_folder": Target(_saved("meta.json"), _splats("meta.json"), ("meta.json", *_SOG), share=2),
    "ksplat_0": Target(_ksplat(0), _splats("a.ksplat"), ("a.ksplat",), share=2),
    "ksplat_2": _target("a.ksplat", _ksplat(2)),
    "snapshot": Target(
        _snapshot, lambda folder: load_snapshot(folder / "a.npz"), ("a.npz",), (ZIP,)
    ),
    "cameras": Target(_cameras, _json("a.json"), ("a.json",)),
    "cameras_of_transforms": Target(_transforms, _json("transforms.json"), ("transforms.json",)),
    "transforms": Target(_transforms, load_capture, ("transforms.json",), share=2),
    "colmap_text": Target(_colmap_text, load_capture, tuple(f"{n}.txt" for n in _MODEL), share=2),
    "colmap_binary": Target(
        lambda folder: colmap_folder(folder, Scene(2)),
        load_capture,
        tuple(f"{name}.bin" for name in _MODEL),
        share=2,
    ),
    "depth": Target(_depth, load_capture, ("depth/0000.png",), share=1),
    "depth_npy": Target(_depth_array(".npy", np.save), load_capture, ("0000.npy",), share=1),
    "depth_npz": Target(
        _depth_array(".npz", np.savez), load_capture, ("0000.npz",), (ZIP,), share=1
    ),
    "sequence": Target(_sequence, load_capture, ("camera-intrinsics.txt", "b.pose.txt"), share=1),
    "tum": Target(_tum, load_capture, ("rgb.txt", "depth.txt", "groundtruth.txt"), share=2),
} | {
    f"photo_{suffix}": Target(
        _photo(f".{suffix}"), load_capture, (f"images/0000.{suffix}",), share=1
    )
    for suffix in ("png", "jpg", "tiff", "webp", "bmp", "ppm")
}
"""All inputs by name."""
