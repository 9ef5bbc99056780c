"""Reads pictures that commands wrote."""

import numpy as np
from PIL import Image


def read_rgb(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))
