"""Tests the project stage against the reference: values, gradients, culling, camera axis."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import reference, scenes
from helpers.asserts import (
    Size,
    check_gradients,
    close,
    expect,
    library,
    make_cotangents,
    same_bits,
    same_radii,
    settings,
)
from helpers.tolerances import bound

import jax_gsplat_depth as jgd

FIELDS = ("means2d", "depths", "conics", "opacities")


def project_call(inputs, size, config, keep_outside=False):
    gaussians, camera = scenes.build(inputs, size)
    return vars(jgd.project(gaussians, camera, config=config, keep_outside=keep_outside))


def stage_inputs(scene, dtype, shape="quats"):
    inputs = scene.inputs(dtype, shape=shape, offset=False, background=False)
    del inputs["colors"]
    return inputs


def check_project(
    scene, dtype, name, *, shape="quats", config=None, outputs=FIELDS, keep_outside=False
):
    config = config or jgd.Config()
    inputs, size = stage_inputs(scene, dtype, shape), Size(scene.width, scene.height)
    static = dataclasses.replace(settings(scene, config), keep_outside=keep_outside)
    batch = scene.batch + (scene.n,)
    shapes = {"means2d": (*batch, 2), "depths": batch, "conics": (*batch, 3), "opacities": batch}
    expected, wanted, used = expect(
        reference.project_stage, inputs, make_cotangents(shapes, seed=11), static, outputs
    )
    splats, grads = library(project_call, (size, config, keep_outside), inputs, used)
    same_radii(splats["radii"], expected["radii"], expected["cov2d"])
    drawn = expected["radii"] > 0
    assert drawn.any()
    for k in FIELDS:
        actual = splats[k]
        assert actual.dtype == dtype
        close(actual, expected[k], bound("project", "value", dtype), f"{name} {k}", drawn)
    stage = "antialiased" if config.antialiased else "project"
    check_gradients(stage, grads, wanted, dtype, name)
    if drawn.ndim == 1:
        for k in inputs.keys() - {"viewmat", "K"}:
            assert not grads[k][~drawn].any(), f"{name}: gradient of {k} of a culled Gaussian"
    return splats, grads


@pytest.mark.quick(scene=["boundary"])
@pytest.mark.parametrize("shape", ["quats", "covars6", "covars33"])
@pytest.mark.parametrize("scene", ["dense", "boundary"])
def test_values_and_gradients(every_backend, dtype, scene, shape):
    check_project(getattr(scenes, scene)(), dtype, f"{scene} {shape}", shape=shape)


@pytest.mark.quick(field=["conics"])
@pytest.mark.parametrize("field", FIELDS)
def test_gradient_of_each_output_alone(every_backend, dtype, field):
    config = jgd.Config(antialiased=True)
    check_project(scenes.boundary(), dtype, field, config=config, outputs=(field,))


@pytest.mark.quick(options=[{"eps2d": 1.5, "antialiased": True}, {"footprint": "3sigma"}])
@pytest.mark.parametrize(
    "options",
    [
        {"near_plane": 3.0, "far_plane": 5.0},
        {"eps2d": 0.0},
        {"eps2d": 1.5, "antialiased": True},
        {"footprint": "3sigma"},
    ],
    ids=str,
)
def test_options(every_backend, dtype, options):
    check_project(scenes.dense(), dtype, str(options), config=jgd.Config(**options))


def test_planes_cull_exactly_at_their_depth(backend, dtype):
    scene = scenes.ties()  # depths are exactly 2, 3, 4 and 5
    gaussians, camera = scene.gaussians(dtype), scene.camera(dtype)
    config = jgd.Config(near_plane=2.0, far_plane=5.0)
    radii = np.asarray(jgd.project(gaussians, camera, config=config).radii)
    everything = np.asarray(jgd.project(gaussians, camera).radii)
    assert everything.all()
    depth = scene.means[:, 2]
    np.testing.assert_array_equal(radii, np.where((depth > 2) & (depth < 5), everything, 0))


def test_compensation_has_its_floor(backend, dtype):
    thin = scenes.dense()
    thin = thin.replace(scales=1e-5 * thin.scales)
    config = jgd.Config(antialiased=True, footprint="3sigma")
    splats, _ = check_project(thin, dtype, "floor", config=config)
    drawn = splats["radii"] > 0
    np.testing.assert_allclose(splats["opacities"][drawn], 0.005 * thin.opacities[drawn], rtol=1e-6)
    # In the exact footprint such a Gaussian has no pixel: opacity 0.005 o < 1/255.
    exact = jgd.project(
        thin.gaussians(dtype), thin.camera(dtype), config=jgd.Config(antialiased=True)
    )
    assert not np.asarray(exact.radii)[thin.opacities * 0.005 < 1 / 255].any()


@pytest.mark.quick(axis=[0])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("end", [0, 1])
def test_footprint_that_leaves_the_image_is_culled(backend, dtype, axis, end):
    width_height = (40, 24)
    base = scenes.single(*width_height)
    for sign in (1, -1):  # just outside, just inside
        scene, position = base, np.array([20.0, 12.0])
        # The view is oblique there: the extent depends on the position, so approach it.
        for _ in range(20):
            inputs, static = stage_inputs(scene, np.float64), reference.Settings(*width_height)
            cov = reference.evaluate(reference.project_stage, inputs, static)["cov2d"]
            extent = np.sqrt(2 * np.log(255 * scene.opacities[0]) * cov[0, 2 * axis])
            outside = extent + sign * 2e-3
            position[axis] = -outside if end == 0 else width_height[axis] + outside
            x, y = (position - np.array(width_height) / 2) / base.K[0, 0] * 4.0
            scene = base.replace(means=[[x, y, 4.0]])
        radii = jgd.project(scene.gaussians(dtype), scene.camera(dtype)).radii
        assert (int(radii[0]) > 0) == (sign < 0)


@pytest.mark.quick(footprint=["exact"], dtype=["float32"])
@pytest.mark.parametrize("footprint", ["exact", "3sigma"])
def test_keep_outside(every_backend, dtype, footprint):
    """Everything between the planes, also what is transparent, and the same image."""
    scene = scenes.boundary()
    scene = scene.replace(opacities=np.where(np.arange(scene.n) % 9, scene.opacities, 0.0))
    config = jgd.Config(antialiased=True, footprint=footprint)
    splats, _ = check_project(scene, dtype, "kept", config=config, keep_outside=True)
    depth = (scene.means @ scene.viewmat[:3, :3].T + scene.viewmat[:3, 3])[:, 2]
    np.testing.assert_array_equal(splats["radii"] > 0, depth > config.near_plane)
    if footprint == "exact":
        gaussians, size = scene.gaussians(dtype), {"width": scene.width, "height": scene.height}
        kept = jgd.Splats(**splats)
        order = jgd.bin(kept, **size).order
        image = jgd.blend(kept, gaussians.colors, order, **size).image
        wanted = jgd.render(gaussians, scene.camera(dtype), config=config).image
        same_bits(image, wanted, "image")


def compensation_call(inputs, size, config):
    gaussians, camera = scenes.build(inputs, size)
    gaussians = dataclasses.replace(gaussians, opacities=None)
    return {"opacities": jgd.opacity_compensation(gaussians, camera, config=config)}


@pytest.mark.quick(cameras=[2], dtype=["float32"])
@pytest.mark.parametrize("cameras", [None, 2])
def test_opacity_compensation(every_backend, dtype, cameras):
    """It is what is left of opacity 1, for Gaussians outside of the image too."""
    scene = scenes.boundary(cameras=cameras)
    inputs, size, config = stage_inputs(scene, dtype), Size(scene.width, scene.height), jgd.Config()
    static = settings(scene, dataclasses.replace(config, antialiased=True))
    static = dataclasses.replace(static, keep_outside=True)
    opaque = {**inputs, "opacities": np.ones_like(inputs["opacities"])}
    # Of one sign: the sums over Gaussians in the gradients of the camera would cancel.
    cotangents = make_cotangents({"opacities": (*scene.batch, scene.n)}, seed=3)
    cotangents = {k: np.abs(v) for k, v in cotangents.items()}
    expected, wanted, used = expect(
        reference.project_stage, opaque, cotangents, static, ("opacities",)
    )
    del inputs["opacities"], wanted["opacities"]
    out, grads = library(compensation_call, (size, config), inputs, used)
    limit = bound("project", "value", dtype)
    close(out["opacities"], expected["opacities"], limit, "compensation")
    check_gradients("antialiased", grads, wanted, dtype, "compensation")


@pytest.mark.parametrize("length", [1e-12, 3e-3, 7.0, 1e12])
def test_length_of_the_quaternion_does_not_matter(backend, dtype, length):
    scene = scenes.dense()
    scaled = scene.replace(quats=scene.quats * length)
    a = jgd.project(scene.gaussians(dtype), scene.camera(dtype))
    b = jgd.project(scaled.gaussians(dtype), scene.camera(dtype))
    np.testing.assert_array_equal(a.radii > 0, b.radii > 0)
    # The scaled quaternions are rounded to float32 anew.
    np.testing.assert_allclose(a.conics, b.conics, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("length", [2.0**-100, 2.0**-80, 2.0**80, 2.0**124])
def test_any_nonzero_quaternion_is_a_rotation(backend, dtype, length):
    scene = scenes.dense()
    scaled = dataclasses.replace(scene, quats=scene.quats * length)
    assert np.isfinite(scaled.quats.astype(np.float32)).all()
    a = jgd.project(scene.gaussians(dtype), scene.camera(dtype))
    b = jgd.project(scaled.gaussians(dtype), scene.camera(dtype))
    np.testing.assert_array_equal(a.radii, b.radii)
    np.testing.assert_allclose(a.conics, b.conics, rtol=1e-5, atol=1e-7)


def test_asymmetric_covariance_counts_as_its_symmetric_part(backend, dtype):
    scene = scenes.dense()
    inputs = stage_inputs(scene, dtype, "covars33")
    skew = np.zeros((3, 3), dtype)
    skew[0, 1], skew[1, 0], skew[2, 0], skew[0, 2] = 0.5, -0.5, 0.25, -0.25
    twisted = {**inputs, "covars": inputs["covars"] + skew}
    args = (Size(scene.width, scene.height), jgd.Config())
    shapes = {"conics": (120, 3)}
    a, grad_a = library(project_call, args, inputs, make_cotangents(shapes, 1))
    b, grad_b = library(project_call, args, twisted, make_cotangents(shapes, 1))
    np.testing.assert_allclose(a["conics"], b["conics"], rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(grad_a["covars"], grad_a["covars"].transpose(0, 2, 1))
    close(grad_b["covars"], grad_a["covars"], 1e-3, "covars")


def test_camera_axis_is_a_loop(every_backend, dtype):
    scene = scenes.boundary(cameras=3)
    check_project(scene, dtype, "cameras")
    inputs = stage_inputs(scene, dtype)
    size, config = Size(scene.width, scene.height), jgd.Config()
    shapes = {"means2d": (3, 100, 2), "depths": (3, 100), "conics": (3, 100, 3)}
    shapes |= {"opacities": (3, 100)}
    cotangents = make_cotangents(shapes, 5)
    splats, grads = library(project_call, (size, config), inputs, cotangents)
    total = {}
    for c in range(3):
        one = stage_inputs(scene.camera_at(c), dtype)
        part = {k: v[c] for k, v in cotangents.items()}
        alone, grads_c = library(project_call, (size, config), one, part)
        for k in (*FIELDS, "radii"):
            same_bits(splats[k][c], alone[k], k)
        for k in ("viewmat", "K"):
            same_bits(grads[k][c], grads_c[k], k)
        for k in ("means", "quats", "scales", "opacities"):
            total[k] = total[k] + grads_c[k] if c else grads_c[k]
    for k, v in total.items():
        same_bits(grads[k], v, k)


def test_gradient_of_unread_camera_entries_is_zero(backend, dtype):
    scene = scenes.dense()
    _, grads = check_project(scene, dtype, "unread")
    assert not grads["viewmat"][3].any()
    read = np.zeros((3, 3), bool)
    read[[0, 1, 0, 1], [0, 1, 2, 2]] = True
    assert grads["K"][read].all() and not grads["K"][~read].any()


@pytest.mark.calls_nothing
def test_no_gaussians(every_backend, dtype):
    scene = scenes.empty()
    splats = jgd.project(scene.gaussians(dtype), scene.camera(dtype))
    assert splats.means2d.shape == (0, 2) and splats.conics.shape == (0, 3)
    assert splats.radii.shape == (0,) and splats.radii.dtype == jnp.int32
