"""Checks files in which some Gaussians cannot be drawn: refused, or dropped with a count."""

import jax.numpy as jnp
import numpy as np
import plyfile
import pytest
from helpers.splats import random_gaussians, refusal

import jax_gsplat_depth as jgd
from jax_gsplat_depth import io

KINDS = {
    "with NaN": {"x": np.nan, "f_dc_1": np.nan, "opacity": np.nan, "scale_1": np.nan},
    "with infinity": {"y": np.inf, "rot_2": -np.inf, "scale_0": np.inf, "f_rest_4": -np.inf},
    "with a number beyond float32": {"scale_2": 100, "z": 1e39},
    "with a scale of zero or less": {"scale_0": -np.inf, "scale_2": -120},
}
CASES = [(reason, *item) for reason, values in KINDS.items() for item in values.items()]


def ply(path, edit, n=20, kind="f4"):
    """A PLY whose rows ``edit`` changes."""
    io.save(path, random_gaussians(n, degree=1))
    rows = np.array(plyfile.PlyData.read(path)["vertex"].data)
    rows = rows.astype([(name, kind) for name in rows.dtype.names or ()])
    edit(rows)
    plyfile.PlyData([plyfile.PlyElement.describe(rows, "vertex")], byte_order="<").write(path)
    return path


@pytest.mark.parametrize("reason, name, value", CASES)
def test_one_bad_number(tmp_path, reason, name, value):
    def edit(rows):
        rows[name][17] = value

    path = ply(tmp_path / "a.ply", edit, kind="f8")
    assert "in Gaussian 17: on_bad='drop' leaves such Gaussians out" in refusal(path)
    file = io.read(path, on_bad="drop")
    assert file.dropped == {reason: 1}
    kept = np.delete(np.arange(20), 17)
    for field in ("means", "scales", "sh"):
        expected = np.asarray(getattr(random_gaussians(20, degree=1), field))[kept]
        np.testing.assert_allclose(getattr(file.gaussians, field), expected, rtol=2e-6)
    assert len(io.load(path, on_bad="drop").means) == 19
    lines = dict(line.split(":", 1) for line in io.describe(path).splitlines())
    assert lines["Gaussians"].strip() == "20"
    assert lines["not drawable"].strip() == f"1 Gaussians: 1 {reason}"


def test_every_kind_is_counted_once(tmp_path):
    def edit(rows):
        rows["x"][:2] = np.nan
        rows["y"][1:4] = np.inf
        rows["scale_0"][4] = -np.inf
        for i in range(4):
            rows[f"rot_{i}"][4:8] = 0
        rows[:][19] = 0

    path = ply(tmp_path / "a.ply", edit)
    file = io.read(path, on_bad="drop")
    assert file.dropped == {
        "with NaN": 2,
        "with infinity": 2,
        "with a scale of zero or less": 1,
        "with a zero rotation": 4,
    }
    assert len(file.gaussians.means) == 11
    assert "not finite:      4 Gaussians" in io.describe(path)


def test_a_number_beyond_float32_in_a_text_file(tmp_path):
    path = tmp_path / "a.ply"
    io.save(path, random_gaussians(3, degree=0))
    rows = np.array(plyfile.PlyData.read(path)["vertex"].data)
    plyfile.PlyData([plyfile.PlyElement.describe(rows, "vertex")], text=True).write(path)
    lines = path.read_text().splitlines()
    lines[-1] = "1e39" + lines[-1][lines[-1].index(" ") :]
    path.write_text("\n".join(lines) + "\n")
    assert io.read(path, on_bad="drop").dropped == {"with infinity": 1}


def test_none_is_left(tmp_path):
    def edit(rows):
        rows["x"] = np.nan
        rows["scale_0"][3] = -np.inf

    path = ply(tmp_path / "a.ply", edit)
    with pytest.raises(ValueError, match=r"a.ply holds no .* can be drawn \(20 with NaN\)"):
        io.load(path, on_bad="drop")


def test_unknown_choice(tmp_path):
    path = ply(tmp_path / "a.ply", lambda rows: None)
    wrong: object = "ignore"
    with pytest.raises(ValueError, match="on_bad is 'ignore': expected 'error' or 'drop'"):
        io.load(path, on_bad=wrong)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("field, value", [(3, 0.0), (4, -0.5), (3, -np.inf)])
