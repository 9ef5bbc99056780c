"""Says how XLA compiles small programs that run once: without optimisation.

``OPTIMIZED`` is for tests of bits that depend on how XLA sums, whatever the process has chosen.
"""

import jaxlib.version

OPTIONS = {"xla_backend_optimization_level": 0}
OPTIMIZED = {"xla_backend_optimization_level": 3}
if jaxlib.version.__version_info__ < (0, 11):  # XLA refuses an option that it does not know
    OPTIONS["xla_cpu_use_fusion_emitters"] = False
    OPTIMIZED["xla_cpu_use_fusion_emitters"] = True


def as_flags():
    """Return the options as they stand in ``XLA_FLAGS``."""
    return " ".join(f"--{name}={str(value).lower()}" for name, value in OPTIONS.items())
