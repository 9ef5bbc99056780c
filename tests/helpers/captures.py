"""Writes tiny captures in every layout, from one scene whose numbers the readers must return."""

import json
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jax_gsplat_depth.datasets import CaptureError, load_capture

WIDTH, HEIGHT, N_VIEWS = 14, 11, 10
FX, FY, CX, CY = 15.5, 16.25, 6.75, 5.5
K = np.array([[FX, 0, CX], [0, FY, CY], [0, 0, 1]])
OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])
COLMAP_MODELS = {"SIMPLE_PINHOLE": 0, "PINHOLE": 1, "SIMPLE_RADIAL": 2}


def quat_to_rotation(q):
    # As products of quaternions, unlike the reader: columns are q e_i q*.
    def product(a, b):
        vector = a[0] * b[1:] + b[0] * a[1:] + np.cross(a[1:], b[1:])
        return np.array([a[0] * b[0] - a[1:] @ b[1:], *vector])

    conjugate = q * [1, -1, -1, -1]
    basis = np.eye(4)[1:]
    return np.stack([product(product(q, e), conjugate)[1:] for e in basis], axis=1)


class Scene:
    """What the writers below write and the reader has to return."""

    def __init__(self, n_views=N_VIEWS, seed=0):
        """Draw the numbers."""
        rng = np.random.default_rng(seed)
        self.names = [f"{i:04d}" for i in range(n_views)]
        quats = rng.normal(size=(n_views, 4))
        self.quats = quats / np.linalg.norm(quats, axis=1, keepdims=True)
        self.viewmats = np.tile(np.eye(4), (n_views, 1, 1))
        self.viewmats[:, :3, :3] = [quat_to_rotation(q) for q in self.quats]
        self.viewmats[:, :3, 3] = rng.normal(size=(n_views, 3))
        self.images = rng.integers(0, 256, (n_views, HEIGHT, WIDTH, 3), np.uint8)
        self.points = rng.normal(size=(7, 3))
        self.colors = rng.integers(0, 256, (7, 3), np.uint8)


def write_photos(folder, scene, mode="RGB", suffix=".png"):
    folder.mkdir(parents=True, exist_ok=True)
    for name, pixels in zip(scene.names, scene.images, strict=True):
        Image.fromarray(pixels).convert(mode).save(folder / f"{name}{suffix}")


def camera_to_world(viewmat):
    return (np.linalg.inv(viewmat) @ OPENGL).tolist()


def transforms(scene, folder="images", suffix=".png"):
    return {
        "w": WIDTH,
        "h": HEIGHT,
        "fl_x": FX,
        "fl_y": FY,
        "cx": CX,
        "cy": CY,
        "frames": [
            {"file_path": f"{folder}/{name}{suffix}", "transform_matrix": camera_to_world(viewmat)}
            for name, viewmat in zip(scene.names, scene.viewmats, strict=True)
        ],
    }


def write_json(path, data):
    path.write_text(json.dumps(data))


def nerf_folder(folder, scene):
    """Write a folder with transforms.json; return its content, to change and write again."""
    write_photos(folder / "images", scene)
    data = transforms(scene)
    write_json(folder / "transforms.json", data)
    return data


def colmap_folder(folder, scene):
    """Write a folder with a binary model."""
    write_photos(folder / "images", scene)
    write_colmap(folder / "sparse" / "0", scene)


def write_depths(folder, data, steps, dtype=np.uint16):
    (folder / "depth").mkdir()
    for frame, map_ in zip(data["frames"], steps, strict=True):
        frame["depth_file_path"] = frame["file_path"].replace("images", "depth")
        Image.fromarray(map_.astype(dtype)).save(folder / frame["depth_file_path"])


