"""Tests the evaluation: held-out views, their numbers and their pictures."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("optax")
pytest.importorskip("dm_pix")

from helpers.pictures import read_rgb
from helpers.toy_capture import HEIGHT, N_TRUE, WIDTH, arc_capture, true_gaussians

from jax_gsplat_depth import evaluation
from jax_gsplat_depth.cli import _eval
from jax_gsplat_depth.evaluation import _metrics, _pictures


@pytest.fixture(scope="module")
def capture():
    return arc_capture()


def test_the_true_scene_evaluates_as_true(capture):
    views = list(evaluation.evaluate(capture, true_gaussians()))
    assert [view.name for view in views] == ["view_0", "view_8"]
    for view in views:
        assert view.psnr > 50  # the photos are rounded to 8 bits
        assert view.ssim > 0.99
        np.testing.assert_array_equal(view.image, view.photo)
        assert np.median(view.depth_errors) < 1e-6
        assert len(view.depth_errors) == (view.true_depth > 0).sum()


def test_evaluation_without_depth(capture):
    for depths in (None, np.zeros_like(capture.depths)):
        data = dataclasses.replace(capture, depths=depths)
        assert all(
            view.depth_errors is None for view in evaluation.evaluate(data, true_gaussians())
        )


def test_a_view_whose_mask_has_no_window_has_no_ssim(capture, capsys):
    masks = np.ones(capture.images.shape[:3], bool)
    first = capture.test_indices[0]
    masks[first] = False
    masks[first, :5] = True  # The windows of 11 pixels have their middles further inside.
    data = dataclasses.replace(capture, masks=masks)
    views = list(evaluation.evaluate(data, true_gaussians()))
    assert views[0].ssim is None and views[0].psnr > 50
    result = _metrics.measure(data, true_gaussians())
    assert result["ssim"] == result["heldout"][1]["ssim"] == views[1].ssim
    _eval._print_row("view", result["heldout"][0], 4)
    assert capsys.readouterr().out.split()[2] == "-"
    masks[capture.test_indices] = masks[first]
    result = _metrics.measure(dataclasses.replace(capture, masks=masks), true_gaussians())
    assert result["ssim"] is None and result["psnr"] > 50


@pytest.mark.parametrize("known_depth", [True, False])
def test_held_out_picture_shows_the_pixels_of_the_photo(capture, tmp_path, known_depth):
    data = capture if known_depth else dataclasses.replace(capture, depths=None)
    view = next(evaluation.evaluate(data, true_gaussians()))
    path = tmp_path / "view.png"
    _pictures.write_held_out(view, path)
    picture = read_rgb(path)
    factor = -(-_pictures._MIN_PANEL_HEIGHT // HEIGHT)
    assert picture.shape[0] == _pictures._TITLE + factor * HEIGHT + _pictures._MARGIN
    assert picture.shape[1] > (5 if known_depth else 4) * factor * WIDTH
    for column, image in ((0, view.photo), (1, view.image)):
        left = _pictures._MARGIN + column * (factor * WIDTH + _pictures._MARGIN)
        centers = np.arange(factor // 2, factor * HEIGHT, factor) + _pictures._TITLE
        across = np.arange(factor // 2, factor * WIDTH, factor) + left
        np.testing.assert_array_equal(picture[np.ix_(centers, across)], image)


def test_picture_of_a_view_where_nothing_was_hit(capture, tmp_path):
    nothing = dataclasses.replace(true_gaussians(), opacities=jnp.zeros(N_TRUE, jnp.float32))
    data = dataclasses.replace(capture, depths=None)
    _pictures.write_held_out(next(evaluation.evaluate(data, nothing)), tmp_path / "view.png")
    assert read_rgb(tmp_path / "view.png").shape[1] > 4 * WIDTH
