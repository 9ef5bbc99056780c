"""Builds small deterministic scenes.

Every number is exactly representable in float32, so that a float32 run and the float64 reference
see the same scene. Arrays are float64 NumPy; ``Scene.inputs`` casts them.
"""

import dataclasses

import numpy as np

# A generic orientation and position: no axis of world and camera coincide.
_ROTATION = (0.9, 0.1, 0.35, -0.2)
_TRANSLATION = (0.1, -0.2, 3.0)

CUTOFF = 1 / 255


def _round(x):
    return np.asarray(x, np.float32).astype(np.float64)


def rotation(quat):
    """Rotation matrix of a wxyz quaternion of any length."""
    w, x, y, z = np.asarray(quat, np.float64) / np.linalg.norm(quat)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


@dataclasses.dataclass(frozen=True)
class Scene:
    """Gaussians with every colour form, one camera or ``C`` of them, and a background."""

    means: np.ndarray
    quats: np.ndarray
    scales: np.ndarray
    opacities: np.ndarray
    sh: np.ndarray
    colors: np.ndarray
    viewmat: np.ndarray
    K: np.ndarray
    background: np.ndarray
    width: int
    height: int

    @property
    def n(self):
        """Number of Gaussians."""
        return self.means.shape[0]

    @property
    def batch(self):
        """``()``, or ``(C,)`` with a camera axis."""
        return self.viewmat.shape[:-2]

    def replace(self, **fields):
        """Copy with some fields replaced, rounded to float32."""
        rounded = {k: v if isinstance(v, int) else _round(v) for k, v in fields.items()}
        return dataclasses.replace(self, **rounded)

    def take(self, index):
        """Keep the Gaussians of ``index``, in that order."""
        names = ("means", "quats", "scales", "opacities", "sh", "colors")
        return dataclasses.replace(self, **{k: getattr(self, k)[index] for k in names})

    def camera_at(self, c):
        """The scene with camera ``c`` alone."""
        return dataclasses.replace(self, viewmat=self.viewmat[c], K=self.K[c])

    def covars(self):
        """World-frame covariances ``(N, 3, 3)``."""
        if self.n == 0:
            return np.zeros((0, 3, 3))
        m = np.stack([rotation(q) for q in self.quats]) * self.scales[:, None, :]
        return _round(m @ m.transpose(0, 2, 1))

    def inputs(self, dtype, *, color="colors", shape="quats", offset=True, background=True):
        """Every differentiable input by name, in ``dtype``.

        ``color`` is "colors" or "sh"; ``shape`` is "quats", "covars6" or "covars33".
        """
        out = {"means": self.means}
        if shape == "quats":
            out |= {"quats": self.quats, "scales": self.scales}
        elif shape == "covars33":
            out["covars"] = self.covars()
        else:
            out["covars"] = self.covars()[:, [0, 0, 0, 1, 1, 2], [0, 1, 2, 1, 2, 2]]
        out |= {"opacities": self.opacities, color: getattr(self, color)}
        out |= {"viewmat": self.viewmat, "K": self.K}
        if background:
            out["background"] = self.background if color == "colors" else self.background[..., :3]
        if offset:
            out["means2d_offset"] = np.zeros((*self.batch, self.n, 2))
        return {k: np.asarray(v, dtype) for k, v in out.items()}

    def gaussians(self, dtype=np.float32, *, color="colors", shape="quats"):
        """The scene's ``jgd.Gaussians``."""
        return build(self.inputs(dtype, color=color, shape=shape), self)[0]

    def camera(self, dtype=np.float32):
        """The scene's ``jgd.Camera``."""
        return build(self.inputs(dtype), self)[1]


def build(inputs, scene):
    """``(Gaussians, Camera)`` from a dict as made by ``Scene.inputs``; traceable."""
    import jax.numpy as jnp

    import jax_gsplat_depth as jgd

    x = {k: jnp.asarray(v) for k, v in inputs.items()}
    names = ("means", "quats", "scales", "opacities", "sh", "colors", "covars")
    gaussians = jgd.Gaussians(**{k: x[k] for k in names if k in x})
    return gaussians, jgd.Camera(x["viewmat"], x["K"], width=scene.width, height=scene.height)


