"""Checks that names in strangers' files cannot break a message into lines, or steer a terminal."""

import pytest
from helpers.captures import Scene, colmap_folder, refusal, write_colmap
from helpers.commands import run

from jax_gsplat_depth._common.one_line import one_line


@pytest.mark.parametrize(
    "text, expected",
    [
        ("all is well: ü, 写真", "all is well: ü, 写真"),
        ("a\r\nb\tc", "a\\r\\nb\\tc"),
        ("\x1b[2J\x07\x9b\u202e", "\\x1b[2J\\x07\\x9b\\u202e"),
        ("\udc80", "\\udc80"),
    ],
)
def test_one_line(text, expected):
    assert one_line(text) == expected


def test_photo_with_a_line_break_in_its_name(tmp_path, capsys):
    scene = Scene(2)
    colmap_folder(tmp_path, scene)
    write_colmap(tmp_path / "sparse" / "0", scene, names=["a\nerror: \x1b[2J.png", "0001.png"])
    assert "a\\nerror: \\x1b[2J.png" in refusal(tmp_path)
    pytest.importorskip("optax")
    assert run("fit", "--data", tmp_path, "--out", tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert "\x1b" not in said and all(
        line.startswith("jax-gsplat-depth: ") for line in said.splitlines()
    )
