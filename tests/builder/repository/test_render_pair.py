"""Pairs of detectors, rendered: what every backend is told, what clients are told, and what is deployed."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import yaml
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from dynamicdet.letterbox import Fit
from dyndet_bench.measuring.counters import RouteCounts, ServerCounters, stage_models
from dyndet_builder.deployment.deploy import DeployOptions, deploy
from dyndet_builder.repository.backends import BACKENDS
from dyndet_builder.repository.render import RenderOptions, render
from dyndet_builder.repository.rendered import read_rendered, read_repository
from dyndet_builder.server.remote.folder import Folder
from dyndet_builder.server.remote.models import belongs_to, read_source, rewrite
from dyndet_client.codec import parse_model
from tests.support.deployments import program
from tests.support.toy_pair import (
    FIRST_ONE_BY_ONE,
    NOT_SQUARE,
    OBLONG,
    SAME_RULE,
    SMALL,
    STRETCHED,
    TWO_RULES,
    Variant,
    pair_box,
    pair_image,
    write_toy_pair,
)


def _rendered(folder: Path, variant: Variant = SAME_RULE, **options: Any) -> Path:
    return render(write_toy_pair(folder / "bundle", variant=variant), folder / "models", RenderOptions(**options))


def _config(repository: Path, model: str) -> Any:
    return text_format.Parse((repository / model / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())


def _parameters(config: Any) -> Mapping[str, str]:
    return {key: value.string_value for key, value in config.parameters.items()}


def _json(config: Any) -> dict[str, Any]:
    from google.protobuf.json_format import MessageToDict

    found: dict[str, Any] = MessageToDict(config, preserving_proto_field_name=True)
    return found


@pytest.mark.parametrize("backend", ["python", "onnxruntime", "tensorrt", "openvino"])
def test_every_backend_takes_one_image_at_a_time_where_the_detector_does(
    backend: str, tmp_path: Path, demo_images: Path
) -> None:
    if backend == "openvino":
        pytest.importorskip("openvino", reason="the extra `openvino` installs it")
    gpus = (0,) if "cpu" not in BACKENDS[backend].devices else ()
    options: dict[str, Any] = {"preferred_batches": (4,), "warmup_image": demo_images, "gpus": gpus}
    repository = _rendered(tmp_path, FIRST_ONE_BY_ONE, backend=backend, **options)
    first, second = (_config(repository, f"toy_{stage}") for stage in ("detector1", "detector2"))
    assert (first.max_batch_size, list(first.input[0].dims)) == (0, [1, 32, 32, 3])
    assert all(output.dims[0] == 1 for output in first.output)
    assert not first.HasField("dynamic_batching")
    assert [list(each.inputs["image"].dims) for each in first.model_warmup] == [[1, 32, 32, 3]]
    if backend == "openvino":
        assert (second.max_batch_size, list(second.input[0].dims)) == (0, [-1, 32, 32, 3])
    else:
        assert (second.max_batch_size, list(second.input[0].dims)) == (8, [32, 32, 3])
        assert second.HasField("dynamic_batching")
    assert _config(repository, "toy").max_batch_size == 8
    read_repository(repository)
    assert set(read_rendered(repository).graphs) == {"detector1", "detector2"}


def test_openvino_answers_as_onnx_runtime_does(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino", reason="the extra `openvino` installs it")
    repository = _rendered(tmp_path, TWO_RULES, backend="openvino")
    image = pair_image(100, 0, 51, fit=STRETCHED)
    compiled = openvino.Core().compile_model(repository / "toy_detector1" / "1" / "model.xml", "CPU")
    answer = compiled({"image": image[None]})
    session = onnxruntime.InferenceSession(repository / "toy_detector1" / "1" / "model.onnx")
    for output, expected in zip(session.get_outputs(), session.run(None, {"image": image[None]}), strict=True):
        assert np.allclose(answer[output.name], expected, atol=1e-3), output.name


@pytest.mark.parametrize("topology", ["bls", "fused"])
def test_clients_are_told_how_to_fit_pictures(topology: str, tmp_path: Path) -> None:
    """Our own rule by its size, as ever; another one by a parameter that older clients miss, so that they refuse."""
    for variant, fit in ((SAME_RULE, Fit.square(32)), (NOT_SQUARE, OBLONG), (TWO_RULES, STRETCHED)):
        folder = tmp_path / fit.as_json().translate({ord(sign): "_" for sign in '{}": ,'})
        repository = _rendered(folder, variant, topology=topology, encoded=True)
        public, encoded = (_config(repository, name) for name in ("toy", "toy_encoded"))
        assert parse_model(_json(public)).fit == fit
        for config in (public, encoded):
            assert ("dyndet_input_size" in _parameters(config)) == fit.is_own
            assert ("dyndet_fit" in _parameters(config)) == (not fit.is_own)
        own = _parameters(encoded).get("dyndet_own_fit")
        assert (None if own is None else Fit.of_json(own)) == (SMALL if variant is TWO_RULES else None)
        optional = [tensor.name for tensor in public.input if tensor.optional]
        assert optional == (["image", "threshold", "own_image", "difficulty"] if own else ["threshold"])


def test_warm_up_pictures_are_fitted_for_each_stage(tmp_path: Path, demo_images: Path) -> None:
    repository = _rendered(tmp_path, TWO_RULES, warmup_image=demo_images)
    sizes = {path.parent.parent.name: path.stat().st_size for path in repository.glob("*/warmup/*")}
    assert sizes == {"toy_detector1": 3072, "toy_detector2": 3072, "toy_detector1_own": 768}


def test_a_pushed_pair_keeps_its_stages_under_other_names(tmp_path: Path) -> None:
    repository = _rendered(tmp_path, TWO_RULES, encoded=True)
    models = read_source(Folder(repository), "toy")
    assert set(models.stages) == {"detector1", "detector1_own", "detector2"}
    beside = models.beside("0123-b")
    assert beside.stages["detector1_own"] == "toy_b_detector1_own"
    assert all(belongs_to(Folder(repository), name, "toy") for name in models.names if name != "toy_encoded")
    rewrite(repository / "toy", beside)
    assert stage_models({"name": "toy", **_json(_config(repository, "toy"))}) == dict(beside.stages)


def test_a_pair_is_deployed_with_rules_that_name_its_stages(tmp_path: Path) -> None:
    repository = _rendered(tmp_path, TWO_RULES, encoded=True)
    deploy(repository, tmp_path / "out", DeployOptions())
    rules = tmp_path / "out" / "prometheus" / "rules.yml"
    recorded = {rule.get("record"): rule["expr"] for rule in yaml.safe_load(rules.read_text())["groups"][0]["rules"]}
    for stage in ("toy_detector1", "toy_b_detector1_own", "toy_detector2"):
        assert stage in recorded["dyndet:queue_ms:avg5m"]
    promtool = program("promtool")
    if promtool is not None:
        subprocess.run([promtool, "check", "rules", str(rules)], check=True, capture_output=True)


class _Statistics:
    """Numbers as Triton reports them, of which those of detector 2 arrive some reads later."""

    def __init__(self, images: Mapping[str, int], late_reads: int) -> None:
        self._images, self._late_reads = images, late_reads

    def __call__(self, model: str) -> list[dict[str, int]]:
        late = model == "toy_detector2" and self._late_reads > 0
        self._late_reads -= late
        return [{"inference_count": self._images[model] - late}]


@pytest.mark.parametrize(
    "images",
    [
        {"toy": 10, "toy_detector1": 10, "toy_detector2": 6},
        {"toy": 13, "toy_detector1": 6, "toy_detector1_own": 4, "toy_detector2": 6},  # three hard files came twice
    ],
)
def test_counters_of_a_pair_are_those_of_its_detectors(images: dict[str, int]) -> None:
    stages = {name.removeprefix("toy_"): name for name in images if name != "toy"}
    named = {"dyndet_stages": {"string_value": json.dumps(stages)}}
    assert stage_models({"name": "toy", "parameters": named}) == stages
    counters = ServerCounters("toy", _Statistics(images, late_reads=1), stages=stages)
    counts = counters.counts_after(RouteCounts(total=0, hard=0), 10)
    assert (counts.total, counts.hard, counts.answered) == (10, 6, 10)


def test_the_box_of_a_toy_image_lies_in_it() -> None:
    """What the tests of pairs rely on."""
    left, top, right, bottom = pair_box(255, OBLONG, second=True)
    assert 0 < left < right < OBLONG.width and 0 < top < bottom < OBLONG.height
