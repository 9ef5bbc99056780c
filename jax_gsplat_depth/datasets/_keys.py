"""Knows the keys of ``transforms.json``, and says which ones of a file are not used."""

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jax_gsplat_depth.datasets._capture import CaptureWarning

DISTORTION = ("k1", "k2", "p1", "p2")
"""Terms of the OPENCV lens model, which is removed on load."""

MORE_DISTORTION = ("k3", "k4", "k5", "k6")
"""Terms of larger models, which have to be 0."""

OTHER_LENSES = ("ftheta_p0", "ftheta_p1", "ftheta_p2", "ftheta_p3", "ftheta_p4")
OTHER_LENSES += ("latlong", "equirectangular")
"""By which instant-ngp names lenses that are not supported."""

SPLITS = ("train_filenames", "val_filenames", "test_filenames")

CAMERA = frozenset(
    ("frames", "file_path", "transform_matrix", "w", "h", "fl_x", "fl_y", "cx", "cy")
    + ("camera_angle_x", "camera_angle_y", "x_fov", "y_fov", "camera_model", "is_fisheye")
    + DISTORTION
    + MORE_DISTORTION
    + OTHER_LENSES
)
"""What decides about cameras."""

CAPTURE = frozenset(
    ("depth_file_path", "depth_path", "depth_unit_scale_factor", "integer_depth_scale")
    + ("mask_path", "ply_file_path", "applied_transform", "applied_scale")
    + SPLITS
)
"""What decides about the rest of a capture."""

MEANINGLESS = frozenset(
    # instant-ngp: the box of its field, its training, and what it does to the pictures.
    ("aabb", "aabb_scale", "scale", "offset", "render_aabb", "up", "centroid", "totp", "avglen")
    + ("n_frames", "sharpness", "sharpness_discard_threshold", "sharpen", "importance_sampling")
    + ("n_extra_learnable_dims", "enable_depth_loading", "enable_ray_loading", "normal_mts_args")
    + ("white_transparent", "black_transparent", "fix_premult", "envmap", "driver_parameters")
    + ("rolling_shutter", "transform_matrix_start", "transform_matrix_end", "from_na")
    # nerfstudio: how it moves the cameras before it trains, and where they come from.
    + ("orientation_override", "auto_scale_poses_override", "fisheye_crop_radius", "time")
)
"""What other programs read and has no meaning here."""

_REMARKS = frozenset(("rotation", "colmap_im_id"))
"""What Blender's exporter and nerfstudio write and no program reads."""

_MOST_NAMES = 12
_LONGEST_NAME = 40


def tell_unused(
    path: Path, data: Iterable[str], entries: Iterable[Any], *, used: Iterable[str]
) -> None:
    """Warn once, in one sentence, of the keys of a file that are not used.

    Args:
        path: The file.
        data: The keys of its content.
        entries: Those of each camera in it; what is no mapping is passed over.
        used: The keys that are used.
    """
    inner = (entry for entry in entries if isinstance(entry, dict))
    keys = set(data).union(*inner) - _REMARKS.union(used)
    parts = []
    if idle := keys & (MEANINGLESS | CAPTURE):
        parts.append(f"has keys without use here ({_listed(idle)})")
    if unknown := keys - MEANINGLESS - CAPTURE:
        parts.append(f"has unknown keys ({_listed(unknown)})")
    if parts:
        message = f"{path} {' and '.join(parts)}, which are left out"
        warnings.warn(message, CaptureWarning, stacklevel=2)


def _listed(keys: Iterable[str]) -> str:
    names = [repr(key[:_LONGEST_NAME])[1:-1] for key in sorted(keys)]
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more
