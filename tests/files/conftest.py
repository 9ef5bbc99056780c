"""Writes the small captures that several modules read, change and damage."""

import pytest
from helpers.captures import Scene, colmap_folder, nerf_folder


@pytest.fixture
def scene():
    return Scene()


@pytest.fixture
def nerf(tmp_path, scene):
    """A folder with transforms.json, and its content to change."""
    return tmp_path, nerf_folder(tmp_path, scene)


@pytest.fixture
def colmap(tmp_path, scene):
    colmap_folder(tmp_path, scene)
    return tmp_path
