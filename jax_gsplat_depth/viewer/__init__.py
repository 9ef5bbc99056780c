"""Shows Gaussians in the browser, as ``jax-gsplat-depth view`` does, from Python and notebooks.

``_show`` is what Python calls. ``_places`` finds where to look from, ``_picture`` draws the picture
for a pose and a state of the controls, and ``_color_bar`` what its colours mean. ``_session`` runs
the loop of one browser, with the ``_navigation`` of its camera; ``_server`` serves all of them, and
``_guard`` keeps others out.
"""

from jax_gsplat_depth.viewer._guard import require_safe_viser
from jax_gsplat_depth.viewer._places import cameras_beside
from jax_gsplat_depth.viewer._server import Viewer
from jax_gsplat_depth.viewer._show import show

__all__ = ["Viewer", "cameras_beside", "require_safe_viser", "show"]
