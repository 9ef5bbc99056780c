"""Reads a folder of posed photos in any of the supported layouts."""

import warnings
from pathlib import Path

import numpy as np

from jax_gsplat_depth.datasets._canvas import automatic_downscale, common_size
from jax_gsplat_depth.datasets._capture import Capture, CaptureError, CaptureWarning, hold_out
from jax_gsplat_depth.datasets._depth_maps import DepthUnits, read_depth
from jax_gsplat_depth.datasets._geometry import scaled_pinhole
from jax_gsplat_depth.datasets._layouts import Posed, read_posed
from jax_gsplat_depth.datasets._pictures import filled, read_mask, read_photo
from jax_gsplat_depth.datasets._placing import Placing
from jax_gsplat_depth.datasets._views import PosedPhoto, unique_names


def load_capture(path: str | Path, *, downscale: int | None = 1) -> Capture:
    """Read posed photos from a folder; the files in it decide the layout.

    - ``transforms.json``: camera-to-world poses with OpenGL axes, intrinsics, optional depth maps
      and masks. Photos with terms k1, k2, p1, p2 of the OPENCV lens model are undistorted. Sparse
      points come from ``ply_file_path``, or else from a COLMAP model beside it, if its poses are
      the same, perhaps after ``applied_transform``. ``test_filenames`` (or ``val_filenames``) and
      ``train_filenames`` name the photos to hold out and to train on.
    - ``transforms_train.json`` and ``transforms_test.json``, as for Blender scenes: the second file
      is the held-out split.
    - ``images`` and a COLMAP model, binary or text, without lens terms, in ``sparse/0``,
      ``sparse``, ``colmap/sparse/0`` or the folder itself; of several models the one with most
      photos. Masks are in ``masks``, for ``images/NAME.jpg`` either ``NAME.jpg.png`` or
      ``NAME.png``.
    - ``*.color.png`` or ``.jpg``, ``*.depth.png`` and ``*.pose.txt`` in the folder or in those of
      its sequences, and ``camera-intrinsics.txt``: an RGB-D recording in the layout of 7-Scenes,
      depth in millimetres on the pixels of the photo.
    - ``rgb.txt``, ``depth.txt`` and ``groundtruth.txt``: one in the layout of TUM, with depth in
      1/5000 m, and ``camera-intrinsics.txt`` if its camera is not the collection's default.

    Depth maps are pictures of one channel, ``.npy``, or ``.npz`` of one array or one called
    ``depth``. In pictures and in arrays of whole numbers the unit is that of the layout (in
    ``transforms.json``, 0.001 or what it says); in arrays of floats it is the world's, unless
    ``transforms.json`` says another. A map of another size than its photo is resampled.

    Photos with transparency are put on white. EXIF orientations are not applied. Pixels that are
    black in a mask do not count, and a photo without pixels that do is left out. Photos of several
    sizes are cut to the smallest if they hardly differ, and else put on a size that holds all, with
    a mask for the rest; their cameras stay the same. A ``CaptureWarning`` says so, and what the
    files have and is not used.

    Args:
        path: The folder.
        downscale: Pixels of the files per pixel of the capture, per side. Each pixel is the mean
            over its area; at the right and at the bottom, columns and rows that fill no pixel are
            cut off. None takes the smallest at which no photo has more than 2.1 million pixels.

    Returns:
        The capture, views in name order.

    Raises:
        CaptureError: Something is missing, broken or not supported.
        ImportError: A library of the ``fit`` extra is not installed.
    """
    root = Path(path)
    if downscale is not None and downscale < 1:
        raise CaptureError(f"downscale is {downscale}: expected a whole number of at least 1")
    try:
        return _load(root, downscale)
    except OSError as error:
        reason = error.strerror or str(error)
        raise CaptureError(f"{error.filename or root} cannot be read: {reason}") from error


def _load(root: Path, downscale: int | None) -> Capture:
    if not root.is_dir():
        problem = "is not a folder" if root.exists() else "does not exist"
        raise CaptureError(f"{root} {problem}: expected a folder with posed photos")
    posed = read_posed(root)
    if len(posed.views) < 2:
        raise CaptureError(f"{root} has {len(posed.views)} posed photos: expected at least 2")
    return _assemble(root, posed, downscale)


