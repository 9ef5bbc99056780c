"""Checks PLY files in the 3DGS form: exact conventions, exact round trip, and damaged files."""

import sys
from typing import Any

import jax.numpy as jnp
import numpy as np
import plyfile
import pytest
from helpers.splats import random_gaussians

import jax_gsplat_depth as jgd
from jax_gsplat_depth.io import read_ply, write_ply
from jax_gsplat_depth.io._record import Record

SH_C0 = 0.28209479177387814


def read(path) -> Any:
    """Read Gaussians, as untyped as above."""
    return read_ply(path)


def assert_equal(one, other, rtol=2e-6):
    for name in ("means", "quats", "scales", "opacities", "sh"):
        a, b = getattr(one, name), getattr(other, name)
        assert a.shape == b.shape and b.dtype == np.float32, name
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("degree", [0, 1, 2, 3, 4])
def test_round_trip(tmp_path, degree):
    gaussians = random_gaussians(degree=degree)
    write_ply(tmp_path / "a.ply", gaussians)
    assert_equal(gaussians, read(str(tmp_path / "a.ply")))
    assert [file.name for file in tmp_path.iterdir()] == ["a.ply"]


@pytest.mark.parametrize("n", [0, 1])
def test_round_trip_of_few(tmp_path, n):
    gaussians = random_gaussians(n, degree=1)
    write_ply(tmp_path / "a.ply", gaussians)
    assert_equal(gaussians, read(tmp_path / "a.ply"))


def test_form_of_the_file(tmp_path):
    gaussians = random_gaussians(degree=1)
    write_ply(tmp_path / "a.ply", gaussians)
    data = plyfile.PlyData.read(tmp_path / "a.ply")
    assert not data.text and data.byte_order == "<"
    vertex = data["vertex"]
    names = ["x", "y", "z", "nx", "ny", "nz", *(f"f_dc_{i}" for i in range(3))]
    names += [f"f_rest_{i}" for i in range(9)] + ["opacity"]
    names += [f"scale_{i}" for i in range(3)] + [f"rot_{i}" for i in range(4)]
    assert [p.name for p in vertex.properties] == names
    assert {p.val_dtype for p in vertex.properties} == {"f4"}
    opacity = np.asarray(gaussians.opacities, np.float64)
    np.testing.assert_allclose(vertex["opacity"], np.log(opacity / (1 - opacity)), rtol=1e-5)
    np.testing.assert_allclose(vertex["scale_1"], np.log(gaussians.scales[:, 1]), rtol=1e-5)
    np.testing.assert_allclose(vertex["rot_0"], gaussians.quats[:, 0], rtol=1e-6)
    np.testing.assert_array_equal(vertex["f_dc_2"], gaussians.sh[:, 0, 2])
    # All of red, then all of green, then all of blue; the constant coefficient not among them.
    np.testing.assert_array_equal(vertex["f_rest_0"], gaussians.sh[:, 1, 0])
    np.testing.assert_array_equal(vertex["f_rest_2"], gaussians.sh[:, 3, 0])
    np.testing.assert_array_equal(vertex["f_rest_3"], gaussians.sh[:, 1, 1])
    np.testing.assert_array_equal(vertex["f_rest_8"], gaussians.sh[:, 3, 2])
    assert not vertex["nx"].any()


def test_rendering_is_unchanged(tmp_path):
    gaussians = random_gaussians(degree=3)
    camera = jgd.Camera.look_at((0.0, -6.0, 0.5), (0.0, 0.0, 0.0), fov_x=0.8, width=48, height=32)
    write_ply(tmp_path / "a.ply", gaussians)
    one, other = jgd.render(gaussians, camera), jgd.render(read(tmp_path / "a.ply"), camera)
    np.testing.assert_allclose(one.image, other.image, atol=1e-5)


