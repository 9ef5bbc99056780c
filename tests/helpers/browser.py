"""Stands for a browser of viser: its controls, its camera, and what was sent to it."""

import contextlib
import threading
import time

import numpy as np

import jax_gsplat_depth as jgd
from jax_gsplat_depth.viewer._picture import Pose


class Control:
    """What the session uses of a control of viser."""

    def __init__(self, value=None, max=None, visible=True):
        """Take what the session gives."""
        self.value, self.max, self.visible = value, max, visible

    def on_update(self, callback):
        self.changed = callback

    on_click = on_update

    def set(self, value):
        self.value = value
        self.changed(None)


class Client:
    """A browser: its controls, its camera, and the pictures that were sent to it."""

    def __init__(self, pose):
        """Put the camera somewhere."""
        self.gui = self.scene = self.camera = self
        self.controls = {}
        self.pictures, self.files, self.texts = [], [], []
        self.position, self.wxyz, self.fov = pose.position, pose.wxyz, pose.fov_y
        self.look_at, self.up_direction = pose.position + [0.0, 1.0, 0.0], np.eye(3)[2]
        self.image_width, self.image_height = pose.width, pose.height

    def _add(self, label, *_, initial_value=None, max=None, visible=True, **__):
        self.controls[label] = Control(initial_value, max, visible)
        return self.controls[label]

    add_dropdown = add_slider = add_button = add_button_group = add_rgb = add_text = _add

    def add_image(self, image, *, label, visible):
        self.controls[label] = Control(visible=visible)
        self.controls[label].image = image
        return self.controls[label]

    def add_folder(self, label, *, expand_by_default):
        return contextlib.nullcontext()

    def add_markdown(self, text):
        self.texts.append(text)

    def atomic(self):
        return contextlib.nullcontext()

    def on_update(self, callback):
        self.move = lambda: callback(self)

    def set_background_image(self, picture, *, format, jpeg_quality):
        assert format == "jpeg"
        self.pictures.append((picture, jpeg_quality))

    def send_file_download(self, name, content, *, save_immediately):
        assert save_immediately
        self.files.append((name, content))

    def visible(self):
        return {label for label, control in self.controls.items() if control.visible}


def pose_at(eye, target, width=96, height=64, fov_y=0.8):
    """Return the pose of a browser, and the camera of the package at the same place."""
    camera = jgd.Camera.look_at(
        np.float32(eye), np.float32(target), fov_y=np.float32(fov_y), width=width, height=height
    )
    to_world = np.asarray(camera.viewmat, np.float64)[:3, :3].T
    w = np.sqrt(1 + np.trace(to_world)) / 2
    vector = np.array([to_world[i, j] - to_world[j, i] for i, j in ((2, 1), (0, 2), (1, 0))])
    return Pose(np.array(eye), np.array([w, *vector / (4 * w)]), fov_y, width, height), camera


def turned(pose_up, eye, target=(1.0, -2.0, 0.5)):
    """Return the world-to-camera pose that sees ``pose_up`` as up, as far as it can."""
    forward = np.subtract(target, eye) / np.linalg.norm(np.subtract(target, eye))
    right = np.cross(forward, pose_up)
    right /= np.linalg.norm(right)
    viewmat = np.eye(4)
    viewmat[:3, :3] = right, np.cross(forward, right), forward
    viewmat[:3, 3] = -viewmat[:3, :3] @ eye
    return viewmat


@contextlib.contextmanager
def no_threads_left():
    """Fail if threads are left; those of viser's pool need a moment to see that it is shut."""
    before = set(threading.enumerate())
    yield
    end = time.monotonic() + 10
    while (left := set(threading.enumerate()) - before) and time.monotonic() < end:
        time.sleep(0.02)
    assert not left
