"""A build that clients of the one in use could not use is refused."""

from __future__ import annotations

import pytest

from dynamicdet.errors import InputError
from dynamicdet.letterbox import Fit
from dyndet_builder.server.remote.contract import check_contract
from dyndet_client.codec import ServedModel

_LIVE = ServedModel(name="street", fit=Fit.square(640), class_names=("car", "bus"))


@pytest.mark.parametrize(
    ("size", "names", "words"),
    [
        (512, ("car", "bus"), "takes images of 512 x 512 pixels, and the one in use takes 640 x 640"),
        (640, ("car",), "other class names than the one in use: 1 instead of 2"),
        (640, ("car", "van"), "class 1 is 'van' instead of 'bus'"),
    ],
)
def test_the_refusal_names_the_difference(size: int, names: tuple[str, ...], words: str) -> None:
    new = ServedModel(name="street", fit=Fit.square(size), class_names=names)
    with pytest.raises(InputError, match=words):
        check_contract("street", live=_LIVE, new=new)


def test_a_build_may_gain_masks_but_not_lose_them() -> None:
    masked = ServedModel(name="street", fit=_LIVE.fit, class_names=_LIVE.class_names, has_masks=True)
    check_contract("street", live=_LIVE, new=masked)
    with pytest.raises(InputError, match="gives no masks, and the one in use gives them"):
        check_contract("street", live=masked, new=_LIVE)


def test_the_same_contract_is_accepted_and_an_unknown_one_is_not_compared() -> None:
    check_contract("street", live=_LIVE, new=ServedModel(name="next", fit=Fit.square(640), class_names=("car", "bus")))
    check_contract("street", live=None, new=_LIVE)
