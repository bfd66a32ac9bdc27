"""Deployments: what the files say, by the validators of their kinds, and what is refused."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from kubernetes_validate import utils as kubernetes_schemas

from dynamicdet.errors import InputError
from dyndet_builder.cli import dyndet, run
from dyndet_builder.deployment.deploy import MARKER_FILE, DeployOptions, deploy
from dyndet_builder.pins import CURRENT
from dyndet_builder.repository.backends import ENGINE_CACHE
from dyndet_builder.repository.render import RenderOptions, render
from dyndet_builder.repository.rendered import read_repository
from tests.support.deployments import KINDS, PROBE, calibrate, documents, following, pod_of, points, render_kinds
from tests.support.toy_bundle import write_toy_bundle

STORAGES = ("image", "pvc://claim/street/models", "s3://bucket/street", "gs://bucket/street")
KUBERNETES = ("1.29", "1.33", "1.37")


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return render_kinds(tmp_path_factory.mktemp("repositories"))


@pytest.fixture(scope="module")
def calibrated(repositories: dict[str, Path]) -> Path:
    source = repositories["cpu"]
    copy = shutil.copytree(source, source.with_name("calibrated"))
    return calibrate(copy, "toy", points())


@pytest.fixture(scope="module", autouse=True)
def schemas_are_parsed_once() -> Iterator[None]:
    """For every document, the validator would parse all definitions of a version of Kubernetes, over a megabyte."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kubernetes_schemas, "schema_contents", cache(kubernetes_schemas.schema_contents))
        yield


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_manifests_keep_to_the_schemas_of_kubernetes(
    kind: str, storage: str, repositories: dict[str, Path], tmp_path: Path
) -> None:
    """Strictly: no field that Kubernetes does not know. KServe's own fields have no schema here; its pod has."""
    deploy(repositories[kind], tmp_path / "out", DeployOptions(storage=storage, service_account="street"))
    manifests = [path for path in (tmp_path / "out" / "kubernetes").iterdir()]
    assert {path.name for path in manifests} == {"deployment.yaml", "service.yaml", "hpa.yaml", "pdb.yaml"}
    for version in KUBERNETES if (kind, storage) == ("gpu", "image") else KUBERNETES[1:2]:
        for path in manifests:
            for document in documents(tmp_path, str(path)):
                kubernetes_validate.validate(document, version, strict=True)
        (served,) = documents(tmp_path / "out", "kserve/inference-service.yaml")
        predictor = dict(served["spec"]["predictor"])
        assert set(served) == {"apiVersion", "kind", "metadata", "spec"}
        assert predictor.pop("minReplicas") <= predictor.pop("maxReplicas")
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": predictor}
        kubernetes_validate.validate(pod, version, strict=True)


@pytest.mark.parametrize("kind", KINDS)
def test_dockerfile_passes_a_linter_and_holds_what_the_models_need(
    kind: str, repositories: dict[str, Path], tmp_path: Path
) -> None:
    needed = {
        "cpu": {"numpy", "onnxruntime", "pillow", "simplejpeg"},
        "fused": {"numpy", "onnxruntime"},
        "plain": set(),
        "gpu": {"numpy", "cupy-cuda13x"},
        "accelerated": {"numpy", "cupy-cuda13x"},
        "fused-gpu": {"numpy", "onnxruntime-gpu"},
        "tensorrt": {"numpy", "cupy-cuda13x"},
    }
    deploy(repositories[kind], tmp_path / "out")
    file = tmp_path / "out" / "Dockerfile"
    linter = Path(sysconfig.get_path("scripts")) / "hadolint"
    assert subprocess.run([linter, "--no-color", file], capture_output=True, text=True, check=False).stdout == ""
    lines = file.read_text().splitlines()
    installs = next((line for line in lines if "pip install" in line), "")
    pinned = [word.split("==") for word in installs.split() if "==" in word]
    assert {name for name, _ in pinned} == needed[kind]
    assert lines[-1].startswith("ENTRYPOINT")
    assert "USER 1000:1000" in lines
    assert next(line for line in lines if line.startswith("FROM")).endswith(CURRENT.image)