def test_splat_scales(tmp_path, field, value):
    """The only format that stores scales as they are, and so may hold none."""
    path = tmp_path / "a.splat"
    io.save(path, random_gaussians(3))
    values = np.frombuffer(path.read_bytes(), "<f4").reshape(3, 8).copy()
    values[1, field] = value
    path.write_bytes(values.tobytes())
    refusal(path)
    assert len(io.load(path, on_bad="drop").means) == 2
    assert sum(io.read(path, on_bad="drop").dropped.values()) == 1


@pytest.mark.parametrize("suffix", [".compressed.ply", ".spz"])
def test_formats_that_round_drop_too(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    io.save(path, random_gaussians(300))
    if suffix == ".spz":  # Half floats, the only numbers in it that may be none.
        import gzip
        import struct

        body = struct.pack("<6e", np.nan, 1, 1, 2, 2, 2) + bytes(2 * 10)
        path.write_bytes(gzip.compress(struct.pack("<4sII4B", b"NGSP", 1, 2, 0, 0, 0, 0) + body))
        expected = 1
    else:
        elements = plyfile.PlyData.read(path)
        rows = {e.name: np.array(e.data) for e in elements.elements}
        rows["chunk"]["max_x"][1] = np.nan
        described = [plyfile.PlyElement.describe(data, name) for name, data in rows.items()]
        plyfile.PlyData(described, byte_order="<").write(path)
        expected = 44
    refusal(path)
    assert io.read(path, on_bad="drop").dropped == {"with NaN": expected}


@pytest.mark.parametrize("suffix", [".ply", ".compressed.ply", ".splat", ".spz"])
def test_saving_counts_what_it_leaves_out(tmp_path, suffix):
    g = random_gaussians(6)
    bad = jgd.Gaussians(
        g.means.at[0, 1].set(jnp.nan),
        g.quats.at[1].set(0.0),
        g.scales.at[2, 0].set(0.0),
        g.opacities,
        sh=g.sh.at[3, 0, 0].set(jnp.inf),
    )
    saved = io.save(tmp_path / f"a{suffix}", bad)
    assert saved.sh_degree == (0 if suffix == ".splat" else 2)
    assert saved.written == 2 == len(io.load(tmp_path / f"a{suffix}").means)
    assert saved.dropped == {
        "with NaN": 1,
        "with infinity": 1,
        "with a scale of zero or less": 1,
        "with a zero rotation": 1,
    }


def test_quaternions_are_what_the_file_says(tmp_path):
    """Rendering normalises them; every other format does so when it is written."""

    def edit(rows):
        for i in range(4):
            rows[f"rot_{i}"] *= np.float32(10.0) ** (np.arange(20) - 10)

    path = ply(tmp_path / "a.ply", edit)
    vertex = plyfile.PlyData.read(path)["vertex"]
    gaussians = io.load(path)
    for i in range(4):
        np.testing.assert_array_equal(gaussians.quats[:, i], vertex[f"rot_{i}"])
    unit = random_gaussians(20, degree=1)
    camera = jgd.Camera.look_at((0.0, -6.0, 0.5), (0.0, 0.0, 0.0), fov_x=0.8, width=48, height=32)
    views = [np.asarray(jgd.render(g, camera).image) for g in (gaussians, unit)]
    np.testing.assert_allclose(*views, atol=1e-5)
    for suffix in (".compressed.ply", ".splat", ".spz"):
        for name, g in (("a", gaussians), ("b", unit)):
            io.save(tmp_path / f"{name}{suffix}", g)
        one, other = (io.load(tmp_path / f"{name}{suffix}") for name in "ab")
        np.testing.assert_allclose(one.quats, other.quats, atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_ply_bytes_are_stable_from_the_first_save_on(tmp_path, seed):
    g = random_gaussians(5000, degree=0, seed=seed)
    rng = np.random.default_rng(seed)
    edges = [0.0, 1.0, 1e-7, 1 - 2**-24, 1 - 2**-23, 1e-8, 0.5, 1 / 255]
    opacities = np.concatenate([edges, 1 / (1 + np.exp(-rng.uniform(-20, 20, 4992)))])
    scales = np.exp(rng.uniform(-80, 80, (5000, 3)))
    quats = np.asarray(g.quats) * rng.uniform(0.01, 100, (5000, 1))
    arrays = [jnp.asarray(x, jnp.float32) for x in (g.means, quats, scales, opacities)]
    io.save(tmp_path / "0.ply", jgd.Gaussians(*arrays, sh=g.sh))
    for i in range(3):
        io.save(tmp_path / f"{i + 1}.ply", io.load(tmp_path / f"{i}.ply"))
        same = (tmp_path / f"{i + 1}.ply").read_bytes() == (tmp_path / f"{i}.ply").read_bytes()
        assert same, f"cycle {i + 1}"
