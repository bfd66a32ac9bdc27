"""The examples in the docstrings are true."""

import doctest
import importlib

import pytest


@pytest.mark.parametrize(
    "module",
    [
        "dynamicdet.images",
        "dynamicdet.letterbox",
        "dyndet_client.address",
        "dyndet_client.cli.durations",
        "dyndet_client.detections",
        "dyndet_client.results.masks",
        "dyndet_client.results.operating_points",
        "dyndet_client.transport",
    ],
)
def test_docstring_examples_run(module: str) -> None:
    result = doctest.testmod(importlib.import_module(module))
    assert result.attempted > 0 and result.failed == 0