def test_an_image_for_models_that_need_nothing_installs_nothing(repositories: dict[str, Path], tmp_path: Path) -> None:
    deploy(repositories["plain"], tmp_path / "out", DeployOptions(storage="pvc://claim"))
    dockerfile = (tmp_path / "out" / "Dockerfile").read_text()
    assert "RUN" not in dockerfile
    assert "COPY --chown" not in dockerfile


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("kind", ["cpu", "gpu", "accelerated"])
def test_compose_accepts_its_file(kind: str, storage: str, repositories: dict[str, Path], tmp_path: Path) -> None:
    """Docker's own `config` command reads it, finds the context and the Dockerfile, and asks for the admin key."""
    command = _compose()
    deploy(repositories[kind], tmp_path / "deep" / "out", DeployOptions(storage=storage))
    file = tmp_path / "deep" / "out" / "compose.yaml"
    config = [*command, "-f", str(file), "--profile", "monitoring", "config"]
    assert "${DYNDET_ADMIN_KEY:?" in file.read_text()
    if storage == "image":  # the storage changes nothing about the key, and Docker takes its time
        refused = subprocess.run(config, capture_output=True, text=True, check=False, env=_environment())
        assert refused.returncode != 0
        assert "DYNDET_ADMIN_KEY" in refused.stderr
    accepted = subprocess.run(
        config, capture_output=True, text=True, check=False, env=_environment(DYNDET_ADMIN_KEY="k")
    )
    assert accepted.returncode == 0, accepted.stderr
    services = yaml.safe_load(accepted.stdout)["services"]
    assert set(services) == {"toy", "prometheus", "grafana"}
    build = services["toy"]["build"]
    assert Path(build["context"]).resolve() == repositories[kind].resolve()
    assert (Path(build["context"]) / build["dockerfile"]).resolve() == tmp_path / "deep" / "out" / "Dockerfile"
    devices = services["toy"].get("deploy", {}).get("resources", {}).get("reservations", {}).get("devices", [])
    assert [int(device["count"]) for device in devices] == [count for count in (len(KINDS[kind].gpus),) if count]


@cache
def _compose() -> list[str]:
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) and subprocess.run([*command, "version"], capture_output=True).returncode == 0:
            return command
    pytest.skip("neither docker compose nor docker-compose is installed; Debian's docker-compose is enough")


def _environment(**more: str) -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key != "DYNDET_ADMIN_KEY"} | more


@pytest.mark.parametrize("kind", KINDS)
def test_a_pod_is_confined_and_has_what_the_models_need(
    kind: str, repositories: dict[str, Path], tmp_path: Path
) -> None:
    options = DeployOptions(gpu_resource="nvidia.com/mig-1g.10gb", exit_timeout_s=40)
    deploy(repositories[kind], tmp_path / "out", options)
    pod = pod_of(tmp_path / "out")
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    needs, gpus = read_repository(repositories[kind]).memory, KINDS[kind].gpus
    assert set(needs.arguments(gpus)) <= set(container["args"])
    assert container["resources"]["limits"].get("nvidia.com/mig-1g.10gb") == (len(gpus) or None)
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert volumes["shm"]["emptyDir"] == {"medium": "Memory", "sizeLimit": f"{needs.shared_memory >> 20}Mi"}
    waits = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] > waits + 40
    assert "--exit-timeout-secs=40" in container["args"]


