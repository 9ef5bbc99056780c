"""Tests the training of a fit: its steps, settings, density control and number of compilations."""

import dataclasses
import logging
import math

import jax
import numpy as np
import pytest

pytest.importorskip("optax")
pytest.importorskip("dm_pix")

from helpers.toy_capture import N_VIEWS, arc_capture, assert_same_bits, spoiled_test_views

from jax_gsplat_depth import evaluation, fit
from jax_gsplat_depth.fit import _loop, _views

SETTINGS = fit.FitSettings(steps=30, max_gaussians=100, densify="none")


# From 30 Gaussians to at most 300, refined after steps 40, 60 and so on up to 220.
DENSE = fit.FitSettings(
    steps=300,
    max_gaussians=300,
    initial_fraction=0.1,
    densify_start=0.1,
    densify_every=20,
    mcmc=fit.McmcSettings(growth=0.3),
)


@pytest.fixture(scope="module")
def capture():
    return arc_capture()


@pytest.fixture(scope="module")
def result(capture):
    return fit.fit(capture, SETTINGS)


@pytest.fixture(scope="module")
def without(capture):
    """A fit that begins and ends with the Gaussians that ``DENSE`` begins with."""
    return fit.fit(capture, dataclasses.replace(DENSE, max_gaussians=30, densify="none"))


class Messages(logging.Handler):
    """The compilations that JAX logs, and their number at each report."""

    def __init__(self):
        """Begin with none."""
        super().__init__()
        self.compiled, self.n_compiled = [], {}

    def emit(self, record):
        if record.getMessage().startswith("Compiling"):
            self.compiled.append(record.getMessage())

    def on_step(self, report):
        self.n_compiled[report.step] = len(self.compiled)


@pytest.fixture(scope="module", params=["mcmc", "adc"])
def dense(capture, request):
    """Settings with density control, their fit and what it compiled."""
    settings = dataclasses.replace(DENSE, densify=request.param)
    messages, logger = Messages(), logging.getLogger("jax")
    logger.addHandler(messages)
    try:
        with jax.log_compiles():
            result = fit.fit(capture, settings, on_step=messages.on_step)
    finally:
        logger.removeHandler(messages)
    return settings, result, messages


def test_loss_falls(result):
    losses = [step.loss for step in result.reports]
    assert [step.step for step in result.reports] == list(range(1, SETTINGS.steps + 1))
    assert np.mean(losses[-8:]) < 0.8 * np.mean(losses[:8])
    assert not result.interrupted
    assert len(result.gaussians.means) == SETTINGS.max_gaussians
    assert result.steps_per_second > 0
    for leaf in jax.tree.leaves(result.gaussians):
        assert np.isfinite(leaf).all()


def test_same_seed_same_bits_and_held_out_views_are_not_read(capture, result):
    assert_same_fit(result, fit.fit(spoiled_test_views(capture), SETTINGS))


@pytest.mark.slow
def test_same_seed_same_bits_with_density_control(capture, dense):
    settings, one, _ = dense
    assert_same_fit(one, fit.fit(spoiled_test_views(capture), settings))


def assert_same_fit(one, again):
    assert_same_bits(one.state, again.state)
    assert_same_bits(one.gaussians, again.gaussians)
    assert one.reports == again.reports


def test_other_seed_other_result(capture, result):
    other = fit.fit(capture, dataclasses.replace(SETTINGS, steps=2, seed=1))
    assert [r.loss for r in other.reports] != [r.loss for r in result.reports[:2]]


@pytest.mark.slow
def test_density_control_adds_gaussians_and_beats_the_fit_without(capture, dense, without):
    _, grown, _ = dense
    counts = [report.n_gaussians for report in grown.reports]
    assert counts[:40] == [30] * 40 and 30 < counts[40] <= counts[-1] <= 300
    assert len(grown.gaussians.means) == counts[-1]
    assert (np.asarray(grown.gaussians.opacities) > 0).all()
    assert {report.n_gaussians for report in without.reports} == {30}

    def psnr(result):
        return np.mean([view.psnr for view in evaluation.evaluate(capture, result.gaussians)])

    assert psnr(grown) > psnr(without) + 0.3


def test_one_compilation_for_all_steps_and_one_for_all_refinements(dense):
    _, _, messages = dense
    for name in ("step", "refine"):
        assert sum(f"jit({name})" in message for message in messages.compiled) == 1
    # The report of step 40 comes after the next step has begun, after the first refinement.
    assert messages.n_compiled[40] == messages.n_compiled[300] > 2


def test_coefficients_above_the_degree_stay_at_zero(capture):
    settings = dataclasses.replace(SETTINGS, sh_degree=2, sh_warmup=1.0)
    assert settings.sh_degree_at(29) == 1
    rest = np.asarray(fit.fit(capture, settings).gaussians.sh)[:, 1:]
    assert rest[:, :3].any(axis=(1, 2)).mean() > 0.9
    assert not rest[:, 3:].any()


def test_the_terms_of_the_loss_sum_to_what_is_minimised(dense):
    settings, result, _ = dense
    penalty = ["penalty"] if settings.densify == "mcmc" else []
    for report in result.reports:
        assert list(report.parts) == ["l1", *penalty, "ssim"]
        assert math.isclose(report.loss, sum(report.parts.values()), rel_tol=1e-6)
        assert all(part > 0 for part in report.parts.values())


