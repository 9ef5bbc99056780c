"""Checks the reader of .ksplat against files that are written byte by byte."""

import dataclasses
import struct

import numpy as np
import pytest
from helpers import ksplat
from helpers.splats import random_gaussians, refusal

from jax_gsplat_depth import io

SH_C0 = 0.28209479177387814


def expected_sh(rgba, rest, degree, n_bases):
    """The coefficients: of each degree all of red, then green, then blue."""
    sh = np.zeros((n_bases, 3))
    sh[0] = (np.array(rgba[:3]) / 255 - 0.5) / SH_C0
    rest = list(rest)
    for band in range(1, degree + 1):
        for channel in range(3):
            for m in range(2 * band + 1):
                sh[band**2 + m, channel] = rest.pop(0)
    return sh


@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize("degree", [0, 1, 2])
def test_layout(tmp_path, level, degree):
    path = tmp_path / "a.ksplat"
    path.write_bytes(ksplat.ksplat(level, degree))
    file = io.read(path)
    assert file.tags == io.Tags()
    for i in range(3):
        mean, quat, scales, rgba, rest = ksplat.gaussian(i, level, degree)[1]
        np.testing.assert_allclose(file.gaussians.means[i], mean, rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(file.gaussians.quats[i], quat)
        np.testing.assert_array_equal(file.gaussians.scales[i], scales)
        np.testing.assert_allclose(file.gaussians.opacities[i], rgba[3] / 255, rtol=1e-6)
        sh = expected_sh(rgba, rest, degree, (degree + 1) ** 2)
        np.testing.assert_allclose(file.gaussians.sh[i], sh, rtol=1e-5, atol=1e-6)
    for field in dataclasses.fields(file.gaussians):
        one, other = (getattr(g, field.name) for g in (file.gaussians, io.read_ksplat(path)))
        assert one is other is None or (one == other).all()


def test_sections_of_different_degrees(tmp_path):
    """An empty section among them; the range of the coefficients is the usual one where it is 0."""
    path = tmp_path / "a.KSPLAT"
    data = ksplat.header(6, 2, sections=3, sh_range=(0.0, 0.0))
    data += ksplat.section_header(3, 2, 2, steps=0) + ksplat.section_header(0, 2, 2, 0, 0)
    data += ksplat.section_header(3, 2, 1) + ksplat.section(2, 2) + ksplat.section(2, 1)
    path.write_bytes(data)
    gaussians = io.load(path)
    assert gaussians.sh is not None and gaussians.sh.shape == (6, 9, 3)
    np.testing.assert_array_equal(gaussians.means[:3], gaussians.means[3:])
    np.testing.assert_array_equal(gaussians.sh[:3, :4], gaussians.sh[3:, :4])
    assert not gaussians.sh[3:, 4:].any()
    np.testing.assert_allclose(gaussians.sh[1, 1, 0], -1.5 + 3 * 1 / 255, rtol=1e-6)
    assert "Gaussians:       6" in io.describe(path)


def change(place, form, value):
    def changed(data):
        struct.pack_into(form, data, place, value)

    return changed


def cut(length):
    def changed(data):
        del data[length:]

    return changed


@pytest.mark.parametrize(
    "spoil, text",
    [
        (cut(0), "has 0 bytes"),
        (cut(4095), "has 4095 bytes"),
        (cut(5119), "no room for 1 section headers"),
        (cut(5120), "a section of 3 Gaussians is not in the file"),
        (cut(-1), "a section of 3 Gaussians is not in the file"),
        (lambda data: data.extend(b"\1\2"), "2 bytes after its last section"),
        (change(0, "<B", 1), "version 1.1 of .ksplat"),
        (change(1, "<B", 0), "version 0.0 of .ksplat"),
        (change(4, "<I", 2**32 - 1), "no room for 4294967295"),
        (change(4, "<I", 0), "after its last section"),
        (change(16, "<I", 4), "promises 4 Gaussians, but its sections hold 3"),
        (change(20, "<H", 3), "compression level 3"),
        (change(20, "<H", 0), "is not in the file"),
        (change(4096, "<I", 2**32 - 1), "a section of 4294967295 Gaussians"),
        (change(4100, "<I", 2**32 - 1), "a section of 4294967295 Gaussians"),
        (change(4104, "<I", 0), "buckets for 1 of 3 Gaussians"),
        (change(4108, "<I", 2**32 - 1), "is not in the file"),
        (change(4112, "<f", np.nan), "means that are not finite in Gaussian 0"),
        (change(4116, "<H", 11), "2 buckets of 11 bytes: expected 2 of 12"),
        (change(4116, "<H", 13), "is not in the file"),
        (change(4128, "<I", 2**31), "2 buckets of 12 bytes: expected 2147483649"),
        (change(4132, "<I", 0), "buckets for 2 of 3 Gaussians"),
        (change(4136, "<H", 3), "SH degree 3"),
        (change(5120, "<I", 0), "buckets for 2 of 3 Gaussians"),
        (change(5136, "<f", np.inf), "not finite in Gaussian 2"),
        (change(5154, "<e", 0), "a scale of zero or less in Gaussian 0"),
        (change(5154, "<e", np.nan), "scales that are not finite in Gaussian 0"),
    ],
)
def test_damage(tmp_path, spoil, text):
    path = tmp_path / "a.ksplat"
    data = bytearray(ksplat.ksplat(1, 0))
    spoil(data)
    path.write_bytes(data)
    assert text in refusal(path)


def test_nothing_in_it(tmp_path):
    path = tmp_path / "a.ksplat"
    path.write_bytes(ksplat.header(0, 1, sections=0))
    assert "holds no Gaussian" in refusal(path)


def test_on_bad_and_saving(tmp_path):
    path = tmp_path / "a.ksplat"
    data = bytearray(ksplat.ksplat(1, 0))
    struct.pack_into("<e", data, 5154, 0)
    path.write_bytes(data)
    file = io.read(path, on_bad="drop")
    assert len(file.gaussians.means) == 2 and file.dropped == {"with a scale of zero or less": 1}
    with pytest.raises(ValueError, match=r"a.ksplat cannot be written: .*, \.spz, \.sog, meta"):
        io.save(path, random_gaussians(2))
    assert path.read_bytes() == data
