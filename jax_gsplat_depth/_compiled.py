"""Loads the compiled modules and registers their targets with XLA.

Every backend registers the same target names, so that nothing above this file knows which one runs.
"""

import importlib
import os
import warnings

import jax

from jax_gsplat_depth._checkout import use_installed_modules

try:
    from jax_gsplat_depth import _cpu
except ImportError as error:
    if error.name != "jax_gsplat_depth":  # it is there but does not load: its own error says why
        raise
    use_installed_modules()
    from jax_gsplat_depth import _cpu

TILE_SIZE: int = _cpu.TILE_SIZE
ALPHA_MIN: float = _cpu.ALPHA_MIN
workspace_bytes = _cpu.workspace_bytes


def _register() -> None:
    wanted = os.environ.get("JGD_CPU_ISA")
    if wanted and wanted != _cpu.isa():
        raise ImportError(
            f"JGD_CPU_ISA is {wanted!r}, which this machine does not have: leave it unset or use "
            "baseline, avx2 or avx512"
        )
    for name, target in _cpu.registrations().items():
        jax.ffi.register_ffi_target(name, target, platform="cpu")
    try:
        cuda = importlib.import_module("jax_gsplat_depth._cuda")
    except ModuleNotFoundError:  # built without it
        return
    except ImportError as error:  # no reason to stop those who have no GPU
        warnings.warn(
            f"jax_gsplat_depth runs on the CPU only, its CUDA module does not load: {error}",
            RuntimeWarning,
            stacklevel=2,
        )
        return
    for name, target in cuda.registrations().items():
        jax.ffi.register_ffi_target(name, target, platform="CUDA")


_register()
