"""Tests that wrong arguments of ``render`` raise while tracing and are named.

The stages that take Gaussians and a camera refuse the same. ``test_validation_stages.py`` has what
``bin`` and ``blend`` take, and what is accepted.
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.valid import C, D, H, N, W, camera, gaussians, ones, raises, replace

import jax_gsplat_depth as jgd
from jax_gsplat_depth import _check

# The functions that take Gaussians and a camera, so that none of them forgets a check.
TAKES_GAUSSIANS = {
    "render": lambda g: jgd.render(g, camera()),
    "project": lambda g: jgd.project(g, camera()),
    "shade": lambda g: jgd.shade(g, camera()),
}
TAKES_CAMERA = {
    "render": lambda c: jgd.render(gaussians(), c),
    "project": lambda c: jgd.project(gaussians(), c),
    "shade": lambda c: jgd.shade(gaussians(), c),
}
FIELDS = {
    "means": (N, 3),
    "quats": (N, 4),
    "scales": (N, 3),
    "opacities": (N,),
    "sh": (N, 4, 3),
    "colors": (N, D),
    "covars": (N, 6),
}


def with_field(field, value):
    """Gaussians that have ``field``, and not what excludes it."""
    if field == "colors":
        return gaussians(sh=None, colors=value)
    if field == "covars":
        return gaussians(quats=None, scales=None, covars=value)
    return gaussians(**{field: value})


# ------------------------------------------------------------------------------ Gaussians

# field, wrong shape, what the message expects, hint
SHAPE_ERRORS = [
    ("means", (N,), "(N, 3)", ""),
    ("means", (N, 4), "(N, 3)", ""),
    ("means", (C, N, 3), "(N, 3)", ""),
    ("means", (), "(N, 3)", ""),
    ("quats", (5, 4), "(N, 4) with N = 7 (from gaussians.means)", ""),
    ("quats", (N, 3), "(N, 4) with N = 7 (from gaussians.means)", ""),
    ("quats", (4, N), "(N, 4) with N = 7 (from gaussians.means)", ""),
    ("quats", (C, N, 4), "(N, 4) with N = 7 (from gaussians.means)", ""),
    ("scales", (N,), "(N, 3) with N = 7 (from gaussians.means)", ""),
    ("scales", (1, 3), "(N, 3) with N = 7 (from gaussians.means)", ""),
    ("scales", (N, 1), "(N, 3) with N = 7 (from gaussians.means)", ""),
    ("opacities", (8,), "(N,) with N = 7 (from gaussians.means)", ""),
    ("opacities", (), "(N,) with N = 7 (from gaussians.means)", ""),
    ("opacities", (N, 1), "(N,) with N = 7 (from gaussians.means)", "drop the last axis"),
    ("sh", (6, 4, 3), "(N, B, 3) with N = 7 (from gaussians.means)", ""),
    (
        "sh",
        (N, 3),
        "(N, B, 3) with N = 7 (from gaussians.means)",
        "reshape to (N, B, 3), the bases before the channels",
    ),
    ("sh", (N, 16), "(N, B, 3) with N = 7 (from gaussians.means)", ""),
    ("sh", (N, 4, 4), "(N, B, 3) with N = 7 (from gaussians.means)", ""),
    (
        "sh",
        (N, 3, 16),
        "(N, B, 3) with N = 7 (from gaussians.means)",
        "swap the last two axes",
    ),
    (
        "sh",
        (N, 48),
        "(N, B, 3) with N = 7 (from gaussians.means)",
        "reshape to (N, B, 3), the bases before the channels",
    ),
    ("sh", (N, 5, 3), "(N, B, 3) with B = 1, 4, 9, 16 or 25", ""),
    ("sh", (N, 0, 3), "(N, B, 3) with B = 1, 4, 9, 16 or 25", ""),
    ("sh", (N, 36, 3), "(N, B, 3) with B = 1, 4, 9, 16 or 25", ""),
    (
        "colors",
        (N,),
        "(N, D) or (C, N, D) with N = 7 (from gaussians.means)",
        "a single channel is colors[:, None]",
    ),
    ("colors", (6, D), "(N, D) or (C, N, D) with N = 7 (from gaussians.means)", ""),
    ("colors", (C, 6, D), "(N, D) or (C, N, D) with N = 7 (from gaussians.means)", ""),
    ("covars", (N, 9), "(N, 6) or (N, 3, 3) with N = 7 (from gaussians.means)", ""),
    ("covars", (6, 3, 3), "(N, 6) or (N, 3, 3) with N = 7 (from gaussians.means)", ""),
    ("covars", (N, 3), "(N, 6) or (N, 3, 3) with N = 7 (from gaussians.means)", ""),
]


@pytest.mark.parametrize("stage", TAKES_GAUSSIANS)
@pytest.mark.parametrize("field, shape, expected, hint", SHAPE_ERRORS)
def test_gaussians_shape(field, shape, expected, hint, stage):
    message = f"gaussians.{field} has shape {shape}, expected {expected}"
    message += f"; {hint}" if hint else ""
    value = with_field(field, ones(*shape))
    raises(ValueError, message, TAKES_GAUSSIANS[stage], value)
    with pytest.raises(ValueError, match=re.escape(message) + "$"):
        TAKES_GAUSSIANS[stage](value)


def test_number_of_channels():
    message = "gaussians.colors has D = 32769 channels, expected 0 to 32768"
    value = with_field("colors", ones(N, 2**15 + 1))
    for call in TAKES_GAUSSIANS.values():
        raises(ValueError, message, call, value)


def test_colors_of_other_cameras():
    value = with_field("colors", ones(C, N, D))
    for function in (jgd.render, jgd.shade, jgd.view_statistics):
        message = "gaussians.colors has shape (2, 7, 5), expected (N, D): the camera has no"
        raises(ValueError, message, function, value, camera())
        message = "gaussians.colors has shape (2, 7, 5), expected (N, D) or (C, N, D) with C = 3"
        raises(ValueError, message, function, value, camera(3))


GEOMETRY = "are both given: expected quats and scales, or covars"
CONFLICTS = [
    ({"scales": None, "covars": (N, 6)}, f"gaussians.quats and gaussians.covars {GEOMETRY}"),
    ({"quats": None, "covars": (N, 6)}, f"gaussians.scales and gaussians.covars {GEOMETRY}"),
    ({"covars": (N, 6)}, f"gaussians.quats and gaussians.covars {GEOMETRY}"),
    (
        {"colors": (N, D)},
        "gaussians.sh and gaussians.colors are both given: expected one of them",
    ),
]


@pytest.mark.parametrize("stage", TAKES_GAUSSIANS)
@pytest.mark.parametrize("changes, message", CONFLICTS)
def test_two_descriptions_of_the_same(changes, message, stage):
    arrays = {k: v if v is None else ones(*v) for k, v in changes.items()}
    raises(ValueError, message, TAKES_GAUSSIANS[stage], replace(gaussians(), **arrays))


MISSING = [
    ("means", ["project", "shade", "render"], "gaussians.means is missing"),
    ("quats", ["project", "render"], "gaussians.quats is missing: expected quats and scales, or"),
    ("scales", ["project", "render"], "gaussians.scales is missing: expected quats and scales, or"),
    ("opacities", ["project", "render"], "gaussians.opacities is missing"),
    ("sh", ["shade", "render"], "gaussians.sh and gaussians.colors are both missing: expected one"),
]


@pytest.mark.parametrize("field, stages, message", MISSING, ids=[m[0] for m in MISSING])
def test_missing_field(field, stages, message):
    value = replace(gaussians(), **{field: None})
    for stage, call in TAKES_GAUSSIANS.items():
        if stage in stages:
            raises(ValueError, message, call, value)
        else:
            jax.eval_shape(call, value)


@pytest.mark.parametrize("dtype", ["int32", "bool", "float16", "bfloat16", "complex64", "uint8"])
@pytest.mark.parametrize("field", FIELDS)
def test_gaussians_dtype(field, dtype):
    expected = "float32 or float64" if field == "means" else "float32 (from gaussians.means)"
    message = f"gaussians.{field} has dtype {dtype}, expected {expected}"
    value = with_field(field, ones(*FIELDS[field], dtype=dtype))
    for call in TAKES_GAUSSIANS.values():
        raises(TypeError, message, call, value)


@pytest.mark.parametrize("field", [field for field in FIELDS if field != "means"])
def test_mixed_float_dtypes(field, x64):
    value = with_field(field, ones(*FIELDS[field], dtype=jnp.float64))
    message = f"gaussians.{field} has dtype float64, expected float32 (from gaussians.means)"
    for call in TAKES_GAUSSIANS.values():
        raises(TypeError, message, call, value)


def test_means_decide_the_dtype(x64):
    value = gaussians(means=ones(N, 3, dtype=jnp.float64))
    message = "gaussians.quats has dtype float32, expected float64 (from gaussians.means)"
    raises(TypeError, message, jgd.render, value, camera(dtype=jnp.float64))


NOT_NUMBERS = [
    ("means", "means", "has dtype <U5, expected float32 or float64"),
    ("scales", object(), "has dtype object, expected float32 or float64"),
    ("opacities", [None] * N, "has dtype object, expected float32 or float64"),
    ("opacities", np.ones(N, bool), "has dtype bool, expected float32 or float64"),
    ("opacities", np.ones(N, complex), "has dtype complex128, expected float32 or float64"),
    ("scales", [[1.0], [2.0, 3.0]], "cannot be read as an array: "),
    ("scales", [[jnp.float32(1)], [2.0, 3.0]], "cannot be read as an array: "),
    (
        "opacities",
        [jnp.float16(1)] * N,
        "has dtype float16, expected float32 (from gaussians.means)",
    ),
    ("means", jax.random.key(0), "has dtype key<fry>, expected float32 or float64"),
]


@pytest.mark.parametrize("stage", TAKES_GAUSSIANS)
@pytest.mark.parametrize("field, value, message", NOT_NUMBERS, ids=range(len(NOT_NUMBERS)))
def test_not_numbers(field, value, message, stage):
    message = f"gaussians.{field} {message}"
    raises(TypeError, message, TAKES_GAUSSIANS[stage], gaussians(**{field: value}))


@pytest.mark.parametrize("stage", TAKES_GAUSSIANS)
@pytest.mark.parametrize("value", [None, 3, {"means": 1}, (1, 2), "gaussians"], ids=repr)
def test_not_gaussians(stage, value):
    message = f"gaussians has type {type(value).__name__}, expected Gaussians"
    raises(TypeError, message, TAKES_GAUSSIANS[stage], value)


def test_swapped_arguments():
    with pytest.raises(TypeError, match="gaussians has type Camera, expected Gaussians"):
        jgd.render(camera(), gaussians())  # pyright: ignore[reportArgumentType]


def test_too_many_gaussians():
    def check(means):
        return _check.check_gaussians(jgd.Gaussians(means), need=("means",)).means

    limit = 2**31 - 1
    jax.eval_shape(check, jax.ShapeDtypeStruct((limit, 3), np.float32))
    message = f"gaussians.means has N = {limit + 1} Gaussians, expected at most {limit}"
    with pytest.raises(ValueError, match=re.escape(message)):
        jax.eval_shape(check, jax.ShapeDtypeStruct((limit + 1, 3), np.float32))


# --------------------------------------------------------------------------------- camera

VIEWMAT, INTRINSICS = "(4, 4) or (C, 4, 4)", "(3, 3) or (C, 3, 3)"
CAMERA_SHAPE_ERRORS = [
    ("viewmat", (3, 4), f"{VIEWMAT}; append the row 0, 0, 0, 1"),
    ("viewmat", (C, 3, 4), f"{VIEWMAT}; append the row 0, 0, 0, 1"),
    ("viewmat", (1, 1, 4, 4), VIEWMAT),
    ("viewmat", (16,), VIEWMAT),
    ("viewmat", (), VIEWMAT),
    ("K", (4,), f"{INTRINSICS}; K is [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]"),
    ("K", (), f"{INTRINSICS}; K is [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]"),
    ("K", (4, 4), INTRINSICS),
    ("K", (1, 1, 3, 3), INTRINSICS),
]


@pytest.mark.parametrize("stage", TAKES_CAMERA)
@pytest.mark.parametrize("field, shape, expected", CAMERA_SHAPE_ERRORS)
def test_camera_shape(field, shape, expected, stage):
    message = f"camera.{field} has shape {shape}, expected {expected}"
    for value in (ones(*shape), np.ones(shape).tolist()):
        raises(ValueError, message, TAKES_CAMERA[stage], camera(**{field: value}))


CAMERA_AXIS_ERRORS = [
    (
        {"K": (C, 3, 3)},
        "camera.viewmat has shape (4, 4) but camera.K has shape (2, 3, 3): either both or neither "
        "have the leading camera axis C; repeat the other with jnp.broadcast_to",
    ),
    (
        {"viewmat": (C, 4, 4)},
        "camera.viewmat has shape (2, 4, 4) but camera.K has shape (3, 3): either both or neither",
    ),
    (
        {"viewmat": (C, 4, 4), "K": (3, 3, 3)},
        "camera.K has shape (3, 3, 3), expected (3, 3) or (C, 3, 3) with C = 2 (from "
        "camera.viewmat)",
    ),
    (
        {"viewmat": (0, 4, 4), "K": (0, 3, 3)},
        "camera.viewmat and camera.K have C = 0 cameras, expected at least 1",
    ),
]


@pytest.mark.parametrize("stage", TAKES_CAMERA)
@pytest.mark.parametrize("shapes, message", CAMERA_AXIS_ERRORS)
def test_camera_axis(shapes, message, stage):
    value = camera(**{field: ones(*shape) for field, shape in shapes.items()})
    raises(ValueError, message, TAKES_CAMERA[stage], value)


CAMERA_VALUE_ERRORS = [
    ("viewmat", None, ValueError, "is missing"),
    ("K", None, ValueError, "is missing"),
    ("viewmat", ones(4, 4, dtype=jnp.int32), TypeError, "has dtype int32, expected float32 (from"),
    ("K", ones(3, 3, dtype=jnp.float16), TypeError, "has dtype float16, expected float32 (from"),
    ("K", "K", TypeError, "has dtype <U1, expected float32 or float64"),
    ("width", 0, ValueError, "is 0 pixels, expected 1 to 1048576"),
    ("height", -3, ValueError, "is -3 pixels, expected 1 to 1048576"),
    ("width", 2**20 + 1, ValueError, "is 1048577 pixels, expected 1 to 1048576"),
    ("width", 40.0, TypeError, "has type float, expected int: it is static"),
    ("height", True, TypeError, "has type bool, expected int: it is static"),
    ("height", np.bool_(True), TypeError, "has type bool, expected int: it is static"),
    ("width", np.float32(40), TypeError, "has type float32, expected int: it is static"),
    ("width", None, TypeError, "has type NoneType, expected int: it is static"),
    ("width", "40", TypeError, "has type str, expected int: it is static"),
]


@pytest.mark.parametrize("stage", TAKES_CAMERA)
@pytest.mark.parametrize(
    "field, value, error, message", CAMERA_VALUE_ERRORS, ids=range(len(CAMERA_VALUE_ERRORS))
)
def test_camera_value(field, value, error, message, stage):
    message = f"camera.{field} {message}"
    raises(error, message, TAKES_CAMERA[stage], camera(**{field: value}))


def test_camera_of_another_float_dtype(x64):
    message = "camera.viewmat has dtype float64, expected float32 (from gaussians.means)"
    for call in TAKES_CAMERA.values():
        raises(TypeError, message, call, camera(dtype=jnp.float64))


@pytest.mark.parametrize("stage", TAKES_CAMERA)
@pytest.mark.parametrize("value", [None, np.eye(4), (np.eye(4), np.eye(3))], ids=type)
def test_not_a_camera(stage, value):
    message = f"camera has type {type(value).__name__}, expected Camera"
    raises(TypeError, message, TAKES_CAMERA[stage], value)


def test_traced_size():
    def image(width):
        return jgd.render(gaussians(), camera(width=width)).image

    with pytest.raises(TypeError, match=r"camera\.width has type \w*Tracer, expected int"):
        jax.jit(image)(40)
    with pytest.raises(TypeError, match=r"camera\.width has type ArrayImpl, expected int"):
        image(jnp.int32(40))


def test_too_many_pixels():
    side = 2**20
    cameras = camera(17, width=side, height=side)
    message = f"camera.width * camera.height * C = {side} * {side} * 17 pixels, expected at most"
    raises(ValueError, message, jgd.project, gaussians(), cameras)
    _check.check_camera(camera(16, width=side, height=side), np.dtype(np.float32))


# ------------------------------------------------------------------------ other arguments

F32 = "expected float32 (from gaussians.means)"
# argument, value, leading axes of the camera, exception, message after the name of the argument
RENDER_ERRORS = [
    ("background", ones(4), (), ValueError, "has shape (4,), expected (D,) with D = 3 (from the"),
    ("background", 1.0, (), ValueError, "has shape (), expected (D,) with D = 3 (from the image"),
    ("background", ones(H, W, 3), (), ValueError, "has shape (24, 40, 3), expected (D,) with D"),
    ("background", ones(1, 3), (), ValueError, "has shape (1, 3), expected (D,) with D = 3"),
    (
        "background",
        ones(3, 3),
        (C,),
        ValueError,
        "has shape (3, 3), expected (D,) or (C, D) with D = 3 (from the image channels), C = 2 "
        "(from the camera)",
    ),
    ("background", ones(3, dtype=jnp.int32), (), TypeError, f"has dtype int32, {F32}"),
    ("background", "white", (), TypeError, "has dtype <U5, expected float32 or float64"),
    (
        "means2d_offset",
        ones(N + 1, 2),
        (),
        ValueError,
        "has shape (8, 2), expected (N, 2) with N = 7 (from gaussians.means)",
    ),
    ("means2d_offset", ones(N, 3), (), ValueError, "has shape (7, 3), expected (N, 2) with N = 7"),
    ("means2d_offset", ones(C, N, 2), (), ValueError, "has shape (2, 7, 2), expected (N, 2) with"),
    (
        "means2d_offset",
        ones(N, 2),
        (C,),
        ValueError,
        "has shape (7, 2), expected (C, N, 2) with C = 2 (from the camera), N = 7 (from "
        "gaussians.means)",
    ),
    (
        "means2d_offset",
        ones(N, 2, dtype=jnp.bfloat16),
        (),
        TypeError,
        f"has dtype bfloat16, {F32}",
    ),
    ("absgrad_probe", ones(N, 3), (), ValueError, "has shape (7, 3), expected (N, 2) with N = 7"),
    (
        "absgrad_probe",
        ones(N, 2),
        (C,),
        ValueError,
        "has shape (7, 2), expected (C, N, 2) with C = 2 (from the camera), N = 7 (from "
        "gaussians.means)",
    ),
    ("absgrad_probe", ones(N, 2, dtype=jnp.int32), (), TypeError, f"has dtype int32, {F32}"),
    ("sh_degree", -1, (), ValueError, "is -1, expected 0 to 4"),
    ("sh_degree", 5, (), ValueError, "is 5, expected 0 to 4"),
    (
        "sh_degree",
        2,
        (),
        ValueError,
        "is 2 and needs B = 9 coefficients, but gaussians.sh has B = 4: expected at most 1",
    ),
    ("sh_degree", 1.0, (), TypeError, "has type float, expected int: it is static"),
    ("sh_degree", True, (), TypeError, "has type bool, expected int: it is static"),
    ("config", {}, (), TypeError, "has type dict, expected Config"),
    ("config", jgd.Config, (), TypeError, "has type type, expected Config"),
]


@pytest.mark.parametrize(
    "name, value, batch, error, message", RENDER_ERRORS, ids=range(len(RENDER_ERRORS))
)
def test_render_argument(name, value, batch, error, message):
    # The configuration and the degree are static: they are no arguments of a trace.
    render = functools.partial(jgd.render, **{name: value})
    raises(error, f"{name} {message}", render, gaussians(), camera(*batch))
    if name in ("sh_degree", "config"):
        shade = functools.partial(jgd.shade, **{name: value})
        raises(error, f"{name} {message}", shade, gaussians(), camera(*batch))
    if name == "config":
        project = functools.partial(jgd.project, config=value)
        raises(error, f"{name} {message}", project, gaussians(), camera(*batch))


def test_background_of_several_channels():
    value = with_field("colors", ones(N, D))
    message = "background has shape (3,), expected (D,) with D = 5 (from the image channels)"
    raises(ValueError, message, jgd.render, value, camera(), background=ones(3))


def test_traced_sh_degree():
    with pytest.raises(TypeError, match=r"sh_degree has type \w*Tracer, expected int: it is stat"):
        jax.jit(lambda d: jgd.render(gaussians(), camera(), sh_degree=d).image)(1)


def test_sh_degree_with_colors():
    value = with_field("colors", ones(N, D))
    for call in (jgd.render, jgd.shade):
        raises(ValueError, "sh_degree is given but", call, value, camera(), sh_degree=0)


def test_shapes_under_vmap_are_those_of_one_example():
    stacked = jax.tree.map(lambda x: jnp.stack([x, x]), gaussians(quats=ones(N, 3)))
    message = "gaussians.quats has shape (7, 3), expected (N, 4) with N = 7 (from gaussians.means)"
    with pytest.raises(ValueError, match=re.escape(message)):
        jax.vmap(lambda g: jgd.render(g, camera()))(stacked)
