"""Models trade places in a folder also where the file system cannot do it in one step, and after an interruption."""

from __future__ import annotations

from pathlib import Path

import pytest

from dynamicdet.errors import InputError
from dyndet_builder.server.remote import folder as remote_folder
from dyndet_builder.server.remote.folder import Folder


@pytest.fixture(params=["in one step", "in three steps"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    """A folder with the models `street`, which is old, and `street_next`, which is new."""
    if request.param == "in three steps":
        monkeypatch.setattr(remote_folder, "exchange", lambda *_: False)
    for name, content in (("street", "old"), ("street_next", "new")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.pbtxt").write_text(f"# {content}")
    return Folder(tmp_path)


def builds(folder: Folder) -> dict[str, str]:
    """Which build is under which name."""
    return {name: (folder.read(f"{name}/config.pbtxt") or b"").decode()[2:] for name in folder.models()}


def test_two_models_trade_places_and_back(folder: Folder) -> None:
    folder.replace("street", "street_next")
    assert builds(folder) == {"street": "new", "street_next": "old"}
    folder.replace("street", "street_next")
    assert builds(folder) == {"street": "old", "street_next": "new"}


@pytest.mark.parametrize("steps", [1, 2])
def test_a_trade_that_was_interrupted_leaves_both_models(tmp_path: Path, steps: int) -> None:
    for name, content in (("street", "old"), ("street_next", "new")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.pbtxt").write_text(f"# {content}")
    folder = Folder(tmp_path)
    (tmp_path / "street").rename(tmp_path / "street_next" / ".last")
    if steps == 2:
        (tmp_path / "street_next").rename(tmp_path / "street")
    folder.repair("street", "street_next")
    expected = ("old", "new") if steps == 1 else ("new", "old")
    assert builds(folder) == dict(zip(("street", "street_next"), expected, strict=True))


def test_a_lock_holds_while_its_owner_lives_and_its_file_alone_does_not(folder: Folder) -> None:
    (folder.folder / ".street.lock").write_text("somebody, process 1")  # left by an owner that was killed
    with folder.lock(".street.lock", wait_s=0, busy="another push is running"):
        with pytest.raises(
            InputError, match=r"another push is running \(.*process \d+.*\), and did not end within 0 s"
        ):
            with folder.lock(".street.lock", wait_s=0, busy="another push is running"):
                pass
        with folder.lock(".other.lock", wait_s=0, busy="another push is running"):
            pass
    assert folder.files() == ()


def test_what_an_interrupted_removal_left_is_found_or_does_not_matter(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder.folder / "street_next" / "1").mkdir()
    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", lambda *_, **__: pytest.fail("killed"))
        with pytest.raises(pytest.fail.Exception):
            folder.remove("street_next")
    assert "street_next" in folder.models()
    folder.remove("street_next")
    (folder.folder / "street_next").mkdir()  # killed between the last two steps
    with folder.staging("street") as staging:
        (staging / "new").mkdir()
        (staging / "new" / "config.pbtxt").write_text("# new")
        folder.place(staging / "new", "street_next")
    assert builds(folder) == {"street": "old", "street_next": "new"}
