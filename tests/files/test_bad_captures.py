"""Checks that every bad folder of photos gives one sentence that names the file at fault."""

import os
import struct
import sys
import zlib

import numpy as np
import pytest
from helpers.captures import (
    HEIGHT,
    N_VIEWS,
    WIDTH,
    nerf_folder,
    refusal,
    transforms,
    write_blender,
    write_colmap,
    write_depths,
    write_json,
    write_photos,
)
from PIL import EpsImagePlugin, Image

from jax_gsplat_depth.datasets import CaptureError, _colmap_text, load_capture
from jax_gsplat_depth.frames import read_cameras


def test_missing_folder(tmp_path):
    assert "does not exist" in refusal(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    assert "not a folder" in refusal(tmp_path / "file")


def test_folder_without_cameras(tmp_path):
    message = refusal(tmp_path)
    assert "transforms.json" in message and "sparse/0" in message


def with_frame(**changes):
    def change(data):
        data["frames"][3].update(changes)

    return change


def with_pose(edit):
    def change(data):
        matrix = np.array(data["frames"][3]["transform_matrix"])
        data["frames"][3]["transform_matrix"] = edit(matrix).tolist()

    return change


def without(*keys):
    def change(data):
        for key in keys:
            data.pop(key, None)
            data["frames"][3].pop(key, None)

    return change


def set_entry(row, column, value):
    def edit(matrix):
        matrix[row, column] = value
        return matrix

    return with_pose(edit)


@pytest.mark.parametrize(
    "change, text",
    [
        (without("fl_x"), "'fl_x' nor 'camera_angle_x'"),
        (without("file_path"), "frame 3 has no 'file_path'"),
        (without("transform_matrix"), "frame 3 (0003.png) has no 'transform_matrix'"),
        (lambda data: data.update(frames={}), "no list 'frames'"),
        (lambda data: data.update(frames=[]), "0 posed photos"),
        (lambda data: data.update(frames=data["frames"][:1]), "1 posed photos"),
        (lambda data: data.update(frames=[1, 2]), "no list 'frames'"),
        (lambda data: data["frames"].append(data["frames"][0]), "listed twice"),
        (lambda data: data.update(fl_x="wide"), "fl_x 'wide'"),
        (lambda data: data.update(fl_x=True), "fl_x"),
        (lambda data: data.update(fl_x=0), "positive focal lengths"),
        (lambda data: data.update(fl_x=10**400), "expected a finite number"),
        (lambda data: data.update(cx=float("nan")), "cx"),
        (lambda data: data.update(w=14.5), "whole pixels"),
        (lambda data: data.update(w=-14), "whole pixels"),
        (lambda data: (data.pop("fl_x"), data.update(camera_angle_x=4.0)), "between 0 and pi"),
        (lambda data: data.update(k3=0.1, k4=-0.2), "pinhole nor OPENCV (k3, k4 not zero)"),
        (lambda data: data.update(camera_model="OPENCV_FISHEYE"), "OPENCV_FISHEYE is neither"),
        (lambda data: data.update(is_fisheye=True), "fisheye is neither pinhole nor OPENCV"),
        (with_frame(k3=0.1), "frame 3 (0003.png): the lens model is neither pinhole nor"),
        (with_frame(file_path="images/none.png"), "none.png is missing"),
        (with_frame(file_path="images/" + 300 * "n"), "is missing"),
        (with_frame(file_path="a\0b"), "is missing"),
        (with_frame(file_path=3), "no 'file_path'"),
        (with_frame(w=WIDTH + 1), f"0003.png is {WIDTH}x{HEIGHT} pixels but its camera is for"),
        (lambda data: data.update(w=WIDTH + 1), f"is {WIDTH}x{HEIGHT} pixels but its camera"),
        (with_frame(transform_matrix=[[1, 2], [3]]), "no 'transform_matrix' of 4x4"),
        (with_frame(transform_matrix=np.eye(3).tolist()), "no 'transform_matrix' of 4x4"),
        (with_frame(transform_matrix="here"), "no 'transform_matrix' of 4x4"),
        (set_entry(1, 1, float("nan")), "frame 3 (0003.png) has a pose that is not finite"),
        (set_entry(1, 3, float("inf")), "not finite"),
        (set_entry(3, 0, 1.0), "last row"),
        (with_pose(lambda m: m * [2, 2, 2, 1]), "not a rotation"),
        (with_pose(lambda m: m * [1, 1, -1, 1]), "not a rotation"),
        (with_pose(lambda m: m * [0, 0, 0, 1]), "not a rotation"),
        (with_frame(depth_file_path="depth/none.png"), "none.png is missing: expected a depth map"),
        (with_frame(depth_file_path="images/0003.png"), "0003.png is a RGB picture"),
        (with_frame(depth_file_path=5), "'depth_file_path' that is not a string"),
        (lambda data: data.update(depth_unit_scale_factor=0), "expected a positive number"),
        (lambda data: data.update(applied_scale=1e200), "expected a positive number"),
    ],
)
def test_transforms_refused(nerf, change, text):
    folder, data = nerf
    change(data)
    write_json(folder / "transforms.json", data)
    assert text in refusal(folder)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff\xfe\x00", b"[" * 100000, b'{"frames": [,]}']
)
def test_broken_json(nerf, content):
    (nerf[0] / "transforms.json").write_bytes(content)
    assert "JSON" in refusal(nerf[0])


def png_of_size(width, height):
    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = chunk(b"IHDR", struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "content, text",
    [
        (None, "0003.png is missing"),
        (b"", "cannot be read as a photo"),
        (b"this is no picture", "cannot be read as a photo"),
        (png_of_size(WIDTH, HEIGHT), "cannot be read as a photo"),
        (png_of_size(10000, 12000), "million pixels"),
        (png_of_size(100000, 120000), "million pixels"),
        (png_of_size(WIDTH, 3), f"is {WIDTH}x3 pixels but its camera is for {WIDTH}x{HEIGHT}"),
    ],
)
def test_bad_photo(colmap, content, text):
    path = colmap / "images" / "0003.png"
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    assert text in refusal(colmap)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_truncated_photo(tmp_path, scene, suffix):
    write_photos(tmp_path / "images", scene, suffix=suffix)
    write_json(tmp_path / "transforms.json", transforms(scene, suffix=suffix))
    path = tmp_path / "images" / f"0003{suffix}"
    path.write_bytes(path.read_bytes()[:-60])
    assert f"0003{suffix} cannot be read as a photo" in refusal(tmp_path)


def test_truncated_depth_map(nerf):
    folder, data = nerf
    steps = np.random.default_rng(0).integers(0, 60000, (N_VIEWS, HEIGHT, WIDTH))
    write_depths(folder, data, steps)
    write_json(folder / "transforms.json", data)
    path = folder / "depth" / "0003.png"
    path.write_bytes(path.read_bytes()[:-100])
    assert "0003.png cannot be read as a depth map" in refusal(folder)


def test_photo_of_16_bits(nerf):
    steps = np.zeros((HEIGHT, WIDTH), np.uint16)
    Image.fromarray(steps).save(nerf[0] / "images" / "0003.png")
    assert "expected 8 bits per channel" in refusal(nerf[0])


def test_photo_turned_by_exif(colmap, scene):
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = Image.fromarray(scene.images[0].swapaxes(0, 1))
    turned.save(colmap / "images" / "0000.png", exif=exif)
    assert "EXIF orientation is not applied" in refusal(colmap)


def test_blender_pair_incomplete(tmp_path):
    write_blender(tmp_path, np.zeros((3, HEIGHT, WIDTH, 4), np.uint8))
    write_json(tmp_path / "transforms_test.json", {"camera_angle_x": 0.7, "frames": []})
    assert "transforms_test.json lists no photos" in refusal(tmp_path)
    (tmp_path / "transforms_test.json").unlink()
    assert "transforms_test.json is missing" in refusal(tmp_path)


@pytest.mark.parametrize("text", [False, True], ids=["binary", "text"])
def test_colmap_with_distortion(tmp_path, scene, text):
    write_photos(tmp_path / "images", scene)
    write_colmap(tmp_path / "sparse", scene, text=text, model="SIMPLE_RADIAL")
    message = refusal(tmp_path)
    assert "SIMPLE_RADIAL" in message and "undistorted" in message


@pytest.mark.parametrize("name", ["cameras", "images", "points3D"])
def test_colmap_file_missing(colmap, name):
    (colmap / "sparse" / "0" / f"{name}.bin").unlink()
    assert (f"{name}.bin is missing" if name != "cameras" else "no cameras") in refusal(colmap)


def test_colmap_without_photos(colmap):
    (colmap / "images").rename(colmap / "photos")
    assert "images is missing" in refusal(colmap)


@pytest.mark.parametrize("name", ["cameras", "images", "points3D"])
def test_colmap_binary_cut_anywhere(colmap, name):
    path = colmap / "sparse" / "0" / f"{name}.bin"
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        assert f"{name}.bin" in refusal(colmap)
    path.write_bytes(content + b"\0")
    assert "after its last record" in refusal(colmap)


@pytest.mark.parametrize("name", ["cameras", "images", "points3D"])
@pytest.mark.parametrize("count", [2**20, 2**32, 2**60, 2**64 - 1])
def test_colmap_absurd_count(colmap, name, count):
    path = colmap / "sparse" / "0" / f"{name}.bin"
    path.write_bytes(struct.pack("<Q", count) + path.read_bytes()[8:])
    assert f"says that it holds {count}" in refusal(colmap)


def test_colmap_absurd_counts_inside_records(colmap):
    path = colmap / "sparse" / "0" / "points3D.bin"
    content = path.read_bytes()
    path.write_bytes(content[:51] + struct.pack("<Q", 2**61) + content[59:])
    assert "ends in the middle of a record" in refusal(colmap)


@pytest.mark.parametrize("name", ["cameras", "images", "points3D"])
def test_colmap_flipped_bytes_give_a_capture_or_a_sentence(colmap, name):
    rng = np.random.default_rng(0)
    path = colmap / "sparse" / "0" / f"{name}.bin"
    content = path.read_bytes()
    for _ in range(60):
        flipped = np.frombuffer(content, np.uint8).copy()
        flipped[rng.integers(0, len(content), 3)] = rng.integers(0, 256, 3)
        path.write_bytes(flipped.tobytes())
        try:
            capture = load_capture(colmap)
        except CaptureError as error:
            assert "\n" not in str(error).replace(str(colmap), "")
        else:
            assert np.isfinite(capture.viewmats).all() and np.isfinite(capture.Ks).all()


@pytest.mark.parametrize(
    "name, line, text",
    [
        ("cameras", "7 PINHOLE 14", "cameras.txt, line 2"),
        ("cameras", "7 PINHOLE 14 11 x 1 2 3", "cameras.txt, line 2"),
        ("cameras", "7 PINHOLE 14 11 1 2 3", "camera 7 has 3 parameters"),
        ("cameras", "7 PINHOLE 14 11 nan 2 3 4", "camera 7 has focal lengths nan"),
        ("cameras", "8 PINHOLE 14 11 15 15 7 5", "has camera 7, which the cameras file"),
        ("cameras", "7 FISHY 14 11 15 15 7 5", "FISHY, which is not a pinhole model"),
        ("images", "1 1 0 0 0 0 0 0 7", "images.txt, line 2"),
        ("images", "1 1 0 0 zero 0 0 0 7 0000.png", "images.txt, line 2"),
        ("images", "1 nan 0 0 0 0 0 0 7 0000.png", "not finite"),
        ("images", "1 0 0 0 0 0 0 0 7 0000.png", "not a rotation"),
        ("images", "1 1 0 0 0 nan 0 0 7 0000.png", "not finite"),
        ("points3D", "4 0.1 0.2", "points3D.txt, line 2"),
        ("points3D", "4 0.1 0.2 x 1 2 3 0.5", "points3D.txt, line 2"),
        ("points3D", "4 0.1 0.2 0.3 1 2 300 0.5", "points3D.txt, line 2"),
    ],
)
def test_colmap_text_refused(tmp_path, scene, name, line, text):
    write_photos(tmp_path / "images", scene)
    write_colmap(tmp_path / "sparse", scene, text=True)
    path = tmp_path / "sparse" / f"{name}.txt"
    lines = path.read_text().split("\n")
    lines[1] = line
    path.write_text("\n".join(lines))
    assert text in refusal(tmp_path)


def test_colmap_pose_that_is_nan_in_binary(colmap):
    path = colmap / "sparse" / "0" / "images.bin"
    content = path.read_bytes()
    path.write_bytes(content[:12] + struct.pack("<d", np.nan) + content[20:])
    assert "photo 0000.png has a pose that is not finite" in refusal(colmap)


def test_missing_library_names_the_extra(nerf, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(ImportError, match=r"pip install 'jax-gsplat-depth\[fit\]'"):
        load_capture(nerf[0])


def postscript(path):
    """Write a picture for which Pillow would run Ghostscript."""
    Image.new("RGB", (WIDTH, HEIGHT)).save(path, "EPS")


def gif(path):
    Image.new("RGB", (WIDTH, HEIGHT)).save(path, "GIF")


@pytest.mark.parametrize("write", [postscript, gif])
@pytest.mark.parametrize("kind", ["photo", "depth map", "mask"])
def test_pictures_in_formats_that_photos_do_not_have(nerf, monkeypatch, tmp_path, write, kind):
    folder, data = nerf
    (folder / "bin").mkdir()
    gs = folder / "bin" / "gs"
    gs.write_text(f"#!/bin/sh\ntouch {folder}/called\n")
    gs.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder / "bin"))
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    del data["w"], data["h"]
    frame = data["frames"][3]
    if kind == "photo":
        write(folder / frame["file_path"])
    else:
        frame["depth_file_path" if kind == "depth map" else "mask_path"] = "picture.png"
        write(folder / "picture.png")
    write_json(folder / "transforms.json", data)
    assert f"cannot be read as a {kind}: expected JPEG, PNG, TIFF" in refusal(folder)
    assert not (folder / "called").exists()


