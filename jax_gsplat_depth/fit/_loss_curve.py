"""Draws loss and training PSNR over the steps of a fit."""

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from jax_gsplat_depth.fit._log import StepReport

# Dots per inch decide the size of the letters only.
_DPI = 100


def write_loss_curve(reports: list[StepReport], path: Path) -> None:
    """Write a picture of loss and training PSNR over the steps.

    Args:
        reports: One per step, in order.
        path: PNG file to write.
    """
    steps = [report.step for report in reports]
    figure = Figure(figsize=(8, 4.5), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    loss_axes = figure.add_subplot()
    psnr_axes = loss_axes.twinx()
    curves = (
        (loss_axes, [report.loss for report in reports], "loss", "tab:blue"),
        (psnr_axes, [report.psnr for report in reports], "PSNR of the view (dB)", "tab:orange"),
    )
    for axes, values, label, color in curves:
        axes.plot(steps, values, color=color, alpha=0.25, linewidth=0.8)
        axes.plot(steps, _smooth(np.asarray(values)), color=color)
        axes.set_ylabel(label, color=color)
    loss_axes.set_yscale("log")
    loss_axes.set_xlabel("step")
    loss_axes.set_title("Training views; strong lines are running means")
    figure.savefig(path)


def _smooth(values: np.ndarray) -> np.ndarray:
    """Return the mean over a window of a twentieth of the curve, cut off at its ends."""
    half = len(values) // 40
    sums = np.cumsum(np.concatenate([[0.0], values]))
    steps = np.arange(len(values))
    starts = np.maximum(0, steps - half)
    ends = np.minimum(len(values), steps + half + 1)
    return (sums[ends] - sums[starts]) / (ends - starts)
