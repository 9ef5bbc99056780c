"""Checks captures as other programs and systems leave them: models, names, encodings."""

import json
import struct
import warnings

import numpy as np
import pytest
from helpers.captures import (
    CX,
    CY,
    FX,
    FY,
    HEIGHT,
    WIDTH,
    Scene,
    assert_same_cameras,
    load,
    refusal,
    transforms,
    write_colmap,
    write_json,
    write_photos,
)
from PIL import Image

from jax_gsplat_depth.datasets import CaptureWarning

# COLMAP

LENSES = {
    "SIMPLE_RADIAL": ((FX, CX, CY), 1),
    "RADIAL": ((FX, CX, CY), 2),
    "OPENCV": ((FX, FY, CX, CY), 4),
    "FULL_OPENCV": ((FX, FY, CX, CY), 8),
    "FOV": ((FX, FY, CX, CY), 1),
    "SIMPLE_DIVISION": ((FX, CX, CY), 1),
    "DIVISION": ((FX, FY, CX, CY), 1),
}


def write_camera(folder, model, params):
    text = " ".join(map(str, (7, model, WIDTH, HEIGHT, *params)))
    (folder / "sparse" / "0" / "cameras.txt").write_text(text + "\n")


def test_lens_models_whose_terms_are_all_zero_are_pinholes(tmp_path, scene):
    write_photos(tmp_path / "images", scene)
    write_colmap(tmp_path / "sparse" / "0", scene, text=True)
    for model, (params, n_terms) in LENSES.items():
        write_camera(tmp_path, model, [*params, *[0] * n_terms])
        fy = FY if len(params) == 4 else FX
        np.testing.assert_allclose(load(tmp_path).Ks[0], [[FX, 0, CX], [0, fy, CY], [0, 0, 1]])
        for last in (1e-9, "nan"):
            write_camera(tmp_path, model, [*params, *[0] * (n_terms - 1), last])
            assert f"{model} with lens terms that are not 0, so the photos" in refusal(tmp_path)
        write_camera(tmp_path, model, params)
        assert f"{model} has {len(params) + n_terms}" in refusal(tmp_path)
    # Without terms a fisheye is not a pinhole camera.
    for model, n_terms in ("OPENCV_FISHEYE", 4), ("FISHEYE", 0):
        write_camera(tmp_path, model, [FX, FY, CX, CY, *[0] * n_terms])
        assert f"{model}, which is not a pinhole model" in refusal(tmp_path)


def test_of_the_two_terms_of_eucm_the_first_decides(tmp_path, scene):
    write_photos(tmp_path / "images", scene)
    write_colmap(tmp_path / "sparse" / "0", scene, text=True)
    for beta in (0, 1.1):
        write_camera(tmp_path, "EUCM", [FX, FY, CX, CY, 0, beta])
        np.testing.assert_allclose(load(tmp_path).Ks[0], [[FX, 0, CX], [0, FY, CY], [0, 0, 1]])
    write_camera(tmp_path, "EUCM", [FX, FY, CX, CY, 1e-9, 1])
    assert "EUCM with lens terms that are not 0, so the photos" in refusal(tmp_path)


@pytest.mark.parametrize(
    "number, model, params",
    [
        (3, "RADIAL", (FX, CX, CY, 0, 0)),
        (12, "SIMPLE_DIVISION", (FX, CX, CY, 0)),
        (13, "DIVISION", (FX, FX, CX, CY, 0)),
        (16, "EUCM", (FX, FX, CX, CY, 0, 1)),
    ],
)
def test_numbers_of_lens_models(tmp_path, scene, number, model, params):
    write_photos(tmp_path / "images", scene)
    write_colmap(tmp_path / "sparse" / "0", scene, text=False)

    def write(params):
        data = struct.pack("<QIiQQ", 1, 7, number, WIDTH, HEIGHT)
        data += struct.pack(f"<{len(params)}d", *params)
        (tmp_path / "sparse" / "0" / "cameras.bin").write_bytes(data)

    write(params)
    np.testing.assert_allclose(load(tmp_path).Ks[0], [[FX, 0, CX], [0, FX, CY], [0, 0, 1]])
    write([0.1 if value == 0 else value for value in params])
    assert f"{model} with lens terms" in refusal(tmp_path)


def part_of(scene, n):
    part = Scene(n)
    part.names, part.quats, part.viewmats = (
        scene.names[:n],
        scene.quats[:n],
        scene.viewmats[:n],
    )
    return part


