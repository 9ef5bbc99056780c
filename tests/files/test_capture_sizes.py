"""Checks captures whose photos differ in size or are large: cut, padded or reduced, and said."""

import numpy as np
import pytest
from helpers.captures import (
    CX,
    CY,
    FX,
    FY,
    HEIGHT,
    WIDTH,
    K,
    load,
    refusal,
    write_colmap,
    write_depths,
    write_json,
)
from PIL import Image

from jax_gsplat_depth.datasets import CaptureWarning, _canvas, select_views
from jax_gsplat_depth.frames import SceneCameras


def write_undistorted(folder, scene, sizes):
    """Write photos of different sizes, each with a camera of its own, as COLMAP's undistorter."""
    write_colmap(folder / "sparse" / "0", scene, text=True)
    (folder / "images").mkdir()
    lines = (folder / "sparse" / "0" / "images.txt").read_text().splitlines()
    cameras, photos = "", []
    rng = np.random.default_rng(0)
    for i, (name, (width, height)) in enumerate(zip(scene.names, sizes, strict=True)):
        cameras += f"{i + 1} PINHOLE {width} {height} {FX + i} {FY} {CX - i / 8} {CY}\n"
        photos.append(rng.integers(0, 256, (height, width, 3), np.uint8))
        Image.fromarray(photos[-1]).save(folder / "images" / f"{name}.png")
        lines[1 + 2 * i] = lines[1 + 2 * i].replace(f" 7 {name}", f" {i + 1} {name}")
    (folder / "sparse" / "0" / "cameras.txt").write_text(cameras)
    (folder / "sparse" / "0" / "images.txt").write_text("\n".join(lines) + "\n")
    Ks = np.tile(K, (len(sizes), 1, 1))
    Ks[:, 0, 0] += np.arange(len(sizes))
    Ks[:, 0, 2] -= np.arange(len(sizes)) / 8
    return photos, Ks


def test_sizes_that_hardly_differ_are_cut_to_the_smallest(tmp_path, scene):
    sizes = [(80 + i % 3, 60 + i % 2) for i in range(10)]
    photos, Ks = write_undistorted(tmp_path, scene, sizes)
    with pytest.warns(CaptureWarning, match="6 sizes .*80x60.*: all are cut to 80x60 at the"):
        capture = load(tmp_path)
    np.testing.assert_array_equal(capture.images, [photo[:60, :80] for photo in photos])
    np.testing.assert_allclose(capture.Ks, Ks, rtol=1e-6)
    assert capture.masks is None and capture.sizes is None


@pytest.mark.parametrize("downscale", [1, 2])
def test_portrait_and_landscape_share_a_size_whose_rest_does_not_count(tmp_path, scene, downscale):
    sizes = [(14, 11) if i % 2 else (10, 15) for i in range(10)]
    photos, Ks = write_undistorted(tmp_path, scene, sizes)
    (tmp_path / "masks").mkdir()
    mask = np.full((15, 10), 255, np.uint8)
    mask[:4, :2] = 0
    Image.fromarray(mask).save(tmp_path / "masks" / "0002.png")
    with pytest.warns(CaptureWarning, match="2 sizes .10x15, 14x11.: all are put on 14x15 pixels"):
        capture = load(tmp_path, downscale=downscale)
    assert (capture.width, capture.height) == (14 // downscale, 15 // downscale)
    np.testing.assert_allclose(capture.Ks[:, :2], Ks[:, :2] / downscale, rtol=1e-6)
    assert capture.alphas is None
    assert capture.downscale == downscale
    np.testing.assert_array_equal(capture.sizes, np.array(sizes) // downscale)
    cameras = SceneCameras.of_capture(capture)
    np.testing.assert_array_equal(np.stack([cameras.width, cameras.height], 1), capture.sizes)
    np.testing.assert_array_equal(select_views(capture, 3).sizes[0], capture.sizes[0])
    for i, (width, height) in enumerate(sizes):
        rows, columns = height // downscale, width // downscale
        counts = np.zeros((15 // downscale, 14 // downscale), bool)
        counts[:rows, :columns] = True
        if i == 2:
            counts[: 4 // downscale, : 2 // downscale] = False
        np.testing.assert_array_equal(capture.masks[i], counts)
        reduced = np.asarray(Image.fromarray(photos[i]).reduce(downscale))[:rows, :columns]
        np.testing.assert_array_equal(capture.images[i, :rows, :columns], reduced)


def test_sizes_per_frame_of_a_transforms_json(nerf, scene):
    folder, data = nerf
    write_depths(folder, data, np.full((10, HEIGHT, WIDTH), 1000))
    small = Image.fromarray(scene.images[3]).crop((0, 0, 7, 6))
    small.save(folder / "images" / "0003.png")
    Image.fromarray(np.full((6, 7), 2000, np.uint16)).save(folder / "depth" / "0003.png")
    data["frames"][3].update(w=7, h=6, fl_x=9.0, fl_y=8.0, cx=3.5, cy=3.0)
    write_json(folder / "transforms.json", data)
    with pytest.warns(CaptureWarning, match="2 sizes .14x11, 7x6.: all are put on 14x11"):
        capture = load(folder)
    np.testing.assert_allclose(capture.Ks[3], [[9, 0, 3.5], [0, 8, 3], [0, 0, 1]])
    np.testing.assert_allclose(capture.Ks[4], K, rtol=1e-6)
    np.testing.assert_array_equal(capture.images[3, :6, :7], np.asarray(small))
    assert capture.masks[3].sum() == capture.depth_masks[3].sum() == 42
    assert capture.depths[3, 5, 6] == 2 and capture.masks[4].all()
    # A photo that has another size than its camera is refused before anything is said.
    data["frames"][4].update(w=20, h=20)
    write_json(folder / "transforms.json", data)
    assert "0004.png is 14x11 pixels but its camera is for 20x20" in refusal(folder)


def test_large_photos_are_reduced_if_nobody_says_how_much(nerf, monkeypatch):
    monkeypatch.setattr(_canvas, "AUTOMATIC_PIXELS", WIDTH * HEIGHT - 1)
    with pytest.warns(CaptureWarning, match="photos of 14x11 pixels, .* a downscale of 2 to"):
        assert load(nerf[0], downscale=None).images.shape[1:3] == (HEIGHT // 2, WIDTH // 2)
    assert load(nerf[0]).images.shape[1:3] == (HEIGHT, WIDTH)
    monkeypatch.setattr(_canvas, "AUTOMATIC_PIXELS", WIDTH * HEIGHT)
    assert load(nerf[0], downscale=None).images.shape[1:3] == (HEIGHT, WIDTH)


def test_other_views_are_held_out_if_asked_for(nerf):
    capture = load(nerf[0])
    assert capture.holding_out(4).test_indices.tolist() == [0, 4, 8]
    none = capture.holding_out(0)
    assert none.test_indices.tolist() == [] and none.train_indices.tolist() == list(range(10))
    with pytest.raises(ValueError, match="every is -1: expected a whole number of at least 0"):
        capture.holding_out(-1)
