"""Makes the benchmark scenes: the project's frozen ones if they are at hand, else stand-ins.

A scene is a dictionary of float32 NumPy arrays: means [N, 3], quats [N, 4] wxyz, scales [N, 3],
opacities [N], colors [N, 3], sh [N, 16, 3], viewmat [4, 4], K [3, 3], background [3],
cotangent [H, W, 3] (a fixed derivative of the loss with respect to the image), and the integers
width and height. Times of a frozen scene and of its stand-in must not be compared: ``load`` says
which one it returned.

The blobs of the GPU scenes are the frozen ones with smaller scales: at full size, thousands of
Gaussians would cover each pixel of the largest. The factors were computed from the area in which
the alpha of a Gaussian reaches 1/255, 2 pi log(255 opacity) sqrt(det(cov2d)), summed over the
Gaussians whose centre is in the image: 27 to 29 per pixel in all three, before a pixel ends early.
"""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

_ROOT = Path(__file__).resolve().parents[1]
# The project's data lies beside the repository or in it.
SHARED = next(
    (folder for folder in (_ROOT.parent / "shared", _ROOT / "shared") if folder.is_dir()),
    _ROOT.parent / "shared",
)

COUNTS = {"1k": 1_000, "10k": 10_000, "50k": 50_000, "100k": 100_000}
# "tiny" is for tests, "64" for the cost of a call; the others are those of the frozen scenes.
SIZES = {
    "tiny": (72, 40),
    "64": (64, 64),
    "256": (256, 256),
    "480p": (640, 480),
    "1080p": (1920, 1080),
}
MAIN = ("garden_half", "blob_10k_1080p", "blob_50k_480p")
NAMES = ("garden_half", *(f"blob_{n}_{size}" for size in SIZES for n in COUNTS))

# Number of Gaussians, and the factor of the scales.
GPU_BLOBS = {
    "blob_100k_gpu": (100_000, 0.4),
    "blob_1m_gpu": (1_000_000, 0.12),
    "blob_5m_gpu": (5_000_000, 0.03),
}
GPU = (*GPU_BLOBS, "garden", "trained")