@pytest.mark.parametrize("suffix", [".jpg", ".tif", ".webp", ".bmp", ".ppm"])
def test_photos_in_the_formats_that_photos_have(tmp_path, scene, suffix):
    write_photos(tmp_path / "images", scene, suffix=suffix)
    write_json(tmp_path / "transforms.json", transforms(scene, suffix=suffix))
    assert load_capture(tmp_path).names == scene.names


FILES = {
    "nerf": ["transforms.json", "images/0003.png", "depth.png", "mask.png", "points.ply"],
    "blender": ["transforms_train.json", "transforms_test.json"],
    "colmap": ["sparse/0/cameras.bin", "sparse/0/images.bin", "sparse/0/points3D.bin"],
    "colmap text": [f"sparse/0/{name}.txt" for name in ("cameras", "images", "points3D")],
    "colmap photo": ["images/0003.png", "masks/0003.png"],
    "recording": ["camera-intrinsics.txt", "a.color.png", "a.depth.png", "a.pose.txt"],
}


@pytest.mark.parametrize("layout, name", [(key, name) for key in FILES for name in FILES[key]])
def test_a_fifo_instead_of_a_file_is_refused_at_once(tmp_path, scene, layout, name):
    if layout == "nerf":
        data = nerf_folder(tmp_path, scene)
        data["frames"][0].update(depth_file_path="depth.png", mask_path="mask.png")
        Image.fromarray(np.ones((HEIGHT, WIDTH), np.uint16)).save(tmp_path / "depth.png")
        Image.new("L", (WIDTH, HEIGHT), 255).save(tmp_path / "mask.png")
        data["ply_file_path"] = "points.ply"
        (tmp_path / "points.ply").write_text(
            "ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty float y\n"
            "property float z\nend_header\n0 0 0\n"
        )
        write_json(tmp_path / "transforms.json", data)
    elif layout == "blender":
        write_blender(tmp_path, np.zeros((3, HEIGHT, WIDTH, 4), np.uint8))
    elif layout.startswith("colmap"):
        write_photos(tmp_path / "images", scene)
        write_colmap(tmp_path / "sparse" / "0", scene, text=layout == "colmap text")
        (tmp_path / "masks").mkdir()
        Image.new("L", (WIDTH, HEIGHT), 255).save(tmp_path / "masks" / "0003.png")
    else:
        np.savetxt(tmp_path / "camera-intrinsics.txt", np.diag([15.0, 15.0, 1.0]))
        for stem in ("a", "b"):
            Image.fromarray(scene.images[0]).save(tmp_path / f"{stem}.color.png")
            depth = np.ones((HEIGHT, WIDTH), np.uint16)
            Image.fromarray(depth).save(tmp_path / f"{stem}.depth.png")
            np.savetxt(tmp_path / f"{stem}.pose.txt", np.eye(4))
    load_capture(tmp_path)
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    message = refusal(tmp_path)
    assert str(tmp_path / name) in message and "a FIFO, not a regular file" in message


