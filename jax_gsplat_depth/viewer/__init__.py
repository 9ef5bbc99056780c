"""Shows Gaussians in the browser, as ``jax-gsplat-depth view`` does.

``_picture`` draws what the browser should show, a function of pose and controls; ``_session`` is
the loop of one browser, ``_server`` the server of all of them.
"""

from jax_gsplat_depth.viewer._server import Viewer

__all__ = ["Viewer"]