def random_scene(
    n,
    width,
    height,
    *,
    seed=0,
    channels=3,
    bases=16,
    cameras=None,
    focal=1.2,
    sigma_px=(0.7, 4.0),
    opacity=(0.1, 0.95),
    z=(2.0, 6.0),
    spread=1.1,
    centre=(0.5, 0.5),
):
    """``n`` Gaussians in the frustum of a generic camera.

    Args:
        n: Number of Gaussians.
        width: Image width in pixels.
        height: Image height in pixels.
        seed: Seed of every random number.
        channels: Channels of ``colors`` and ``background``.
        bases: Bases of ``sh``.
        cameras: Number of cameras, or None for no camera axis.
        focal: Focal length in units of the image height.
        sigma_px: Range of the axes' standard deviations on screen, log-uniform.
        opacity: Range of the opacities.
        z: Range of depth; evenly spread, so that no two Gaussians nearly tie.
        spread: Half-extent of the centres in units of half the image.
        centre: Principal point in units of width and height.
    """
    rng = np.random.default_rng(seed)
    f = focal * height
    depth = z[0] + (z[1] - z[0]) * (rng.permutation(n) + rng.uniform(0.2, 0.8, n)) / max(n, 1)
    uv = rng.uniform(-spread, spread, (n, 2)) * [width / 2, height / 2] + [width / 2, height / 2]
    xy = (uv - [centre[0] * width, centre[1] * height]) / f * depth[:, None]
    local = np.concatenate([xy, depth[:, None]], 1)
    rot = rotation(_ROTATION)
    viewmat = np.eye(4)
    viewmat[:3, :3], viewmat[:3, 3] = rot, _TRANSLATION
    means = (local - _TRANSLATION) @ rot
    sigma = np.exp(rng.uniform(*np.log(sigma_px), (n, 3)))
    intrinsics = np.array(
        [[f, 0, centre[0] * width], [0, 1.07 * f, centre[1] * height], [0, 0, 1.0]]
    )
    sh = rng.normal(0, 0.25, (n, bases, 3))
    if cameras is not None:
        views, ks = [], []
        for c in range(cameras):
            turn = np.eye(4)
            turn[:3, :3] = rotation([1, 0.02 * c, -0.03 * c, 0.05 * c])
            turn[:3, 3] = [0.1 * c, -0.07 * c, 0.05 * c]
            views.append(turn @ viewmat)
            ks.append(intrinsics * (1 + 0.03 * c * np.array([[1], [1], [0]])))
        viewmat, intrinsics = np.stack(views), np.stack(ks)
    return Scene(
        means=_round(means),
        quats=_round(rng.normal(size=(n, 4))),
        scales=_round(sigma * depth[:, None] / f),
        opacities=_round(rng.uniform(*opacity, n)),
        sh=_round(sh),
        colors=_round(rng.uniform(0, 1, (n, channels))),
        viewmat=_round(viewmat),
        K=_round(intrinsics),
        background=_round(rng.uniform(0, 1, channels)),
        width=width,
        height=height,
    )


def smooth(seed=0, **kwargs):
    """Few wide Gaussians: alpha far above the cutoff and T far above the stop at every pixel."""
    options = {"sigma_px": (18.0, 30.0), "opacity": (0.2, 0.6), "spread": 0.5} | kwargs
    return random_scene(8, 20, 18, seed=seed, **options)


def dense(n=120, width=48, height=48, seed=1, **kwargs):
    """Many overlapping Gaussians of all sizes, several tiles; some pixels stop early."""
    return random_scene(n, width, height, seed=seed, **({"sigma_px": (0.5, 8.0)} | kwargs))


def boundary(seed=2, **kwargs):
    """Sizes not multiples of 16, off-centre principal point, wide field, border and behind.

    The centres reach far outside the image, where the Jacobian's limit is active; every seventh
    Gaussian is behind the camera or nearer than the near plane.
    """
    options = {"focal": 0.35, "spread": 2.2, "centre": (0.37, 0.66), "sigma_px": (1.0, 14.0)}
    scene = random_scene(100, 43, 37, seed=seed, **(options | kwargs))
    view = scene.viewmat.reshape(-1, 4, 4)[0]
    local = scene.means @ view[:3, :3].T + view[:3, 3]
    local[::7, 2] = np.linspace(-3.0, 0.009, len(local[::7]))
    inverse = np.linalg.inv(view)
    return scene.replace(means=local @ inverse[:3, :3].T + inverse[:3, 3])


