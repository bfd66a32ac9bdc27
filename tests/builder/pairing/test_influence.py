"""The target of a router, and the scores that come before it."""

from dataclasses import replace

import numpy as np
import pytest

from dynamicdet.errors import InputError
from dynamicdet.router.influence import influence_of
from dyndet_builder.pairing.router.influence import influence
from dyndet_builder.pairing.router.scores import MOST_POINTS, calibrate_scores, with_table
from dyndet_builder.pairing.truth import Truth, mixed_precision
from tests.support.foreign.two_detectors import CLASSES, two_detectors


def test_influence_is_what_average_precision_changes_by_when_one_picture_is_sent_to_the_large_detector() -> None:
    score = mixed_precision(truth := (pair := two_detectors(150))[2], *pair[:2])
    mix = np.random.default_rng(0).random(len(truth)) < 0.5
    changes = []
    for picture in range(len(truth)):
        with_large, with_small = mix.copy(), mix.copy()
        with_large[picture], with_small[picture] = True, False
        changes.append(score(with_large).ap - score(with_small).ap)
    found = influence_of(score, mix=mix)
    assert np.corrcoef(found, changes)[0, 1] > 0.95
    assert found.sum() == pytest.approx(np.sum(changes), rel=0.15)
    clear = np.abs(changes) > np.std(changes) / 4
    assert (np.sign(found) == np.sign(changes))[clear].mean() > 0.95


def test_a_picture_that_both_detectors_answer_alike_has_no_influence_and_swapping_them_turns_the_sign() -> None:
    small, large, truth = two_detectors(60)
    np.testing.assert_allclose(influence(truth, small, small), 0, atol=1e-12)
    np.testing.assert_allclose(influence(truth, large, small), -influence(truth, small, large), atol=1e-9)


def test_pictures_that_count_twice_weigh_as_if_they_were_there_twice_and_those_that_count_0_are_gone() -> None:
    small, large, truth = two_detectors(80)
    score = mixed_precision(truth, small, large)
    hard = np.arange(80) % 3 == 0
    assert score(hard, counts=np.full(80, 2)).ap == pytest.approx(score(hard).ap, abs=0.5)
    first = np.arange(80) < 40
    own = mixed_precision(*_first(truth, small, large, 40))
    assert score(hard, counts=first) == own(hard[:40])
    np.testing.assert_allclose(influence_of(score, counts=first)[first], influence_of(own), atol=1e-9)


def test_tables_make_an_unsure_detector_as_sure_as_it_is_right_and_change_nothing_within_a_detector() -> None:
    small, large, truth = two_detectors(200)
    unsure = replace(small, scores=tuple((one / 10).astype(np.float32) for one in small.scores))
    calibration = calibrate_scores(unsure, large, truth)
    assert calibration.used and calibration.calibrated > calibration.own + 1
    for answers, table in zip((unsure, large), calibration.tables, strict=True):
        x, y = np.array(table).T
        assert len(table) <= MOST_POINTS and (np.diff(x) > 0).all() and (np.diff(y) > 0).all()
        assert 0 <= y[0] and y[-1] <= 1
        before, after = (np.concatenate(one.scores) for one in (answers, with_table(answers, table)))
        assert len(np.unique(after)) > 0.99 * len(np.unique(before))  # but for rounding, no ties appear
        assert (np.diff(after[np.argsort(before)]) >= 0).all()
    only = calibrate_scores(unsure, unsure, truth)
    assert only.own == pytest.approx(only.calibrated, abs=1e-9)


def test_without_labels_the_large_detectors_sure_objects_stand_for_them_and_it_is_called_agreement() -> None:
    _, large, truth = two_detectors(50)
    teacher = Truth.of_teacher(large, class_names=CLASSES, folder="photos", least_score=0.5)
    assert (truth.measure, teacher.measure) == ("AP", "agreement")
    assert len(teacher.annotations["annotations"]) == sum(int((one >= 0.5).sum()) for one in large.scores)
    assert mixed_precision(teacher, large, large)(np.ones(50, np.bool_)).ap == pytest.approx(100)
    with pytest.raises(InputError, match=r"no object with a score of 1\.5 or more in photos"):
        Truth.of_teacher(large, class_names=CLASSES, folder="photos", least_score=1.5)


def _first(truth: Truth, small, large, count: int):  # type: ignore[no-untyped-def]
    def cut(one):  # type: ignore[no-untyped-def]
        names = ("sizes", "boxes", "scores", "classes", "looks")
        return replace(one, **{name: getattr(one, name)[:count] for name in names})

    annotations = {
        **truth.annotations,
        "images": truth.annotations["images"][:count],
        "annotations": [one for one in truth.annotations["annotations"] if one["image_id"] <= count],
    }
    return replace(truth, image_ids=truth.image_ids[:count], annotations=annotations), cut(small), cut(large)
