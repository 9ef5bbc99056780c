"""Draws held-out views beside their photos."""

import dataclasses
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from jax_gsplat_depth._common.depth_colors import DEPTH_COLORMAP, color_range
from jax_gsplat_depth.evaluation._heldout import HeldOutView

# Pixels of the finished picture.
_MARGIN = 12
_TITLE = 26
_BAR_GAP = 8
_BAR_WIDTH = 14
_BAR_LABELS = 56
# Small photos are enlarged by a whole factor to at least this height, so that titles fit.
_MIN_PANEL_HEIGHT = 180

# Dots per inch decide the size of the letters only: a photo pixel stays a picture pixel.
_DPI = 100

# Grey, which stands out from the white of a full weight map.
_PAPER = "0.9"

# Pixels with less weight show mostly background: their depth must not stretch the colour range.
_SOLID = 0.5


@dataclasses.dataclass(frozen=True)
class _Panel:
    """One picture in a row.

    Attributes:
        title: Text above it.
        values: ``[H, W, 3]`` colours, or ``[H, W]`` values to be coloured; NaN is left grey.
        norm: The range of values, shown by a colour bar beside the panel; None for colours.
        colormap: Name of the colour map for values.
        unit: Label of the colour bar.
    """

    title: str
    values: np.ndarray
    norm: Normalize | None = None
    colormap: str = ""
    unit: str = ""


def write_held_out(view: HeldOutView, path: Path) -> None:
    """Write photo, rendering, depth (and true depth, where known) and weight side by side.

    Pixels of the photo are not resampled; small photos are enlarged by a whole factor.

    Args:
        view: The view.
        path: PNG file to write.
    """
    depths = [np.where(view.depth > 0, view.depth, np.nan)]
    solid = [view.depth[(view.weight > _SOLID) & (view.depth > 0)]]
    if view.true_depth is not None:
        depths.append(np.where(view.true_depth > 0, view.true_depth, np.nan))
        solid.append(view.true_depth[view.true_depth > 0])
    depth_norm = Normalize(*color_range(np.concatenate(solid)))
    panels = [
        _Panel(f"{view.name}: photo", view.photo),
        _Panel(f"render, {view.psnr:.2f} dB", view.image),
    ]
    for title, depth in zip(("depth", "true depth"), depths, strict=False):
        panels.append(_Panel(title, depth, depth_norm, DEPTH_COLORMAP, "z (scene units)"))
    panels.append(_Panel("weight", view.weight, Normalize(0, 1), "gray", "weight (0 to 1)"))
    _draw_row(panels, path)


def _draw_row(panels: list[_Panel], path: Path) -> None:
    photo_height, photo_width = panels[0].values.shape[:2]
    factor = max(1, -(-_MIN_PANEL_HEIGHT // photo_height))
    height, width = factor * photo_height, factor * photo_width
    bar = _BAR_GAP + _BAR_WIDTH + _BAR_LABELS
    n_bars = sum(panel.norm is not None for panel in panels)
    total_width = _MARGIN + len(panels) * (width + _MARGIN) + n_bars * bar
    total_height = _TITLE + height + _MARGIN
    figure = Figure(figsize=(total_width / _DPI, total_height / _DPI), dpi=_DPI, facecolor=_PAPER)
    FigureCanvasAgg(figure)

    def add_axes(left: int, axes_width: int) -> Axes:
        return figure.add_axes(
            (
                left / total_width,
                _MARGIN / total_height,
                axes_width / total_width,
                height / total_height,
            )
        )

    left = _MARGIN
    for panel in panels:
        axes = add_axes(left, width)
        axes.set_axis_off()
        # The title holds the name of a photo, in which a $ is just a character.
        axes.set_title(panel.title, fontsize=9, pad=5, parse_math=False)
        if panel.norm is None:
            axes.imshow(panel.values, interpolation="nearest", aspect="auto")
        else:
            mapped = axes.imshow(
                np.ma.masked_invalid(panel.values),
                norm=panel.norm,
                cmap=colormaps[panel.colormap].with_extremes(bad="0.6"),
                interpolation="nearest",
                aspect="auto",
            )
            bar_axes = add_axes(left + width + _BAR_GAP, _BAR_WIDTH)
            figure.colorbar(mapped, cax=bar_axes)
            bar_axes.tick_params(labelsize=7)
            bar_axes.set_ylabel(panel.unit, fontsize=8)
            left += bar
        left += width + _MARGIN
    figure.savefig(path)
