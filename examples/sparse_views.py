"""Measures what a depth loss gains if there are three photos: fits with and without it.

    python examples/sparse_views.py                 # the built-in capture, monocular-like depth
    python examples/sparse_views.py --data DIR      # and an RGB-D folder, with its measured depth

For each capture and seed it fits without and with a depth loss, everything else equal: the cameras,
photos and sparse points, and the initial Gaussians. A third fit, without, has the default learning
rate of the centres, in case the common rate favours the depth loss. The held-out views are measured
over all pixels, and over the "seen" ones, whose surface (by the true depth) at least one training
view sees, since no fit can know the others. The results go to ``sparse_views.json``,
``sparse_views.md`` and one picture per capture in ``--out``.
"""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from PIL import Image, ImageDraw

from jax_gsplat_depth import datasets, evaluation, fit
from jax_gsplat_depth.datasets import Capture
from jax_gsplat_depth.evaluation import HeldOutView

# Centres may move ten times as far as by default: where no sparse point is near, a Gaussian starts
# at the depth of something else.
COMMON: dict[str, Any] = {"sh_degree": 1, "lr_means": 6e-3}
DEPTH: dict[str, Any] = {"depth_loss": "ssi", "depth_weight": 1.0}
VARIANTS: dict[str, dict[str, Any]] = {
    "without, default rate": {"lr_means": fit.FitSettings().lr_means},
    "without": {},
    "with": DEPTH,
}

HIDDEN = 0.03
"""A surface is hidden if it lies behind the visible one by this fraction of the latter's depth."""

