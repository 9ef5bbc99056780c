"""Shows Gaussians from Python: scripts, interactive sessions and notebooks."""

from __future__ import annotations

import sys
import webbrowser
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from jax_gsplat_depth import io
from jax_gsplat_depth._common.local_scene import LocalScene
from jax_gsplat_depth._types import Config, Gaussians
from jax_gsplat_depth.viewer._guard import require_safe_viser
from jax_gsplat_depth.viewer._places import Cameras, cameras_beside
from jax_gsplat_depth.viewer._server import Viewer


def show(
    gaussians: Gaussians | LocalScene | io.SplatFile | str | Path,
    *,
    cameras: Cameras | None = None,
    up: ArrayLike | None = None,
    port: int = 0,
    open_browser: bool = False,
    block: bool = False,
    config: Config | None = None,
) -> Viewer:
    """Show Gaussians in the browser, while the program goes on.

    In a notebook, as the last line of a cell, it shows the viewer below the cell::

        jgd.viewer.show(gaussians, cameras=capture)

    Elsewhere, open its ``url``. It listens at the loopback interface of this machine only; of a
    notebook on another machine, forward the port (``ssh -L``).

    Args:
        gaussians: Activated Gaussians with 3 colour channels, of which a copy is shown; or the path
            of a file, whose cameras (``cameras.json`` beside it), origin and antialiasing are found
            as ``jax-gsplat-depth view`` finds them; or what ``io.read`` returned.
        cameras: The views of the list, world frame: ``frames.SceneCameras``, a capture, a
            ``CameraPath``, a ``Camera`` of one or of many views, or a list of cameras. The first
            that was not held out is shown at first. None starts in front of the scene.
        up: ``[3]`` upward direction, world frame; None takes that of the cameras, else z.
        port: Port to listen at; 0 takes any free one.
        open_browser: Open the page in the browser of this machine.
        block: Return only when Ctrl-C, which is no error then, or another thread stops the viewer.
        config: Settings of the renderer; None for its defaults.

    Returns:
        The running viewer: ``url`` is its address, ``stop()`` ends it, as does the end of a
        ``with`` block or of the program.

    Raises:
        OSError: The port cannot be used, or the file cannot be read.
        ValueError: What is given cannot be shown; the message says why.
        ImportError: viser is not installed, or not of a version that can be made safe.
    """
    require_safe_viser()  # Before the work.
    if isinstance(gaussians, str | Path):
        if cameras is None:
            cameras = cameras_beside(gaussians, _say)
        path, gaussians = gaussians, io.read(gaussians, on_bad="drop")
        if gaussians.dropped:
            n_dropped = sum(gaussians.dropped.values())
            _say(f"{path}: {n_dropped} Gaussians left out that cannot be drawn")
    if isinstance(gaussians, io.SplatFile):
        config = config or Config(antialiased=bool(gaussians.tags.antialiased))
        scene = LocalScene.of(gaussians.gaussians, gaussians.tags.origin)
    elif isinstance(gaussians, LocalScene):
        scene = gaussians
    elif isinstance(gaussians, Gaussians):
        scene = LocalScene.of(_copied(gaussians))
    else:
        raise ValueError(
            f"gaussians: expected Gaussians or the path of a file, got {type(gaussians).__name__}"
        )
    viewer = Viewer(
        scene,
        up=None if up is None else np.asarray(up),
        cameras=cameras,
        say=_say,
        port=port,
        config=config,
    )
    if open_browser:
        webbrowser.open(viewer.url)
    if block:
        _say(f"{len(scene.gaussians.means)} Gaussians at {viewer.url} (Ctrl-C ends)")
        with viewer:
            try:
                viewer.wait()
            except KeyboardInterrupt:
                # The usual end, and no failure.
                pass
    return viewer


def _copied(gaussians: Gaussians) -> Gaussians:
    """Return a copy in float32, which no training step that donates its buffers can take away."""
    colors = gaussians.colors if gaussians.sh is None else gaussians.sh
    if colors is not None and np.shape(colors)[-1:] != (3,):
        raise ValueError(
            f"gaussians: expected 3 colour channels, got an array of shape {np.shape(colors)}"
        )
    return jax.tree.map(lambda array: jnp.array(np.array(array, np.float32)), gaussians)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
