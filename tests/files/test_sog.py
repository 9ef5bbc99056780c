"""Checks SOG: round trips within its steps, files written by hand, and the codebooks."""

import json
import sys
import warnings
import zipfile

import numpy as np
import pytest
from helpers.sog import COLORS, HIGH, LOGS, LOW, PIXELS, REST, by_hand, webp, write
from helpers.splats import HALF, angles, changed, difference, in_range, random_gaussians
from PIL import Image

from jax_gsplat_depth import io
from jax_gsplat_depth.io import _codebook
from jax_gsplat_depth.io._arrange import morton_order


def meta_of(path):
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist()[0] == "meta.json"
        return json.loads(archive.read("meta.json"))


def gap(codebook, values):
    """The distance between the two numbers of a codebook around each value, or from the last."""
    above = np.clip(np.searchsorted(codebook, values), 1, len(codebook) - 1)
    return codebook[above] - codebook[above - 1] + 2e-6


@pytest.mark.quick(degree=[1])
@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_round_trip(tmp_path, degree):
    before = in_range(400, degree)
    saved = io.save(tmp_path / "a.sog", before)
    assert (saved.written, saved.sh_degree) == (400, degree)
    after = io.load(tmp_path / "a.sog")
    meta = meta_of(tmp_path / "a.sog")
    assert after.sh is not None and after.sh.shape == (400, (degree + 1) ** 2, 3)
    order = morton_order(np.asarray(before.means, np.float64))
    means = np.asarray(before.means, np.float64)[order]
    logs = np.sign(means) * np.log1p(np.abs(means))
    # The slope of the logarithm changes by less than a step within a step.
    step = np.ptp(logs, axis=0) / 65535 * (1 + np.abs(means)) * 1.001
    assert (difference(before, after, "means", order) <= HALF * step + 1e-6).all()
    assert difference(before, after, "opacities", order).max() <= HALF / 255
    # Three components have half a step of error, the fourth up to three halves.
    bound = 2 * np.sqrt(12) * HALF * np.sqrt(2) / 255
    assert angles(np.asarray(before.quats)[order], after.quats).max() <= bound
    sh = np.asarray(before.sh, np.float64)[order]
    for name, error, values, key in (
        ("scales", difference(before, after, "scales", order, True), before.scales[order], None),
        ("sh", difference(before, after, "sh", order)[:, 0], sh[:, 0], "sh0"),
        ("sh", difference(before, after, "sh", order)[:, 1:], sh[:, 1:], "shN"),
    ):
        if error.size == 0:
            assert "shN" not in meta
            continue
        codebook = np.array(meta[key or name]["codebook"])
        assert codebook.shape == (256,) and (np.diff(codebook) >= 0).all()
        values = np.log(np.asarray(values, np.float64)) if key is None else values
        assert (error <= HALF * gap(codebook, values)).all(), name
        # As the docstring says of values that are spread evenly.
        assert error.max() <= np.ptp(values) / 256 + 2e-6, name


def test_folder(tmp_path):
    """The same content by the folder, by its meta.json and as one file; written over another."""
    gaussians = in_range(100, 1)
    folder = tmp_path / "scene"
    io.save(folder / "meta.json", in_range(50, 2))
    io.save(folder, gaussians, io.Tags(antialiased=False))
    io.save(tmp_path / "a.sog", gaussians)
    expected = io.load(tmp_path / "a.sog")
    for path in (folder, folder / "meta.json"):
        file = io.read(path)
        assert file.tags == io.Tags(antialiased=False)
        for name in ("means", "quats", "scales", "opacities", "sh"):
            np.testing.assert_array_equal(getattr(file.gaussians, name), getattr(expected, name))
    size = sum(file.stat().st_size for file in folder.iterdir())
    assert f"({size} bytes)" in io.describe(folder)
    with pytest.raises(ValueError, match="unknown suffix: .*, meta.json"):
        io.load(tmp_path)


@pytest.mark.quick(antialiased=[True])
@pytest.mark.parametrize("antialiased", [None, False, True])
def test_tags(tmp_path, antialiased):
    gaussians = in_range(9, 0)
    io.save(tmp_path / "a.sog", gaussians, io.Tags(antialiased, (1.0, 0.0, -2.0)))
    file = io.read(tmp_path / "a.sog")
    assert file.tags == io.Tags(antialiased)
    means = np.asarray(gaussians.means) + [1.0, 0.0, -2.0]
    assert np.abs(np.sort(file.gaussians.means, 0) - np.sort(means, 0)).max() < 1e-3
    with pytest.raises(ValueError, match="has no place for the tag origin"):
        io.save(tmp_path / "b.sog", gaussians, io.Tags(origin=(1e7, 0.0, 0.0)))


