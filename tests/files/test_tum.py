"""Checks RGB-D recordings in the layout of TUM, whose files belong together by their times."""

import numpy as np
import pytest
from helpers.captures import Scene, load, refusal
from PIL import Image

from jax_gsplat_depth.datasets import CaptureWarning

WIDTH, HEIGHT = 32, 24
DEFAULT_K = [[525 / 20, 0, 16], [0, 525 / 20, 12], [0, 0, 1]]


def line(time, *words):
    return " ".join(map(str, (time, *words))) + "\n"


@pytest.fixture
def recording(tmp_path):
    """A folder with six photos at 0.1 s, depth 4 ms later, and poses every 10 ms from 3 ms on."""
    scene = Scene(6)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, HEIGHT, WIDTH, 3), np.uint8)
    depths = rng.integers(1, 60000, (6, HEIGHT, WIDTH)).astype(np.uint16)
    for folder in ("rgb", "depth"):
        (tmp_path / folder).mkdir()
    times = 1305031102.0 + 0.1 * np.arange(6)
    rgb, depth, poses = "# color images\n", "# depth maps\n", "# timestamp tx ty tz qx qy qz qw\n"
    for i, t in enumerate(times):
        Image.fromarray(images[i]).save(tmp_path / "rgb" / f"{t:.6f}.png")
        Image.fromarray(depths[i]).save(tmp_path / "depth" / f"{t + 0.004:.6f}.png")
        rgb += line(f"{t:.6f}", f"rgb/{t:.6f}.png")
        # The list of depth maps has Windows' separators.
        depth += line(f"{t + 0.004:.6f}", f"depth\\{t + 0.004:.6f}.png")
        to_world = np.linalg.inv(scene.viewmats[i])
        w, x, y, z = scene.quats[i]
        for shift in (-0.017, -0.007, 0.003, 0.013):
            position = to_world[:3, 3] + (shift - 0.003)
            # The inverse of a rotation is its conjugate.
            poses += line(f"{t + shift:.6f}", *position, -x, -y, -z, w)
    (tmp_path / "rgb.txt").write_bytes(("\ufeff" + rgb).replace("\n", "\r\n").encode())
    (tmp_path / "depth.txt").write_text(depth)
    (tmp_path / "groundtruth.txt").write_text(poses)
    return tmp_path, scene, images, depths


def test_recording(recording):
    folder, scene, images, depths = recording
    with pytest.warns(CaptureWarning, match="default camera of TUM is taken, with a focal length"):
        capture = load(folder)
    np.testing.assert_array_equal(capture.images, images)
    np.testing.assert_allclose(capture.viewmats, scene.viewmats, atol=1e-9)
    np.testing.assert_allclose(capture.Ks, np.tile(DEFAULT_K, (6, 1, 1)), rtol=1e-6)
    np.testing.assert_allclose(capture.depths, depths / 5000, rtol=1e-6)
    assert capture.test_indices.tolist() == [0]


def test_photos_without_pose_or_depth_and_a_camera_of_their_own(recording):
    folder, scene, _, depths = recording
    np.savetxt(folder / "camera-intrinsics.txt", [[30, 0, 15], [0, 31, 11], [0, 0, 1]])
    poses = (folder / "groundtruth.txt").read_text().splitlines()
    # No pose near the second photo, and one that is lost at the fourth.
    poses[5:9] = [poses[5].replace("1305031102.083", "1305031102.0799")]
    poses = [line("1305031102.303", *["nan"] * 7) if "102.303" in p else p for p in poses]
    (folder / "groundtruth.txt").write_text("\n".join(poses) + "\n")
    lines = (folder / "depth.txt").read_text().splitlines()
    (folder / "depth.txt").write_text("\n".join(lines[:-1]) + "\n")
    with pytest.warns(CaptureWarning, match="1 photos without a pose .* and 1 photos with a pose"):
        capture = load(folder)
    kept = [0, 2, 4, 5]
    np.testing.assert_allclose(capture.viewmats, scene.viewmats[kept], atol=1e-9)
    np.testing.assert_allclose(capture.Ks[0], [[30, 0, 15], [0, 31, 11], [0, 0, 1]])
    np.testing.assert_allclose(capture.depths[:3], depths[[0, 2, 4]] / 5000, rtol=1e-6)
    assert not capture.depths[3].any()


@pytest.mark.parametrize(
    "name, content, text",
    [
        ("groundtruth.txt", None, "groundtruth.txt is missing: expected lines TIME tx ty tz"),
        ("groundtruth.txt", "1 2 3\n", "groundtruth.txt, line 1 is broken: expected TIME tx"),
        ("groundtruth.txt", "1305031102 0 0 0 0 0 0 2\n" * 2, "not a rotation"),
        ("rgb.txt", "# a\nnow rgb/a.png\n", "rgb.txt, line 2 is broken: expected TIME FILE"),
        ("rgb.txt", "1305031102 rgb/none.png\n", "none.png is missing"),
        ("depth.txt", "1305031102 depth/none.png\n", "none.png is missing: expected a depth map"),
        ("rgb.txt", b"\xff\x00\x80", "rgb.txt is not a text file"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*(default camera|left out)")
def test_refused(recording, name, content, text):
    path = recording[0] / name
    path.unlink()
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        path.write_text(content)
    assert text in refusal(recording[0])
