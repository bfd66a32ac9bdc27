"""Our own checkpoint files: what is written comes back, and what is wrong is said."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import dynamicdet
from dynamicdet.errors import CheckpointError, InputError
from dynamicdet.networks.network import DynamicDetector

NAMES = ("bird", "cat", "traffic sign")
HEADER = {
    "format": "dyndet",
    "format_version": "1",
    "architecture": "dy-yolov7-pico",
    "class_names": '["bird", "cat", "traffic sign"]',
    "input_size": "320",
}


@pytest.fixture(scope="module")
def pico() -> DynamicDetector:
    torch.manual_seed(0)
    return dynamicdet.create("dy-yolov7-pico", 3, NAMES, input_size=256)


@pytest.fixture
def saved(pico: DynamicDetector, tmp_path: Path) -> Path:
    path = tmp_path / "pico.safetensors"
    dynamicdet.save(pico, path)
    return path


def test_a_saved_network_comes_back_whole(pico: DynamicDetector, saved: Path) -> None:
    loaded = dynamicdet.load(saved)
    assert (loaded.spec, loaded.class_names, loaded.input_size) == (pico.spec, NAMES, 256)
    assert not loaded.training and all(parameter.requires_grad for parameter in loaded.parameters())
    ours, theirs = pico.state_dict(), loaded.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]  # no temporary file stays


def test_a_file_whose_header_begins_like_a_pickle_is_read(pico: DynamicDetector, saved: Path, tmp_path: Path) -> None:
    """A safetensors file begins with its header's length, whose lowest byte can be 0x80, as in a pickle."""
    path = tmp_path / "network.safetensors"
    for more in range(0, 256, 8):
        save_file(load_file(saved), path, metadata=HEADER | {"note": "x" * more})
        if path.read_bytes()[0] == 0x80:
            break
    else:
        pytest.fail("no length of the note gives such a header")
    assert dynamicdet.load(path).class_names == pico.class_names


def test_saving_replaces_a_file_whole_or_not_at_all(pico: DynamicDetector, saved: Path, tmp_path: Path) -> None:
    before = saved.read_bytes()
    with pytest.raises(InputError, match="deployed copy cannot be saved"):
        dynamicdet.save(pico.deploy(), saved)
    with pytest.raises(InputError, match="does not exist"):
        dynamicdet.save(pico, tmp_path / "nowhere" / "pico.safetensors")
    assert saved.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "is empty"),
        (b"\xff\xd8\xff\xe0 a picture, perhaps", "neither a safetensors file nor a PyTorch checkpoint"),
        (b"PK\x03\x04 a zip that ends early", "is damaged"),
        (b"\x80\x02 no pickle", "is damaged"),
        (b"\x10\x00\x00\x00\x00\x00\x00\x00{ a header that ends early", "is damaged"),
    ],
)
def test_what_is_no_checkpoint_is_refused(content: bytes, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=complaint):
        dynamicdet.load(path)


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        dynamicdet.load(tmp_path / "none.pt")
    with pytest.raises(CheckpointError, match="is not a file"):
        dynamicdet.load(tmp_path)


def test_a_file_cut_short_is_damaged(saved: Path) -> None:
    saved.write_bytes(saved.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="is damaged"):
        dynamicdet.load(saved)


def test_another_architecture_is_named(saved: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds dy-yolov7-pico, not dy-yolov7$"):
        dynamicdet.load(saved, architecture="dy-yolov7")
    with pytest.raises(InputError, match="unknown architecture 'yolo'"):
        dynamicdet.load(saved, architecture="yolo")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"format": "other"}, "without dyndet's header"),
        ({"format_version": "9"}, "format version 9"),
        ({"architecture": "dy-yolov9"}, "unknown network 'dy-yolov9'"),
        ({"class_names": "[1, 2, 3]"}, "not a list of strings"),
        ({"class_names": "{"}, "damaged header"),
        ({"class_names": '["bird", "cat"]'}, "names 2 classes but its weights predict 3"),
        ({"input_size": "300"}, "positive multiple of 32"),
    ],
)
def test_a_header_that_does_not_fit_is_refused(change: dict[str, str], complaint: str, saved: Path) -> None:
    save_file(load_file(saved), saved.with_name("changed.safetensors"), metadata=HEADER | change)
    with pytest.raises(CheckpointError, match=complaint):
        dynamicdet.load(saved.with_name("changed.safetensors"))


def test_weights_that_do_not_fit_are_listed(saved: Path) -> None:
    tensors = load_file(saved)
    odd = saved.with_name("odd.safetensors")
    renamed = {**tensors, "router.layer9.bias": tensors["router.layer2.bias"]}
    del renamed["router.layer2.bias"]
    save_file(renamed, odd, metadata=HEADER)
    with pytest.raises(
        CheckpointError, match=r": 1 weight missing \(router.layer2.bias\) and 1 unexpected \(router.layer9.bias"
    ):
        dynamicdet.load(odd)
    save_file({**tensors, "router.layer2.bias": torch.zeros(4)}, odd, metadata=HEADER)
    with pytest.raises(CheckpointError, match=r"router\.layer2\.bias is 4, expected 1"):
        dynamicdet.load(odd)
    save_file(tensors, odd)
    with pytest.raises(CheckpointError, match="without dyndet's header"):
        dynamicdet.load(odd)
