"""Files and folders appear whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dynamicdet.errors import InputError
from dynamicdet.files import check_creatable, check_writable, scratch_folder, whole_file, whole_folder
from tests.support.programs.processes import started

MARKER = "marker.json"


@pytest.fixture
def umask():
    """Permissions as most machines give them, wherever the tests run."""
    before = os.umask(0o022)
    yield 0o022
    os.umask(before)


def write(path: Path, text: str, error: BaseException | None = None) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(text)
        if error is not None:
            raise error


def fill(folder: Path, text: str, error: BaseException | None = None) -> None:
    with whole_folder(folder, marker=MARKER) as temporary:
        (temporary / MARKER).write_text(text)
        if error is not None:
            raise error


@pytest.mark.parametrize(
    "error", [ValueError("broken"), KeyboardInterrupt(), SystemExit(1)], ids=lambda error: str(type(error))
)
def test_an_error_or_ctrl_c_inside_leaves_the_old_content_and_nothing_else(
    tmp_path: Path, error: BaseException
) -> None:
    write(tmp_path / "file.json", "old")
    fill(tmp_path / "folder", "old")
    with pytest.raises(type(error)):
        write(tmp_path / "file.json", "new", error)
    with pytest.raises(type(error)):
        fill(tmp_path / "folder", "new", error)
    assert (tmp_path / "file.json").read_text() == "old"
    assert (tmp_path / "folder" / MARKER).read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file.json", "folder"]


def test_a_process_that_ctrl_c_interrupts_leaves_nothing(tmp_path: Path) -> None:
    program = """
import signal, sys, time
from pathlib import Path
from dynamicdet.files import whole_file, whole_folder
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets its background jobs ignore the signal
with whole_folder(Path("folder"), marker=None) as folder, whole_file(folder / "in.txt"), whole_file(Path("out.txt")):
    print("ready", flush=True)
    time.sleep(60)