def test_extreme_numbers_survive(tmp_path):
    """The largest and smallest that can be drawn; SH of degree 4 loses its last degree."""
    gaussians = in_range(5, 4)
    means = np.asarray(gaussians.means).copy()
    scales = np.asarray(gaussians.scales).copy()
    means[0], means[1] = np.finfo(np.float32).max, -np.finfo(np.float32).max
    scales[0], scales[1] = np.finfo(np.float32).max, np.finfo(np.float32).tiny
    with pytest.warns(io.FileWarning, match="positions of up to 3.4e\\+38 leave steps of"):
        saved = io.save(tmp_path / "a.sog", changed(gaussians, means=means, scales=scales))
    assert (saved.written, saved.sh_degree) == (5, 3)
    after = io.load(tmp_path / "a.sog")
    np.testing.assert_allclose(np.sort(after.scales, None), np.sort(scales, None), rtol=1e-4)
    with warnings.catch_warnings():  # What is rounded already does not move.
        warnings.simplefilter("error")
        io.save(tmp_path / "b.sog", after)


def check_by_hand(gaussians, version):
    rest = by_hand(2)[1]["shN_centroids"].reshape(-1, 3, 3)
    missing = {252: 0, 253: 1, 254: 2, 255: 3}
    for i in range(3):
        at = (i // 2, i % 2)
        for axis in range(3):
            code = (
                PIXELS["means_l"][at[0]][at[1]][axis] + 256 * PIXELS["means_u"][at[0]][at[1]][axis]
            )
            n = LOW[axis] + (HIGH[axis] - LOW[axis]) * code / 65535
            expected = np.sign(n) * (np.exp(abs(n)) - 1)
            np.testing.assert_allclose(gaussians.means[i, axis], expected, rtol=1e-5)
        *abc, mode = PIXELS["quats"][at[0]][at[1]]
        quat = [(c / 255 - 0.5) * 2 / np.sqrt(2) for c in abc]
        quat.insert(missing[mode], np.sqrt(max(0.0, 1 - sum(x * x for x in quat))))
        np.testing.assert_allclose(gaussians.quats[i], quat, atol=1e-6)
        scales, (*rgb, alpha) = PIXELS["scales"][at[0]][at[1]], PIXELS["sh0"][at[0]][at[1]]
        label = [0, 65, 1][i]
        if version == 2:
            logs, colors, opacity = LOGS[scales], COLORS[rgb], alpha / 255
        else:
            logs = [
                a + (b - a) * c / 255
                for a, b, c in zip((-8, -7, -6), (2, 1, 0), scales, strict=True)
            ]
            colors = [a * (2 * c / 255 - 1) for a, c in zip((1, 2, 3), rgb, strict=True)]
            opacity = 1 / (1 + np.exp(4 - 9 * alpha / 255))
        np.testing.assert_allclose(gaussians.scales[i], np.exp(logs), rtol=1e-5)
        np.testing.assert_allclose(gaussians.sh[i, 0], colors, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(gaussians.opacities[i], opacity, rtol=1e-5)
        np.testing.assert_allclose(gaussians.sh[i, 1:], REST[rest[label]], rtol=1e-5, atol=1e-6)


@pytest.mark.quick(name=["a.sog", "c"])
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("name, prefix", [("a.sog", ""), ("b.sog", "scene/"), ("c", "")])
def test_by_hand(tmp_path, version, name, prefix):
    path = write(tmp_path / name, *by_hand(version), prefix)
    file = io.read(path)
    assert file.tags == io.Tags(True if version == 2 else None)
    check_by_hand(file.gaussians, version)
    with pytest.warns(io.FileWarning) if version == 2 else warnings.catch_warnings():
        check_by_hand(io.read_sog(path), version)


def test_what_readers_of_others_take(tmp_path):
    """PNG, other names, keys that are new, and codebooks that begin with null."""
    meta, pictures = by_hand(2)
    step = (LOGS[1] - LOGS[255]) / 255
    meta["scales"]["codebook"][0] = None
    meta["sh0"]["files"] = ["colour/first.png"]
    meta |= {"extras": {"a": 1}, "asset": {"generator": "by hand"}, "model": "antialiased"}
    path = write(tmp_path / "c", meta, pictures)
    (path / "colour").mkdir()
    (path / "colour" / "first.png").write_bytes(webp(pictures["sh0"], "PNG"))
    with pytest.warns(io.FileWarning, match="c has unknown keys in meta.json, .* left out: extras"):
        gaussians = io.read(path).gaussians
    np.testing.assert_allclose(gaussians.scales[0, 0], np.exp(LOGS[1] + step), rtol=1e-6)
    np.testing.assert_allclose(gaussians.sh[2, 0], COLORS[[255, 254, 253]], rtol=1e-6)


def test_lossy_pictures_are_named(tmp_path):
    path = write(tmp_path / "c", *by_hand(2))
    picture = Image.fromarray(np.array(PIXELS["scales"], np.uint8))
    picture.save(path / "scales.webp", "WEBP", quality=50)
    with pytest.warns(io.FileWarning, match="c has lossy pictures .'scales.webp'."):
        io.read(path)


def test_missing_pillow_names_the_extra(tmp_path, monkeypatch):
    path = write(tmp_path / "a.sog", *by_hand(2))
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    for act in (lambda: io.read(path), lambda: io.save(tmp_path / "b.sog", in_range(3, 0))):
        with pytest.raises(ImportError, match=r"PIL .* pip install 'jax-gsplat-depth\[fit\]'"):
            act()
    assert not (tmp_path / "b.sog").exists()


def test_a_real_folder(shared):
    """SplatTransform made the folder; the PLY beside it was decoded from it by other code."""
    folder = shared / "data" / "splats" / "playbot_lod3"
    if not (folder / "meta.json").is_file():
        pytest.skip(f"{folder} is absent")
    one, other = io.load(folder), io.load(folder / "playbot_lod3.ply")
    for name, bound in (("means", 1e-6), ("opacities", 1e-6), ("sh", 1e-6)):
        assert difference(one, other, name).max() <= bound
    assert difference(one, other, "scales", log=True).max() <= 1e-5
    assert angles(one.quats, other.quats).max() <= 1e-3


# Codebooks and palettes


def test_codebook():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(size=20000), [1e30, -4e6]])
    chosen, codes = _codebook.codebook(values.reshape(2, -1))
    assert codes.shape == (2, 10001) and codes.dtype == np.uint8
    error = np.abs(chosen[codes].ravel() - values)
    np.testing.assert_array_equal(error, np.abs(chosen - values[:, None]).min(axis=1))
    # Two stray values take a cell each, and a normal distribution in 254 cells has steps of 0.04.
    assert error[:-2].max() < 0.1 and error[:-2].std() < 0.01
    assert (error[-2:] <= 1e-9 * np.abs(values[-2:])).all()
    few = rng.normal(size=256)
    chosen, codes = _codebook.codebook(rng.choice(few, 5000))
    assert set(chosen[codes]) <= set(few)


