"""Checks folders of results: published whole, and never at the cost of somebody else's files."""

import json

import pytest

from jax_gsplat_depth._common import result_folder

PROGRAM = "a command"


def build_result(*names):
    def build(folder):
        for name in names:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(f"new {name}")
        metrics = {"program": PROGRAM, "files": [*names, result_folder.METRICS]}
        (folder / result_folder.METRICS).write_text(json.dumps(metrics))

    return build


def test_publish_makes_missing_parents_and_leaves_no_temporary_folder(tmp_path):
    target = tmp_path / "a" / "b"
    result_folder.publish(target, build_result("heldout/x.png", "loss.csv"), PROGRAM)
    assert result_folder.list_files(tmp_path) == [
        "a/b/heldout/x.png",
        "a/b/loss.csv",
        "a/b/metrics.json",
    ]
    assert not list(tmp_path.glob(".*"))


def test_publish_replaces_its_own_files_only(tmp_path):
    target = tmp_path / "out"
    result_folder.publish(target, build_result("heldout/old.png", "splats.ply"), PROGRAM)
    (target / "notes.txt").write_text("mine")
    result_folder.publish(target, build_result("heldout/new.png", "splats.ply"), PROGRAM)
    assert result_folder.list_files(target) == [
        "heldout/new.png",
        "metrics.json",
        "notes.txt",
        "splats.ply",
    ]
    assert (target / "notes.txt").read_text() == "mine"


def test_a_doctored_list_cannot_delete_files_elsewhere(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("keep")
    target = tmp_path / "out"
    target.mkdir()
    metrics = {"program": PROGRAM, "files": ["../victim", str(victim)]}
    (target / result_folder.METRICS).write_text(json.dumps(metrics))
    result_folder.publish(target, build_result("loss.csv"), PROGRAM)
    assert victim.read_text() == "keep"


@pytest.mark.parametrize("existing", [False, True])
def test_a_failed_build_changes_nothing(tmp_path, existing):
    target = tmp_path / "out"
    if existing:
        result_folder.publish(target, build_result("loss.csv"), PROGRAM)
    before = result_folder.list_files(tmp_path)

    def build(folder):
        (folder / "loss.csv").write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(result_folder.OutputError, match="No space left"):
        result_folder.publish(target, build, PROGRAM)
    assert result_folder.list_files(tmp_path) == before
    assert target.exists() == existing


@pytest.mark.parametrize(
    "content",
    [{"thesis.txt": ""}, {"metrics.json": "[]"}, {"metrics.json": '{"program": "other"}'}],
)
def test_folders_of_others_are_refused(tmp_path, content):
    target = tmp_path / "out"
    target.mkdir()
    for name, text in content.items():
        (target / name).write_text(text)
    with pytest.raises(result_folder.OutputError, match="not empty"):
        result_folder.check_folder(target, PROGRAM)


def test_targets_that_cannot_be_written(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(result_folder.OutputError, match="not a folder"):
        result_folder.check_folder(file, PROGRAM)
    with pytest.raises(result_folder.OutputError, match="cannot be written"):
        result_folder.check_folder(file / "out", PROGRAM)
    (tmp_path / "empty").mkdir()
    result_folder.check_folder(tmp_path / "empty", PROGRAM)
    result_folder.check_folder(tmp_path / "missing" / "parents", PROGRAM)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file"]
