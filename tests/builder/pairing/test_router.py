"""Which router a pair gets, and what its difficulties are."""

from dataclasses import replace

import numpy as np
import pytest

from dynamicdet.datasets.clips import clips_of
from dynamicdet.router.rules import RULES
from dyndet_builder.pairing.answers import Answers
from dyndet_builder.pairing.router import router as module
from dyndet_builder.pairing.router.router import DEFAULT_RULE, LEARNED, FittedRouter, fit_router
from tests.support.foreign.two_detectors import random_answers, two_detectors


@pytest.fixture(autouse=True)
def _few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard errors need not be exact here."""
    monkeypatch.setattr("dynamicdet.router.kept_gain.DRAWS", 10)


def test_no_router_is_fitted_on_few_pictures() -> None:
    router = fit_router(*two_detectors(60))
    assert router.kind == DEFAULT_RULE and router.learned is None
    assert router.why == "60 pictures are too few to fit a router; from 200 on one is tried, so the free rule " + (
        f"{DEFAULT_RULE} is used"
    )


def test_a_rule_is_used_where_the_large_detector_gains_nothing() -> None:
    small, _, truth = two_detectors(250)
    router = fit_router(small, small, truth)
    assert router.kind == DEFAULT_RULE and not router.kept_gain
    assert "detector 2 does not have a higher AP than detector 1" in router.why


def test_a_rule_is_used_where_what_detector_1_misses_is_chance() -> None:
    router = fit_router(*two_detectors(250, visible=False))
    assert router.kind in RULES and router.learned is not None
    assert "does not clearly beat the best free rule" in router.why


def test_a_learned_router_is_used_where_it_beats_every_rule() -> None:
    small, large, truth = _helped_with_dogs(260)
    router = fit_router(small, large, truth)
    assert router.kind == LEARNED and router.learned is not None
    assert all(router.learned.mean > rule.mean for rule in router.rules.values())
    assert router.kept_gain == {f"{share:g}": kept for share, kept in router.learned.at.items()}
    _is_one_difficulty_each(router, small)
    again = fit_router(small, large, truth)
    assert np.array_equal(again.out_of_fold, router.out_of_fold)
    assert np.array_equal(again.difficulty(small), router.difficulty(small))


def test_the_difficulties_of_a_rule_are_in_its_order_and_have_no_ties_even_among_empty_pictures() -> None:
    small, large, truth = two_detectors(120)
    router = fit_router(small, large, truth)
    _is_one_difficulty_each(router, small)
    rule = RULES[router.kind](small)
    assert (np.diff(router.difficulty(small)[np.argsort(rule)]) >= 0).all()
    assert (np.diff(router.difficulty(random_answers(300, seed=1))) != 0).all()


@pytest.mark.parametrize("name", RULES)
def test_rules_take_pictures_with_nothing_in_them_and_give_no_two_the_same(name: str) -> None:
    values = RULES[name](random_answers(100, seed=2))
    assert np.isfinite(values).all() and len(np.unique(values)) == 100


def test_all_pictures_of_a_clip_are_fitted_on_or_held_back_together(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    fit = module._Fit.network

    def watched(self: module._Fit, chosen: np.ndarray) -> module.Network:
        seen.append(chosen)
        return fit(self, chosen)

    monkeypatch.setattr(module._Fit, "network", watched)
    clips = clips_of([f"{camera}_{frame:04}.jpg" for camera in "abcdefghij" for frame in range(25)])
    fit_router(*two_detectors(250), groups=clips)
    assert len(set(clips)) == 10 and len(seen) >= 5
    assert all(len(set(chosen.reshape(10, 25)[clip])) == 1 for chosen in seen for clip in range(10))


def test_names_tell_clips_by_folder_or_by_what_is_before_the_number() -> None:
    names = [f"day/{street}-frame_{number:03}.jpg" for street in "abcde" for number in range(3)]
    assert clips_of(names) == [f"day/{street}" for street in "abcde" for _ in range(3)]
    folders = [f"{folder}/{number:06}.png" for folder in "abcde" for number in range(2)]
    assert len(set(clips_of(folders))) == 5
    numbered = [f"{number:012}.jpg" for number in range(8)]
    assert len(set(clips_of(numbered))) == 8  # as in COCO: the names tell nothing


def _helped_with_dogs(pictures: int) -> tuple[Answers, Answers, module.Truth]:
    """A pair whose large detector is better at dogs only: no rule looks at the class."""
    small, large, truth = two_detectors(pictures, gain=1.0)
    dog = [bool((one == 1).any()) for one in small.classes]
    better = {
        name: tuple(two if is_dog else one for one, two, is_dog in zip(*parts, dog, strict=True))
        for name in ("boxes", "scores", "classes")
        for parts in [(getattr(small, name), getattr(large, name))]
    }
    return small, replace(large, **better), truth


def _is_one_difficulty_each(router: FittedRouter, answers: Answers) -> None:
    """The whole of 0..1 is used, and no two pictures are the same."""
    found = router.difficulty(answers)
    assert len(np.unique(found)) == len(found)
    assert 0 < found.min() < 0.05 and 0.95 < found.max() < 1
    np.testing.assert_allclose(np.quantile(found, [0.25, 0.5, 0.75]), [0.25, 0.5, 0.75], atol=0.05)
