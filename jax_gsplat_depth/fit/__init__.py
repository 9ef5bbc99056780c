"""Fits Gaussians to a capture, as ``jax-gsplat-depth fit`` does.

The data path: ``_init`` places Gaussians in a capture, ``_views`` puts its training views on the
device with the targets that ``_depth`` chooses. ``_loop`` moves the Gaussians by the ``_step`` that
minimises ``_loss`` with the ``_optimizer``, and by what ``_density`` chooses it refines their
number; ``_params`` converts between Gaussians and what the optimiser moves. ``_checkpoint`` saves
the state, ``_log`` keeps the report of each step, ``_progress`` shows it, and ``_profile`` measures
where the time goes. ``_job`` runs all of it, measures the result with ``evaluation``, draws the
``_loss_curve`` and publishes the files.

All but the settings and their error needs the packages of the ``fit`` extra and is loaded on first
use; where one is missing, an ImportError names the command that installs them.
"""

from typing import TYPE_CHECKING

from jax_gsplat_depth._common.extras import lazy_names
from jax_gsplat_depth.fit._settings import (
    AdcSettings,
    Densify,
    DepthLoss,
    FitError,
    FitSettings,
    McmcSettings,
)

if TYPE_CHECKING:
    from jax_gsplat_depth._common.result_folder import OutputError
    from jax_gsplat_depth.fit._checkpoint import Checkpoints, check_folder
    from jax_gsplat_depth.fit._checkpoint_files import saved_options
    from jax_gsplat_depth.fit._init import initial_params
    from jax_gsplat_depth.fit._job import fit_to_folder
    from jax_gsplat_depth.fit._log import StepReport
    from jax_gsplat_depth.fit._loop import FitResult, fit
    from jax_gsplat_depth.fit._params import to_gaussians
    from jax_gsplat_depth.fit._progress import Progress

__all__ = [
    "AdcSettings",
    "Checkpoints",
    "Densify",
    "DepthLoss",
    "FitError",
    "FitResult",
    "FitSettings",
    "McmcSettings",
    "OutputError",
    "Progress",
    "StepReport",
    "check_folder",
    "fit",
    "fit_to_folder",
    "initial_params",
    "saved_options",
    "to_gaussians",
]

__getattr__ = lazy_names(
    __name__,
    {
        "Checkpoints": "_checkpoint",
        "FitResult": "_loop",
        "OutputError": "_checkpoint",
        "Progress": "_progress",
        "StepReport": "_log",
        "check_folder": "_checkpoint",
        "fit": "_loop",
        "fit_to_folder": "_job",
        "initial_params": "_init",
        "saved_options": "_checkpoint_files",
        "to_gaussians": "_params",
    },
)