def load(name: str, shared: Path = SHARED) -> tuple[dict[str, Any], str]:
    """Make a scene by name.

    Args:
        name: One of ``NAMES`` or ``GPU``.
        shared: The folder with the frozen scenes and the data of the project.

    Returns:
        The scene, a dictionary of arrays, and "frozen" or "stand-in".

    Raises:
        ValueError: No scene has this name.
        FileNotFoundError: The trained scene, which has no stand-in, is not there.
    """
    if name not in (*NAMES, *GPU):
        raise ValueError(f"no scene is called {name!r}; there are {', '.join((*NAMES, *GPU))}")
    if name == "trained":
        return _trained(shared / "data" / "splats" / "playbot_lod3" / "playbot_lod3.ply"), "frozen"
    frozen = _frozen_module(shared / "bench" / "scenes.py")
    if name.startswith("garden"):
        downscale = 2 if name == "garden_half" else 1
        if frozen is not None and Path(frozen.GARDEN).exists():
            return frozen.garden(downscale=downscale), "frozen"
        return _ground_and_objects(138_766, 648 // downscale, 420 // downscale), "stand-in"
    make, source = (_cloud, "stand-in") if frozen is None else (frozen.blob, "frozen")
    if name in GPU_BLOBS:
        count, factor = GPU_BLOBS[name]
        scene = make(count, *SIZES["1080p"])
        return scene | {"scales": scene["scales"] * np.float32(factor)}, source
    _, count, size = name.split("_")
    return make(COUNTS[count], *SIZES[size]), source


def _frozen_module(path: Path) -> ModuleType | None:
    if not path.exists():
        return None
    spec = importlib.util.spec_from_file_location("frozen_benchmark_scenes", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _trained(path):
    """Load a robot of 31 000 Gaussians; it stands on y = 0, y down, 2 wide and 1 high."""
    # Imported only here: the other scenes need only NumPy, and this is the package under test.
    from jax_gsplat_depth.io import read_ply

    gaussians = read_ply(path)
    n = len(gaussians.means)
    width, height = SIZES["1080p"]
    viewmat = _look_at(np.array([1.3, -1.3, 1.6]), np.array([0.0, -0.45, 0.0]), up=(0, -1, 0))
    names = ("means", "scales", "quats", "opacities")
    arrays = {name: np.asarray(getattr(gaussians, name)) for name in names}
    # Not every renderer takes quaternions of any length, which the file holds.
    arrays["quats"] = arrays["quats"] / np.linalg.norm(arrays["quats"], axis=1, keepdims=True)
    scene = _finish(
        np.random.default_rng(n),
        *arrays.values(),
        viewmat,
        1.2 * height,
        width,
        height,
    )
    # Degree 2, padded with zeros to degree 3: all renderers then do the same work.
    sh = np.zeros((n, 16, 3), np.float32)
    assert gaussians.sh is not None
    sh[:, : gaussians.sh.shape[1]] = np.asarray(gaussians.sh)[:, :16]
    colors = np.maximum(0.5 + sh[:, 0] / np.float32(np.sqrt(4 * np.pi)), 0)
    return scene | {"sh": sh, "colors": colors}


def _look_at(eye, target, up=(0.0, 0.0, 1.0)):
    """Return the world-to-camera matrix with camera axes x right, y down, z forward."""
    forward = np.subtract(target, eye).astype(np.float64)
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, up)
    right /= np.linalg.norm(right)
    viewmat = np.eye(4)
    viewmat[:3, :3] = np.stack([right, np.cross(forward, right), forward])
    viewmat[:3, 3] = -viewmat[:3, :3] @ eye
    return viewmat


def _finish(rng, means, scales, quats, opacities, viewmat, focal, width, height):
    """Add appearance, intrinsics and the cotangent; convert to float32."""
    n = len(means)
    sh = rng.normal(0.0, 0.1, (n, 16, 3))
    colors = rng.uniform(0.0, 1.0, (n, 3))
    sh[:, 0] = (colors - 0.5) * np.sqrt(4 * np.pi)
    arrays = {
        "means": means,
        "scales": scales,
        "quats": quats,
        "opacities": opacities,
        "colors": colors,
        "sh": sh,
        "viewmat": viewmat,
        "K": [[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]],
        "background": [0.1, 0.2, 0.3],
        "cotangent": rng.standard_normal((height, width, 3)),
    }
    scene = {key: np.ascontiguousarray(value, np.float32) for key, value in arrays.items()}
    return scene | {"width": np.int32(width), "height": np.int32(height)}


def _cloud(n, width, height):
    """Make anisotropic Gaussians that fill the view evenly: all tiles have about the same load."""
    rng = np.random.default_rng(n + width)
    viewmat = _look_at(np.array([2.0, -1.5, 1.0]), np.zeros(3))
    focal = 1.2 * height
    depth = rng.uniform(2.0, 4.0, n)
    pixels = rng.uniform([-0.05, -0.05], [1.05, 1.05], (n, 2)) * [width, height]
    in_camera = np.concatenate([(pixels - [width / 2, height / 2]) / focal, np.ones((n, 1))], 1)
    means = (in_camera * depth[:, None] - viewmat[:3, 3]) @ viewmat[:3, :3]
    scales = 0.02 * np.exp(0.5 * rng.standard_normal((n, 3)))
    quats = rng.standard_normal((n, 4))
    quats /= np.linalg.norm(quats, axis=1, keepdims=True)
    opacities = rng.uniform(0.1, 0.9, n)
    return _finish(rng, means, scales, quats, opacities, viewmat, focal, width, height)


def _ground_and_objects(n, width, height):
    """Make round Gaussians on a plane, boxes and a far shell: few tiles carry most of the load."""
    rng = np.random.default_rng(n)
    part = rng.choice(3, n, p=[0.4, 0.4, 0.2])
    direction = rng.standard_normal((n, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    ground = np.concatenate([rng.normal(0.0, 2.0, (n, 2)), np.zeros((n, 1))], 1)
    boxes = direction / np.abs(direction).max(1, keepdims=True) * 0.4
    box_centres = np.array([[0.0, 0.0, 0.4], [1.2, 0.5, 0.4], [-0.8, 1.5, 0.4]])
    boxes += box_centres[rng.integers(3, size=n)]
    shell = 20.0 * np.abs(direction) * [np.sign(direction[0, 0]), 1.0, 1.0]
    means = np.choose(part[:, None], [ground, boxes, shell])
    size = np.choose(part, [0.02, 0.006, 0.3]) * np.exp(0.4 * rng.standard_normal(n))
    quats = np.tile([1.0, 0.0, 0.0, 0.0], (n, 1))
    viewmat = _look_at(np.array([-2.5, -2.5, 1.6]), np.array([0.2, 0.3, 0.3]))
    focal = 0.75 * width
    scales, opacities = np.repeat(size[:, None], 3, 1), np.full(n, 0.7)
    return _finish(rng, means, scales, quats, opacities, viewmat, focal, width, height)
