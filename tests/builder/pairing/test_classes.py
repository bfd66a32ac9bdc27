"""Which class of one detector is which of the other: by name, as a file says, or refused with the difference."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamicdet.class_names import COCO
from dynamicdet.errors import InputError
from dyndet_builder.pairing.classes import LEFT_OUT, ClassMap, match_classes, read_class_map

_NAMES = st.lists(st.sampled_from(COCO), min_size=1, max_size=12, unique=True)
_WRITTEN = st.sampled_from((str, str.upper, str.title, lambda name: name.replace(" ", "_"), lambda name: f" {name} "))


@given(names=_NAMES, order=st.randoms(), written=_WRITTEN)
def test_the_same_classes_match_in_any_order_and_spelling(names, order, written) -> None:  # type: ignore[no-untyped-def]
    mixed = [written(name) for name in names]
    order.shuffle(mixed)
    match = match_classes(mixed, names)
    assert match.names == tuple(names) and match.large == tuple(range(len(names)))
    assert [written(match.names[number]) for number in match.small] == mixed


@given(small=_NAMES, large=_NAMES)
def test_shared_keeps_what_both_have_and_the_default_names_every_difference(small: list[str], large: list[str]) -> None:
    shared = [name for name in large if name in small]
    if not shared:
        for policy in ("same", "shared"):
            with pytest.raises(InputError, match="no class in common"):
                match_classes(small, large, policy=policy)  # type: ignore[arg-type]
        return
    match = match_classes(small, large, policy="shared")
    assert match.names == tuple(shared)
    for own, numbers in ((small, match.small), (large, match.large)):
        assert [shared[number] for number in numbers if number != LEFT_OUT] == [n for n in own if n in shared]
        assert match.left_out(own, numbers) == tuple(name for name in own if name not in shared)
    if set(small) == set(large):
        assert match_classes(small, large) == match
        return
    with pytest.raises(InputError) as refused:
        match_classes(small, large)
    said = str(refused.value)
    for only, which in ((set(small) - set(large), "small"), (set(large) - set(small), "large")):
        assert (f"only the {which} one finds" in said) == bool(only)
        assert sum(f"'{name}'" in said for name in only) == min(len(only), 5)


def test_a_map_joins_renames_and_leaves_out(tmp_path: Path) -> None:
    file = tmp_path / "map.yaml"
    file.write_text(
        "vehicle: {small: [car, truck], large: Vehicle}\nno: no\nperson: {small: human, large: [man, woman]}"
    )
    chosen = read_class_map(file)
    match = match_classes(
        ["cat", "truck", "human", "No", "car"], ["woman", "vehicle", "no", "man", "tree"], policy=chosen
    )
    assert match.names == ("vehicle", "no", "person")
    assert match.small == (LEFT_OUT, 0, 2, 1, 0)
    assert match.large == (2, 0, 1, 2, LEFT_OUT)
    file.write_text(json.dumps(chosen.model_dump()))
    assert read_class_map(file) == chosen


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ({"a": {"small": "dog", "large": "cat"}}, r"gives 'dog' for 'a', but the small detector has no such class"),
        ({"a": "cat", "b": {"small": "C A T", "large": "cow"}}, "the small detector's class 'C A T' twice"),
    ],
)
def test_a_map_that_does_not_fit_the_detectors_is_refused(chosen: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        match_classes(["cat"], ["cat", "cow"], policy=ClassMap.model_validate(chosen))


def test_two_classes_that_differ_only_in_case_are_refused() -> None:
    with pytest.raises(InputError, match="the large detector differ only in case or spaces: 'Cat' and 'c at'"):
        match_classes(["cat"], ["Cat", "c at"])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1]",
        "a: {small: b}",
        "a: {small: b, large: [], x: 1}",
        "a: b\na: c",
        "a: [[b]]",
        "a: &x [*x]",
        "a: [b",
        "? [a]\n: b",
        "!!python/object/apply:os.system ['true']",
        "a: \x1b",
        "\ud800",
        "a: " + "x" * 300,
    ],
)
def test_what_is_no_class_map_is_refused_in_one_sentence(text: str, tmp_path: Path) -> None:
    file = tmp_path / "map.yaml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(InputError, match="is not a class map") as refused:
        read_class_map(file)
    assert str(refused.value).isprintable()
