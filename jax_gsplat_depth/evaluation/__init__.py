"""Measures Gaussians on views that they were not fitted to, as ``jax-gsplat-depth eval`` does.

``_heldout`` renders the held-out views of a capture and compares them with the photos, ``_metrics``
collects the numbers, ``_pictures`` draws the views, and ``_job`` writes all of it to a folder.
Everything but ``check_evaluation`` and ``evaluate_splats`` needs the packages of the ``fit`` extra
and is loaded on first use.
"""

from typing import TYPE_CHECKING

from jax_gsplat_depth._common.extras import lazy_names
from jax_gsplat_depth._common.local_scene import LocalScene
from jax_gsplat_depth._common.result_folder import OutputError
from jax_gsplat_depth.evaluation._job import check_evaluation, evaluate_splats

if TYPE_CHECKING:
    from jax_gsplat_depth.evaluation._heldout import HeldOutView, evaluate
    from jax_gsplat_depth.evaluation._metrics import describe_capture, measure, versions

__all__ = [
    "HeldOutView",
    "LocalScene",
    "OutputError",
    "check_evaluation",
    "describe_capture",
    "evaluate",
    "evaluate_splats",
    "measure",
    "versions",
]

__getattr__ = lazy_names(
    __name__,
    {
        "HeldOutView": "_heldout",
        "describe_capture": "_metrics",
        "evaluate": "_heldout",
        "measure": "_metrics",
        "versions": "_metrics",
    },
)
