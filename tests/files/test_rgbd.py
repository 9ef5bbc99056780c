"""Checks RGB-D recordings: the layout of 7-Scenes, and the content of depth and masks."""

import numpy as np
import pytest
from helpers.captures import HEIGHT, WIDTH, K, Scene, load, refusal
from PIL import Image

from jax_gsplat_depth.datasets import CaptureWarning


@pytest.fixture
def recording(tmp_path):
    """A folder with 10 frames, and what the reader has to return."""
    scene = Scene()
    depths = np.random.default_rng(0).integers(0, 4000, (10, HEIGHT, WIDTH)).astype(np.uint16)
    depths[:, 2, 3:5] = 0, 65535
    np.savetxt(tmp_path / "camera-intrinsics.txt", K)
    for i in range(10):
        stem = tmp_path / f"frame-{i:06d}"
        Image.fromarray(scene.images[i]).save(f"{stem}.color.png")
        Image.fromarray(depths[i]).save(f"{stem}.depth.png")
        np.savetxt(f"{stem}.pose.txt", np.linalg.inv(scene.viewmats[i]))
    return tmp_path, scene, depths


def test_recording(recording):
    folder, scene, depths = recording
    capture = load(folder)
    assert capture.names[:2] == ["frame-000000.color", "frame-000001.color"]
    np.testing.assert_array_equal(capture.images, scene.images)
    np.testing.assert_allclose(capture.viewmats, scene.viewmats, atol=1e-6)
    np.testing.assert_allclose(capture.Ks, np.tile(K, (10, 1, 1)), rtol=1e-6)
    known = (depths > 0) & (depths < 65535)
    np.testing.assert_array_equal(capture.depth_masks, known)
    np.testing.assert_allclose(capture.depths, np.where(known, depths * 0.001, 0), rtol=1e-6)
    assert capture.points is None and capture.test_indices.tolist() == [0, 8]


def test_frames_without_depth_or_pose(recording):
    folder, _, _ = recording
    (folder / "frame-000004.depth.png").unlink()
    np.savetxt(folder / "frame-000006.pose.txt", np.full((4, 4), -np.inf))
    with pytest.warns(CaptureWarning, match=r"1 frames whose pose is not finite.*\(frame-000006\)"):
        capture = load(folder)
    assert len(capture.names) == 9 and "frame-000006.color" not in capture.names
    assert not capture.depth_masks[4].any() and capture.depth_masks[5].any()


@pytest.mark.parametrize(
    "name, content, text",
    [
        ("camera-intrinsics.txt", "1 2 3", "holds no 3x3 matrix"),
        ("camera-intrinsics.txt", "a " * 9, "holds no 3x3 matrix"),
        ("camera-intrinsics.txt", "1 " * 10**6, "holds no 3x3 matrix"),
        ("camera-intrinsics.txt", "1 2 3 4 5 6 7 8 9", "holds no matrix fx 0 cx"),
        ("camera-intrinsics.txt", "-1 0 3 0 5 6 0 0 1", "positive focal lengths"),
        ("camera-intrinsics.txt", "nan 0 3 0 5 6 0 0 1", "camera-intrinsics.txt"),
        ("frame-000003.pose.txt", None, "frame-000003.pose.txt is missing"),
        ("frame-000003.pose.txt", "1 2", "frame-000003.pose.txt holds no 4x4 matrix"),
        ("frame-000003.pose.txt", "1 " * 16, "frame-000003.pose.txt has a pose whose 3x3"),
        ("frame-000003.color.png", "no picture", "frame-000003.color.png cannot be read"),
        ("frame-000003.depth.png", "no picture", "frame-000003.depth.png cannot be read"),
    ],
)
def test_refused(recording, name, content, text):
    path = recording[0] / name
    path.unlink() if content is None else path.write_text(content)
    assert text in refusal(recording[0])


@pytest.mark.parametrize("lost", ["-inf", "nan", "1.#QNAN", "-1.#IND00"])
def test_sequences_in_folders_and_poses_as_recorders_write_them(recording, lost):
    folder, scene, depths = recording
    for i, part in enumerate(["seq-01"] * 4 + ["seq-02"] * 6):
        (folder / part).mkdir(exist_ok=True)
        for path in folder.glob(f"frame-{i:06d}.*"):
            path.rename(folder / part / path.name)
    # A BOM, commas, and a last row that is rounded.
    K_text = "\n".join(",".join(map(repr, row)) for row in K.tolist())
    (folder / "camera-intrinsics.txt").write_text("\ufeff" + K_text)
    pose = np.linalg.inv(scene.viewmats[2])
    pose[3] = 1e-6, 0, -1e-6, 1 + 1e-6
    text = "\n".join(" ".join(map(repr, row)) for row in pose.tolist())
    (folder / "seq-01" / "frame-000002.pose.txt").write_bytes(text.encode("utf-16"))
    (folder / "seq-02" / "frame-000005.pose.txt").write_text(f"{lost} " * 16)
    # A second sequence of the same names, a photo in two formats.
    Image.fromarray(scene.images[1]).save(folder / "seq-01" / "frame-000001.color.jpg")
    with pytest.warns(CaptureWarning) as said:
        capture = load(folder)
    assert "whose pose is not finite" in str(said[0].message)
    assert "frame-000001.color.jpg), which are left out" in str(said[1].message)
    kept = [i for i in range(10) if i != 5]
    np.testing.assert_array_equal(capture.images, scene.images[kept])
    np.testing.assert_allclose(capture.viewmats, scene.viewmats[kept], atol=1e-5)
    np.testing.assert_allclose(capture.Ks, np.tile(K, (9, 1, 1)), rtol=1e-6)
    assert capture.depth_masks.any(axis=(1, 2)).all()
    # One sequence alone has its camera one folder above.
    with pytest.warns(CaptureWarning, match="second photos"):
        np.testing.assert_array_equal(load(folder / "seq-01").Ks, capture.Ks[:4])


def test_recordings_without_a_camera(recording):
    folder, scene, _ = recording
    (folder / "camera-intrinsics.txt").unlink()
    assert "has no camera-intrinsics.txt: expected one with the 3x3" in refusal(folder)
    for i in range(10):
        Image.new("RGB", (32, 24)).save(folder / f"frame-{i:06d}.color.png")
        (folder / f"frame-{i:06d}.depth.png").unlink()
    with pytest.warns(CaptureWarning, match="default camera of 7-Scenes is taken, with a focal"):
        capture = load(folder)
    expected = [[585 / 20, 0, 16], [0, 585 / 20, 12], [0, 0, 1]]
    np.testing.assert_allclose(capture.Ks[4], expected, rtol=1e-6)


def test_too_few_frames(recording):
    for path in recording[0].glob("frame*"):
        path.unlink()
    assert "0 posed photos" in refusal(recording[0])


def test_red_kitchen(shared):
    folder = shared / "data" / "rgbd_redkitchen"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent")
    capture = load(folder)
    assert capture.images.shape == (50, 479, 644, 3)
    assert capture.depths.shape == capture.depth_masks.shape == (50, 479, 644)
    assert capture.depth_masks.dtype == bool
    assert abs(1 - capture.depth_masks.mean() - 0.27) < 0.02
    known = capture.depths[capture.depth_masks]
    low, high = np.percentile(known, [1, 99])
    assert 0.5 < low < high < 5.0
    assert (capture.depths[~capture.depth_masks] == 0).all()
    expected = [[521.879, 0, 322], [0, 518.999, 239.5], [0, 0, 1]]
    np.testing.assert_allclose(capture.Ks[0], expected, rtol=1e-6)
    assert capture.points is not None
