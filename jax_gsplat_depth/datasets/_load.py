"""Reads a folder of posed photos in any of the supported layouts."""

import warnings
from pathlib import Path

import numpy as np

from jax_gsplat_depth.datasets._capture import Capture, CaptureError, CaptureWarning, hold_out
from jax_gsplat_depth.datasets._colmap import find_model, read_model
from jax_gsplat_depth.datasets._geometry import scaled_pinhole
from jax_gsplat_depth.datasets._paths import is_there
from jax_gsplat_depth.datasets._pictures import read_depth, read_mask, read_photo
from jax_gsplat_depth.datasets._points import read_points
from jax_gsplat_depth.datasets._rgbd import INTRINSICS, read_rgbd
from jax_gsplat_depth.datasets._same_world import points_of_same_world
from jax_gsplat_depth.datasets._transforms import Transforms, read_transforms
from jax_gsplat_depth.datasets._views import PosedPhoto, unique_names

_Points = tuple[np.ndarray, np.ndarray] | None
"""Positions ``(P, 3)`` float64, world frame, and colours ``(P, 3)`` uint8, if there are some."""


def load_capture(path: str | Path, *, downscale: int = 1) -> Capture:
    """Read posed photos from a folder; the files in it decide the layout.

    - ``transforms.json``: camera-to-world poses with OpenGL axes, intrinsics, optional depth maps
      and masks. Photos with terms k1, k2, p1, p2 of the OPENCV lens model are undistorted. Sparse
      points come from ``ply_file_path``, or else from a COLMAP model beside it, if its poses are
      the same, perhaps after ``applied_transform``. ``test_filenames`` (or ``val_filenames``) and
      ``train_filenames`` name the photos to hold out and to train on.
    - ``transforms_train.json`` and ``transforms_test.json``, as for Blender scenes: the second file
      is the held-out split.
    - ``images`` and ``sparse/0``, ``sparse`` or ``colmap/sparse/0``: a COLMAP model, binary or
      text; masks in ``masks``, for ``images/NAME.jpg`` either ``NAME.jpg.png`` or ``NAME.png``.
    - ``camera-intrinsics.txt``, ``*.color.png`` or ``.jpg``, ``*.depth.png`` and ``*.pose.txt``: an
      RGB-D recording in the layout of 7-Scenes, depth in millimetres on the pixels of the photo.

    Photos with transparency are put on white. EXIF orientations are not applied. Pixels that are
    black in a mask do not count, and a photo without pixels that do is left out. A
    ``CaptureWarning`` says so, and what the files have and is not used.

    Args:
        path: The folder.
        downscale: Pixels of the files per pixel of the capture, per side. Each pixel is the mean
            over its area; at the right and at the bottom, columns and rows that fill no pixel are
            cut off.

    Returns:
        The capture, views in name order.

    Raises:
        CaptureError: Something is missing, broken or not supported.
        ImportError: A library of the ``fit`` extra is not installed.
    """
    root = Path(path)
    if downscale < 1:
        raise CaptureError(f"downscale is {downscale}: expected a whole number of at least 1")
    try:
        return _load(root, downscale)
    except OSError as error:
        reason = error.strerror or str(error)
        raise CaptureError(f"{error.filename or root} cannot be read: {reason}") from error


def _load(root: Path, downscale: int) -> Capture:
    if not root.is_dir():
        problem = "is not a folder" if root.exists() else "does not exist"
        raise CaptureError(f"{root} {problem}: expected a folder with posed photos")

    depth_scale, points = 1.0, None
    folder = find_model(root)
    if is_there(root / "transforms.json"):
        transforms = read_transforms(root / "transforms.json")
        views, depth_scale = transforms.views, transforms.depth_scale
        points = _points_of(transforms, folder, root)
    elif is_there(root / "transforms_train.json"):
        views, depth_scale, points = _read_blender_pair(root)
    elif folder is not None:
        if not (root / "images").is_dir():
            raise CaptureError(f"{root / 'images'} is missing: expected the photos of {folder}")
        model = read_model(folder)
        views = model.views(root / "images", root / "masks")
        points = model.points, model.colors
    elif is_there(root / INTRINSICS):
        views, depth_scale = read_rgbd(root)
    else:
        raise CaptureError(
            f"{root} holds no cameras: expected transforms.json, transforms_train.json with "
            f"transforms_test.json, images with sparse/0 from COLMAP, or {INTRINSICS}"
        )
    if len(views) < 2:
        raise CaptureError(f"{root} has {len(views)} posed photos: expected at least 2")
    return _assemble(root, views, depth_scale, points, downscale)