def write_blender(folder, rgba):
    """Write two train and one test view, all with the same stems, as Blender scenes do."""
    scene = Scene(3)
    for part, views in (("test", [0]), ("train", [1, 2])):
        (folder / part).mkdir()
        frames = []
        for number, view in enumerate(views):
            Image.fromarray(rgba[view]).save(folder / part / f"r_{number}.png")
            matrix = camera_to_world(scene.viewmats[view])
            frames.append({"file_path": f"./{part}/r_{number}", "transform_matrix": matrix})
        data = {"camera_angle_x": 0.7, "frames": frames}
        write_json(folder / f"transforms_{part}.json", data)
    return scene


def write_colmap(folder, scene, *, text=False, model="PINHOLE", names=None, observations=True):
    """Write a COLMAP model; some photos and points have observations to step over."""
    folder.mkdir(parents=True, exist_ok=True)
    params = {"PINHOLE": (FX, FY, CX, CY), "SIMPLE_PINHOLE": (FX, CX, CY)}.get(
        model, (FX, CX, CY, 0.01)
    )
    names = names or [f"{name}.png" for name in scene.names]
    images = [
        (i + 1, q, viewmat[:3, 3], name, [(1.5, 2.5, 4)] * (i % 3 * observations))
        for i, (q, viewmat, name) in enumerate(zip(scene.quats, scene.viewmats, names, strict=True))
    ]
    points = list(zip(scene.points, scene.colors, strict=True))

    def line(*values):
        return " ".join(str(v) for v in values) + "\n"

    if text:
        lines = line(7, model, WIDTH, HEIGHT, *params)
        (folder / "cameras.txt").write_text("# Camera list\n" + lines)
        lines = "# Image list\n"
        for i, q, t, name, seen in images:
            lines += line(i, *q.tolist(), *t.tolist(), 7, name)
            lines += line(*(v for point in seen for v in point))
        (folder / "images.txt").write_text(lines)
        lines = "# 3D point list\n"
        for i, (p, c) in enumerate(points):
            lines += line(i + 4, *p.tolist(), *c.tolist(), 0.5, *[1, 0] * (i % 3 * observations))
        (folder / "points3D.txt").write_text(lines)
        return
    data = struct.pack("<QIiQQ", 1, 7, COLMAP_MODELS[model], WIDTH, HEIGHT)
    (folder / "cameras.bin").write_bytes(data + struct.pack(f"<{len(params)}d", *params))
    data = struct.pack("<Q", len(images))
    for i, q, t, name, seen in images:
        data += struct.pack("<I7dI", i, *q, *t, 7) + name.encode() + b"\0"
        data += struct.pack("<Q", len(seen)) + b"".join(struct.pack("<2dQ", *s) for s in seen)
    (folder / "images.bin").write_bytes(data)
    data = struct.pack("<Q", len(points))
    for i, (p, c) in enumerate(points):
        data += struct.pack("<Q3d3BdQ", i + 4, *p, *c.tolist(), 0.5, i % 3 * observations)
        data += struct.pack("<2I", 1, 0) * (i % 3 * observations)
    (folder / "points3D.bin").write_bytes(data)


def assert_same_cameras(capture, scene, names=None):
    assert capture.names == (names or scene.names)
    assert capture.viewmats.dtype == np.float64 and capture.Ks.dtype == np.float32
    np.testing.assert_allclose(capture.viewmats, scene.viewmats, atol=1e-14)
    np.testing.assert_allclose(capture.Ks, np.tile(K, (len(scene.names), 1, 1)), rtol=1e-6)
    np.testing.assert_array_equal(capture.images, scene.images)
    assert capture.images.dtype == np.uint8
    assert (capture.width, capture.height) == (WIDTH, HEIGHT)


def load(path, **kwargs) -> Any:
    """Load a capture; the type does not say which fields may be None."""
    return load_capture(path, **kwargs)


def refusal(path, **kwargs):
    """Return the message with which the folder is refused."""
    with pytest.raises(CaptureError) as error:
        load_capture(path, **kwargs)
    message = str(error.value)
    assert "\n" not in message
    return message