@pytest.mark.parametrize("densify", ["none", "adc"])
@pytest.mark.slow
def test_shares_of_a_step(capture, densify):
    settings = dataclasses.replace(SETTINGS, steps=20, densify=densify)
    shares = fit.fit(capture, settings, measure_shares=True).shares
    assert set(shares) == {"render", "loss", "optimizer", "other"}
    assert min(shares[name] for name in ("render", "loss", "optimizer")) > 0
    assert sum(shares.values()) == pytest.approx(1)


def test_shares_do_not_cost_the_fit(capture, result, monkeypatch):
    """Nothing is measured unasked or after a few steps, and a full memory there loses nothing."""
    asked = []

    def measure_step(*arguments):
        asked.append(arguments)
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    monkeypatch.setattr(_loop, "measure_step", measure_step)
    again = fit.fit(capture, SETTINGS, measure_shares=True)
    assert len(asked) == 1 and again.shares is None and result.shares is None
    assert_same_bits(result.gaussians, again.gaussians)
    few = dataclasses.replace(SETTINGS, steps=2)
    assert fit.fit(capture, few, measure_shares=True).shares is None
    assert len(asked) == 1


def test_stopping_early(capture, monkeypatch):
    """Who stops a fit does not want to wait for measurements either."""
    monkeypatch.delattr(_loop, "measure_step")
    reports = []
    result = fit.fit(
        capture,
        SETTINGS,
        on_step=reports.append,
        should_stop=lambda: len(reports) >= 24,
        measure_shares=True,
    )
    assert result.interrupted and result.shares is None
    assert result.reports == reports
    assert 24 <= len(reports) <= 26


def test_alpha_pulls_the_weight_map(capture, result):
    alphas = np.zeros(capture.images.shape[:3], np.float32)
    transparent = dataclasses.replace(capture, alphas=alphas)
    settings = dataclasses.replace(SETTINGS, alpha_weight=10.0)
    pulled = fit.fit(transparent, settings).gaussians
    assert np.mean(pulled.opacities) < 0.5 * np.mean(result.gaussians.opacities)


def test_view_order_is_epochs_without_replacement():
    order = _views.view_order(5, seed=3)
    epochs = [[next(order) for _ in range(5)] for _ in range(20)]
    assert all(sorted(epoch) == list(range(5)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 10
    again = _views.view_order(5, seed=3)
    assert [next(again) for _ in range(5)] == epochs[0]


def test_sh_degree_rises_to_the_highest():
    settings = fit.FitSettings(steps=100, sh_degree=2, sh_warmup=0.4)
    degrees = [settings.sh_degree_at(step) for step in range(100)]
    assert degrees == [0] * 20 + [1] * 20 + [2] * 60
    with jax.numpy_dtype_promotion("standard"):
        traced = jax.jit(settings.sh_degree_at)(np.arange(100))
    assert traced.tolist() == degrees
    assert fit.FitSettings(steps=1, sh_degree=3, sh_warmup=0.0).sh_degree_at(0) == 3
    assert fit.FitSettings(steps=5, sh_degree=0).sh_degree_at(0) == 0


@pytest.mark.parametrize(
    "values",
    [
        {"steps": 0},
        {"steps": 2.5},
        {"sh_degree": 2.5},
        {"densify_start": 0.5, "densify_stop": 0.5},
        {"max_gaussians": 0},
        {"max_gaussians": 2**31},
        {"densify": "magic"},
        {"densify_every": 0},
        {"densify_start": 1.5},
        {"densify_stop": math.nan},
        {"initial_fraction": 0.0},
        {"seed": -1},
        {"seed": 2**32},
        {"sh_degree": 5},
        {"sh_warmup": -0.1},
        {"ssim_weight": 1.5},
        {"alpha_weight": math.nan},
        {"lr_means": 0.0},
        {"lr_scales": math.nan},
        {"initial_opacity": 1.0},
    ],
)
def test_settings_out_of_range(values):
    with pytest.raises(fit.FitError, match=next(iter(values))):
        fit.FitSettings(**values)


@pytest.mark.parametrize(
    ("group", "values"),
    [
        (fit.McmcSettings, {"noise": -1.0}),
        (fit.McmcSettings, {"opacity_weight": math.inf}),
        (fit.McmcSettings, {"min_opacity": 1.0}),
        (fit.AdcSettings, {"threshold": 0.0}),
        (fit.AdcSettings, {"reset_every": -1}),
        (fit.AdcSettings, {"reset_every": 2.5}),
    ],
)
def test_settings_of_a_strategy_out_of_range(group, values):
    with pytest.raises(fit.FitError, match=r"(mcmc|adc)\." + next(iter(values)) + " must be"):
        group(**values)


def test_captures_that_cannot_be_fitted(capture):
    all_held_out = dataclasses.replace(capture, test_indices=np.arange(N_VIEWS))
    with pytest.raises(fit.FitError, match="no view to train on"):
        fit.fit(all_held_out, SETTINGS)
    small = dataclasses.replace(capture, images=capture.images[:, :10])
    with pytest.raises(fit.FitError, match="26x10 pixels"):
        fit.fit(small, SETTINGS)