def test_colors_become_degree_0(tmp_path):
    gaussians = random_gaussians()
    colors = jnp.asarray(np.random.default_rng(1).uniform(0, 1, (20, 3)), jnp.float32)
    write_ply(
        tmp_path / "a.ply",
        jgd.Gaussians(
            gaussians.means,
            gaussians.quats,
            gaussians.scales,
            gaussians.opacities,
            colors=colors,
        ),
    )
    sh = read(tmp_path / "a.ply").sh
    assert sh.shape == (20, 1, 3)
    np.testing.assert_allclose(0.5 + SH_C0 * sh[:, 0], colors, atol=1e-6)


def test_quaternions_keep_their_length_and_opacities_stay_finite(tmp_path):
    gaussians = random_gaussians(3)
    changed = jgd.Gaussians(
        gaussians.means,
        3.0 * gaussians.quats,
        gaussians.scales,
        jnp.asarray([0.0, 1.0, 0.5]),
        sh=gaussians.sh,
    )
    write_ply(tmp_path / "a.ply", changed)
    vertex = plyfile.PlyData.read(tmp_path / "a.ply")["vertex"]
    assert np.isfinite(vertex["opacity"]).all()
    back = read(tmp_path / "a.ply")
    np.testing.assert_array_equal(back.quats, changed.quats)
    np.testing.assert_allclose(back.opacities, [0, 1, 0.5], atol=2e-7)


def test_gaussians_that_are_never_drawn_are_left_out(tmp_path):
    gaussians = random_gaussians(6)
    write_ply(
        tmp_path / "a.ply",
        jgd.Gaussians(
            gaussians.means.at[0, 1].set(jnp.nan),
            gaussians.quats.at[1].set(0.0),
            gaussians.scales.at[2, 0].set(0.0),
            gaussians.opacities.at[3].set(jnp.inf),
            sh=gaussians.sh.at[4, 1, 2].set(-jnp.inf),
        ),
    )
    back = read(tmp_path / "a.ply")
    np.testing.assert_array_equal(back.means, gaussians.means[5:])


def test_float64_is_written_as_float32(tmp_path, x64):
    gaussians = random_gaussians()
    double = jgd.Gaussians(
        jnp.asarray(gaussians.means, jnp.float64),
        jnp.asarray(gaussians.quats, jnp.float64),
        jnp.asarray(gaussians.scales, jnp.float64),
        jnp.asarray(gaussians.opacities, jnp.float64),
        sh=jnp.asarray(gaussians.sh, jnp.float64),
    )
    write_ply(tmp_path / "a.ply", double)
    assert_equal(gaussians, read(tmp_path / "a.ply"))


@pytest.mark.parametrize(
    "change, text",
    [
        (dict(quats=None), "no quats and scales"),
        (dict(sh=None), "gaussians.colors has shape"),
        (dict(opacities=None), "gaussians.opacities has shape None"),
        (dict(scales=jnp.ones((19, 3))), r"gaussians.scales has shape \(19, 3\)"),
        (dict(sh=jnp.ones((20, 5, 3))), r"gaussians.sh has shape \(20, 5, 3\)"),
        (dict(sh=jnp.ones((20, 3))), r"gaussians.sh has shape \(20, 3\)"),
        (dict(sh=None, colors=jnp.ones((20, 5))), r"gaussians.colors has shape \(20, 5\)"),
    ],
)
def test_wrong_fields(tmp_path, change, text):
    gaussians = random_gaussians()
    names = ("means", "quats", "scales", "opacities", "sh")
    fields = {name: getattr(gaussians, name) for name in names} | change
    with pytest.raises(ValueError, match=text):
        write_ply(tmp_path / "a.ply", jgd.Gaussians(**fields))
    assert not list(tmp_path.iterdir())


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    write_ply(tmp_path / "a.ply", random_gaussians())
    before = (tmp_path / "a.ply").read_bytes()

    def half(self):
        yield self.as_float64()[:1]
        raise OSError("disk full")

    monkeypatch.setattr(Record, "blocks", half)
    with pytest.raises(OSError, match="disk full"):
        write_ply(tmp_path / "a.ply", random_gaussians(3))
    assert (tmp_path / "a.ply").read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.ply"]


# Files of others