def saturated(seed=3, **kwargs):
    """Opacity 1: the alpha cap is active at the centres and most pixels stop early."""
    options = {"opacity": (1.0, 1.0), "sigma_px": (2.0, 9.0)}
    return random_scene(80, 40, 33, seed=seed, **(options | kwargs))


def big(width=70, height=50, **kwargs):
    """One Gaussian that covers every pixel."""
    options = {"sigma_px": (90.0, 140.0), "opacity": (0.7, 0.8), "spread": 0.1}
    return random_scene(1, width, height, seed=4, **(options | kwargs))


def single(width=20, height=20, u=10.3, v=9.1, sigma_px=2.0, opacity=0.8, **kwargs):
    """One isotropic Gaussian centred at pixel position (u, v), camera axes equal to the world's."""
    scene = random_scene(1, width, height, seed=5, **kwargs)
    f, depth = 32.0, 4.0
    view = np.eye(4)
    k = np.array([[f, 0, width / 2], [0, f, height / 2], [0, 0, 1.0]])
    return scene.replace(
        means=[[(u - width / 2) / f * depth, (v - height / 2) / f * depth, depth]],
        quats=[[1.0, 0, 0, 0]],
        scales=np.full((1, 3), sigma_px * depth / f),
        opacities=[opacity],
        viewmat=np.broadcast_to(view, (*scene.batch, 4, 4)),
        K=np.broadcast_to(k, (*scene.batch, 3, 3)),
    )


def empty(width=21, height=18, **kwargs):
    """No Gaussians at all."""
    return random_scene(0, width, height, seed=6, **kwargs)


def ties(seed=7, **kwargs):
    """Groups of Gaussians at exactly equal depth, also in floating point: the camera is the world.

    A permutation of the list inside a group changes the picture; the lower index is in front.
    """
    scene = random_scene(60, 40, 36, seed=seed, sigma_px=(3.0, 9.0), opacity=(0.5, 0.95), **kwargs)
    f = 44.0
    depth = 2.0 + np.arange(60) % 4
    rng = np.random.default_rng(seed)
    xy = rng.uniform(-0.4, 0.4, (60, 2)) * depth[:, None]
    return scene.replace(
        means=np.concatenate([xy, depth[:, None]], 1),
        viewmat=np.eye(4),
        K=[[f, 0, 20], [0, f, 18], [0, 0, 1.0]],
    )


# Name -> (field, value for the whole row, or (component, value)). All of these are culled.
POISONS = {
    **{
        f"{field}_{word}": (field, (1 if field != "opacities" else None, value))
        for field in ("means", "quats", "scales", "opacities")
        for word, value in (("nan", np.nan), ("inf", np.inf), ("-inf", -np.inf))
    },
    "quats_zero": ("quats", (None, 0.0)),
    "scales_zero": ("scales", (2, 0.0)),
    "scales_negative": ("scales", (0, -0.1)),
    "opacities_negative": ("opacities", (None, -0.5)),
    "opacities_zero": ("opacities", (None, 0.0)),
    "opacities_cutoff": ("opacities", (None, float(np.float32(CUTOFF) * np.float32(0.999)))),
    "sh_nan": ("sh", (0, np.nan)),
    "sh_inf": ("sh", (0, np.inf)),
    "colors_nan": ("colors", (1, np.nan)),
    "colors_inf": ("colors", (0, np.inf)),
}

# Lawful but extreme: drawn or culled as the formulas say; nothing non-finite may come out.
EXTREMES = {
    "means_huge": ("means", (0, 1e30)),
    "means_huge_z": ("means", (None, 1e30)),
    "scales_huge": ("scales", (None, 1e30)),
    "scales_large": ("scales", (None, 1e12)),
    "scales_denormal": ("scales", (None, 1e-40)),
    "quats_huge": ("quats", (None, 1e30)),
    "quats_denormal": ("quats", (None, 1e-40)),
    "opacities_above_one": ("opacities", (None, 7.0)),
    "opacities_huge": ("opacities", (None, 1e30)),
    "colors_huge": ("colors", (None, 1e30)),
    "sh_huge": ("sh", (None, 1e30)),
}


def poison(scene, rows, name):
    """Overwrite one field of the Gaussians ``rows`` as ``POISONS`` or ``EXTREMES`` says."""
    field, (component, value) = (POISONS | EXTREMES)[name]
    array = getattr(scene, field).copy()
    if component is None:
        array[rows] = value
    else:
        array[rows, component] = value
    return dataclasses.replace(scene, **{field: array})
