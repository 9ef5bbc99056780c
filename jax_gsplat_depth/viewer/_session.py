"""Serves one browser of the viewer: adds the controls, decides what to draw and when.

While the camera moves, pictures are as coarse as is needed to draw many per second; when it rests,
one of full resolution follows.
"""

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from jax_gsplat_depth._common.local_scene import LocalScene
from jax_gsplat_depth._types import Config
from jax_gsplat_depth.viewer._color_bar import color_bar
from jax_gsplat_depth.viewer._navigation import Navigation
from jax_gsplat_depth.viewer._picture import (
    DrawnView,
    Look,
    Pose,
    draw,
    picture_size,
    png_of,
    range_of,
)
from jax_gsplat_depth.viewer._places import Tour

_RESTS_AFTER = 0.25
"""Seconds without a new pose after which the camera rests."""

_BUDGET = 1 / 12
"""Seconds that a picture of a moving camera may take."""

_FACTORS = (1.0, 0.5, 0.25)
"""Resolutions to choose from, relative to the canvas."""

_QUALITY = {True: 60, False: 92}
"""Quality of the JPEG pictures while the camera moves, and when it rests."""

_SLIDER_ROOM = 3.0
"""Largest depth of the sliders, relative to the far end of the first range."""


class Session:
    """Draws for one client of a viser server.

    Callbacks of the client only note what has changed; ``step`` does the work, always in the same
    thread.
    """

    def __init__(
        self,
        client: Any,
        scene: LocalScene,
        depth_range: tuple[float, float],
        wake: Callable[[], None],
        clock: Callable[[], float] = time.perf_counter,
        *,
        config: Config | None = None,
        tour: Tour | None = None,
    ) -> None:
        """Add the controls.

        Args:
            client: A ``viser.ClientHandle``, or an object with its ``camera``, ``gui``, ``scene``,
                ``atomic`` and ``send_file_download``.
            scene: Activated Gaussians with 3 colour channels.
            depth_range: First range of depth colours, world units.
            wake: Called, from any thread, when ``step`` should be called.
            clock: Returns the time in seconds.
            config: Settings of the renderer; None for its defaults.
            tour: The places that the camera can go to; None leaves out these controls.
        """
        self._client = client
        self._scene = scene
        self._wake = wake
        self._clock = clock
        self._config = config
        self._moved = -_RESTS_AFTER
        self._dirty = True
        self._sharp = False
        # Seconds per pixel of the latest picture; the first of each size, which compiles, is left
        # out.
        self._pace: float | None = None
        self._sizes: set[tuple[int, ...]] = set()
        self._drawn: tuple[DrawnView, Pose, Look] | None = None
        self._save_wanted = False
        self._add_controls(client.gui, depth_range)
        navigation = None if tour is None else Navigation(client, tour, self._on_change)
        self._save = client.gui.add_button("Save picture", hint="As a PNG, as it is shown")
        self._save.on_click(lambda _: self._on_save())
        self._status = client.gui.add_text("Drawn", initial_value="", disabled=True)
        if navigation is not None:
            navigation.add_help()
        client.camera.on_update(lambda _: self._on_move())

    def _add_controls(self, gui: Any, depth_range: tuple[float, float]) -> None:
        # Steps of 0.01, 0.1 and so on: a hundred or more from 0 to the far end of the first range.
        digits = 2 - math.floor(math.log10(depth_range[1]))
        low, high = (round(depth, digits) for depth in depth_range)
        limit = round(_SLIDER_ROOM * high, digits)
        self._output = gui.add_dropdown("Show", ("image", "depth", "weight"), initial_value="image")
        self._low, self._high = (
            gui.add_slider(
                label,
                min=0.0,
                max=limit,
                step=10.0**-digits,
                initial_value=depth,
                visible=False,
                hint=f"Depth of the {end} colour, world units",
            )
            for label, end, depth in (("Near", "first", low), ("Far", "last", high))
        )
        self._fit_range = gui.add_button("Fit range to view", visible=False)
        # Drawn when it is first shown.
        self._bar_range: tuple[float, float] | None = None
        self._bar = gui.add_image(
            np.zeros((1, 1, 4), np.uint8), label="Depth, world units (grey: none)", visible=False
        )
        self._min_weight = gui.add_slider(
            "Least weight",
            min=0.0,
            max=1.0,
            step=0.01,
            initial_value=0.5,
            visible=False,
            hint="Pixels of less weight are left out",
        )
        self._background = gui.add_rgb("Background", initial_value=(0, 0, 0))
        self._output.on_update(lambda _: self._on_output())
        for control in (self._low, self._high, self._min_weight, self._background):
            control.on_update(lambda _: self._on_change())
        self._fit_range.on_click(lambda _: self._on_fit_range())

    def _on_move(self) -> None:
        self._moved = self._clock()
        self._on_change()

    def _on_change(self) -> None:
        self._dirty = True
        self._wake()

    def _on_output(self) -> None:
        output = self._output.value
        for control in (self._low, self._high, self._fit_range, self._bar):
            control.visible = output == "depth"
        self._min_weight.visible = output != "image"
        self._on_change()

    def _on_fit_range(self) -> None:
        if self._drawn is None:
            return
        depths = range_of(self._drawn[0], self._min_weight.value)
        if depths is None:
            return
        for slider, depth in zip((self._low, self._high), depths, strict=True):
            slider.max = max(slider.max, depth)
            slider.value = depth
        self._on_change()

    def _on_save(self) -> None:
        self._save_wanted = True
        self._wake()

    def step(self) -> float | None:
        """Draw if something has changed, or in full resolution when the camera has come to rest.

        Returns:
            Seconds after which to call again, or None to wait for ``wake``.
        """
        rests_in = self._moved + _RESTS_AFTER - self._clock()
        moving = rests_in > 0
        if self._dirty or not (self._sharp or moving):
            # Cleared before drawing: a change meanwhile is drawn next.
            self._dirty = False
            self._draw(moving)
            self._sharp = not moving
        if self._sharp and not self._dirty:
            if self._save_wanted:
                self._save_wanted = False
                self._send_picture()
            return None
        return max(0.0, self._moved + _RESTS_AFTER - self._clock())

    def look(self) -> Look:
        """Return the state of the controls."""
        red, green, blue = (channel / 255 for channel in self._background.value)
        return Look(
            output=self._output.value,
            depth_range=(self._low.value, self._high.value),
            min_weight=self._min_weight.value,
            background=(red, green, blue),
        )

    def pose(self) -> Pose:
        """Return the camera of the browser."""
        camera = self._client.camera
        return Pose(
            position=camera.position,
            wxyz=camera.wxyz,
            fov_y=camera.fov,
            width=camera.image_width,
            height=camera.image_height,
        )

    def _draw(self, moving: bool) -> None:
        started = self._clock()
        pose = self.pose()
        factor = self._coarse_factor(pose) if moving else 1.0
        look = self.look()
        view = draw(self._scene, pose, look, factor, config=self._config)
        self._client.scene.set_background_image(
            view.picture, format="jpeg", jpeg_quality=_QUALITY[moving]
        )
        seconds = self._clock() - started
        self._drawn = view, pose, look
        size = view.depth.shape
        if size in self._sizes:
            self._pace = seconds / view.depth.size
        self._sizes.add(size)
        rate = f"{1 / seconds:.0f} fps" if seconds > 0 else "-"
        self._status.value = f"{size[1]}x{size[0]}, {1000 * seconds:.0f} ms, {rate}"
        if look.output == "depth" and look.depth_range != self._bar_range:
            self._bar_range = look.depth_range
            self._bar.image = color_bar(*look.depth_range)

    def _send_picture(self) -> None:
        assert self._drawn is not None
        view, pose, look = self._drawn
        content = png_of(view.picture, pose, look)
        self._client.send_file_download(f"{look.output}.png", content, save_immediately=True)

    def _coarse_factor(self, pose: Pose) -> float:
        """Return the finest factor whose picture takes no longer than the budget."""
        if self._pace is None:
            return _FACTORS[1]
        for factor in _FACTORS:
            width, height = picture_size(pose, factor)
            if self._pace * width * height <= _BUDGET:
                return factor
        return _FACTORS[-1]