def edited(path, edit, **form):
    """Write a good file as an array that ``edit`` changes."""
    write_ply(path, random_gaussians(degree=1))
    rows = edit(np.array(plyfile.PlyData.read(path)["vertex"].data))
    element = plyfile.PlyElement.describe(rows, form.pop("element", "vertex"))
    plyfile.PlyData([element], **form).write(path)


def drop(*names):
    def edit(rows):
        keep = [name for name in rows.dtype.names if name not in names]
        return np.array(rows[keep].tolist(), [(name, "f4") for name in keep])

    return edit


@pytest.mark.parametrize("form", [dict(byte_order=">"), dict(text=True)], ids=["big", "text"])
def test_other_encodings(tmp_path, form):
    edited(tmp_path / "a.ply", lambda rows: rows, **form)
    assert_equal(random_gaussians(degree=1), read(tmp_path / "a.ply"), rtol=1e-5)


def test_double_properties_and_no_normals(tmp_path):
    def edit(rows):
        kept = drop("nx", "ny", "nz")(rows)
        return np.array(kept.tolist(), [(name, "f8") for name in kept.dtype.names or ()])

    edited(tmp_path / "a.ply", edit)
    assert_equal(random_gaussians(degree=1), read(tmp_path / "a.ply"))


def test_infinite_logit_is_an_exact_opacity(tmp_path):
    def edit(rows):
        rows["opacity"][:2] = np.inf, -np.inf
        return rows

    edited(tmp_path / "a.ply", edit)
    assert read(tmp_path / "a.ply").opacities[:2].tolist() == [1, 0]


def test_bytes_after_the_last_record_are_ignored(tmp_path):
    gaussians = random_gaussians()
    write_ply(tmp_path / "a.ply", gaussians)
    with (tmp_path / "a.ply").open("ab") as stream:
        stream.write(b"\1" * 1000)
    assert_equal(gaussians, read(tmp_path / "a.ply"))


def set_value(name, value, row=4):
    def edit(rows):
        rows[name][row] = value
        return rows

    return edit


def as_integers(rows):
    kinds = [(name, "i4" if name == "x" else "f4") for name in rows.dtype.names]
    return np.array(rows.tolist(), kinds)


def zero_rotation(rows):
    for i in range(4):
        rows[f"rot_{i}"][4] = 0
    return rows


@pytest.mark.parametrize(
    "edit, text",
    [
        (drop("opacity"), "no vertex property opacity"),
        (drop("rot_3"), "no vertex property rot_3"),
        (drop("f_dc_0"), "no vertex property f_dc_0"),
        (drop("f_rest_8"), "has 8 properties f_rest"),
        (drop("f_rest_2"), "no vertex property f_rest_2"),
        (set_value("y", np.nan), "has means that are not finite in Gaussian 4"),
        (set_value("scale_2", np.inf), "has scales that are not finite in Gaussian 4"),
        (set_value("scale_2", 100), "has scales that are not finite in Gaussian 4"),
        (set_value("scale_2", -np.inf), "has a scale of zero or less in Gaussian 4"),
        (set_value("scale_2", -120), "has a scale of zero or less in Gaussian 4"),
        (set_value("opacity", np.nan), "has opacities that are not finite in Gaussian 4"),
        (set_value("f_rest_5", -np.inf), "has sh that are not finite in Gaussian 4"),
        (zero_rotation, "has a zero rotation in Gaussian 4"),
        (as_integers, "has x of type int32: expected float"),
    ],
)
def test_wrong_content(tmp_path, edit, text):
    edited(tmp_path / "a.ply", edit)
    with pytest.raises(ValueError, match=text) as error:
        read(tmp_path / "a.ply")
    assert "\n" not in str(error.value)


def test_no_vertices(tmp_path):
    edited(tmp_path / "a.ply", lambda rows: rows, element="points")
    with pytest.raises(ValueError, match="no element 'vertex'"):
        read(tmp_path / "a.ply")


HEADER = "ply\nformat {} 1.0\nelement vertex {}\nproperty {} x\n{}end_header\n"


