"""Everything that is rendered, from the most hostile names and values: a refused one leaves nothing behind, and what is
rendered from an accepted one is read by its language's own parser, and by a shell that must not run the name."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import string
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
from markdown_it import MarkdownIt

from dyndet_builder.bundle.manifest import FILE_NAME, Bundle, read_bundle
from dyndet_builder.cli import dyndet, run
from dyndet_builder.deployment.deploy import DeployOptions, deploy
from dyndet_builder.engines.create import EngineOptions
from dyndet_builder.engines.script import engines_script
from dyndet_builder.operating_points import OperatingPoints
from dyndet_builder.pins import CURRENT
from dyndet_builder.repository import rendered
from dyndet_builder.repository.backends import BACKENDS
from dyndet_builder.repository.render import RenderOptions, render
from dyndet_builder.repository.rendered import read_rendered
from tests.support.deployments import calibrate, documents, pod_of, points, program, render_to_serve
from tests.support.hostility.words import ANY, PRINTABLE, run_told
from tests.support.toy_bundle import write_toy_bundle

FOLDER = ANY.replace("/", "_")
"""a name of a folder"""
MODEL = "A._-9" * 40
"""the longest name of a model"""
CLASSES = (PRINTABLE, "'; drop", "---")
REPOSITORY_OPTIONS = {
    "python": RenderOptions(name=MODEL, encoded=True),
    "fused": RenderOptions(name=MODEL, topology="fused", gpus=(0,)),
    "onnxruntime": RenderOptions(name=MODEL, backend="onnxruntime", accelerator="tensorrt", gpus=(0,)),
    "openvino": RenderOptions(name=MODEL, backend="openvino"),
    "tensorrt": RenderOptions(name=MODEL, backend="tensorrt", gpus=(0,), preferred_batches=(2, 4)),
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_toy_bundle(tmp_path_factory.mktemp("hostile") / FOLDER)
    changed = read_bundle(folder).model_copy(update={"class_names": CLASSES})
    (folder / FILE_NAME).write_text(changed.model_dump_json())
    return folder


@pytest.mark.parametrize("kind", REPOSITORY_OPTIONS)
def test_a_repository_has_the_names_as_they_are(kind: str, bundle: Path, tmp_path: Path) -> None:
    assert {options.backend for options in REPOSITORY_OPTIONS.values()} == set(BACKENDS)
    found = read_rendered(render(bundle, tmp_path / FOLDER, REPOSITORY_OPTIONS[kind]))
    assert found.model == MODEL
    (config,) = [config for config in found.configs if config.name == MODEL]
    assert json.loads(config.parameters["dyndet_class_names"].string_value) == list(CLASSES)


@pytest.mark.parametrize("name", [f"{MODEL}x", "-a", ".a", "a b", "a\n", "$(touch canary)", "{{ a }}", "", "a/b", "é"])
def test_names_of_models_that_are_refused_leave_nothing(
    name: str, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(dyndet, ["render", str(bundle), str(tmp_path / "out"), "--no-warmup", f"--name={name}"]) == 2
    _is_one_sentence(capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


def _is_one_sentence(said: str) -> None:
    assert said.startswith("Error: ") and said.endswith("\n") and said[:-1].isprintable()


_TEXTS = (ANY, PRINTABLE, "a b", "a\n", "{{ x }}", "", "a" * 3000, *"$(touch canary) -x a`b` ' \" \\ é a;b".split())
_NUMBERS = ("0", "-1", "1e3", "nan", "inf", "99999999999999999999", "", "1;x")
_WRONG = {
    "name": (*_TEXTS, "a.b", "A", "1a", "a-", "a" * 41),
    "base-image": (*_TEXTS, "a:99999/b:26.09", "a/b:26.09@sha256:0", "A:26.09", "r.example:0/a:26.09"),
    "image": (*_TEXTS, "a b", "a@", "a:", "r.example:65536/a"),
    "triton-version": _TEXTS,
    "storage": (*_TEXTS, *"pvc:// pvc://a/../b s3:// s3://b/$(x) gs://b/`x` s3://b/{{x}} s3://b/a;b file:///x".split()),
    "gpu-resource": (*_TEXTS, "a", "a/", "/a", "a/b/c", "-a/b"),
    "cpu": (*_TEXTS, "0", "0m", "1e3", "-1", "1.5.5", "4Gi", "9999999999"),
    "memory": (*_TEXTS, "0", "0Gi", "1e3", "-1", "8gi", "500m", "8 Gi"),
    "service-account": (*_TEXTS, "A", "a_b", "a..b"),
    "admin-secret": (*_TEXTS, "A", "a_b", "a..b"),
    "promise": (*_TEXTS, "1e999ms", "p0:1ms", "p99:-1ms", "50%"),
    "trace-endpoint": (*_TEXTS, "http://", "http://h:0/x", "http://h:65536/x", "ftp://h", "http://a b", "http://$(x)"),
    "metrics-target": (*_TEXTS, *"h:0 h:99999 h:65536 h :1 h: a..b:1 [::g]:1 1.2.3.999:1 h:1:2 h/x:1".split()),
    "replicas": (*_NUMBERS, "10001"),
    "max-replicas": (*_NUMBERS, "1"),
    "queue-target-ms": ("0", "-1", "nan", "inf", "", "1e300"),
    "exit-timeout-s": _NUMBERS,
    "startup-s": _NUMBERS,
    "scrape-interval-s": _NUMBERS,
    "trace-rate": (*_NUMBERS[1:], "5"),
}


@pytest.mark.parametrize("option", _WRONG)
def test_options_of_a_deployment_that_are_refused_leave_nothing(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for value in _WRONG[option]:
        status = run(dyndet, ["deploy", "render", str(tmp_path), str(tmp_path / "out"), f"--{option}={value}"])
        said = capsys.readouterr().err
        assert status == 2, value
        _is_one_sentence(f"Error: {said.rpartition('Error: ')[2]}")
        assert "not a model repository" not in said, value  # the option was what was wrong
    assert not list(tmp_path.iterdir())


_TARGET = "p99:20ms"
OPTIONS = {
    "plain": DeployOptions(),
    "image": DeployOptions(
        name="yes",
        image="r.example:5000/a.b/c-d__e:1e3",
        cpu="1.5",
        memory="1024",
        gpu_resource="a.b/C_d.e",
        trace_endpoint="http://h:1/%7B#a;b&c|d={}(x)?~!*",
        metrics_targets=("[::1]:65535", "null:1", "1.2.3.4:8002"),
    ),
    "claim": DeployOptions(name="null", storage="pvc://1e3/~/+/a=b@c", service_account="0", admin_secret="0.1"),
    "bucket": DeployOptions(name="n", storage="s3://https://h:9000/b/a=b+c", service_account="on", max_replicas=2),
}


@pytest.fixture(scope="module")
def repository(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = RenderOptions(name=MODEL, backend="onnxruntime", accelerator="tensorrt", gpus=(0,), encoded=True)
    folder = render_to_serve(bundle, tmp_path_factory.mktemp("repository") / FOLDER, options)
    return calibrate(folder, MODEL, points())


def _hostile_points() -> OperatingPoints:
    """A default operating point whose name and target are hostile; a reader of the file may refuse them."""
    measured = points()
    point = measured.points[_TARGET].model_copy(update={"target": ANY})
    return measured.model_copy(update={"default": ANY, "points": {ANY: point}})


@pytest.mark.parametrize("kind", OPTIONS)
def test_a_deployment_says_what_it_was_given(
    kind: str, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rendered, "read_operating_points", lambda _path: _hostile_points())
    options, out = OPTIONS[kind], tmp_path / FOLDER
    deploy(repository, out, options)
    name = options.name or ("a-9" * 14)[:40]
    manifests = [one for path in sorted((out / "kubernetes").iterdir()) for one in documents(out, str(path))]
    for manifest in manifests:
        kubernetes_validate.validate(manifest, "1.33", strict=True)
        assert manifest["metadata"]["name"] in (name, f"{name}-replicas")
    container = pod_of(out)["containers"][0]
    assert container["image"] == (options.image or container["image"])
    assert not any("$(" in word.replace("$(DYNDET_ADMIN_KEY)", "") for word in container["args"])
    assert [word for word in container["args"] if "opentelemetry,url" in word] == (
        [f"--trace-config=opentelemetry,url={options.trace_endpoint}"] if options.trace_endpoint else []
    )
    compose = documents(out, "compose.yaml")[0]["services"][name]
    context = string.Template(compose["build"]["context"]).substitute({})  # Compose's rule for `$`
    assert (out / context).resolve() == repository.resolve()
    assert compose["healthcheck"]["test"][4] == MODEL
    (scrape,) = documents(out, "prometheus/prometheus.yml")[0]["scrape_configs"]
    assert scrape["static_configs"][0]["targets"] == list(options.metrics_targets or (f"{name}:8002",))
    json.loads((out / "grafana" / "dashboard.json").read_text())
    _check_shells(out, context)
    _check_linters(out)
    _check_readme(out)


def _check_shells(out: Path, context: str) -> None:
    """The command lines for the user, and that of the image."""
    lines = (out / "README.md").read_text().splitlines()
    script = "\n".join(line for line in lines if line.startswith("    "))
    calls = run_told(script, out, "docker", "kubectl", "openssl")
    builds = [call for call in calls if call[:2] == ["docker", "build"]]
    dockerfile = (out / "Dockerfile").read_text()
    (comment,) = re.findall("docker build -f.*", dockerfile)
    assert builds == run_told(comment, out, "docker")
    assert builds[0][-1] == context and builds[0][4:6] == ["-t", pod_of(out)["containers"][0]["image"]]
    *_, entry = [line for line in dockerfile.split("\n") if line.startswith("ENTRYPOINT")]
    shell, option, command, zero = json.loads(entry.removeprefix("ENTRYPOINT "))
    (served,) = run_told(f"DYNDET_ADMIN_KEY=k {shlex.join([shell, option, command, zero])}", out, "tritonserver")
    pod = [word.replace("$(DYNDET_ADMIN_KEY)", "k").replace("$$", "$") for word in pod_of(out)["containers"][0]["args"]]
    assert served[1:] == pod


def _check_linters(out: Path) -> None:
    if linter := program("hadolint"):
        ignored = [word for rule in ("DL3002", "DL3008", "DL3013", "DL3042") for word in ("--ignore", rule)]
        answer = subprocess.run([linter, *ignored, out / "Dockerfile"], capture_output=True, text=True)
        assert (answer.returncode, answer.stdout) == (0, "")
    if promtool := program("promtool"):
        words = [promtool, "check", "rules", "prometheus/rules.yml"]
        answer = subprocess.run(words, cwd=out, capture_output=True, text=True)
        assert answer.returncode == 0, answer.stderr


def _check_readme(out: Path) -> None:
    """Its Markdown has no element that a name made."""
    tokens = MarkdownIt("commonmark").enable("table").parse((out / "README.md").read_text())
    children = [child for token in tokens for child in token.children or []]
    assert not {token.type for token in tokens} & {"html_block", "fence", "hr", "blockquote_open", "ordered_list_open"}
    assert {child.type for child in children} <= {"text", "text_special", "code_inline", "softbreak"}
    assert tokens[1].content.startswith("Deployment of ")


def test_alerts_and_panels_show_hostile_words_as_they_are(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rendered, "read_operating_points", lambda _path: _hostile_points())
    deploy(repository, tmp_path / "out")
    groups = documents(tmp_path / "out", "prometheus/rules.yml")[0]["groups"]
    alerts = {rule["alert"]: rule for group in groups for rule in group["rules"] if "alert" in rule}
    summary = alerts["DyndetPromiseBroken"]["annotations"]["summary"]
    assert summary.replace('{{"{"}}', "{").endswith(f" is above its promise, {ANY}")
    board = json.loads((tmp_path / "out" / "grafana" / "dashboard.json").read_text())
    legends = {target["legendFormat"] for panel in board["panels"] for target in panel["targets"]}
    (promise,) = [legend for legend in legends if legend.startswith("promise ")]
    assert promise.replace("\N{WORD JOINER}", "").isprintable()
    assert not re.search(r"\$\w|\$\{|\[\[|\{\{", promise)


_TRTEXEC = """#!/bin/bash
[ "$1" = --help ] && exit 0
for word; do
  case $word in
    --onnx=*) [ -f "${word#*=}" ] || exit 3 ;;
    --saveEngine=*) echo plan >"${word#*=}" ;;
    --exportLayerInfo=*) printf %s "$LAYERS" >"${word#*=}" ;;
  esac