def _read_blender_pair(root: Path) -> tuple[list[PosedPhoto], float, _Points]:
    train, test = root / "transforms_train.json", root / "transforms_test.json"
    if not is_there(test):
        raise CaptureError(f"{test} is missing: expected it beside {train.name}")
    seen = read_transforms(train, held_out=False)
    held_out = read_transforms(test, held_out=True)
    for file, part in ((train, seen), (test, held_out)):
        if not part.views:
            raise CaptureError(f"{file} lists no photos: expected at least one")
    if seen.depth_scale != held_out.depth_scale:
        raise CaptureError(f"{test} has another depth scale than {train.name}")
    return seen.views + held_out.views, seen.depth_scale, _points_of(seen, None, root)


def _points_of(transforms: Transforms, model: Path | None, root: Path) -> _Points:
    """Return the points that a file names, or those of the COLMAP model beside it."""
    if transforms.points is not None:
        return read_points(transforms.points, transforms.points_scale)
    if model is not None:
        return points_of_same_world(model, root, transforms.views, transforms.from_source)
    return None


def _assemble(
    root: Path, views: list[PosedPhoto], depth_scale: float, points: _Points, downscale: int
) -> Capture:
    names = unique_names([view.photo for view in views], root)
    order = sorted(range(len(views)), key=names.__getitem__)
    names, views = [names[i] for i in order], [views[i] for i in order]
    size = views[0].size
    for view in views:
        if view.size != size:
            raise CaptureError(
                f"{view.photo} is {view.size[0]}x{view.size[1]} pixels, but {views[0].photo.name} "
                f"is {size[0]}x{size[1]}: expected photos of one size"
            )
    # Sizes on disk, which include the pixels that the removal of a lens takes away.
    stored = [view.lens.stored_size if view.lens else size for view in views]
    test_indices = _test_indices(views)
    masks = None
    if any(view.mask is not None for view in views):
        masks = _masks(views, stored, downscale)
        kept = _with_pixels(root, names, masks)
        # The others stay what they are, held out or not.
        test_indices = np.flatnonzero(np.isin(kept, test_indices))
        names, views = [names[i] for i in kept], [views[i] for i in kept]
        stored, masks = [stored[i] for i in kept], masks[kept]
    photos = [
        read_photo(view.photo, size_on_disk, downscale, view.lens)
        for view, size_on_disk in zip(views, stored, strict=True)
    ]
    images = np.stack([image for image, _ in photos])
    alphas = np.stack([alpha for _, alpha in photos])
    transparent = bool((alphas < 1).any())
    depths = None
    if any(view.depth is not None for view in views):
        depths = np.stack(
            [
                np.zeros(images.shape[1:3], np.float32)
                if view.depth is None
                else read_depth(view.depth, size_on_disk, depth_scale, downscale, view.lens)
                for view, size_on_disk in zip(views, stored, strict=True)
            ]
        )
    scale = 1 / downscale
    positions, colors = points if points is not None and len(points[0]) > 0 else (None, None)
    return Capture(
        names=names,
        images=images,
        viewmats=np.stack([view.viewmat for view in views]),
        Ks=np.stack([scaled_pinhole(view.K, scale, scale) for view in views]).astype(np.float32),
        points=positions,
        point_colors=colors,
        depths=depths,
        alphas=alphas if transparent else None,
        test_indices=test_indices,
        background=np.full(3, 1.0 if transparent else 0.0, np.float32),
        # Masks that hide nothing need not cost anything.
        masks=None if masks is None or masks.all() else masks,
    )


def _masks(views: list[PosedPhoto], stored: list[tuple[int, int]], downscale: int) -> np.ndarray:
    """Return ``(V, H, W)`` bool, the pixels that count; all do of a photo without a mask."""
    read = [
        None
        if view.mask is None
        else read_mask(view.mask, size_on_disk, downscale, view.lens, hides=view.mask_hides)
        for view, size_on_disk in zip(views, stored, strict=True)
    ]
    shape = next(mask.shape for mask in read if mask is not None)
    return np.stack([np.ones(shape, bool) if mask is None else mask for mask in read])


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
