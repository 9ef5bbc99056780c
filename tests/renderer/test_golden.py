"""Tests ``render`` and the reference against the golden files.

They were made in float64 by gsplat 1.6.0's formulas; their README tells what differs: K has
gradients in entries that are not read here, and "alpha" is ``weight``, "exp_depth" is ``depth``.
"""

import functools
import json

import jax
import numpy as np
import pytest
from helpers import reference
from helpers.asserts import Size, close, close_l2, library, render_call, settings
from helpers.tolerances import bound

import jax_gsplat_depth as jgd

CASES = ("case0_basic", "case1_aa_2cams", "case3_sh3_wide")
NAMES = {"image": "color", "weight": "alpha", "depth": "exp_depth"}
INPUTS = {
    **{k: k for k in ("means", "quats", "scales", "opacities")},
    **{"viewmat": "viewmats", "K": "Ks", "background": "backgrounds"},
}


@pytest.fixture(scope="module")
def load(shared):
    @functools.cache
    def read(case):
        with np.load(shared / "golden" / "gsplat" / f"{case}_v160.npz") as file:
            return dict(file)

    return read


def unpack(data, dtype):
    """``(inputs, reference settings, config, sh_degree, names of the inputs)``."""
    meta = json.loads(str(data["meta"]))
    degree = None if meta["sh_degree"] < 0 else meta["sh_degree"]
    names = INPUTS | {"colors" if degree is None else "sh": "colors"}
    inputs = {k: data[f"in_{v}"].astype(dtype) for k, v in names.items()}
    options = {k: meta[k] for k in ("near_plane", "far_plane", "eps2d", "antialiased")}
    config = jgd.Config(**options)
    return inputs, Size(meta["width"], meta["height"]), config, degree, names


def check_case(data, names, out, gradients, dtype):
    """Compare with the file; ``gradients(cotangents)`` gives the gradients."""
    keep = ~data["out_boundary_mask"]
    drawn = out["radii"] > 0
    assert not (drawn & ~data["out_visible"]).any()
    hits = data["out_hit_count"] > 0
    assert drawn[hits].all()
    for ours, theirs in NAMES.items():
        expected = data[f"out_{theirs}"].reshape(out[ours].shape)
        limit = bound("golden", "depth" if ours == "depth" else "value", dtype)
        close(out[ours], expected, limit, f"golden {theirs}", keep)
    for ours, theirs in NAMES.items():
        cotangent = data[f"v_{theirs}"].reshape(out[ours].shape)
        grads = gradients({ours: cotangent})
        assert grads.keys() == names.keys()
        for k, v in grads.items():
            expected = data[f"grad_{theirs}__{names[k]}"]
            if k == "K":
                read = ([0, 1, 0, 1], [0, 1, 2, 2])
                v, expected = v[:, *read], expected[:, *read]
            limit = bound("golden", "gradient", dtype)
            close_l2(v, expected, limit, f"golden {theirs} grad {k}")


@pytest.mark.parametrize("case", CASES)
def test_render(backend, dtype, load, case):
    data = load(case)
    inputs, size, config, degree, names = unpack(data, dtype)
    args = (size, config, degree)
    check_case(
        data,
        names,
        library(render_call, args, inputs, {})[0],
        lambda v: library(render_call, args, inputs, v)[1],
        dtype,
    )


@pytest.mark.parametrize("case", CASES)
@pytest.mark.slow
def test_reference(load, case):
    data = load(case)
    inputs, size, config, degree, names = unpack(data, np.float64)
    static = settings(size, config, degree)
    out = reference.evaluate(reference.render, inputs, static)
    np.testing.assert_array_equal(out["band"], data["out_boundary_mask"])

    def gradients(cotangents):
        every = {k: np.zeros_like(out[k]) for k in NAMES} | cotangents
        return reference.gradients(reference.render, inputs, every, static)

    check_case(data, names, out, gradients, "float64")


@pytest.mark.parametrize("case", CASES)
def test_project(backend, dtype, load, case):
    data = load(case)
    inputs, size, config, _, _ = unpack(data, dtype)
    gaussians = jgd.Gaussians(*(inputs[k] for k in ("means", "quats", "scales", "opacities")))
    camera = jgd.Camera(inputs["viewmat"], inputs["K"], width=size.width, height=size.height)
    splats = jax.tree.map(np.asarray, jgd.project(gaussians, camera, config=config))
    drawn = splats.radii > 0
    for ours, theirs in (
        ("means2d", "means2d"),
        ("conics", "conics"),
        ("depths", "depths"),
        ("opacities", "opacities_eff"),
    ):
        limit = bound("golden", "value", dtype)
        close(getattr(splats, ours), data[f"out_{theirs}"], limit, f"golden {theirs}", drawn)
