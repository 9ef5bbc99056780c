"""Makes inputs for the tests of the original rasterizers' interface."""

import jax.numpy as jnp
import numpy as np

import jax_gsplat_depth as jgd

ARGUMENTS = ("means3D", "means2D", "opacities", "shs", "colors_precomp", "scales", "rotations")
ARGUMENTS += ("cov3D_precomp",)
OUTPUTS = ("rendered_image", "radii", "depth_map", "weight_map")
SETTINGS = ("tanfovx", "tanfovy", "bg", "scale_modifier", "viewmatrix", "projmatrix", "campos")
STORED = {"colors_precomp": "colors", "cov3D_precomp": "cov3D"}


def settings(**changes):
    """Settings of a camera at the origin that sees 40x24 pixels."""
    eye = np.eye(4, dtype=np.float32)
    fields = {
        "image_height": 24,
        "image_width": 40,
        "tanfovx": 0.5,
        "tanfovy": 0.3,
        "bg": np.zeros(3, np.float32),
        "scale_modifier": 1.0,
        "viewmatrix": eye,
        "projmatrix": projection(0.5, 0.3),
        "sh_degree": 1,
        "campos": np.zeros(3, np.float32),
        "prefiltered": False,
        "debug": False,
    }
    return jgd.GaussianRasterizationSettings(**fields | changes)


def projection(tanfovx, tanfovy, cx=0.5, cy=0.5):
    """Camera to clip coordinates, transposed; the principal point in units of the image size."""
    rows = [[1 / tanfovx, 0, 2 * cx - 1, 0], [0, 1 / tanfovy, 2 * cy - 1, 0]]
    return np.array([*rows, [0, 0, 1, -0.01], [0, 0, 1, 0]], np.float32).T


def render(raster_settings, arguments):
    """The outputs by name."""
    rasterizer = jgd.GaussianRasterizer(raster_settings=raster_settings)
    return dict(zip(OUTPUTS, rasterizer(**arguments), strict=True))


def gaussians(n=12, dtype=np.float32, **changes):
    """Some Gaussians in front of the camera of ``settings``."""
    rng = np.random.default_rng(3)
    z = rng.uniform(1, 3, n)
    quats = rng.normal(size=(n, 4))
    values = {
        "means3D": np.stack([rng.uniform(-0.4, 0.4, n) * z, rng.uniform(-0.25, 0.25, n) * z, z], 1),
        "means2D": np.zeros((n, 3)),
        "opacities": rng.uniform(0.3, 0.9, (n, 1)),
        "shs": rng.normal(0, 0.3, (n, 4, 3)),
        "scales": rng.uniform(0.05, 0.2, (n, 3)),
        "rotations": quats / np.linalg.norm(quats, axis=1, keepdims=True),
    }
    values = {k: v for k, v in (values | changes).items() if v is not None}
    return {k: jnp.asarray(np.asarray(v), dtype) for k, v in values.items()}
