"""Videos are read frame by frame, upright, and written whole or not at all."""

import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dyndet_client import InputError
from dyndet_client.cli.sources import expected_count, find_sources, read_pictures
from dyndet_client.cli.video import VideoReader, VideoWriter

pytest.importorskip("av")
COLOURS = [(250, 20, 20), (20, 250, 20), (20, 20, 250), (200, 200, 20), (20, 200, 200)]


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Five frames of one colour each, 65 x 48, ten a second."""
    writer = VideoWriter(tmp_path / "clip.mp4", Fraction(10))
    for colour in COLOURS:
        writer.write(Image.new("RGB", (65, 48), colour))
    writer.close()
    return tmp_path / "clip.mp4"


def test_frames_come_one_by_one_with_number_and_time(clip: Path) -> None:
    with VideoReader(clip) as reader:
        frames = list(reader)
        assert reader.rate == 10 and reader.expected_frames == 5
    assert [frame.number for frame in frames] == [0, 1, 2, 3, 4]
    assert [frame.time_s for frame in frames] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4], abs=1e-3)
    for frame, colour in zip(frames, COLOURS, strict=True):
        assert frame.pixels.shape == (48, 66, 3)  # codecs want even sides
        np.testing.assert_allclose(frame.pixels[24, 32], colour, atol=40)
    with VideoReader(clip, every=2) as reader:
        assert [frame.number for frame in reader] == [0, 2, 4] and reader.expected_frames == 3


def test_what_is_no_video_and_what_is_cut_off_end_in_one_sentence(tmp_path: Path, clip: Path) -> None:
    text = tmp_path / "notes.mp4"
    text.write_text("no video")
    with pytest.raises(InputError, match=r"notes\.mp4 is not a video"):
        VideoReader(text)
    clip.write_bytes(clip.read_bytes()[:300])
    with pytest.raises(InputError, match=r"clip\.mp4"), VideoReader(clip) as reader:
        list(reader)


def test_a_video_that_is_given_up_leaves_no_file(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "half.mp4", Fraction(10))
    writer.write(Image.new("RGB", (64, 48)))
    writer.discard()
    assert not list(tmp_path.iterdir())


def test_folders_give_their_pictures_and_videos_in_order(tmp_path: Path, clip: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "b.png")
    (tmp_path / "readme.txt").write_text("no picture")
    (tmp_path / ".hidden.png").write_bytes(b"")
    (tmp_path / "deep").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "deep" / "c.JPG", "JPEG")

    def names(**options: bool) -> list[str]:
        return [source.path.name for source in find_sources([tmp_path], **options)]

    assert names(recursive=False) == ["b.png", "clip.mp4"]
    assert names(recursive=True) == ["b.png", "clip.mp4", "c.JPG"]
    sources = find_sources([tmp_path], recursive=True)
    assert expected_count(sources, 2) == 5
    os.mkfifo(tmp_path / "pipe.mp4")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "broken.jpg").symlink_to(tmp_path / "absent")
    (tmp_path / "folder.jpg").mkdir()
    others = [source for source in find_sources([tmp_path], recursive=False) if source not in sources]
    assert [source.path.name for source in others] == ["broken.jpg", "pipe.mp4", "pipe.png"]
    for source in others:
        with pytest.raises(InputError, match=f"{source.path.name} (does not exist|is not a regular file)"):
            list(read_pictures(source, every=1))
    assert expected_count(others, 1) == 3  # and does not wait for the other end of the pipe
    records = [picture.record() for source in sources for picture in read_pictures(source, every=2)]
    assert [record.get("frame") for record in records] == [None, 0, 2, 4, None]
    with pytest.raises(InputError, match="does not exist"):
        find_sources([tmp_path / "absent.jpg"], recursive=False)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no images"):
        find_sources([tmp_path / "empty"], recursive=False)
