"""Tests the tables of docs/migration.md: names of both sides, and values by hand."""

import inspect
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import peers

import jax_gsplat_depth as jgd

PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "migration.md"
SECTIONS = ("ashawkey", "gsplat", "splax")
DATE = re.compile(r"\bread on 20\d\d-\d\d-\d\d\b")
# Names of this side: of the package, what its functions take and return, and of JAX.
CLASSES = (jgd.Gaussians, jgd.Camera, jgd.Splats, jgd.Bins, jgd.RenderOutput, jgd.Config)
FUNCTIONS = (jgd.render, jgd.blend, jgd.GaussianRasterizer, *CLASSES)
ARGUMENTS = {name for f in FUNCTIONS for name in inspect.signature(f).parameters}
RESULTS = {"depth_map", "weight_map", "log_scales", "logit_opacities", "sh_colors"}
RESULTS |= {"coeffs", "dirs", "directions", "k1 k2 p1 p2"}


def lines(section):
    """The lines of the tables of a section: heading, cells."""
    (text,) = [
        part
        for part in PAGE.read_text(encoding="utf-8").split("\n## ")
        if part.startswith(f"From {section}")
    ]
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        heading, _, *rows = table.splitlines()
        for row in rows:
            yield heading, [cell.strip() for cell in row.strip("|").split(" | ")]


def quoted(cell):
    return re.findall(r"`([^`]+)`", cell)


def is_of_the_other(token, names):
    """Whether all that a piece of their code names is in the stub."""
    token = token.removeprefix("splax.")
    call = re.fullmatch(r"([\w.]+)\(([^()]*)\)", token)
    if call is not None and "=" in token + "=":
        arguments = [a.strip().partition("=")[0] for a in call[2].split(",")]
        return call[1] in names and all(a in names for a in arguments if a)
    values = re.findall(r'"([^"]+)"', token)
    if values and (token[0] == '"' or "=" in token):
        return all(v in names for v in values) and (token[0] == '"' or token.split("=")[0] in names)
    # `name (shape)`, `name=value`, `name[...]` or a name with dots.
    name = re.match(r"[\w.]+", token)
    return name is not None and (name[0] in names or name[0].split(".")[0] in names)


def is_of_this_side(token):
    """Whether a piece of code names what there is, with arguments that it takes."""
    for name, arguments in re.findall(r"\b([A-Za-z_][\w.]*)\(([^()]*)\)", token):
        function = resolve(name)
        if function is None:
            return False
        keywords = re.findall(r"(\w+)=", arguments)
        if keywords and not set(keywords) <= set(inspect.signature(function).parameters):
            return False
    code = re.sub(r"\w+=", "", re.sub(r'"[^"]*"| \([^()]*\)$', "", token))
    return all(resolve(name) is not None for name in re.findall(r"\b[A-Za-z_][\w.]*", code))


def resolve(name):
    """The object of a dotted name, True for a name that has none; None if there is no such."""
    first, *rest = name.split(".")
    if first == "out":
        return True if rest and rest[0] in vars(jgd.RenderOutput)["__annotations__"] else None
    for root in (jgd, {"jax": jax, "jnp": jnp}.get(first)):
        found = root
        for part in rest if root is not jgd else (first, *rest):
            found = getattr(found, part, None)
        if found is not None:
            return found
    of_class = rest and first in ("Camera",) and rest[0] in ARGUMENTS
    is_static = name in ("None", "True", "d", "D", "N", "C", "H", "W")
    return True if of_class or is_static or name in ARGUMENTS | RESULTS else None


@pytest.mark.parametrize("section", SECTIONS)
def test_every_line_is_of_the_stub_or_has_a_date(section):
    rows, wrong = list(lines(section)), []
    assert len(rows) > 8
    for heading, cells in rows:
        if DATE.search(heading + cells[0]) is None:
            left = quoted(cells[0])
            if not left or not all(is_of_the_other(t, peers.NAMES[section]) for t in left):
                wrong.append(cells[0])
            wrong += [t for t in quoted(cells[1]) if t not in RESULTS and not is_of_this_side(t)]
    assert not wrong


def test_wrong_lines_are_found():
    names = peers.NAMES
    assert not is_of_the_other("splax.render_log", names["splax"])
    assert not is_of_the_other("scales (N, 3)", names["splax"])
    assert not is_of_the_other('rasterize_mode="mip"', names["gsplat"])
    assert not is_of_the_other("rasterizer(scale=)", names["ashawkey"])
    for wrong in ("Gaussians(rotations=)", "out.alpha", "densify.MCMC", "Config(mode=True)", "rgb"):
        assert not is_of_this_side(wrong)


@pytest.mark.parametrize("section", SECTIONS[1:])
def test_no_argument_is_left_out(section):
    """Every argument of the other's render function has a line."""
    stub = {"gsplat": peers.gsplat_rasterization, "splax": peers.splax_render}[section]
    text = " ".join(cells[0] for _, cells in lines(section))
    named = set(re.findall(r"\w+", " ".join(quoted(text))))
    expected = set(inspect.signature(stub).parameters)
    # Of camera models and shutters that are refused as a whole.
    assert expected - named <= {"ftheta_coeffs", "viewmats_rs"}