"""
    with started(
        [sys.executable, "-c", program], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        assert len(list(tmp_path.iterdir())) == 2
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert not list(tmp_path.iterdir())


def test_nothing_is_seen_under_the_name_before_the_block_ends(tmp_path: Path) -> None:
    file, folder = tmp_path / "file.json", tmp_path / "folder"
    with whole_file(file) as temporary, whole_folder(folder, marker=MARKER) as inside:
        temporary.write_text("new")
        (inside / MARKER).write_text("new")
        assert not file.exists() and not folder.exists()
        assert temporary.parent == tmp_path and temporary.suffix == ".json"
    assert file.read_text() == "new" and (folder / MARKER).read_text() == "new"


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    fill(tmp_path / "folder", "old")
    (tmp_path / "folder" / "of the old one").touch()
    fill(tmp_path / "folder", "new")
    assert [(path.name, path.read_text()) for path in (tmp_path / "folder").iterdir()] == [(MARKER, "new")]
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_an_empty_folder_is_replaced_and_parents_are_made(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    fill(tmp_path / "empty", "new")
    fill(tmp_path / "a" / "b" / "folder", "new")
    assert (tmp_path / "empty" / MARKER).exists() and (tmp_path / "a" / "b" / "folder" / MARKER).exists()


def test_a_folder_that_dyndet_did_not_write_is_refused_before_the_block_runs(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    with pytest.raises(InputError, match=r"thesis exists and dyndet did not write it \(it has no marker.json\)"):
        fill(tmp_path / "thesis", "new")
    (tmp_path / "a file").touch()
    with pytest.raises(InputError, match="dyndet did not write it"):
        fill(tmp_path / "a file", "new")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match="dyndet did not write it"):
        fill(tmp_path / "dangling", "new")
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "years of work"


def test_without_a_marker_whatever_is_there_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "old.txt").touch()
    with whole_folder(tmp_path / "set", marker=None) as folder:
        (folder / "new.txt").touch()
    assert [path.name for path in (tmp_path / "set").iterdir()] == ["new.txt"]


def test_new_files_and_folders_have_the_permissions_that_the_umask_leaves(tmp_path: Path, umask: int) -> None:
    write(tmp_path / "file", "new")
    fill(tmp_path / "folder", "new")
    assert mode(tmp_path / "file") == 0o644 and mode(tmp_path / "folder") == 0o755
    os.umask(0o077)
    write(tmp_path / "secret", "new")
    fill(tmp_path / "secrets", "new")
    assert mode(tmp_path / "secret") == 0o600 and mode(tmp_path / "secrets") == 0o700


def test_a_writer_that_puts_another_file_in_place_does_not_change_the_permissions(tmp_path: Path, umask: int) -> None:
    with whole_file(tmp_path / "file") as temporary:
        (tmp_path / "own").touch(mode=0o600)
        (tmp_path / "own").rename(temporary)
    assert mode(tmp_path / "file") == 0o644


def test_a_file_that_is_replaced_keeps_its_permissions(tmp_path: Path, umask: int) -> None:
    write(tmp_path / "file", "old")
    (tmp_path / "file").chmod(0o640)
    write(tmp_path / "file", "new")
    assert mode(tmp_path / "file") == 0o640


def test_a_block_that_removes_the_temporary_file_changes_nothing(tmp_path: Path) -> None:
    write(tmp_path / "file", "old")
    with whole_file(tmp_path / "file", durable=False) as temporary:
        temporary.unlink()
    assert (tmp_path / "file").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_a_path_that_cannot_be_written_is_one_sentence_before_the_block_runs(tmp_path: Path) -> None:
    (tmp_path / "a file").touch()
    (tmp_path / "folder").mkdir()
    cases = {
        tmp_path / "folder": "folder is a folder; name the file to write",
        tmp_path / "missing" / "x.json": r"x.json cannot be written: the folder \S*missing does not exist",
        tmp_path / "a file" / "x.json": "x.json cannot be written: the folder .*a file is a file",
        Path(
            "/proc/x.json"
        ): "/proc/x.json cannot be written: ",  # its permissions allow it even to root, the system does not
    }
    for path, sentence in cases.items():
        with pytest.raises(InputError, match=sentence) as caught:
            write(path, "new", AssertionError("the block runs"))
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"cannot be an output folder: .*a file is a file"):
        fill(tmp_path / "a file" / "deeper" / "folder", "new", AssertionError("the block runs"))
    with pytest.raises(InputError, match="/proc/x cannot be written: "):
        fill(Path("/proc/x"), "new", AssertionError("the block runs"))
    for check in (check_writable, check_creatable):  # before work whose result could not be written
        with pytest.raises(InputError, match="/proc/x cannot be written: "):
            check(Path("/proc/x"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_allows_no_writing_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(InputError, match="is not writable"):
            check_writable(tmp_path / "file")
        with pytest.raises(InputError, match="is not writable"):
            check_creatable(tmp_path / "folder")
    finally:
        tmp_path.chmod(0o755)


def test_a_link_stays_a_link_and_what_it_leads_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    write(tmp_path / "far" / "file.json", "old")
    fill(tmp_path / "far" / "folder", "old")
    for name in ("file.json", "folder", "new.json"):
        (tmp_path / name).symlink_to(Path("far") / name)
    write(tmp_path / "file.json", "new")
    write(tmp_path / "new.json", "new")
    fill(tmp_path / "folder", "new")
    assert all((tmp_path / name).is_symlink() for name in ("file.json", "folder", "new.json"))
    assert (tmp_path / "far" / "file.json").read_text() == (tmp_path / "far" / "new.json").read_text() == "new"
    assert (tmp_path / "far" / "folder" / MARKER).read_text() == "new"
    assert sorted(path.name for path in (tmp_path / "far").iterdir()) == ["file.json", "folder", "new.json"]


def test_a_device_or_a_pipe_is_refused_and_stays(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "null").symlink_to("/dev/null")
    for path in (tmp_path / "pipe", tmp_path / "null", Path("/dev/null")):
        with pytest.raises(InputError, match="is a device or a pipe; name a file to write"):
            write(path, "new", AssertionError("the block runs"))
    assert (tmp_path / "pipe").is_fifo() and Path("/dev/null").is_char_device()


WRITES_FOR_EVER = """
import sys, time
from pathlib import Path
from dynamicdet.files import scratch_folder, whole_file, whole_folder
with whole_folder(Path("folder"), marker=None) as folder, whole_file(Path("out.txt")) as file, scratch_folder("trial"):
    (folder / "half").touch()
    file.write_text("half")
    print("ready", flush=True)
    time.sleep(60)
