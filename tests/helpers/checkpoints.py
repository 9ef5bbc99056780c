"""Sets up fits that are short enough to be stopped and killed many times."""

import jax
import numpy as np

from jax_gsplat_depth import datasets, fit


def small_capture():
    """A built-in capture of few small views."""
    return datasets.builtin_capture(n_views=9, width=40, height=30, n_points=100)


def settings_of(**changed):
    """Settings of a fit to it."""
    values = {"steps": 11, "max_gaussians": 120} | changed
    return fit.FitSettings(**values)


def assert_same_bits(a, b):
    """All leaves of two trees are equal."""
    for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(one, other)