# One Gaussian on the optical axis: in the middle pixel alpha is its opacity, depth its z.
Z, SIZE, OPACITY, FOCAL = 2.0, 0.5, 0.6, 8.0
COLOR, BACKGROUND = np.array([[0.2, 0.7, 1.5], [1, 0, 0.5]], np.float32)
IMAGE = OPACITY * COLOR + (1 - OPACITY) * BACKGROUND
MEANS, QUATS = np.float32([[0, 0, Z]]), np.float32([[2, 0, 0, 0]])
SCALES, OPACITIES = np.full((1, 3), SIZE, np.float32), np.float32([OPACITY])
SH = (COLOR - 0.5)[None, None] / np.float32(0.28209479)
K = np.float32([[FOCAL, 0, 1.5], [0, FOCAL, 1.5], [0, 0, 1]])
# Of the antialiasing: variance before and after the 0.3 pixels squared.
VARIANCE = (FOCAL * SIZE / Z) ** 2
FACTOR = VARIANCE / (VARIANCE + 0.3)


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=2e-6)


@pytest.mark.quick(mode=["RGB+ED"])
@pytest.mark.parametrize("mode", ["RGB", "RGB+ED", "RGB+D", "D", "ED"])
def test_gsplat_by_hand(mode):
    color = {"colors": SH, "sh_degree": 0} if mode == "RGB+D" else {"colors": COLOR[None]}
    shape = {"quats": QUATS, "scales": SCALES}
    if mode == "ED":
        covars = peers.gsplat_quat_scale_to_covar_preci(QUATS, SCALES)[0]
        shape = {"quats": None, "scales": None, "covars": covars}
    colors, alphas, meta = peers.gsplat_rasterization(
        MEANS,
        opacities=OPACITIES,
        viewmats=np.eye(4, dtype=np.float32)[None],
        Ks=K[None],
        width=3,
        height=3,
        backgrounds=BACKGROUND[None],
        render_mode=mode,
        **color,
        **shape,
    )
    image = [] if mode in ("D", "ED") else [*IMAGE]
    depth = {"D": [OPACITY * Z], "ED": [Z]}.get(mode.rpartition("+")[2], [])
    close(colors[0, 1, 1], [*image, *depth])
    close(alphas[0, 1, 1], [OPACITY])
    assert meta["radii"].shape == (1, 1) and alphas.shape == (1, 3, 3, 1)


def test_gsplat_functions_by_hand():
    """Precision matrices are the inverses; harmonics are the sum, no 0.5 and no clamp."""
    covars, precisions = peers.gsplat_quat_scale_to_covar_preci(QUATS, SCALES * [1, 2, 3])
    close(covars[0], SIZE**2 * np.diag([1, 4, 9]))
    close(precisions[0], np.diag([1, 1 / 4, 1 / 9]) / SIZE**2)
    value = peers.gsplat_spherical_harmonics(0, np.float32([[0, 0, 1]]), -np.ones((1, 4, 3)))
    close(value, np.full((1, 3), -0.28209479))


@pytest.mark.quick(antialiased=[True])
@pytest.mark.parametrize("antialiased", [False, True])
def test_splax_by_hand(antialiased):
    image, alpha = peers.splax_render(
        MEANS,
        jnp.log(SCALES) - jnp.log(2.0),
        QUATS,
        SH[:, 0] if antialiased else SH,
        jnp.log(OPACITIES) - jnp.log1p(-OPACITIES),
        viewmat=jnp.eye(4),
        background=BACKGROUND,
        img_shape=(3, 3),
        f=(FOCAL, FOCAL),
        glob_scale=2.0,
        antialiased=antialiased,
        render_depth=True,
    )
    opacity = OPACITY * FACTOR if antialiased else OPACITY
    close(alpha[1, 1], opacity)
    close(image[1, 1], [*(opacity * COLOR + (1 - opacity) * BACKGROUND), Z])
    close(peers.splax_spherical_harmonics(SH, np.float32([[0, 0, 1]])), COLOR[None])
    close(peers.splax_spherical_harmonics(-9 * SH, np.float32([[0, 0, 1]]))[0, 2], 0)


def test_ashawkey_by_hand():
    """Depth is not divided by alpha."""
    tan = 1.5 / FOCAL
    settings = jgd.GaussianRasterizationSettings(
        image_height=3,
        image_width=3,
        tanfovx=tan,
        tanfovy=tan,
        bg=BACKGROUND,
        scale_modifier=1.0,
        viewmatrix=jnp.eye(4),
        projmatrix=jnp.array([[1 / tan, 0, 0, 0], [0, 1 / tan, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]]),
        sh_degree=0,
        campos=jnp.zeros(3),
        prefiltered=False,
        debug=False,
    )
    image, radii, depth, alpha = peers.ashawkey_rasterizer(
        settings,
        MEANS,
        jnp.zeros((1, 3)),
        OPACITIES[:, None],
        colors_precomp=COLOR[None],
        scales=SCALES,
        rotations=QUATS / 2,
    )
    assert image.shape == (3, 3, 3) and depth.shape == alpha.shape == (1, 3, 3)
    close(image[:, 1, 1], IMAGE)
    close(depth[0, 1, 1], OPACITY * Z)
    close(alpha[0, 1, 1], OPACITY)
    assert int(radii[0]) == np.ceil(3 * np.sqrt(VARIANCE + 0.3 + np.sqrt(0.1)))