"""


def test_what_a_killed_process_leaves_goes_with_the_next_write_and_what_a_running_one_writes_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    environment = {**os.environ, "TMPDIR": str(scratch)}
    command = [sys.executable, "-c", WRITES_FOR_EVER]
    with (
        started(command, cwd=tmp_path, stdout=subprocess.PIPE, env=environment) as killed,
        started(command, cwd=tmp_path, stdout=subprocess.PIPE, env=environment) as running,
    ):
        for process in (killed, running):
            assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        killed.kill()
        killed.wait()
        before = {path for folder in (tmp_path, scratch) for path in folder.iterdir()}
        assert len(before) == 1 + 4 + 2
        forgotten: list[Path] = []
        write(tmp_path / "other.txt", "new")
        with scratch_folder("trial", forget=forgotten.append) as own:
            left = {path for folder in (tmp_path, scratch) for path in folder.iterdir()}
            assert own.is_dir() and len(left - before) == 2 and len(before - left) == 3
            assert len(forgotten) == 1 and not forgotten[0].exists()
        running.kill()


def test_a_scratch_folder_can_be_locked_by_who_writes_into_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with scratch_folder("trial") as folder, whole_folder(folder / "new", marker=None):
        descriptor = os.open(folder, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(descriptor)


def test_a_folder_whose_process_was_killed_between_two_renames_comes_back(tmp_path: Path) -> None:
    left = tmp_path / ".dyndet-0123456789ab" / "folder.replaced"
    left.mkdir(parents=True)
    (left / MARKER).write_text("old")
    write(tmp_path / "other.txt", "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "other.txt"]
    assert (tmp_path / "folder" / MARKER).read_text() == "old"


def test_hidden_files_of_others_stay(tmp_path: Path) -> None:
    names = (".dyndet", ".dyndet-cache", ".dyndet-0123456789abc", ".file.0123456789ab.json", "dyndet-0123456789ab")
    for name in names:
        (tmp_path / name).write_text("of others")
    (tmp_path / ".dyndet-0123456789ab").symlink_to(tmp_path / ".dyndet")
    write(tmp_path / "file", "new")
    assert {path.name for path in tmp_path.iterdir()} == {*names, ".dyndet-0123456789ab", "file"}


def test_a_reader_always_finds_one_of_the_two_folders(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from dynamicdet.files import whole_folder
for number in range(300):
    with whole_folder(Path("folder"), marker=None) as folder:
        (folder / "number").write_text(str(number))
"""
    fill(tmp_path / "folder", "old")
    reads = 0
    with started([sys.executable, "-c", program], cwd=tmp_path) as process:
        while process.poll() is None:
            assert (tmp_path / "folder").is_dir()
            reads += 1
    assert process.returncode == 0 and reads > 300 and (tmp_path / "folder" / "number").read_text() == "299"


def test_a_full_disk_is_one_sentence_also_where_a_library_words_it(tmp_path: Path) -> None:
    for error in (
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
        ValueError("cannot write: File too large"),
    ):
        with pytest.raises(InputError, match=r"file cannot be written: No space left on device$"):
            write(tmp_path / "file", "new", error)
    with pytest.raises(RuntimeError, match="the network diverged"):
        write(tmp_path / "file", "new", RuntimeError("the network diverged"))
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_one_sentence_and_other_errors_pass_unchanged(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(InputError, match="file cannot be written: No space left on device"):
        write(tmp_path / "file", "new", full)
    with pytest.raises(InputError, match="folder cannot be written: No space left on device"):
        fill(tmp_path / "folder", "new", full)
    with pytest.raises(FileNotFoundError):
        fill(tmp_path / "folder", "new", FileNotFoundError(errno.ENOENT, "something that was read"))
    assert not list(tmp_path.iterdir())


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777