done
printf 'RUNNING TensorRT.trtexec [TensorRT v101303]\\n\\033]0;owned\\a'
exit "${FAILS:-0}"
"""
_SMI = "#!/bin/bash\nprintf '%s, 8.6\\n' 'NVIDIA $(touch canary)`touch canary`\033[31m \"A10'\"'\"\n"
_TENSOR = {"Name": "x", "Dimensions": [1, 8], "Format/Datatype": "Row major linear FP32"}
_LAYER = {"Name": "conv", "LayerType": "CaskConvolution", "ParameterType": "Convolution", "Inputs": [_TENSOR]}
_LAYERS = {"Layers": [{**_LAYER, "Outputs": [_TENSOR], "Weights": {"Type": "Float", "Count": 64}}]}


def test_the_engines_script_runs_no_name(bundle: Path, tmp_path: Path) -> None:
    """In a real bash, with stand-ins for what needs a GPU; files of graphs have names that a reader may refuse."""
    folder = shutil.copytree(bundle, tmp_path / FOLDER)
    described = read_bundle(bundle)
    stages = {}
    for name, stage in described.stages.items():
        file = f"-{name}{FOLDER}"
        (folder / stage.file).rename(folder / file)
        stages[name] = stage.model_copy(update={"file": file})
    hostile = described.model_copy(update={"stages": stages, "name": ANY})
    output, script = tmp_path / f"-{FOLDER}", tmp_path / f"{FOLDER}.sh"
    script.write_text(_script(hostile, folder, output, script))
    linter = program("shellcheck")
    if linter is not None:
        answer = subprocess.run([linter, "--severity=warning", script], capture_output=True, text=True)
        assert (answer.returncode, answer.stdout) == (0, "")
    for line, words in (("docker", 12), ("Then: dyndet", 10)):
        (found,) = [one for one in script.read_text().splitlines() if re.match(f"#  ?  ?{line} |# {line} ", one)]
        (call,) = run_told(found[1:].replace("Then: ", ""), tmp_path, "docker", "dyndet")
        assert f"{folder}:/bundle:ro" in call or str(folder) in call
        assert len(call) >= words and any(str(output) in word for word in call)
    stubs = tmp_path / "stubs"
    for name, text in (("trtexec", _TRTEXEC), ("nvidia-smi", _SMI)):
        (stubs / name).write_text(text)
        (stubs / name).chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{stubs}:{os.environ['PATH']}",
        "LAYERS": json.dumps(_LAYERS),
        "LC_ALL": "C.UTF-8",
    }
    words = ["bash", script.name, folder.name, output.name]  # relative: the output's begins with a dash
    failed = subprocess.run(words, cwd=tmp_path, env={**environment, "FAILS": "1"}, capture_output=True, text=True)
    assert failed.returncode == 1 and "trtexec failed" in failed.stderr
    assert failed.stderr.replace("\n", "").isprintable()
    answer = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.replace("\n", "").isprintable()
    assert not list(tmp_path.rglob("canary*"))
    record = json.loads((output / "engines.json").read_text())
    assert record["bundle"] == ANY and set(record["stages"]) == set(stages)
    assert record["gpu"]["name"].isprintable() and record["gpu"]["name"].startswith("NVIDIA $(touch canary)")


def _script(described: Bundle, folder: Path, output: Path, script: Path) -> str:
    return engines_script(described, EngineOptions(), folder=folder, output=output, script=script)


def test_a_tensor_that_trtexec_cannot_name_is_refused(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(bundle, tmp_path / "bundle")
    text = (folder / FILE_NAME).read_text()
    (folder / FILE_NAME).write_text(text.replace('"name":"image"', '"name":"image$(touch canary)"'))
    script = tmp_path / "s.sh"
    assert run(dyndet, ["engines", str(folder), "--script", str(script)]) == 2
    _is_one_sentence(capsys.readouterr().err)
    assert not script.exists()


def test_the_docker_command_mounts_the_repository_and_runs_no_name(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / FOLDER
    render(bundle, folder, RenderOptions(name=MODEL, encoded=True))
    url = "http://127.0.0.1:4318/v1/traces?a=b&c;d|e(f)"
    assert run(dyndet, ["serve", str(folder), "--docker", "--trace", url]) == 0
    line = capsys.readouterr().out
    assert line[:-1].isprintable()
    ((*words, shell, option, script),) = run_told(line, tmp_path, "docker")
    assert f"{folder}:/models:ro" in words and (shell, option) == ("bash", "-c")
    assert f"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT={url}" in words
    assert [CURRENT.image] == words[-1:]
    installed, served = run_told(script, tmp_path, "pip", "tritonserver")
    assert installed[:2] == ["pip", "install"]
    assert f"--trace-config=opentelemetry,url={url}" in served


def test_what_to_do_next_can_be_copied(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / FOLDER
    assert run(dyndet, ["render", str(bundle), str(folder), "--no-warmup"]) == 0
    said = capsys.readouterr().out
    assert said[:-1].isprintable()
    assert run_told(said.rpartition("next: ")[2], tmp_path, "dyndet") == [["dyndet", "serve", str(folder)]]