def test_storage_says_where_the_models_are(repositories: dict[str, Path], tmp_path: Path) -> None:
    found = {}
    for number, storage in enumerate(STORAGES):
        deploy(repositories["cpu"], tmp_path / str(number), DeployOptions(storage=storage, service_account="street"))
        pod = pod_of(tmp_path / str(number))
        (container,) = pod["containers"]
        copies = "COPY --chown" in (tmp_path / str(number) / "Dockerfile").read_text()
        mounts = [mount for mount in container["volumeMounts"] if mount["name"] == "models"]
        (served,) = documents(tmp_path / str(number), "kserve/inference-service.yaml")
        environment = {one["name"]: one.get("value") for one in served["spec"]["predictor"]["containers"][0]["env"]}
        found[storage] = (container["args"][0], copies, mounts, environment.get("STORAGE_URI"))
    models, mounted = "--model-repository=/models", {"name": "models", "mountPath": "/models", "readOnly": True}
    assert found == {
        "image": (models, True, [], None),
        STORAGES[1]: (models, False, [{**mounted, "subPath": "street/models"}], STORAGES[1]),
        STORAGES[2]: ("--model-repository=s3://bucket/street", False, [], STORAGES[2]),
        STORAGES[3]: ("--model-repository=gs://bucket/street", False, [], STORAGES[3]),
    }


@pytest.mark.parametrize("storage", STORAGES)
def test_probes_are_a_program_in_the_image_that_asks_every_public_model(
    storage: str, repositories: dict[str, Path], tmp_path: Path
) -> None:
    deploy(repositories["cpu"], tmp_path / "out", DeployOptions(storage=storage))
    dockerfile = (tmp_path / "out" / "Dockerfile").read_text()
    copied = re.compile(r'^COPY --chmod=0755 <<"PROBE" (\S+)\n(.*?)^PROBE$', re.MULTILINE | re.DOTALL)
    ((path, text),) = copied.findall(dockerfile)
    assert text == PROBE.read_text()
    (served,) = documents(tmp_path / "out", "kserve/inference-service.yaml")
    compose = documents(tmp_path / "out", "compose.yaml")[0]["services"]["toy"]
    for container in (pod_of(tmp_path / "out")["containers"][0], served["spec"]["predictor"]["containers"][0]):
        for kind in ("startup", "readiness", "liveness"):
            probe = container[f"{kind}Probe"]
            command = probe["exec"]["command"]
            assert command[:5] == ["python3", path, kind, "toy", "toy_encoded"]
            assert probe["timeoutSeconds"] > float(command[5].removeprefix("--within="))
    assert compose["healthcheck"]["test"][:4] == ["CMD", "python3", path, "readiness"]


def test_engines_that_are_built_on_loading_have_time_and_a_place(repositories: dict[str, Path], tmp_path: Path) -> None:
    found = {}
    for kind in ("gpu", "accelerated"):
        deploy(repositories[kind], tmp_path / "out")
        container = pod_of(tmp_path / "out")["containers"][0]
        probe = container["startupProbe"]
        mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
        found[kind] = (probe["periodSeconds"] * probe["failureThreshold"], ENGINE_CACHE in mounts)
    assert found == {"gpu": (180, False), "accelerated": (1200, True)}


