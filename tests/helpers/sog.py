"""Writes SOG by hand, as a zip file or a folder: four pixels, of which three are Gaussians."""

import io
import json
import zipfile

import numpy as np
from PIL import Image


def webp(rows, form="WEBP"):
    """A picture of ``(H, W, C)`` numbers."""
    stream = io.BytesIO()
    picture = Image.fromarray(np.asarray(rows, np.uint8))
    picture.save(stream, form, **({"lossless": True, "exact": True} if form == "WEBP" else {}))
    return stream.getvalue()


PIXELS = {
    "means_l": [[[0, 255, 7], [255, 0, 7]], [[1, 128, 7], [9, 9, 9]]],
    "means_u": [[[0, 255, 0], [255, 0, 0]], [[0, 127, 0], [9, 9, 9]]],
    "scales": [[[0, 1, 2], [2, 2, 2]], [[255, 0, 1], [9, 9, 9]]],
    "quats": [[[255, 127, 128, 252], [0, 0, 255, 254]], [[10, 20, 240, 255], [9, 9, 9, 9]]],
    "sh0": [[[0, 1, 2, 0], [3, 4, 5, 255]], [[255, 254, 253, 51], [9, 9, 9, 9]]],
}
LOW, HIGH = [-2.0, -1.0, 0.5], [3.0, -0.5, 0.5]
LOGS = np.linspace(-8, 2, 256)
COLORS = np.linspace(-3, 3.5, 256) ** 3
REST = np.linspace(-1, 1.25, 256)


def by_hand(version):
    """Return ``meta.json`` and the pictures; the palette has 66 entries of degree 1."""
    centroids = np.random.default_rng(0).integers(0, 256, (2, 192, 3))
    labels = [[[0, 0, 0], [65, 0, 0]], [[1, 0, 0], [255, 255, 255]]]
    names = [*PIXELS, "shN_centroids", "shN_labels"]
    pictures = {name: np.array(rows, np.uint8) for name, rows in PIXELS.items()}
    pictures |= {"shN_centroids": centroids, "shN_labels": np.array(labels)}
    keys = ("means", "scales", "quats", "sh0", "shN")
    files = {key: [f"{n}.webp" for n in names if n.partition("_")[0] == key] for key in keys}
    meta = {key: {"files": files[key]} for key in keys}
    meta["means"] |= {"mins": LOW, "maxs": HIGH}
    if version == 2:
        meta |= {"version": 2, "count": 3, "antialias": True}
        meta["scales"] |= {"codebook": LOGS.tolist()}
        meta["sh0"] |= {"codebook": COLORS.tolist()}
        meta["shN"] |= {"codebook": REST.tolist(), "count": 66, "bands": 1}
    else:
        meta["means"] |= {"shape": [3, 3], "dtype": "float32"}
        meta["scales"] |= {"shape": [3, 3], "mins": [-8, -7, -6], "maxs": [2, 1, 0]}
        meta["quats"] |= {"shape": [3, 4], "dtype": "uint8", "encoding": "quaternion_packed"}
        meta["sh0"] |= {"mins": [-1, -2, -3, -4], "maxs": [1, 2, 3, 5]}
        meta["shN"] |= {"shape": [3, 9], "mins": -1.0, "maxs": 1.25, "quantization": 8}
    return meta, pictures


def write(path, meta, pictures, prefix=""):
    members = {"meta.json": json.dumps(meta).encode()}
    members |= {f"{name}.webp": webp(rows) for name, rows in pictures.items()}
    if path.suffix == ".sog":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in members.items():
                archive.writestr(prefix + name, data)
        return path
    path.mkdir(exist_ok=True)
    for name, data in members.items():
        (path / name).write_bytes(data)
    return path
