"""How the end of a server is told: only what its log says of this end."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from dyndet_builder.server.ending import Ending

_ENDED = datetime(2026, 11, 26, 2, 3, 10, tzinfo=timezone.utc)
_OLD = 'E1126 01:00:00.000001 7 infer_handler.cc:1] "an old error."\n'
_NEW = 'E1126 02:03:08.000001 7 infer_handler.cc:1] "a new error.;"\n'
_USUAL = 'E1126 02:03:09.000001 7 model.cc:1] "Failed to set time: model_config_content_name_ is empty"\n'
_CRASH = "Signal (11) received.\n 0# 0x00005555 in /opt/tritonserver\n 1# 0x00005556 in /opt/tritonserver\n"


@pytest.mark.parametrize(
    ("status", "log", "said"),
    [
        (-9, _OLD + _USUAL, "ended by SIGKILL (killed)"),
        (-9, _OLD + _NEW, "ended by SIGKILL (killed); last words of its log: a new error"),
        (-11, _OLD + _CRASH, "ended by SIGSEGV (segmentation fault)"),
        (
            -11,
            _CRASH + " 2# cudaFail in /lib/libcudart.so\n",
            "ended by SIGSEGV (segmentation fault); last words of its log: crashed in cudaFail (libcudart.so)",
        ),
    ],
)
def test_an_end_is_told_with_what_the_log_says_of_it(status: int, log: str, said: str) -> None:
    assert str(Ending(status=status, log=log, out_of_memory=False, when=_ENDED)) == said
