"""Data sets are found in the layouts of dyndet, Roboflow and COCO."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dynamicdet.datasets.check import check_data
from dynamicdet.datasets.dataset import in_class_order, read_dataset
from dynamicdet.datasets.layout import locate
from dynamicdet.errors import InputError
from dynamicdet.pictures import pictures_in
from tests.support.tiny_data import tiny_content, write_pictures, write_tiny_data


def test_the_splits_of_a_roboflow_export_are_found_by_themselves(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        write_pictures(tmp_path / split)
        (tmp_path / split / "_annotations.coco.json").write_text(json.dumps(tiny_content()))
    assert read_dataset(tmp_path, 32).image_folder == tmp_path / "train"
    assert read_dataset(tmp_path, 32, split="valid").image_folder == tmp_path / "valid"
    assert read_dataset(tmp_path / "test", 32).image_folder == tmp_path / "test"
    assert read_dataset(tmp_path / "test" / "_annotations.coco.json", 32).image_folder == tmp_path / "test"
    (tmp_path / "test" / "2.png").write_bytes(b"")
    checked = check_data(tmp_path)
    assert [one.place.images.name for one in checked if one.error is None] == ["train", "valid"]
    assert [one.place.images.name for one in checked if one.error is not None] == ["test"]


def test_coco_s_own_layout_needs_only_the_name_of_its_file(tmp_path: Path) -> None:
    write_pictures(tmp_path / "val2017")
    (tmp_path / "annotations").mkdir()
    file = tmp_path / "annotations" / "instances_val2017.json"
    file.write_text(json.dumps(tiny_content()))
    assert read_dataset(file, 32).image_folder == tmp_path / "val2017"
    with pytest.raises(InputError, match=r"has several annotation files; name one of them, such as .*val2017\.json"):
        read_dataset(tmp_path, 32)


def test_a_place_without_a_data_set_says_what_one_is(tmp_path: Path) -> None:
    write_pictures(tmp_path / "images")
    for place in (tmp_path, tmp_path / "none", "\0", "x" * 5000):
        with pytest.raises(InputError, match=r"a data set is a folder with images/ and annotations\.json") as caught:
            locate(place)
        assert str(caught.value).isprintable()
    write_tiny_data(tmp_path)
    with pytest.raises(InputError, match=r"the image folder .*none does not exist"):
        locate(tmp_path, tmp_path / "none")


def test_images_in_another_folder_are_hinted_at(tmp_path: Path) -> None:
    content = tiny_content()
    for entry in content["images"]:
        entry["file_name"] = f"images/{entry['file_name']}"
    write_tiny_data(tmp_path, content)
    with pytest.raises(InputError, match=f"with --images {tmp_path} it would be found"):
        read_dataset(tmp_path, 32)
    assert len(read_dataset(tmp_path, 32, images=tmp_path)) == 3
    with pytest.raises(InputError, match=r"images/ does; give .*images$"):
        pictures_in(tmp_path)
    with pytest.raises(InputError, match=f"with --images {tmp_path / 'images'} it would be found"):
        read_dataset(write_tiny_data(tmp_path), 32, images=tmp_path)


def test_classes_follow_a_detector_by_name(tmp_path: Path) -> None:
    """So an average precision is never that of the wrong classes."""
    data = read_dataset(write_tiny_data(tmp_path), 32)
    ordered = in_class_order(data, ["dog", "cat"])
    assert (data.class_names, ordered.class_names) == (("cat", "dog"), ("dog", "cat"))
    assert (data.category_ids, ordered.category_ids) == ((1, 2), (2, 1))
    for before, after in zip(data.labels, ordered.labels, strict=True):
        assert [data.class_names[label] for label in before.classes] == [
            ordered.class_names[one] for one in after.classes
        ]
    assert in_class_order(data, ["dog", "cow"]) is data
