"""Reads a folder of posed photos in any of the supported layouts."""

from pathlib import Path

import numpy as np

from jax_gsplat_depth.datasets._capture import Capture, CaptureError, hold_out
from jax_gsplat_depth.datasets._colmap import Model, find_model, read_model
from jax_gsplat_depth.datasets._geometry import camera_centers, scaled_pinhole
from jax_gsplat_depth.datasets._pictures import read_depth, read_photo
from jax_gsplat_depth.datasets._rgbd import INTRINSICS, read_rgbd
from jax_gsplat_depth.datasets._transforms import read_transforms
from jax_gsplat_depth.datasets._views import PosedPhoto, unique_names

_SAME_WORLD_ANGLE = 0.02
_SAME_WORLD_DISTANCE = 0.01
"""Two poses are the same within this angle (radians) and distance (per spread of the cameras)."""


def load_capture(path: str | Path, *, downscale: int = 1) -> Capture:
    """Read posed photos from a folder; the files in it decide the layout.

    - ``transforms.json``: camera-to-world poses with OpenGL axes, intrinsics, optional depth maps.
      Photos with terms k1, k2, p1, p2 of the OPENCV lens model are undistorted. Sparse points come
      from a COLMAP model beside it, if its poses are the same.
    - ``transforms_train.json`` and ``transforms_test.json``, as for Blender scenes: the second file
      is the held-out split.
    - ``images`` and ``sparse/0`` or ``sparse``: a COLMAP model, binary or text.
    - ``camera-intrinsics.txt``, ``*.color.png`` or ``.jpg``, ``*.depth.png`` and ``*.pose.txt``: an
      RGB-D recording in the layout of 7-Scenes, depth in millimetres on the pixels of the photo.

    Photos with transparency are put on white. EXIF orientations are not applied.

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

    depth_scale, model = 1.0, None
    folder = find_model(root)
    if (root / "transforms.json").is_file():
        views, depth_scale = read_transforms(root / "transforms.json")
        model = None if folder is None else _model_of_same_world(folder, views)
    elif (root / "transforms_train.json").is_file():
        views, depth_scale = _read_blender_pair(root)
    elif folder is not None:
        if not (root / "images").is_dir():
            raise CaptureError(f"{root / 'images'} is missing: expected the photos of {folder}")
        model = read_model(folder)
        views = model.views(root / "images")
    elif (root / INTRINSICS).is_file():
        views, depth_scale = read_rgbd(root)
    else:
        raise CaptureError(
            f"{root} holds no cameras: expected transforms.json, transforms_train.json with "
            f"transforms_test.json, images with sparse/0 from COLMAP, or {INTRINSICS}"
        )
    if len(views) < 2:
        raise CaptureError(f"{root} has {len(views)} posed photos: expected at least 2")
    return _assemble(root, views, depth_scale, model, downscale)


def _read_blender_pair(root: Path) -> tuple[list[PosedPhoto], float]:
    train, test = root / "transforms_train.json", root / "transforms_test.json"
    if not test.is_file():
        raise CaptureError(f"{test} is missing: expected it beside {train.name}")
    views, scale = read_transforms(train, held_out=False)
    held_out, test_scale = read_transforms(test, held_out=True)
    for file, part in ((train, views), (test, held_out)):
        if not part:
            raise CaptureError(f"{file} lists no photos: expected at least one")
    if scale != test_scale:
        raise CaptureError(f"{test} has another depth scale than {train.name}")
    return views + held_out, scale


def _model_of_same_world(folder: Path, views: list[PosedPhoto]) -> Model | None:
    """Return the model if its poses are those of ``views``: its points then fit as well.

    A damaged model, or one of another world, is no error, because nothing depends on it.
    """
    try:
        model = read_model(folder)
        others = {Path(name).name: viewmat for name, viewmat in model.viewmats().items()}
    except CaptureError:
        return None
    pairs = [(v.viewmat, others[v.photo.name]) for v in views if v.photo.name in others]
    if len(pairs) < 2:
        return None
    ours, theirs = (np.stack(side) for side in zip(*pairs, strict=True))
    turn = ours[:, :3, :3] @ theirs[:, :3, :3].swapaxes(1, 2)
    cosine = (np.trace(turn, axis1=1, axis2=2) - 1) / 2
    eyes, other_eyes = camera_centers(ours), camera_centers(theirs)
    spread = np.linalg.norm(eyes - eyes.mean(axis=0), axis=1).max()
    distance = np.linalg.norm(eyes - other_eyes, axis=1).max()
    same = cosine.min() > np.cos(_SAME_WORLD_ANGLE) and distance <= _SAME_WORLD_DISTANCE * spread
    return model if same else None


def _assemble(
    root: Path, views: list[PosedPhoto], depth_scale: float, model: Model | None, downscale: int
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
    points = colors = None
    if model is not None and len(model.points) > 0:
        points, colors = model.points, model.colors
    return Capture(
        names=names,
        images=images,
        viewmats=np.stack([view.viewmat for view in views]),
        Ks=np.stack([scaled_pinhole(view.K, scale, scale) for view in views]).astype(np.float32),
        points=points,
        point_colors=colors,
        depths=depths,
        alphas=alphas if transparent else None,
        test_indices=_test_indices(views),
        background=np.full(3, 1.0 if transparent else 0.0, np.float32),
    )


def _test_indices(views: list[PosedPhoto]) -> np.ndarray:
    if all(view.held_out is None for view in views):
        return hold_out(len(views))
    return np.flatnonzero([bool(view.held_out) for view in views])
