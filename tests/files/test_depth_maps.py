"""Checks depth maps as people have them: arrays, floats, and the small maps of phones."""

import numpy as np
import pytest
from helpers.captures import HEIGHT, N_VIEWS, WIDTH, load, refusal, write_depths, write_json
from PIL import Image

from jax_gsplat_depth.datasets import CaptureWarning

METRES = np.random.default_rng(0).uniform(0.5, 8, (N_VIEWS, HEIGHT, WIDTH)).astype(np.float32)
STEPS = (1000 * METRES).astype(np.uint16)


def picture(path, values):
    Image.fromarray(values).save(path)


def npz(path, values):
    np.savez(path, confidence=np.ones(3), depth=values)


@pytest.mark.parametrize(
    "suffix, write, values, keys, unit",
    [
        # Arrays of floats are lengths, all else counts steps, of a millimetre unless one is named.
        (".npy", np.save, METRES, {}, 1.0),
        (".npy", np.save, METRES.astype(np.float64)[..., None], {}, 1.0),
        (".npy", np.save, METRES, {"depth_unit_scale_factor": 0.5, "applied_scale": 3.0}, 1.5),
        (".npy", np.save, STEPS, {}, 0.001),
        (".npz", npz, METRES, {"applied_scale": 2.0}, 2.0),
        (".npz", npz, STEPS.astype(np.int32), {"depth_unit_scale_factor": 0.1}, 0.1),
        (".tiff", picture, METRES, {}, 0.001),
        (".tif", picture, STEPS, {}, 0.001),
    ],
)
def test_kinds_of_files_and_their_units(nerf, suffix, write, values, keys, unit):
    folder, data = nerf
    data.update(keys)
    for i, frame in enumerate(data["frames"]):
        frame["depth_file_path"] = f"{i}{suffix}"
        write(folder / f"{i}{suffix}", values[i])
    write_json(folder / "transforms.json", data)
    expected = values.reshape(METRES.shape).astype(np.float64) * unit
    np.testing.assert_allclose(load(folder).depths, expected, rtol=1e-6)


def test_what_no_array_knows_is_unknown(nerf):
    folder, data = nerf
    metres = METRES[0].copy()
    metres[0, :5] = np.nan, np.inf, -np.inf, -1, 0
    np.save(folder / "0.npy", metres)
    steps = np.where(STEPS[1] < 4000, 65535, STEPS[1]).astype(np.uint16)
    np.save(folder / "1.npy", steps)
    for i in range(2):
        data["frames"][i]["depth_file_path"] = f"{i}.npy"
    write_json(folder / "transforms.json", data)
    masks = load(folder).depth_masks
    assert not masks[0, 0, :5].any() and masks[0, 0, 5:].all() and masks[0, 1:].all()
    np.testing.assert_array_equal(masks[1], steps < 65535)


@pytest.mark.parametrize("size", [(7, 6), (7, 5), (28, 22), (140, 110)])
def test_maps_of_another_size_are_resampled_by_the_nearest(nerf, size):
    width, height = size
    folder, data = nerf
    steps = np.random.default_rng(1).integers(1, 9000, (N_VIEWS, height, width))
    write_depths(folder, data, steps)
    write_json(folder / "transforms.json", data)
    said = f"{N_VIEWS} depth maps of another size .*0000.png is {width}x{height}, its photo 14x11"
    with pytest.warns(CaptureWarning, match=said):
        depths = load(folder).depths
    for row, column in np.ndindex(HEIGHT, WIDTH):
        # The pixel of the map that holds the centre of the photo's.
        at = (2 * row + 1) * height // (2 * HEIGHT), (2 * column + 1) * width // (2 * WIDTH)
        np.testing.assert_allclose(depths[:, row, column], steps[:, *at] / 1000, rtol=1e-6)


def two_arrays(path):
    np.savez(path, near=METRES[0], far=METRES[0])


def huge(path):
    with open(path, "wb") as stream:
        header = {"descr": "<f8", "fortran_order": False, "shape": (10**9, 10**9)}
        np.lib.format.write_array_header_1_0(stream, header)


def objects(path):
    np.save(path, np.array([[{}]], object), allow_pickle=True)


def cut(path):
    np.save(path, METRES[0])
    path.write_bytes(path.read_bytes()[:-9])


@pytest.mark.parametrize(
    "name, write, text",
    [
        ("a.npz", two_arrays, "holds 2 arrays: expected one, or one called depth"),
        ("a.npz", lambda path: path.write_bytes(b"PK"), "cannot be read as a depth map"),
        ("a.npy", huge, "expected a depth map (height, width) of real numbers"),
        ("a.npy", objects, "expected a depth map (height, width) of real numbers"),
        ("a.npy", lambda path: np.save(path, METRES), "is an array of shape (10, 11, 14)"),
        ("a.npy", cut, "cannot be read as a depth map"),
        ("a.npy", lambda path: path.write_text("no array"), "cannot be read as a depth map"),
        ("a.npy", lambda path: None, "a.npy is missing: expected a depth map"),
        ("a.npy", lambda path: np.save(path, METRES[0].T), "expected the same shape, at any"),
    ],
)
def test_refused(nerf, name, write, text):
    folder, data = nerf
    write(folder / name)
    data["frames"][3]["depth_file_path"] = name
    write_json(folder / "transforms.json", data)
    message = refusal(folder)
    assert text in message and name in message