@pytest.mark.parametrize(
    "content",
    [
        "",
        "no ply",
        "ply\n",
        "ply\nformat binary_little_endian 1.0\nelement vertex 1\n",
        HEADER.format("binary_little_endian", 10**15, "float", ""),
        HEADER.format("ascii", 10**15, "float", ""),
        HEADER.format("binary_little_endian", 10**40, "float", ""),
        HEADER.format("binary_little_endian", -1, "float", ""),
        HEADER.format("binary_little_endian", 10**15, "list uchar int", ""),
        HEADER.format("binary_little_endian", 1, "quaternion", "") + "12345678",
        HEADER.format("middle_endian", 1, "float", "") + "12345678",
        HEADER.format("binary_little_endian", 1, "list uchar int", "") + "\0",
        HEADER.format("binary_little_endian", 0, "float", "element vertex 0\n"),
        HEADER.format("binary_little_endian", 0, "float", "element face 9999999999\n"),
        HEADER.format("binary_little_endian", 0, "float", "obj_info \xff\xfe\n"),
        HEADER.format("ascii", 2, "float", "") + "one\ntwo\n",
        HEADER.format("ascii", 4, "float", "") + "1 2 3\n4 5 6\n",
    ],
)
def test_damaged_header(tmp_path, content):
    path = tmp_path / "a.ply"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match="a.ply") as error:
        read(path)
    assert "\n" not in str(error.value)


def test_file_cut_anywhere(tmp_path):
    path = tmp_path / "a.ply"
    write_ply(path, random_gaussians(2, degree=0))
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match="a.ply"):
            read(path)


def test_flipped_bytes_give_gaussians_or_a_sentence(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "a.ply"
    write_ply(path, random_gaussians(2, degree=0))
    content = path.read_bytes()
    for _ in range(300):
        flipped = np.frombuffer(content, np.uint8).copy()
        flipped[rng.integers(0, len(content), 3)] = rng.integers(0, 256, 3)
        path.write_bytes(flipped.tobytes())
        try:
            gaussians = read(path)
        except ValueError as error:
            assert "a.ply" in str(error)
        else:
            assert np.isfinite(gaussians.means).all() and np.isfinite(gaussians.scales).all()


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none.ply")


@pytest.mark.parametrize(
    "name, n, n_bases",
    [("playbot_lod3/playbot_lod3.ply", 31000, 9), ("pc_short/pc_short.ply", 100, 16)],
)
def test_trained_files(shared, name, n, n_bases):
    path = shared / "data" / "splats" / name
    if not path.is_file():
        pytest.skip(f"{path} is absent")
    gaussians = read(path)
    assert gaussians.means.shape == (n, 3) and gaussians.sh.shape == (n, n_bases, 3)
    vertex = plyfile.PlyData.read(path)["vertex"]
    np.testing.assert_array_equal(gaussians.quats[:, 3], vertex["rot_3"])
    if n == 31000:
        low, high = np.percentile(gaussians.means, [1, 99], axis=0)
        np.testing.assert_allclose(low, [-1.01, -0.98, -1.01], atol=0.05)
        np.testing.assert_allclose(high, [1.01, 0.02, 1.01], atol=0.05)


def test_trained_file_survives_a_round_trip(shared, tmp_path):
    path = shared / "data" / "splats" / "playbot_lod3" / "playbot_lod3.ply"
    if not path.is_file():
        pytest.skip(f"{path} is absent")
    write_ply(tmp_path / "a.ply", read(path))
    before, after = (plyfile.PlyData.read(p)["vertex"].data for p in (path, tmp_path / "a.ply"))
    assert before.dtype == after.dtype
    for name in before.dtype.names:
        np.testing.assert_allclose(after[name], before[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_compressed_file_is_refused(shared):
    path = shared / "data" / "splats" / "biker" / "biker.compressed.ply"
    if not path.is_file():
        pytest.skip(f"{path} is absent")
    with pytest.raises(ValueError, match="no vertex property x"):
        read(path)


def test_missing_library_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "plyfile", None)
    with pytest.raises(ImportError, match=r"pip install 'jax-gsplat-depth\[fit\]'"):
        write_ply(tmp_path / "a.ply", random_gaussians())
