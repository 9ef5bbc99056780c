"""Adds the controls that move the camera of one browser: views, field of view, reset, help."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from jax_gsplat_depth.viewer._places import FOV_DEGREES, Place, Tour

_STEP = 0.1
"""Of the slider of the field of view, degrees."""

_ALONG = 0.999
"""Largest cosine between up and the line of sight for which the browser can level its camera."""

_HELP = """
| what | how |
|---|---|
| turn around the scene | drag with the left button |
| shift | drag with the right button |
| come closer, go away | mouse wheel, or pinch |
| walk | W, S, A, D |
| down, up | Q, E |
| turn | arrow keys |

The keys need a click into the picture first. On a touch screen, one finger turns, two shift.

*View* goes to a photo's camera; *again* goes back to it. *Reset view* goes to where all began.
The saved picture is what is shown, in full resolution.
"""


class Navigation:
    """Moves the camera of a browser to the places of a tour."""

    def __init__(self, client: Any, tour: Tour, moved: Callable[[], None]) -> None:
        """Add the controls.

        Args:
            client: A ``viser.ClientHandle``, or an object with its ``camera``, ``gui``, ``atomic``.
            tour: The places; the browser is at the first.
            moved: Called, from any thread, when a control has moved the camera.
        """
        self._client = client
        self._tour = tour
        self._moved = moved
        self._labels = [place.label for place in tour.places]
        self._at = tour.start
        gui, several = client.gui, len(tour.places) > 1
        self._list = gui.add_dropdown(
            "View",
            tuple(self._labels),
            initial_value=tour.first.label,
            visible=several,
            hint="Cameras of the photos",
        )
        self._steps = gui.add_button_group("Go", ("previous", "again", "next"), visible=several)
        self._fov = gui.add_slider(
            "Field of view",
            min=FOV_DEGREES[0],
            max=FOV_DEGREES[1],
            step=_STEP,
            initial_value=self._fov_of(tour.first),
            hint="Vertical, degrees",
        )
        self._level = gui.add_button("Level the horizon", hint="Take out the roll of the camera")
        self._reset = gui.add_button("Reset view", hint="Go back to where the camera was at first")
        # The shape of the canvas is known only now.
        client.camera.fov = tour.first.fov_y(*self._canvas())
        self._list.on_update(lambda _: self._on_list())
        self._steps.on_click(lambda _: self._on_step())
        self._fov.on_update(lambda _: self._on_fov())
        self._level.on_click(lambda _: self._on_level())
        self._reset.on_click(lambda _: self._go(tour.start))

    def add_help(self) -> None:
        """Add what the mouse and the keys do, folded."""
        with self._client.gui.add_folder("Help", expand_by_default=False):
            self._client.gui.add_markdown(_HELP)

    def _canvas(self) -> tuple[int, int]:
        return self._client.camera.image_width, self._client.camera.image_height

    def _fov_of(self, place: Place) -> float:
        """Return what the slider says of a place, degrees."""
        return round(math.degrees(place.fov_y(*self._canvas())), 1)

    def _on_list(self) -> None:
        chosen = self._labels.index(self._list.value)
        # What we put there ourselves is where the camera is.
        if chosen != self._at:
            self._go(chosen)

    def _on_step(self) -> None:
        step = {"previous": -1, "again": 0, "next": 1}[self._steps.value]
        self._go((self._at + step) % len(self._labels))

    def _on_fov(self) -> None:
        # A slider that follows the camera is rounded, and must not round the camera.
        if abs(self._fov.value - math.degrees(self._client.camera.fov)) > 0.51 * _STEP:
            self._client.camera.fov = math.radians(self._fov.value)
            self._moved()

    def _on_level(self) -> None:
        camera = self._client.camera
        if abs(_cosine(self._tour.up, camera.look_at - camera.position)) < _ALONG:
            camera.up_direction = self._tour.up
            self._moved()

    def _go(self, index: int) -> None:
        place = self._tour.places[index]
        self._at = index
        self._list.value = place.label
        camera = self._client.camera
        with self._client.atomic():
            # viser finds the rotation after each of these: up is not to be the line of sight.
            along = abs(_cosine(place.up, camera.look_at - camera.position))
            turn_first = along < abs(_cosine(camera.up_direction, place.look_at - place.position))
            if turn_first:
                camera.up_direction = place.up
            camera.position = place.position
            camera.look_at = place.look_at
            if not turn_first:
                camera.up_direction = place.up
            camera.fov = place.fov_y(*self._canvas())
        self._fov.value = self._fov_of(place)
        self._moved()


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