@pytest.mark.parametrize("place", ["sparse", "colmap/sparse"])
@pytest.mark.parametrize("text", [False, True], ids=["binary", "text"])
def test_of_several_models_the_one_with_most_photos_is_read(tmp_path, scene, place, text):
    write_photos(tmp_path / "images", scene)
    write_colmap(tmp_path / place / "0", part_of(scene, 2), text=text)
    write_colmap(tmp_path / place / "2", scene)
    write_colmap(tmp_path / place / "10", part_of(scene, 4))
    (tmp_path / place / "3").mkdir()
    (tmp_path / place / "3" / "cameras.bin").write_bytes(b"damaged")
    said = r"holds 4 models: 2 \(10 photos\) is taken, not 0 \(2 photos\), 3 \(unr.*\), 10 \(4 "
    with pytest.warns(CaptureWarning, match=said):
        assert_same_cameras(load(tmp_path), scene)


@pytest.mark.parametrize(
    "place, photos", [(".", "input"), ("colmap", "input"), ("colmap/sparse/0", "colmap/images")]
)
def test_models_in_other_places(tmp_path, scene, place, photos):
    write_photos(tmp_path / photos, scene)
    (tmp_path / "images").mkdir()  # empty
    write_colmap(tmp_path / place, scene)
    assert_same_cameras(load(tmp_path), scene)


@pytest.mark.parametrize("folder, factor", [("images", 2), ("images_4", 4), ("images", 0.5)])
def test_photos_of_another_resolution_than_their_cameras(tmp_path, scene, folder, factor):
    size = round(WIDTH / factor), round(HEIGHT / factor)
    scene.images = [np.asarray(Image.fromarray(p).resize(size)) for p in scene.images]
    write_photos(tmp_path / folder, scene)
    write_colmap(tmp_path / "sparse", scene)
    said = f"10 photos are of another .*0000.png is {size[0]}x{size[1]} and its camera for 14x11"
    with pytest.warns(CaptureWarning, match=said):
        capture = load(tmp_path)
    np.testing.assert_array_equal(capture.images, scene.images)
    x, y = size[0] / WIDTH, size[1] / HEIGHT
    expected = [[FX * x, 0, CX * x], [0, FY * y, CY * y], [0, 0, 1]]
    np.testing.assert_allclose(capture.Ks[3], expected, rtol=1e-6)


def test_a_text_model_beside_a_binary_one(colmap, scene):
    folder = colmap / "sparse" / "0"
    write_colmap(folder, scene, text=True)
    assert_same_cameras(load(colmap), scene)
    write_colmap(folder, part_of(scene, 3))
    said = r"two models: that of \.txt \(10 photos\) is taken, not that of \.bin \(3 photos\)"
    with pytest.warns(CaptureWarning, match=said):
        assert_same_cameras(load(colmap), scene)


# Names and encodings


@pytest.mark.parametrize("layout", ["transforms", "colmap"])
def test_photos_that_were_converted_are_found_if_there_is_one(tmp_path, scene, layout):
    write_photos(tmp_path / "images", scene, suffix=".PNG")
    names = [f"{name}.jpg" for name in scene.names]
    if layout == "colmap":
        write_colmap(tmp_path / "sparse", scene, names=names)
    else:
        write_json(tmp_path / "transforms.json", transforms(scene, suffix=".jpg"))
    with pytest.warns(CaptureWarning, match=r"0000.jpg and 9 more, which is missing: 0000.PNG is"):
        assert_same_cameras(load(tmp_path), scene)
    # Which one of two is meant nobody knows.
    Image.fromarray(scene.images[3]).save(tmp_path / "images" / "0003.webp")
    with warnings.catch_warnings(action="ignore"):
        assert "0003.jpg is missing" in refusal(tmp_path)
    # A suffix in other letters is the same suffix.
    for path in sorted((tmp_path / "images").iterdir()):
        path.rename(path.with_suffix(".JPG" if path.suffix == ".PNG" else ".gone"))
    assert_same_cameras(load(tmp_path), scene)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_files_of_windows(tmp_path, scene, encoding):
    folder = tmp_path / "nerf"
    write_photos(folder / "images", scene)
    data = transforms(scene)
    for frame in data["frames"]:
        frame["file_path"] = ".\\" + frame["file_path"].replace("/", "\\")
    # Programs compute the last row, too.
    data["frames"][2]["transform_matrix"][3] = [1e-17, 0, -2e-5, 1.0000000000000002]
    (folder / "transforms.json").write_bytes(json.dumps(data).encode(encoding))
    assert_same_cameras(load(folder), scene)
    data["frames"][2]["transform_matrix"][3] = [0, 0, 0.1, 1]
    write_json(folder / "transforms.json", data)
    assert "last row is not 0 0 0 1" in refusal(folder)

    folder = tmp_path / "colmap"
    write_photos(folder / "images" / "left", scene)
    names = [f"left\\{name}.png" for name in scene.names]
    write_colmap(folder / "sparse" / "0", scene, text=True, names=names)
    for path in (folder / "sparse" / "0").iterdir():
        path.write_bytes(path.read_text().replace("\n", "\r\n").encode(encoding))
    assert_same_cameras(load(folder), scene)
