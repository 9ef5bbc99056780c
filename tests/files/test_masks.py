"""Checks masks of photos: which pixels count, in every layout, and how they shrink."""

import numpy as np
import pytest
from helpers.captures import HEIGHT, N_VIEWS, WIDTH, load, refusal, write_json
from PIL import Image

from jax_gsplat_depth.datasets import CaptureWarning, load_capture, select_views


@pytest.fixture
def masks():
    """What counts, ``(V, H, W)`` bool; all of the last photo does."""
    counts = np.random.default_rng(5).random((N_VIEWS, HEIGHT, WIDTH)) > 0.3
    counts[-1] = True
    return counts


def write_masks(folder, data, pictures):
    (folder / "masks").mkdir(exist_ok=True)
    for frame, picture in zip(data["frames"], pictures, strict=True):
        frame["mask_path"] = frame["file_path"].replace("images", "masks")
        picture.save(folder / frame["mask_path"])
    write_json(folder / "transforms.json", data)


def in_mode(counts, mode):
    if mode == "bool":
        return Image.fromarray(counts.astype(np.uint8))
    if mode == "transparent":
        color = np.full((*counts.shape, 4), 255, np.uint8)
        color[..., 3] = 255 * counts
        return Image.fromarray(color)
    return Image.fromarray(255 * counts.astype(np.uint8)).convert(mode)


@pytest.mark.parametrize("mode", ["L", "1", "RGB", "P", "I;16", "bool", "transparent"])
def test_pixels_that_are_not_black_count(nerf, scene, masks, mode):
    folder, data = nerf
    write_masks(folder, data, [in_mode(counts, mode) for counts in masks])
    capture = load(folder)
    assert capture.masks.dtype == bool
    np.testing.assert_array_equal(capture.masks, masks)
    # They are neither transparent nor painted over.
    assert capture.alphas is None
    np.testing.assert_array_equal(capture.images, scene.images)


def test_photos_without_a_mask_count_whole_and_masks_that_hide_nothing_cost_nothing(nerf, masks):
    folder, data = nerf
    write_masks(folder, data, [in_mode(counts, "L") for counts in masks])
    for frame in data["frames"][1:]:
        del frame["mask_path"]
    write_json(folder / "transforms.json", data)
    capture = load(folder)
    np.testing.assert_array_equal(capture.masks[0], masks[0])
    assert capture.masks[1:].all()
    in_mode(np.ones((HEIGHT, WIDTH), bool), "L").save(folder / "masks" / "0000.png")
    assert load(folder).masks is None


def test_the_black_of_a_jpeg_is_not_exact(nerf):
    folder, data = nerf
    counts = np.zeros((HEIGHT, WIDTH), bool)
    counts[:, 8:] = True
    (folder / "mask.jpg").touch()
    noisy = np.where(counts, 246, 9).astype(np.uint8)
    Image.fromarray(noisy).save(folder / "mask.jpg", quality=100)
    data["frames"][0]["mask_path"] = "mask.jpg"
    write_json(folder / "transforms.json", data)
    np.testing.assert_array_equal(load(folder).masks[0], counts)


