"""Runs the command as ``python -m jax_gsplat_depth.cli``."""

import sys

from jax_gsplat_depth.cli import main

sys.exit(main())
