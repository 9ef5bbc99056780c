"""Shows Gaussians in the browser, as ``jax-gsplat-depth view`` does.

``_picture`` draws the picture for a pose and a state of the controls, ``_session`` runs the loop of
one browser, ``_server`` serves all of them, and ``_guard`` keeps others out.
"""

from jax_gsplat_depth.viewer._guard import require_safe_viser
from jax_gsplat_depth.viewer._server import Viewer

__all__ = ["Viewer", "require_safe_viser"]
