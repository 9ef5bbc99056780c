"""Tests how ``fit`` chooses photos: which are held out, and by how much large ones are reduced."""

import pytest

pytest.importorskip("optax")
pytest.importorskip("dm_pix")

from helpers.captures import Scene, nerf_folder
from helpers.commands import run
from helpers.splats import random_gaussians

from jax_gsplat_depth import fit
from jax_gsplat_depth.datasets import _canvas
from jax_gsplat_depth.evaluation._metrics import measure


@pytest.mark.parametrize(
    "options, held_out, size",
    [
        ([], [0, 8], (7, 5)),
        (["--downscale", 1, "--holdout", 4], [0, 4, 8], (14, 11)),
        (["--downscale", 3, "--holdout", 0], [], (4, 3)),
    ],
)
def test_photos_of_a_fit(tmp_path, monkeypatch, capsys, options, held_out, size):
    nerf_folder(tmp_path / "data", Scene())
    fitted = []

    def fit_to_folder(capture, out, settings, *, on_fitted, **rest):
        fitted.append(capture)
        on_fitted()
        # The numbers of nothing cost nothing.
        measured = measure(capture.holding_out(0), random_gaussians(), tmp_path)
        assert measured["psnr"] is None and measured["heldout"] == []
        measured = measured if not held_out else {"psnr": 20.0, "ssim": None, "depth_error": None}
        return dict(
            measured,
            steps_done=1,
            resumed_after=0,
            seconds={"total": 1.0},
            interrupted=False,
            origin=[0, 0, 0],
        )

    monkeypatch.setattr(fit, "fit_to_folder", fit_to_folder, raising=False)
    monkeypatch.setattr(_canvas, "AUTOMATIC_PIXELS", 100)
    assert run("fit", "--data", tmp_path / "data", "--out", tmp_path / "out", *options) == 0
    said = capsys.readouterr().err
    assert fitted[0].test_indices.tolist() == held_out
    assert (fitted[0].width, fitted[0].height) == size
    assert ("no photo was held out, so nothing was measured" in said) == (not held_out)
    assert ("rendering the held-out views" in said) == bool(held_out)
    assert ("which are reduced by a downscale of 2" in said) == (options == [])