def test_a_device_instead_of_a_camera_file_is_refused(tmp_path):
    (tmp_path / "cameras.json").symlink_to("/dev/zero")
    with pytest.raises(CaptureError, match=r"cameras.json cannot be opened \(a device, not a reg"):
        read_cameras(tmp_path / "cameras.json")


# COLMAP's text form


def write_images(colmap, lines):
    folder = colmap / "sparse" / "0"
    (folder / "images.txt").write_text("\n".join(lines) + "\n")
    return colmap


@pytest.fixture
def text_model(tmp_path, scene):
    """A folder with a text model, and the lines of its photos, one for each."""
    write_photos(tmp_path / "images", scene)
    write_colmap(tmp_path / "sparse" / "0", scene, text=True, observations=False)
    lines = (tmp_path / "sparse" / "0" / "images.txt").read_text().splitlines()
    return tmp_path, [line for line in lines if line and not line.startswith("#")]


NAMES = {
    "one word": "{}.png",
    "two words": "my {}.png",
    "three words": "my photo {}.png",
    "six words": "1 2 3 4 5 {}.png",
    "numbers": "1.5 2.5 {}.png",
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("points", [None, "", "1.5 2.5 -1", "775 1029 8574 1 2 3 4 5 6 7 8 9"])
def test_every_line_of_a_text_model_is_what_it_is(text_model, scene, name, points):
    folder, lines = text_model
    for each in scene.names:
        (folder / "images" / f"{each}.png").rename(folder / "images" / name.format(each))
    for i, each in enumerate(scene.names):
        lines[i] = lines[i].replace(f"{each}.png", name.format(each))
    if points is not None:
        lines = [part for line in lines for part in (line, points)]
    capture = load_capture(write_images(folder, lines))
    assert capture.names == [name.format(each).removesuffix(".png") for each in scene.names]
    np.testing.assert_allclose(capture.viewmats, scene.viewmats, atol=1e-6)


@pytest.mark.parametrize(
    "after_first, text",
    [
        (["1.5 2.5 -1 3.5"], "line 2 is broken: expected X Y POINT3D_ID"),
        (["1.5 2.5 0.5"], "line 2 is broken: expected X Y POINT3D_ID"),
        (["a b c"], "line 2 is broken: expected X Y POINT3D_ID"),
        (["1.5 2.5 -1", "1.5 2.5 -1"], "line 3 is broken: expected IMAGE_ID"),
        (["2 1 0 0 0 0 0 0 7 10 20 30"], "line 2 is broken: expected either a photo or points"),
        (["2 1 0 0 0 0 0 x 7 0001.png"], "line 2 is broken"),
        (["x 1 0 0 0 0 0 0 7 0001.png"], "line 2 is broken"),
        (["2 1 0 0 0 0 0 0 7"], "line 2 is broken: expected either a photo or points"),
        (["2 1 0.001 0 0 0 0 0 7"], "line 2 is broken: expected IMAGE_ID"),
    ],
)
def test_lines_of_a_text_model_that_are_nothing(text_model, after_first, text):
    folder, lines = text_model
    assert text in refusal(write_images(folder, [lines[0], *after_first, *lines[1:]]))


def test_lines_of_many_points_are_not_parsed(text_model, scene, monkeypatch):
    folder, lines = text_model
    points = "1.5 2.5 -1 " * 8000
    lines = [part for line in lines for part in (line, points)]
    parsed, array = [], np.array

    def counted(values, *args, **kwargs):
        parsed.append(len(values))
        return array(values, *args, **kwargs)

    monkeypatch.setattr(_colmap_text.np, "array", counted)
    images = _colmap_text.read_images(write_images(folder, lines) / "sparse" / "0" / "images.txt")
    assert [image.name for image in images] == [f"{name}.png" for name in scene.names]
    assert max(parsed) <= 6


@pytest.mark.parametrize("name", ["cameras", "images", "points3D"])
@pytest.mark.parametrize("head", ["\ufeff", "\ufeff# A list\n", "\n"])
@pytest.mark.parametrize("eol", ["\n", "\r\n"])
def test_text_models_of_windows_editors(text_model, scene, name, head, eol):
    path = text_model[0] / "sparse" / "0" / f"{name}.txt"
    content = path.read_text().split("\n", 1)[1]
    path.write_bytes((head + content).replace("\n", eol).encode())
    capture = load_capture(text_model[0])
    assert capture.names == scene.names and len(capture.points) == len(scene.points)


@pytest.mark.parametrize("text", [False, True], ids=["binary", "text"])
def test_a_camera_that_is_listed_twice(tmp_path, scene, text):
    write_photos(tmp_path / "images", scene)
    write_colmap(tmp_path / "sparse", scene, text=text)
    path = tmp_path / "sparse" / f"cameras.{'txt' if text else 'bin'}"
    if text:
        path.write_text(path.read_text() + path.read_text())
    else:
        content = path.read_bytes()
        path.write_bytes(struct.pack("<Q", 2) + 2 * content[8:])
    assert "lists camera 7 twice" in refusal(tmp_path)


def test_a_point_without_a_number(text_model):
    path = text_model[0] / "sparse" / "0" / "points3D.txt"
    path.write_text("x 0 0 1 1 2 3 0.5\n")
    assert "points3D.txt, line 1 is broken: expected POINT3D_ID" in refusal(text_model[0])


def test_the_form_of_a_model_that_is_complete_is_read(text_model, scene):
    folder = text_model[0] / "sparse" / "0"
    (folder / "cameras.bin").write_bytes(b"of another model")
    assert load_capture(text_model[0]).names == scene.names
