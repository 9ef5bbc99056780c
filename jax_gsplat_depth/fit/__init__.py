"""Fit Gaussians to a capture: the main job behind ``jax-gsplat-depth fit``.

The data path: ``_init`` places Gaussians in a capture, ``_views`` puts its training views on the
device with the targets that ``_depth`` chooses. ``_loop`` moves the Gaussians by the ``_step`` that
minimises ``_loss`` with the ``_optimizer``, and by what ``_density`` chooses it refines their
number; ``_checkpoint`` saves what it has reached, ``_log`` keeps what each step reports, and
``_profile`` measures where its time goes. ``_evaluate`` renders the held-out views, ``_measure``
collects the numbers, ``_report`` draws them, ``_output`` publishes the files; ``_job`` runs all of
it.
All but the settings and their errors needs the packages of the ``fit`` extra and is loaded on first
use; where one is missing, an ImportError names the command that installs them.
"""

import importlib
from typing import TYPE_CHECKING, Any

from jax_gsplat_depth.fit._settings import Densify, DepthLoss, FitError, FitSettings
from jax_gsplat_depth.io._extras import missing

if TYPE_CHECKING:
    from jax_gsplat_depth.fit._checkpoint import Checkpoints
    from jax_gsplat_depth.fit._evaluate import HeldOutView, evaluate
    from jax_gsplat_depth.fit._init import initial_params
    from jax_gsplat_depth.fit._job import fit_to_folder
    from jax_gsplat_depth.fit._log import StepReport
    from jax_gsplat_depth.fit._loop import FitResult, fit
    from jax_gsplat_depth.fit._output import OutputError, check_folder
    from jax_gsplat_depth.fit._params import to_gaussians
    from jax_gsplat_depth.fit._progress import Progress

__all__ = [
    "Checkpoints",
    "Densify",
    "DepthLoss",
    "FitError",
    "FitResult",
    "FitSettings",
    "HeldOutView",
    "OutputError",
    "Progress",
    "StepReport",
    "check_folder",
    "evaluate",
    "fit",
    "fit_to_folder",
    "initial_params",
    "to_gaussians",
]

_MODULE_OF = {
    "Checkpoints": "_checkpoint",
    "FitResult": "_loop",
    "HeldOutView": "_evaluate",
    "OutputError": "_output",
    "Progress": "_progress",
    "StepReport": "_log",
    "check_folder": "_output",
    "evaluate": "_evaluate",
    "fit": "_loop",
    "fit_to_folder": "_job",
    "initial_params": "_init",
    "to_gaussians": "_params",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = importlib.import_module(f"{__name__}.{_MODULE_OF[name]}")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "jax_gsplat_depth":
            raise
        raise missing(error.name) from error
    return getattr(module, name)
