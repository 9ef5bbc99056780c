"""Checks folders of results: published whole, and never at the cost of somebody else's files."""

import itertools
import json
import os

import pytest
from helpers.kills import kill_before

from jax_gsplat_depth._common import result_folder
from jax_gsplat_depth._common.atomic import atomic_write
from jax_gsplat_depth._common.file_names import file_name

PROGRAM = "a command"


def build_result(*names):
    def build(folder):
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
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


NOTHING = ()
OLD = ("heldout/old.png", "splats.ply")
NEW = ("heldout/new.png", "splats.ply", "a/b/c.txt")


@pytest.fixture
def no_waiting(monkeypatch):
    """Syncing is no part of what is tested, and takes milliseconds each."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def list_as_ours(target, name):
    """Have the result list one more file."""
    metrics = json.loads((target / result_folder.METRICS).read_text())
    metrics["files"].append(name)
    (target / result_folder.METRICS).write_text(json.dumps(metrics))


def holds(target, names):
    """Return whether the files of a result are all that is there, with those of the user."""
    files = set(result_folder.list_files(target)) - {result_folder.METRICS, "notes.txt"}
    return files == set(names) and all((target / n).read_text() == f"new {n}" for n in names)


@pytest.mark.quick(state=["missing parent", "earlier", "linked"])
@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize("state", ["missing", "missing parent", "empty", "earlier", "linked"])
def test_a_kill_at_every_step_of_publishing_is_made_good(tmp_path, state):
    """The next run, whatever it is, finds the earlier result or the new one, and nothing else."""
    outcomes = set()
    number = 0
    for number in itertools.count(1):
        place = tmp_path / str(number)
        place.mkdir()
        target = place / "parent" / "out" if state == "missing parent" else place / "out"
        if state == "empty":
            target.mkdir()
        elif state in ("earlier", "linked"):
            result_folder.publish(target, build_result(*OLD), PROGRAM)
            (target / "notes.txt").write_text("mine")
        if state == "linked":
            (target / "heldout").rename(place / "elsewhere")
            (target / "heldout").symlink_to(place / "elsewhere")
            list_as_ours(target, "heldout")
        killed = kill_before(number, result_folder.publish, target, build_result(*NEW), PROGRAM)
        # What makes good can be killed too.
        kill_before(1 + number % 5, result_folder.check_folder, target, PROGRAM)
        result_folder.check_folder(target, PROGRAM)
        assert not list(place.rglob(".*"))
        found = [n for n in (NOTHING, OLD, NEW) if target.exists() and holds(target, n)]
        assert found or not target.exists() or state == "linked"
        outcomes.update(found)
        # And it can be written again.
        result_folder.publish(target, build_result("splats.ply"), PROGRAM)
        assert holds(target, ["splats.ply"]) and not list(place.rglob(".*"))
        # Nor folders without files.
        assert not [path for path in target.iterdir() if path.is_dir()] or state == "linked"
        if state in ("earlier", "linked"):
            assert (target / "notes.txt").read_text() == "mine"
        if state == "linked":
            # The files that the link reached are the user's.
            assert [path.name for path in (place / "elsewhere").iterdir()] == ["old.png"]
        if not killed:
            break
    before = {"empty": {NOTHING}, "earlier": {OLD}}.get(state, set())
    assert outcomes == before | {NEW} and number > 10


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize(
    "files",
    [
        ["../victim", "heldout/../../victim", "/absolute", "."],
        ["link/victim", "link/deeper/victim", "link"],
        ["\0", "a\0b", "\ud800", "x" * 300, "x" * 300 + "/y", "", "/", "notes.txt/y"],
        [None, 3, ["victim"], {"a": 1}],
        ["folder", "folder/", ".jax-gsplat-depth.ready/x", ".jax-gsplat-depth-1/x", "kept/x"],
    ],
)
def test_a_doctored_list_deletes_nothing_but_files_of_the_folder(tmp_path, files):
    elsewhere, target = tmp_path / "elsewhere", tmp_path / "out"
    (elsewhere / "deeper").mkdir(parents=True)
    victims = [tmp_path / "victim", elsewhere / "victim", elsewhere / "deeper" / "victim"]
    for folder in ("folder", "kept", ".jax-gsplat-depth-1"):
        (target / folder).mkdir(parents=True)
        (target / folder / "x").write_text("mine")
    victims += [target / "folder" / "x", target / "kept" / "x", target / "notes.txt"]
    for victim in victims:
        victim.write_text("mine")
    (target / "link").symlink_to(elsewhere)
    files = [str(victims[0]) if name == "/absolute" else name for name in files]
    metrics = {"program": PROGRAM, "files": files}
    (target / result_folder.METRICS).write_text(json.dumps(metrics))
    result_folder.publish(target, build_result("loss.csv"), PROGRAM, may_hold=["kept"])
    assert {victim.read_text() for victim in victims} == {"mine"}
    # A link that the list names goes like a file: what it leads to stays.
    assert (target / "link").is_symlink() == ("link" not in files)


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize("link", ["heldout", "heldout/a", "loss.csv"])
def test_links_of_the_user_are_refused(tmp_path, link):
    """Before the work, if it is a folder of an earlier result."""
    target, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    names = ["heldout/a/x.png", "loss.csv"]
    first = ["splats.ply"] if link == "loss.csv" else names
    result_folder.publish(target, build_result(*first), PROGRAM)
    if link == "loss.csv":
        elsewhere.write_text("mine")
    else:
        (target / link).rename(elsewhere)
    (target / link).symlink_to(elsewhere)
    before = result_folder.list_files(tmp_path)
    words = f"{link} is in the way: expected a .* or nothing, not a link$"
    if link != "loss.csv":
        with pytest.raises(result_folder.OutputError, match=words):
            result_folder.check_folder(target, PROGRAM)
    with pytest.raises(result_folder.OutputError, match=words):
        result_folder.publish(target, build_result(*names), PROGRAM)
    assert (target / link).is_symlink() and result_folder.list_files(tmp_path) == before
    # New files elsewhere are no reason to touch it.
    (target / link).unlink()
    (target / "other").symlink_to(elsewhere)
    result_folder.publish(target, build_result(*names), PROGRAM)
    assert (target / "other").is_symlink() and elsewhere.exists()


@pytest.mark.usefixtures("no_waiting")
def test_folders_that_lose_their_files_go(tmp_path):
    """Those of an earlier result, if nothing else is in them."""
    target = tmp_path / "out"
    names = ["a/b/x.png", "a/c/x.png", "kept/x.png"]
    result_folder.publish(target, build_result(*names), PROGRAM)
    (target / "mine").mkdir()
    (target / "kept" / "notes.txt").write_text("mine")
    result_folder.publish(target, build_result("a/c/y.png"), PROGRAM)
    folders = {path.name for path in target.rglob("*") if path.is_dir()}
    assert folders == {"a", "c", "kept", "mine"}
    assert (target / "kept" / "notes.txt").read_text() == "mine"


def test_a_folder_that_loses_a_file_is_synced(tmp_path, monkeypatch):
    target = tmp_path / "out"
    result_folder.publish(target, build_result("a/x.png", "a/y.png"), PROGRAM)
    events = []
    unlink = os.unlink

    def noted(name, *, dir_fd=None):
        unlink(name, dir_fd=dir_fd)
        if name == "x.png":
            events.append("lost")

    def fsync(descriptor):
        if os.path.samestat(os.fstat(descriptor), (target / "a").stat()):
            events.append("synced")

    (target / "a" / "notes.txt").write_text("mine")
    monkeypatch.setattr(os, "unlink", noted)
    monkeypatch.setattr(os, "fsync", fsync)
    result_folder.publish(target, build_result("loss.csv"), PROGRAM)
    assert events == ["lost", "synced"]


@pytest.mark.usefixtures("no_waiting")
def test_links_are_replaced_and_not_followed(tmp_path):
    target, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    result_folder.publish(target, build_result("heldout/a/x.png", "loss.csv"), PROGRAM)
    elsewhere.mkdir()
    for name in ("x.png", "loss.csv", "y.png"):
        (elsewhere / name).write_text("mine")
    (target / "loss.csv").unlink()
    (target / "loss.csv").symlink_to(elsewhere / "loss.csv")
    (target / "heldout" / "a" / "x.png").unlink()
    (target / "heldout" / "a").rmdir()
    (target / "heldout" / "a").symlink_to(elsewhere)
    list_as_ours(target, "heldout/a")
    result_folder.publish(target, build_result("heldout/a/y.png", "loss.csv"), PROGRAM)
    assert {path.read_text() for path in elsewhere.iterdir()} == {"mine"}
    assert len(list(elsewhere.iterdir())) == 3
    assert holds(target, ["heldout/a/y.png", "loss.csv"])
    assert not any(path.is_symlink() for path in target.rglob("*"))


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize("damage", ["[", '["../victim"]', "[" * 200_000, "5", None])
def test_a_doctored_journal_is_refused_or_harmless(tmp_path, damage):
    target, victim = tmp_path / "out", tmp_path / "victim"
    victim.write_text("mine")
    ready = target / ".jax-gsplat-depth.ready"
    ready.mkdir(parents=True)
    build_result("loss.csv")(ready)
    if damage is not None:
        (ready / ".stale.json").write_text(damage)
    if damage == '["../victim"]':
        result_folder.check_folder(target, PROGRAM)
        assert holds(target, ["loss.csv"]) and not ready.exists()
    else:
        with pytest.raises(result_folder.OutputError, match=r"or delete .*depth\.ready$"):
            result_folder.check_folder(target, PROGRAM)
        assert (ready / "loss.csv").exists()
    assert victim.read_text() == "mine"


def test_a_link_in_the_place_of_the_journal_is_refused(tmp_path):
    target, victim = tmp_path / "out", tmp_path / "victim"
    for folder in (target, victim):
        folder.mkdir()
    build_result("loss.csv")(victim)
    (target / ".jax-gsplat-depth.ready").symlink_to(victim)
    with pytest.raises(result_folder.OutputError, match=r"depth\.ready is in the way"):
        result_folder.check_folder(target, PROGRAM)
    assert holds(victim, ["loss.csv"])


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize(
    ("names", "in_the_way"),
    [(["heldout/x.png"], "heldout"), (["a/b"], "a/b/c"), (["splats.ply"], "splats.ply/x")],
)
def test_what_is_in_the_way_is_found_before_anything_changes(tmp_path, names, in_the_way):
    target = tmp_path / "out"
    result_folder.publish(target, build_result("loss.csv"), PROGRAM)
    (target / in_the_way).parent.mkdir(parents=True, exist_ok=True)
    (target / in_the_way).write_text("mine")
    with pytest.raises(result_folder.OutputError, match="is in the way: expected a "):
        result_folder.publish(target, build_result("loss.json", *names), PROGRAM)
    assert result_folder.list_files(target) == sorted(["loss.csv", "metrics.json", in_the_way])
    result_folder.check_folder(target, PROGRAM)


@pytest.mark.parametrize("kind", ["deep", "fifo", "number", "folder", "list of letters"])
def test_a_damaged_marker_is_somebody_elses(tmp_path, kind):
    target = tmp_path / "out"
    target.mkdir()
    marker = target / result_folder.METRICS
    if kind == "fifo":
        os.mkfifo(marker)
    elif kind == "folder":
        marker.mkdir()
    else:
        content = {"deep": "[" * 200_000, "number": "1" * 5000}
        letters = json.dumps({"program": PROGRAM, "files": "abc"})
        marker.write_text(content.get(kind, letters))
    with pytest.raises(result_folder.OutputError, match="not empty and holds no earlier result"):
        result_folder.check_folder(target, PROGRAM)


@pytest.mark.usefixtures("no_waiting")
def test_a_running_command_is_left_alone(tmp_path):
    """Only what nobody uses any more is removed: here a second command of the same target."""
    target = tmp_path / "out"

    def build(folder):
        build_result("loss.csv")(folder)
        result_folder.publish(target, build_result("splats.ply"), PROGRAM)
        assert folder.exists()

    result_folder.publish(target, build, PROGRAM)
    assert holds(target, ["loss.csv"]) and not list(tmp_path.rglob(".*"))


def test_atomic_write_leaves_all_or_nothing(tmp_path, no_waiting):
    path = tmp_path / ("é" * 127)  # 254 bytes: there is no room for a suffix.
    path.write_bytes(b"old")
    number = 0
    for number in itertools.count(1):
        killed = kill_before(number, atomic_write, path, lambda stream: stream.write(b"new"))
        assert path.read_bytes() in ((b"old", b"new") if killed else (b"new",))
        # Another file is no reason to look; the next try is.
        atomic_write(tmp_path / "other", lambda stream: stream.write(b"new"))
        (tmp_path / "other").unlink()
        atomic_write(path, lambda stream: stream.write(b"old"))
        assert list(tmp_path.iterdir()) == [path]
        if not killed:
            break
    assert number > 4


def test_the_error_of_an_atomic_write_names_the_file_only(tmp_path):
    path = tmp_path / "file"
    path.mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        atomic_write(path, lambda stream: stream.write(b"new"))
    assert str(caught.value) == f"[Errno 21] Is a directory: {str(path)!r}"


def test_file_names_are_distinct_and_short_enough(tmp_path):
    names = ["0000", "a" * 251, "a" * 252, "a" * 253, "a" * 255, "é" * 126, "é" * 127, "😀" * 63]
    names += ["é" * 126 + "a", "é" * 126 + "b", "a/b", "a_b", "a\0b", "\udcff", "\ud800", "", ".."]
    names.append(file_name("a" * 252, ".png").removesuffix(".png"))
    files = [file_name(name, ".png") for name in names]
    assert len(set(files)) == len(names)
    for name, file in zip(names, files, strict=True):
        (tmp_path / file).write_text(repr(name))
        assert file.endswith(".png")
    assert files[:2] == ["0000.png", "a" * 251 + ".png"]
    assert len(list(tmp_path.iterdir())) == len(names)
