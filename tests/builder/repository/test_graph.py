"""The topology `graph`: what is rendered, what it refuses, and how a calibration reaches its clients."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from google.protobuf import text_format
from google.protobuf.json_format import MessageToDict
from tritonclient.grpc import model_config_pb2 as pb

from dynamicdet.errors import InputError
from dyndet_builder.cli import dyndet, run
from dyndet_builder.deployment.deploy import deploy
from dyndet_builder.operating_points import OperatingPoint, OperatingPoints
from dyndet_builder.repository.config_files import publish_points
from dyndet_builder.repository.options import GIVEN_UP
from dyndet_builder.repository.render import RenderOptions, render
from dyndet_builder.repository.rendered import read_rendered, read_repository
from dyndet_builder.repository.under_load import Changes, follow_load
from dyndet_builder.server.remote.folder import Folder
from dyndet_builder.server.remote.models import read_source
from dyndet_client.codec import Options, encode, parse_model
from dyndet_client.errors import NotADetectorError, UnknownOperatingPointError
from tests.support.toy_bundle import image, write_toy_bundle
from tests.support.toy_pair import FIRST_ONE_BY_ONE, write_toy_pair

_FAST = OperatingPoint(threshold=0.75, target="12ms", goal=12, unit="ms")
_POINTS = OperatingPoints(default="fast", points={"fast": _FAST, "50%": OperatingPoint(threshold=0.25)})


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_bundle(tmp_path_factory.mktemp("bundle") / "toy")


def _config(repository: Path) -> pb.ModelConfig:
    return text_format.Parse((repository / "toy" / "config.pbtxt").read_text(), pb.ModelConfig())


def _as_json(repository: Path) -> dict[str, Any]:
    return dict(MessageToDict(_config(repository), preserving_proto_field_name=True))


def test_the_command_renders_one_model_and_says_what_that_gives_up(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As Triton's onnxruntime backend wants it: no optional input beside batching, and only the batch is open."""
    folder = tmp_path / "models"
    assert run(dyndet, ["render", str(bundle), str(folder), "--topology", "graph", "--threads", "3"]) == 0
    said = capsys.readouterr().out
    assert all(phrase in said for phrase in GIVEN_UP) and said.rstrip().endswith("--docker")
    config = _config(folder)
    assert (config.backend, config.max_batch_size, config.default_model_filename) == ("onnxruntime", 8, "model.onnx")
    assert [(each.name, list(each.dims), each.optional) for each in config.input] == [
        ("image", [32, 32, 3], False),
        ("threshold", [1], False),
    ]
    assert [each.name for each in config.output][-2:] == ["difficulty", "route"]
    assert config.parameters["intra_op_thread_count"].string_value == "3"
    session = onnxruntime.InferenceSession(folder / "toy" / "1" / "model.onnx", providers=["CPUExecutionProvider"])
    assert not session.get_overridable_initializers()
    for told, found in ((config.input, session.get_inputs()), (config.output, session.get_outputs())):
        assert [each.name for each in told] == [each.name for each in found]
        assert all(isinstance(each.shape[0], str) for each in found)
        assert [list(each.dims) for each in told] == [each.shape[1:] for each in found]
    repository = read_repository(folder)
    assert repository.models == ("toy",) and not repository.calls_stages and not repository.runs_onnx_in_python
    warm = [np.fromfile(file, np.float32).tolist() for file in (folder / "toy" / "warmup").glob("threshold*")]
    assert warm == [[1.0]], "the other warm-up has zeros, so both routes are warm"


def test_a_calibration_reaches_clients_through_the_configuration(bundle: Path, tmp_path: Path) -> None:
    folder = render(bundle, tmp_path / "models", RenderOptions(topology="graph", threshold=0.5))

    def sent(**options: Any) -> float:
        request = encode(parse_model(_as_json(folder)), image(100), Options(**options))
        assert "dyndet_operating_point" not in request.parameters
        return float(request.tensors["threshold"].item())

    comment = (folder / "toy" / "config.pbtxt").read_text().splitlines()[:2]
    assert sent() == 0.5
    assert publish_points(folder, "toy", _POINTS)
    assert (folder / "toy" / "config.pbtxt").read_text().splitlines()[:2] == comment
    assert [sent(), sent(operating_point="50%"), sent(threshold=1)] == [0.75, 0.25, 1]
    with pytest.raises(UnknownOperatingPointError, match="operating points are '50%' and 'fast'"):
        sent(operating_point="slow")
    read_rendered(folder).check_whole()
    fused = render(bundle, tmp_path / "fused", RenderOptions(topology="fused"))
    assert not publish_points(fused, "toy", _POINTS), "its code reads the file itself"


@pytest.mark.parametrize("text", ["", "[]", '{"default": "a", "points": {"a": {"threshold": 2}}}'])
def test_damaged_operating_points_are_no_detector(text: str, bundle: Path, tmp_path: Path) -> None:
    config = _as_json(render(bundle, tmp_path / "models", RenderOptions(topology="graph")))
    config["parameters"]["dyndet_operating_points"]["string_value"] = text
    with pytest.raises(NotADetectorError, match="dyndet_operating_points"):
        parse_model(config)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"backend": "openvino"}, "does not run; choose the backend python or onnxruntime"),
        ({"encoded": True}, "choose the topology bls or fused for it"),
        ({"follow_load": True}, "no queue to follow"),
        ({"accelerator": "tensorrt", "gpus": (0,), "backend": "onnxruntime"}, "leave out the accelerator"),
    ],
)
def test_what_one_graph_cannot_do_is_said(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        RenderOptions(topology="graph", **options)


def test_what_stands_on_metrics_and_operating_points_is_refused(bundle: Path, tmp_path: Path) -> None:
    """Deployments, pushes, comparisons of stages; and a pair with a detector that takes one image at a time."""
    folder = render(bundle, tmp_path / "models", RenderOptions(topology="graph", backend="onnxruntime"))
    with pytest.raises(InputError, match="one graph, which has no metrics"):
        deploy(folder, tmp_path / "deploy")
    with pytest.raises(InputError, match="one graph, without operating points on the server"):
        read_source(Folder(folder), "toy")
    with pytest.raises(InputError, match="are one graph; give the bundle"):
        _ = read_rendered(folder).graphs
    with pytest.raises(InputError, match="knows neither load nor tenants"):
        follow_load(folder, Changes(promise="p95:90ms"))
    with pytest.raises(InputError, match="takes one image at a time"):
        render(write_toy_pair(tmp_path / "pair", variant=FIRST_ONE_BY_ONE), folder, RenderOptions(topology="graph"))
    assert json.loads((folder / "dyndet.json").read_text())["detectors"]["toy"]["models"] == ["toy"]
    (folder / "toy" / "1" / "model.onnx").unlink()
    with pytest.raises(InputError, match=r"lacks model\.onnx"):
        read_repository(folder)
