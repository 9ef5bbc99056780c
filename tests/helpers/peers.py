"""Stands for other rasterizers: their signatures, read on 2026-11-30, over this package.

Each body is what docs/migration.md says to write instead. Only what the tests call is there; the
arguments that change nothing, or that are not here, are not read.
"""

import dataclasses
import inspect

import jax
import jax.numpy as jnp

import jax_gsplat_depth as jgd


def gsplat_rasterization(  # gsplat 1.5.3, gsplat/rendering.py
    means,
    quats,
    scales,
    opacities,
    colors,
    viewmats,
    Ks,
    width,
    height,
    near_plane=0.01,
    far_plane=1e10,
    radius_clip=0.0,
    eps2d=0.3,
    sh_degree=None,
    packed=True,
    tile_size=16,
    backgrounds=None,
    render_mode="RGB",
    sparse_grad=False,
    absgrad=False,
    rasterize_mode="classic",
    channel_chunk=32,
    distributed=False,
    camera_model="pinhole",
    segmented=False,
    covars=None,
    with_ut=False,
    with_eval3d=False,
    radial_coeffs=None,
    tangential_coeffs=None,
    thin_prism_coeffs=None,
    ftheta_coeffs=None,
    rolling_shutter=None,
    viewmats_rs=None,
):
    """Return render_colors, render_alphas and meta."""
    shape = {"covars": covars} if covars is not None else {"quats": quats, "scales": scales}
    seen = {"colors": colors} if sh_degree is None else {"sh": colors}
    out = jgd.render(
        jgd.Gaussians(means, opacities=opacities, **shape, **seen),
        jgd.Camera(viewmats, Ks, width=width, height=height),
        background=backgrounds,
        sh_degree=sh_degree,
        config=jgd.Config(
            near_plane=near_plane,
            far_plane=far_plane,
            eps2d=eps2d,
            antialiased=rasterize_mode == "antialiased",
        ),
    )
    depth = {"D": out.depth * out.weight, "ED": out.depth}.get(render_mode.split("+")[-1])
    parts = [out.image] if render_mode.startswith("RGB") else []
    parts += [] if depth is None else [depth[..., None]]
    return jnp.concatenate(parts, axis=-1), out.weight[..., None], {"radii": out.radii}


def gsplat_spherical_harmonics(degrees_to_use, dirs, coeffs, masks=None):
    """Return the raw sum."""
    return jgd.sh.evaluate(coeffs, dirs, sh_degree=degrees_to_use)


def gsplat_quat_scale_to_covar_preci(
    quats, scales, compute_covar=True, compute_preci=True, triu=False
):
    """Return covariances and precision matrices."""
    return tuple(jgd.covariances(quats, s, triu=triu) for s in (scales, 1 / scales))


def splax_render(  # splax 0.2.3, splax/_render.py; 0.1.1 has sh_colors (N, 3)
    means3d,
    log_scales,
    quats,
    sh_colors,
    logit_opacities,
    *,
    viewmat,
    background,
    img_shape,
    f,
    c=None,
    dist=(0.0,) * 5,
    glob_scale=1.0,
    clip_thresh=0.01,
    antialiased=False,
    render_depth=False,
    gaussian_transforms=None,
    gaussian_slices=None,
):
    """Return the image, with the depth as fourth channel if asked for, and alpha."""
    height, width = img_shape
    cx, cy = (width / 2, height / 2) if c is None else c
    gaussians = jgd.Gaussians(
        means=means3d,
        quats=quats,
        scales=glob_scale * jnp.exp(log_scales),
        opacities=jax.nn.sigmoid(logit_opacities),
        sh=sh_colors if sh_colors.ndim == 3 else sh_colors[:, None],
    )
    K = jnp.array([[f[0], 0, cx], [0, f[1], cy], [0, 0, 1]])
    camera = jgd.Camera(viewmat, K, width=width, height=height)
    config = jgd.Config(near_plane=clip_thresh, antialiased=antialiased)
    out = jgd.render(gaussians, camera, background=background, config=config)
    channels = [out.image, out.depth[..., None]] if render_depth else [out.image]
    return jnp.concatenate(channels, axis=-1), out.weight


def splax_spherical_harmonics(coeffs, directions):
    """Return the colours."""
    return jnp.maximum(jgd.sh.evaluate(coeffs, directions) + 0.5, 0)


def ashawkey_rasterizer(
    settings,
    means3D,
    means2D,
    opacities,
    shs=None,
    colors_precomp=None,
    scales=None,
    rotations=None,
    cov3D_precomp=None,
):
    """Return rendered_image, radii, rendered_depth and rendered_alpha."""
    image, radii, depth_map, weight_map = jgd.GaussianRasterizer(settings)(
        means3D, means2D, opacities, shs, colors_precomp, scales, rotations, cov3D_precomp
    )
    return image, radii, (depth_map * weight_map)[None], (weight_map - 1e-6)[None]


def _parameters(*functions):
    return {name for f in functions for name in inspect.signature(f).parameters}


_RASTERIZER = {
    "GaussianRasterizationSettings",
    "rasterizer",
    "rendered_image",
    "radii",
    *(field.name for field in dataclasses.fields(jgd.GaussianRasterizationSettings)),
    *_parameters(ashawkey_rasterizer),
}

# What the first column of a section's tables may name.
NAMES = {
    "ashawkey": _RASTERIZER | {"rendered_depth", "rendered_alpha"},
    "gsplat": _parameters(
        gsplat_rasterization, gsplat_spherical_harmonics, gsplat_quat_scale_to_covar_preci
    )
    | {"spherical_harmonics", "quat_scale_to_covar_preci", "fully_fused_projection"}
    | {"isect_tiles", "isect_offset_encode", "rasterize_to_pixels", "rasterization_2dgs"}
    | {"render_colors", "render_alphas", "meta", "DefaultStrategy", "MCMCStrategy"}
    | {"classic", "antialiased", "pinhole", "RGB", "D", "ED", "RGB+D", "RGB+ED"},
    "splax": _parameters(splax_render, splax_spherical_harmonics)
    | {"spherical_harmonics", "project", "rasterize", "rasterize_depth", "image", "alpha", "jax"}
    | {"io.apply_activations", "io.invert_activations", "io.load_ply", "io.write_ply"}
    | {"mcmc.relocate", "mcmc.inject_noise", "mcmc.compute_relocation"},
}