def _assemble(root: Path, posed: Posed, downscale: int | None) -> Capture:
    names = unique_names([view.photo for view in posed.views], root)
    order = sorted(range(len(names)), key=names.__getitem__)
    names, views = [names[i] for i in order], [posed.views[i] for i in order]
    size = common_size(root, views)
    if downscale is None:
        downscale = automatic_downscale(root, views)
    placings = [Placing(view.stored_size, size, downscale, view.lens) for view in views]
    test_indices = _test_indices(views)
    masks = None
    padded = any(np.less(placing.pinhole_size, size).any() for placing in placings)
    if padded or any(view.mask is not None for view in views):
        masks = _masks(views, placings)
        kept = _with_pixels(root, names, masks)
        # The others stay what they are, held out or not.
        test_indices = np.flatnonzero(np.isin(kept, test_indices))
        names, views = [names[i] for i in kept], [views[i] for i in kept]
        placings, masks = [placings[i] for i in kept], masks[kept]
    photos = [
        read_photo(view.photo, placing) for view, placing in zip(views, placings, strict=True)
    ]
    images = np.stack([image for image, _ in photos])
    alphas = np.stack([alpha for _, alpha in photos])
    transparent = bool((alphas < 1).any())
    scale = 1 / downscale
    points = posed.points
    positions, colors = points if points is not None and len(points[0]) > 0 else (None, None)
    return Capture(
        names=names,
        images=images,
        viewmats=np.stack([view.viewmat for view in views]),
        Ks=np.stack([scaled_pinhole(view.K, scale, scale) for view in views]).astype(np.float32),
        points=positions,
        point_colors=colors,
        depths=_depths(root, views, placings, posed.depth_units),
        alphas=alphas if transparent else None,
        test_indices=test_indices,
        background=np.full(3, 1.0 if transparent else 0.0, np.float32),
        # Masks that hide nothing need not cost anything.
        masks=None if masks is None or masks.all() else masks,
        sizes=np.array([placing.filled for placing in placings]) if padded else None,
        downscale=downscale,
    )


def _masks(views: list[PosedPhoto], placings: list[Placing]) -> np.ndarray:
    """Return ``(V, H, W)`` bool, the pixels that count; of a photo without a mask, all do."""
    return np.stack(
        [
            filled(view.photo, placing)
            if view.mask is None
            else read_mask(view.mask, placing, hides=view.mask_hides)
            for view, placing in zip(views, placings, strict=True)
        ]
    )


def _depths(
    root: Path, views: list[PosedPhoto], placings: list[Placing], units: DepthUnits
) -> np.ndarray | None:
    """Return ``(V, H, W)`` depths, 0 of a photo without a map, or None if no photo has one."""
    if all(view.depth is None for view in views):
        return None
    step, (width, height) = placings[0].downscale, placings[0].size
    depths = np.zeros((len(views), height // step, width // step), np.float32)
    resampled = []
    for depth, view, placing in zip(depths, views, placings, strict=True):
        if view.depth is not None:
            depth[:], stored = read_depth(view.depth, units, placing)
            if stored != placing.stored:
                resampled.append((view.depth, stored, placing.stored))
    if resampled:
        path, stored, size = resampled[0]
        warnings.warn(
            f"{root} has {len(resampled)} depth maps of another size than their photos "
            f"({path.name} is {stored[0]}x{stored[1]}, its photo {size[0]}x{size[1]}): each pixel "
            "of a photo takes the nearest depth",
            CaptureWarning,
            stacklevel=2,
        )
    return depths


def _with_pixels(root: Path, names: list[str], masks: np.ndarray) -> list[int]:
    """Return the views of which pixels count, and warn of the others."""
    kept = [i for i, mask in enumerate(masks) if mask.any()]
    if len(kept) < 2:
        raise CaptureError(
            f"{root} has masks that leave nothing of {len(masks) - len(kept)} of its {len(masks)} "
            "photos: expected at least 2 photos with pixels that count"
        )
    if empty := [name for name, mask in zip(names, masks, strict=True) if not mask.any()]:
        listed = ", ".join(empty[:8]) + (f" and {len(empty) - 8} more" if len(empty) > 8 else "")
        warnings.warn(
            f"{root} has masks that leave nothing of the photos {listed}, which are left out",
            CaptureWarning,
            stacklevel=2,
        )
    return kept


def _test_indices(views: list[PosedPhoto]) -> np.ndarray:
    if all(view.held_out is None for view in views):
        return hold_out(len(views))
    return np.flatnonzero([bool(view.held_out) for view in views])
