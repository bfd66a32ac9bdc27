"""Small data sets train: warm-up and schedule follow the number of steps; large ones train as before."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from dynamicdet.errors import InputError
from dynamicdet.training.recipe import DetectorRecipe
from dynamicdet.training.schedule import images_per_step, learning_rate, plan_training

_RECIPE = DetectorRecipe()


def _earlier(recipe: DetectorRecipe, step: int, total: int) -> float:
    """The schedule that the demo's checkpoint was trained with."""
    falling = (1 + math.cos(math.pi * min(1.0, step / total))) / 2
    rate = recipe.least_learning_rate + (recipe.learning_rate - recipe.least_learning_rate) * falling
    return rate * min(1.0, (step + 1) / max(1, recipe.warmup_steps))


@pytest.mark.parametrize("total", [2000, 3740, 100_000])
def test_many_steps_have_the_schedule_that_they_always_had(total: int) -> None:
    for step in (*range(250), total // 2, total - 1, total):
        assert learning_rate(_RECIPE, step, total) == _earlier(_RECIPE, step, total)


@pytest.mark.parametrize("images", [1, 3, 20, 33, 63])
@pytest.mark.parametrize("epochs", [1, 3, 20])
def test_few_steps_are_not_all_warm_up(images: int, epochs: int) -> None:
    plan = plan_training(replace(_RECIPE, epochs=epochs, final_epochs=0), images, 320)
    rates = [learning_rate(_RECIPE, step, plan.steps) for step in range(plan.steps)]
    assert plan.steps == epochs * (images // plan.batch) == len(rates)
    assert plan.warmup <= max(1, plan.steps // 10)
    assert max(rates) == plan.peak_learning_rate > 0.9 * _RECIPE.learning_rate
    assert any(f"random weights learn little in {plan.steps} step" in line for line in plan.sentences(started=False))
    assert not any("learn little" in line for line in plan.sentences(started=True))


def test_a_batch_larger_than_the_data_set_is_split_evenly() -> None:
    """The user's batch must be a multiple of the parts; what a small data set makes of it need not be."""
    accumulating = replace(_RECIPE, batch=32, accumulate=4)
    assert [images_per_step(accumulating, images) for images in (4, 21, 31, 32, 33)] == [4, 20, 28, 32, 32]
    assert images_per_step(accumulating, 30, processes=2) == 24
    with pytest.raises(InputError, match="give at least 4 images"):
        images_per_step(accumulating, 3)
    with pytest.raises(InputError, match="choose a multiple of 3"):
        images_per_step(replace(_RECIPE, accumulate=3), 100)


def test_the_expected_time_counts_the_larger_images_of_the_last_epochs() -> None:
    plan = plan_training(replace(_RECIPE, epochs=4, final_epochs=1, size=160, batch=10), 25, 320)
    assert (plan.batch, plan.steps) == (10, 8)
    assert plan.seconds(images_per_second=10.0) == pytest.approx((3 * 20 + 20 * 4) / 10)
    assert any("5 of 25 images are left out of each epoch" in line for line in plan.sentences(started=True))


@pytest.mark.parametrize(
    ("epochs", "final", "said"),
    [
        (20, 3, "17 epochs at 64 px and the last 3 at 320 px,"),
        (2, 3, "at 320 px (not 64 px: all epochs are final epochs, see --final-epochs),"),
        (2, 0, "2 steps of 20 images, at 64 px,"),
    ],
)
def test_the_plan_says_which_sizes_the_images_will_have(epochs: int, final: int, said: str) -> None:
    recipe = replace(_RECIPE, epochs=epochs, final_epochs=min(final, epochs), size=64)
    assert said in plan_training(recipe, 20, 320).sentences(started=True)[0]