def test_a_smaller_pixel_counts_if_all_of_its_pixels_do(nerf, masks):
    folder, data = nerf
    masks[:, :4, :4] = True
    write_masks(folder, data, [in_mode(counts, "L") for counts in masks])
    capture = load(folder, downscale=2)
    blocks = masks[:, : HEIGHT // 2 * 2].reshape(N_VIEWS, HEIGHT // 2, 2, WIDTH // 2, 2)
    np.testing.assert_array_equal(capture.masks, blocks.all(axis=(2, 4)))


def test_masks_follow_the_photo_when_its_lens_is_removed(nerf):
    folder, data = nerf
    counts = np.ones((N_VIEWS, HEIGHT, WIDTH), bool)
    counts[:, 3:6, 4:9] = False
    data.update(k1=0.05, k2=0.01)
    # Photos that are white where they count, so that what is resampled tells where that is.
    for frame, mask in zip(data["frames"], counts, strict=True):
        in_mode(mask, "RGB").save(folder / frame["file_path"])
    write_masks(folder, data, [in_mode(mask, "L") for mask in counts])
    capture = load(folder)
    assert capture.masks.shape == capture.images.shape[:3] and not capture.masks.all()
    np.testing.assert_array_equal(capture.masks, (capture.images == 255).all(axis=-1))


def test_masks_of_instant_ngp_hide_what_is_not_black(nerf, masks):
    folder, data = nerf
    for i in range(0, N_VIEWS, 2):
        hidden = in_mode(~masks[i], "RGB")
        hidden.save(folder / "images" / f"dynamic_mask_{i:04d}.png")
    masks[1::2] = True
    np.testing.assert_array_equal(load(folder).masks, masks)
    # What the file names comes before what lies there.
    in_mode(masks[1], "L").save(folder / "white.png")
    data["frames"][0]["mask_path"] = "white.png"
    write_json(folder / "transforms.json", data)
    assert load(folder).masks[0].all()


@pytest.mark.parametrize("suffix", [".png.png", ".png"])
def test_masks_beside_a_colmap_model(colmap, masks, suffix):
    (colmap / "masks").mkdir()
    for i in range(0, N_VIEWS, 2):
        in_mode(masks[i], "L").save(colmap / "masks" / f"{i:04d}{suffix}")
    masks[1::2] = True
    np.testing.assert_array_equal(load(colmap).masks, masks)


def test_photos_of_which_nothing_counts_are_left_out(nerf, scene, masks):
    folder, data = nerf
    masks[3] = False
    # Every other pixel: at a lower resolution nothing is left of this one.
    masks[5] = np.indices((HEIGHT, WIDTH)).sum(axis=0) % 2 == 0
    for mask in (masks[0], masks[-1]):
        mask[:4, :4] = True
    write_masks(folder, data, [in_mode(counts, "L") for counts in masks])
    with pytest.warns(CaptureWarning, match="leave nothing of the photos 0003, which are left out"):
        capture = load_capture(folder)
    kept = [i for i in range(N_VIEWS) if i != 3]
    assert capture.names == [f"{i:04d}" for i in kept]
    np.testing.assert_array_equal(capture.masks, masks[kept])
    np.testing.assert_array_equal(capture.images, scene.images[kept])
    # What is held out is not for the masks to say.
    held_out = [int(capture.names[i]) for i in capture.test_indices]
    assert held_out == list(range(0, N_VIEWS, 8))
    with pytest.warns(CaptureWarning, match="0005"):
        assert "0005" not in load_capture(folder, downscale=2).names


def test_masks_that_leave_one_photo(nerf, masks):
    folder, data = nerf
    masks[1:] = False
    write_masks(folder, data, [in_mode(counts, "L") for counts in masks])
    message = refusal(folder)
    assert f"leave nothing of {N_VIEWS - 1} of its {N_VIEWS} photos: expected at least 2" in message


def test_selected_views_keep_their_masks(nerf, masks):
    folder, data = nerf
    write_masks(folder, data, [in_mode(counts, "L") for counts in masks])
    capture = select_views(load_capture(folder), 2)
    kept = [int(name) for name in capture.names]
    np.testing.assert_array_equal(capture.masks, masks[kept])


@pytest.mark.parametrize(
    "name, text",
    [
        ("none.png", "none.png is missing: expected a mask"),
        ("small.png", "small.png is 4x3 pixels but its camera is for"),
        ("text.png", "text.png cannot be read as a mask"),
        (3, "'mask_path' that is not a string"),
        ("", "'mask_path' that is empty: expected a path"),
    ],
)
def test_masks_refused(nerf, name, text):
    folder, data = nerf
    Image.new("L", (4, 3), 255).save(folder / "small.png")
    (folder / "text.png").write_text("no picture")
    data["frames"][3]["mask_path"] = name
    write_json(folder / "transforms.json", data)
    assert text in refusal(folder)