METRICS = {
    "psnr": "PSNR (dB)",
    "ssim": "SSIM",
    "depth_error": "depth error (%)",
    "psnr_seen": "PSNR, seen (dB)",
    "depth_error_seen": "depth error, seen (%)",
}
TITLES = ("photo", "without", "with depth", "depth without", "depth with", "true depth")


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Run the experiment and return what is written to ``sparse_views.json``."""
    options = parser().parse_args(arguments)
    if options.quick:
        options.steps, options.max_gaussians, options.seeds = 20, 500, [0]
    settings = {**COMMON, "steps": options.steps, "max_gaussians": options.max_gaussians}
    results = []
    options.out.mkdir(parents=True, exist_ok=True)
    for name, capture in captures(options).items():
        capture = checked(datasets.select_views(capture, options.views), name)
        seen = {capture.names[i]: seen_pixels(capture, i) for i in capture.test_indices}
        for seed in options.seeds:
            views = {}
            for variant, extra in VARIANTS.items():
                chosen = fit.FitSettings(**{**settings, **extra}, seed=seed)
                # With its origin, without which the views of a capture far away would be empty.
                scene = fit.fit(capture, chosen).scene
                views[variant] = list(evaluation.evaluate(capture, scene))
                results.append({"capture": name, "seed": seed, "depth": variant})
                results[-1].update(measure(views[variant], seen))
                print(json.dumps(results[-1]), flush=True)
            if seed == options.seeds[0]:
                picture(views["without"], views["with"]).save(options.out / f"sparse_{name}.png")
    report = {
        "views": options.views,
        "settings": dataclasses.asdict(fit.FitSettings(**settings)),
        "variants": VARIANTS,
        "results": results,
    }
    (options.out / "sparse_views.json").write_text(json.dumps(report, indent=2) + "\n")
    (options.out / "sparse_views.md").write_text(table(report))
    print(table(report))
    return report


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, help="RGB-D folder to measure as well")
    parser.add_argument("--downscale", type=int, default=4, help="of the RGB-D folder")
    parser.add_argument("--out", type=Path, default=Path("sparse_views_out"))
    parser.add_argument("--views", type=int, default=3, help="number of training views")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--max-gaussians", type=int, default=12_000)
    parser.add_argument("--quick", action="store_true", help="a tiny run, to see that it works")
    return parser


def captures(options: argparse.Namespace) -> dict[str, Capture]:
    """Return the captures by name, with all views and the depth that supervises."""
    size = {"n_views": 9, "width": 48, "height": 36, "n_points": 500} if options.quick else {}
    found = {"builtin": datasets.monocular_like(datasets.builtin_capture(**size))}
    if options.data is not None:
        found["rgbd"] = datasets.load_capture(options.data, downscale=options.downscale)
    return found


def checked(capture: Capture, name: str) -> Capture:
    """Return the capture if it allows the comparison.

    Raises:
        SystemExit: It has no depth, or no points.
    """
    if capture.depths is None:
        raise SystemExit(f"the capture {name} has no depth to supervise with and to compare to")
    if capture.points is None or len(capture.points) == 0:
        raise SystemExit(
            f"the capture {name} has no sparse points: the fit without a depth loss would start "
            "from the depth that supervises the other"
        )
    return capture


def seen_pixels(capture: Capture, view: int) -> np.ndarray:
    """Return ``[H, W]`` bool, True where a view shows a surface that a training view sees.

    Its pixels are lifted to the world by the true depth and looked up in the training views. A
    pixel without depth is not seen; a training view without depth at a pixel hides nothing there.
    """
    rows, columns = np.nonzero(capture.depths[view] > 0)
    depth = capture.depths[view, rows, columns]
    pixels = np.stack([columns + 0.5, rows + 0.5, np.ones_like(depth)], axis=1)
    rotation, translation = capture.viewmats[view, :3, :3], capture.viewmats[view, :3, 3]
    in_camera = depth[:, None] * (pixels @ np.linalg.inv(capture.Ks[view]).T)
    points = (in_camera - translation) @ rotation
    seen = np.zeros(capture.depths[view].shape, bool)
    for other in capture.train_indices:
        viewmat, K = capture.viewmats[other], capture.Ks[other]
        in_camera = points @ viewmat[:3, :3].T + viewmat[:3, 3]
        z = in_camera[:, 2]
        x, y, _ = (in_camera / np.where(z > 0, z, 1)[:, None] @ K.T).T
        inside = (z > 0) & (x >= 0) & (y >= 0) & (x < capture.width) & (y < capture.height)
        surface = np.zeros_like(z)
        surface[inside] = capture.depths[other, y[inside].astype(int), x[inside].astype(int)]
        visible = inside & ((surface == 0) | (z < (1 + HIDDEN) * surface))
        seen[rows[visible], columns[visible]] = True
    return seen


def measure(views: list[HeldOutView], seen: dict[str, np.ndarray]) -> dict[str, float]:
    """Return means over the views, and medians of the relative depth error over their pixels."""
    errors, errors_seen, psnrs_seen = [], [], []
    for view in views:
        known, mask = view.true_depth > 0, seen[view.name]
        relative = np.abs(view.depth - view.true_depth) / np.where(known, view.true_depth, 1)
        errors.append(relative[known])
        errors_seen.append(relative[mask])
        difference = (view.image[mask].astype(float) - view.photo[mask]) / 255
        psnrs_seen.append(-10 * np.log10(np.mean(difference**2)))
    return {
        "psnr": float(np.mean([view.psnr for view in views])),
        "ssim": float(np.mean([view.ssim for view in views if view.ssim is not None])),
        "depth_error": 100 * float(np.median(np.concatenate(errors))),
        "psnr_seen": float(np.mean(psnrs_seen)),
        "depth_error_seen": 100 * float(np.median(np.concatenate(errors_seen))),
    }


def table(report: dict[str, Any]) -> str:
    """Return the results as a table in Markdown: mean and range over the seeds."""
    lines = ["| capture | depth loss | " + " | ".join(METRICS.values()) + " |"]
    lines.append("|---" * (2 + len(METRICS)) + "|")
    results = report["results"]
    for name in dict.fromkeys(result["capture"] for result in results):
        for variant in VARIANTS:
            runs = [r for r in results if (r["capture"], r["depth"]) == (name, variant)]
            cells = []
            for metric in METRICS:
                values = [run[metric] for run in runs]
                digits = 3 if metric == "ssim" else 2
                low, mean, high = (f"{f(values):.{digits}f}" for f in (min, np.mean, max))
                cells.append(f"{mean} ({low} to {high})")
            lines.append(f"| {name} | {variant} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def picture(without: list[HeldOutView], supervised: list[HeldOutView]) -> Image.Image:
    """Return every other held-out view as a row: photo, renderings, depths on one scale."""
    rows = []
    for a, b in zip(without[::2], supervised[::2], strict=True):
        known = a.true_depth[a.true_depth > 0]
        low, high = 0.7 * np.quantile(known, 0.01), np.quantile(known, 0.98)
        maps = [(d - low) / (high - low) for d in (a.depth, b.depth, a.true_depth)]
        colored = [(255 * colormaps["turbo"](m.clip(0, 1))[..., :3]).astype(np.uint8) for m in maps]
        colored[-1][a.true_depth <= 0] = 128
        rows.append(np.concatenate([a.photo, a.image, b.image, *colored], axis=1))
    width, title = rows[0].shape[1] // len(TITLES), 16
    sheet = Image.new("RGB", (rows[0].shape[1], title + sum(map(len, rows))), "white")
    sheet.paste(Image.fromarray(np.concatenate(rows)), (0, title))
    for i, text in enumerate(TITLES):
        ImageDraw.Draw(sheet).text((i * width + 4, 2), text, fill="black")
    return sheet.quantize(palette=sheet.quantize(256))  # With dithering; half of the bytes.


if __name__ == "__main__":
    main()