def test_palette(monkeypatch):
    rng = np.random.default_rng(0)
    different = rng.normal(size=(40, 9)).astype(np.float32)
    vectors = different[rng.integers(0, 40, 500)] * np.float32(1e-25)
    monkeypatch.setattr(_codebook, "PALETTE", 40)
    entries, labels = _codebook.palette(vectors)
    np.testing.assert_array_equal(entries[labels], vectors)
    vectors = rng.normal(size=(2000, 9)).astype(np.float32)
    entries, labels = _codebook.palette(vectors)
    assert entries.shape == (40, 9) and set(labels) == set(range(40))
    for i in range(40):
        np.testing.assert_allclose(entries[i], vectors[labels == i].mean(axis=0), atol=1e-5)
    error = ((vectors - entries[labels]) ** 2).sum() / ((vectors - vectors.mean(axis=0)) ** 2).sum()
    assert error < 0.6  # 40 means of k-means leave about 0.53.


def test_a_palette_that_is_too_small_for_all(tmp_path, monkeypatch):
    gaussians = random_gaussians(500, degree=1)
    monkeypatch.setattr(_codebook, "PALETTE", 100)
    io.save(tmp_path / "a.sog", gaussians)
    assert meta_of(tmp_path / "a.sog")["shN"]["count"] == 100
    after = io.load(tmp_path / "a.sog")
    order = morton_order(np.asarray(gaussians.means, np.float64))
    error = difference(gaussians, after, "sh", order)[:, 1:]
    assert error.std() < 0.5 and len(np.unique(after.sh[:, 1:], axis=0)) == 100
