"""What a frontier says: the truth, also if a static detector wins, and nothing where nothing can be compared."""

from __future__ import annotations

from pathlib import Path

import pytest

from dynamicdet.errors import InputError
from dyndet_bench.report.static_part import static_part
from dyndet_bench.report.static_text import frontier_markdown, sentences
from tests.support.frontiers import frontier_record


@pytest.mark.parametrize(
    ("lead", "expected"),
    [
        (1.0, ("At 31.5 AP the dynamic detector is 10 % faster (95 % interval", "has +0.9 AP at equal latency")),
        (-2.0, ("At 32.7 AP the dynamic detector is 24 % slower (95 % interval", "has -2.1 AP at equal latency")),
        (20.0, ("No threshold has an AP between those of the static detectors (30.0 to 35.0;", "It has +19.")),
    ],
)
def test_the_answer_is_given_whatever_it_is(lead: float, expected: tuple[str, ...]) -> None:
    text = " ".join(sentences(frontier_record(lead=lead)))
    assert all(words in text for words in expected), text


def test_a_difference_inside_the_noise_is_called_that() -> None:
    said = "cannot tell the best difference from none"
    assert said in sentences(frontier_record(lead=0.3, noise=0.05))[-1]
    assert not any(said in line for line in sentences(frontier_record(lead=2, noise=0.001)))


def test_a_report_takes_it_from_the_folder_of_the_sweep(tmp_path: Path) -> None:
    """Only if it is of the same bundle; names of others stay words."""
    assert static_part(tmp_path, bundle_sha256=None) is None
    record = frontier_record(lead=1, word="<b>|`x`")
    (tmp_path / "frontier.json").write_text(record.model_dump_json())
    part = static_part(tmp_path, bundle_sha256="0" * 64)
    assert part is not None
    assert "<b>" not in part.plot.svg
    assert "&lt;b&gt;|`x` 1" in part.plot.svg
    assert [row.texts[0].partition(":")[0] for row in part.table.rows].count("static") == 3
    assert part.sentences[0].startswith("At 31.5 AP")
    assert "<b>" not in frontier_markdown(record)
    assert static_part(tmp_path, bundle_sha256="1" * 64) is None
    (tmp_path / "frontier.json").write_text("{}")
    with pytest.raises(InputError, match=r"frontier\.json is not a frontier of schema version 1"):
        static_part(tmp_path, bundle_sha256=None)