def test_engines_that_are_missing_or_that_the_image_does_not_run_are_refused(tmp_path: Path) -> None:
    bundle = write_toy_bundle(tmp_path / "bundle")
    repository = render(bundle, tmp_path / "models", RenderOptions(backend="tensorrt", gpus=(0,)))
    with pytest.raises(InputError, match=r"no engine model\.plan"):
        deploy(repository, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_image_starts_the_server_with_the_pods_flags_and_not_without_a_key(
    repositories: dict[str, Path], tmp_path: Path
) -> None:
    deploy(repositories["gpu"], tmp_path / "out")
    text = (tmp_path / "out" / "Dockerfile").read_text().splitlines()[-1].removeprefix("ENTRYPOINT ")
    shell, option, command, name = json.loads(text)
    printed = [shell, option, command.replace("exec tritonserver", "exec printf '%s\\n'"), name, "--log-verbose=1"]
    answer = subprocess.run(
        printed, capture_output=True, text=True, check=True, env=_environment(DYNDET_ADMIN_KEY="a b")
    )
    pod = pod_of(tmp_path / "out")["containers"][0]["args"]
    expected = [argument.replace("$(DYNDET_ADMIN_KEY)", "a b") for argument in pod]
    assert answer.stdout.splitlines() == [*expected, "--log-verbose=1"]
    refused = subprocess.run(printed, capture_output=True, text=True, check=False, env=_environment())
    assert refused.returncode != 0
    assert "DYNDET_ADMIN_KEY" in refused.stderr


def test_autoscaling_follows_the_queue_or_is_left_out(calibrated: Path, tmp_path: Path) -> None:
    deploy(calibrated, tmp_path / "out", DeployOptions(replicas=3, max_replicas=9))
    (scaler,) = documents(tmp_path / "out", "kubernetes/hpa.yaml")
    (metric,) = scaler["spec"]["metrics"]
    (rule,) = documents(tmp_path / "out", "prometheus/adapter-values.yml")[0]["rules"]["custom"]
    assert metric["pods"]["metric"]["name"] == rule["name"]["as"]
    assert metric["pods"]["target"]["averageValue"] == "4600m"  # half of the mean of 9.2 ms
    assert "nv_inference_pending_request_count" in rule["metricsQuery"]
    (deployment,) = documents(tmp_path / "out", "kubernetes/deployment.yaml")
    assert "replicas" not in deployment["spec"]  # the autoscaler's, also when this is applied again
    deploy(calibrated, tmp_path / "out", DeployOptions(replicas=3, max_replicas=3))
    assert not (tmp_path / "out" / "kubernetes" / "hpa.yaml").exists()
    assert documents(tmp_path / "out", "kubernetes/deployment.yaml")[0]["spec"]["replicas"] == 3


def test_autoscaling_of_a_threshold_that_follows_the_load_follows_the_accuracy(
    calibrated: Path, tmp_path: Path
) -> None:
    calibrated = shutil.copytree(calibrated, tmp_path / "models")
    with pytest.raises(InputError, match="'p99:20ms' does not"):
        deploy(calibrated, tmp_path / "out", DeployOptions(hard_share_floor=0.1))
    calibrate(calibrated, "toy", following())
    with pytest.raises(InputError, match="above the calibrated hard share"):
        deploy(calibrated, tmp_path / "out", DeployOptions(hard_share_floor=0.5))
    queries = []
    for floor in (None, 0.1):
        deploy(calibrated, tmp_path / "out", DeployOptions(hard_share_floor=floor))
        (scaler,) = documents(tmp_path / "out", "kubernetes/hpa.yaml")
        (metric,) = scaler["spec"]["metrics"]
        (rule,) = documents(tmp_path / "out", "prometheus/adapter-values.yml")[0]["rules"]["custom"]
        assert metric["pods"]["metric"]["name"] == rule["name"]["as"] == "dyndet_pressure"
        assert metric["pods"]["target"]["averageValue"] == "900m"
        queries.append(rule["metricsQuery"])
    assert "1.15 /" in queries[0] and "1.05 /" in queries[1]


def test_rendering_again_replaces_and_is_the_same(repositories: dict[str, Path], tmp_path: Path) -> None:
    def files() -> dict[str, str]:
        out = tmp_path / "out"
        return {str(path.relative_to(out)): path.read_text() for path in out.rglob("*") if path.is_file()}

    result = deploy(repositories["cpu"], tmp_path / "out")
    first = files()
    assert set(first) == set(result.files)
    (tmp_path / "out" / "left over").touch()
    deploy(repositories["cpu"], tmp_path / "out")
    assert files() == first
    assert json.loads(first[MARKER_FILE])["options"]["storage"] == "image"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_command_prints_what_to_know(
    repositories: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["deploy", "render", str(repositories["accelerated"]), str(tmp_path / "out")]
    assert run(dyndet, [*words, "--gpu-resource", "nvidia.com/gpu.shared"]) == 0
    said = capsys.readouterr().out
    assert "uncalibrated" in said
    assert "builds its engines when it starts" in said
    assert run(dyndet, ["deploy", "render", str(tmp_path), str(tmp_path / "other")]) == 2
    assert capsys.readouterr().err.startswith("Error: ")
