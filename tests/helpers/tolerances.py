"""Lists every numerical bound of the tests.

Values are compared by largest absolute difference relative to the largest expected magnitude,
gradients by relative L2 norm per input. A bound that fails is a bug to understand, not a number to
raise: what plain float32 costs is recorded in the README of the golden files. With JGD_TEST_ERRORS
set to a file, the tests append each error beside its bound.
"""

# (stage, quantity) -> {dtype: bound}
BOUNDS = {
    ("project", "value"): {"float32": 3e-6, "float64": 1e-12},
    ("project", "gradient"): {"float32": 1e-5, "float64": 1e-10},
    # The compensation divides by the determinant before eps2d, which nearly vanishes for thin
    # splats: autodiff of the reference in float32 reaches 1.0e-5 on the same scene.
    ("antialiased", "gradient"): {"float32": 2e-5, "float64": 1e-10},
    ("shade", "value"): {"float32": 3e-6, "float64": 1e-12},
    ("shade", "gradient"): {"float32": 1e-5, "float64": 1e-10},
    ("blend", "value"): {"float32": 3e-6, "float64": 1e-12},
    ("blend", "gradient"): {"float32": 1e-5, "float64": 1e-10},
    ("render", "value"): {"float32": 3e-6, "float64": 1e-12},
    ("render", "gradient"): {"float32": 1e-5, "float64": 1e-10},
    # Rounding of the variance is relative to the squared extent of the scene, not to itself.
    # Measured: 1.8e-6 and 6.3e-15; a gradient 5.3e-6 and 6.3e-15.
    ("depth variance", "value"): {"float32": 3e-6, "float64": 1e-12},
    ("depth variance", "gradient"): {"float32": 1e-5, "float64": 1e-10},
    ("golden", "value"): {"float32": 3e-6, "float64": 1e-10},
    # The reference itself in plain float32 has an error of 3.2e-5 in a depth of up to 7.1.
    ("golden", "depth"): {"float32": 5e-6, "float64": 1e-10},
    # Measured: 6.9e-6 and 1.1e-14.
    ("golden", "gradient"): {"float32": 1e-5, "float64": 1e-10},
    # The original rasterizers' pictures, absolute. Measured: 3.9e-6, 2.6e-5; gradients 3.0e-5.
    ("rasterizer", "value"): {"float32": 5e-5},
    ("rasterizer", "depth"): {"float32": 2e-4},
    ("rasterizer", "gradient"): {"float32": 1e-4},
    # They divide by w + 1e-7, the reference by w.
    ("rasterizer reference", "value"): {"float32": 1e-5, "float64": 1e-6},
    ("rasterizer reference", "gradient"): {"float32": 2e-5, "float64": 1e-6},
    # Relative to each value.
    ("relocation", "value"): {"float32": 1e-6, "float64": 1e-10},
}


def bound(stage, quantity, dtype):
    """The bound of a stage's quantity, "value" or "gradient"."""
    return BOUNDS[stage, quantity][str(dtype)]
