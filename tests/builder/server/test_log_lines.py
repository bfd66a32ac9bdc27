"""What a running server warns of, and what of it reaches the person who runs it."""

from __future__ import annotations

from pathlib import Path

from dyndet_builder.server.log import NewLines, warnings_in

_DAMAGED = "/models/toy/1/operating_points.json is damaged, so the earlier thresholds stay in force: it is not JSON"
_LOG = (
    "I1126 02:03:01.1 9 server.cc:1] Started\n"
    f'W1126 02:03:08.123456 9 operating_points.py:98] "{_DAMAGED}"\n'
    "W1126 02:03:08.2 9 pinned.cc:1] Unable to allocate pinned memory\n"
)


def test_a_refused_file_is_passed_on_once_and_only_when_its_line_is_whole(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(f"{_LOG}of another server\n")
    lines = NewLines(log, log.stat().st_size)
    for content, expected in ((_LOG[:70], []), (_LOG[70:], [_DAMAGED]), ("", []), (_LOG, [_DAMAGED])):
        with log.open("a") as file:
            file.write(content)
        assert warnings_in(lines.read()) == expected
