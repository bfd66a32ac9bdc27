"""Renders the files that deploy a repository: image, compose file, Kubernetes, KServe, Prometheus and Grafana."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

from dynamicdet.errors import DyndetError, InputError
from dynamicdet.files import check_replaceable, whole_folder
from dyndet_builder.deployment.alerts import watched
from dyndet_builder.deployment.dashboard import panels
from dyndet_builder.deployment.options import DeployOptions
from dyndet_builder.deployment.values import PROBE_FILE, Values, notes, values
from dyndet_builder.repository.rendered import read_rendered
from dyndet_builder.templates import TEMPLATES, fill

__all__ = ["MARKER_FILE", "DeployOptions", "Deployment", "deploy"]

MARKER_FILE = "dyndet-deploy.json"
"""The file at the top of a rendered deployment that says what it was rendered from and how."""

_TEMPLATES = TEMPLATES / "deploy"
_AUTOSCALER = "kubernetes/hpa.yaml"
_PROBE = _TEMPLATES / "probe.py"


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """What was rendered."""

    folder: Path
    files: tuple[str, ...]
    notes: tuple[str, ...]
    """what a user who deploys this must know, one sentence each without its full stop"""


def deploy(
    repository: Path, output: Path, options: DeployOptions | None = None, *, model: str | None = None
) -> Deployment:
    """Render the deployment of a model repository into the folder `output`, which appears whole or not at all.

    `model` names the detector if the repository holds several; the deployment then has this one alone. A deployment
    that dyndet rendered there before is replaced. YAML and JSON files are checked by reading them back.

    Raises InputError for a folder that is not a repository, a detector that no server could load, impossible options,
    and an `output` that dyndet did not render.
    """
    options = options or DeployOptions()
    check_replaceable(output, MARKER_FILE)
    deployed = read_rendered(repository, model=model)
    deployed.check_whole()
    if deployed.written_options.get("topology") == "graph":
        raise InputError(
            f"the detector {deployed.model!r} in {repository} is one graph, which has no metrics `dyndet_*` for "
            "alerts, scaling and dashboards; render it with the topology bls or fused, or serve it with --docker"
        )
    filled = values(deployed, options, output=output)
    watch = watched(deployed, options, job=filled.name)
    told = (*watch.notes, *notes(deployed, options))
    shared: dict[str, object] = {
        "d": filled,
        "watched": watch,
        "panels": panels(deployed, options, job=filled.name),
        "probe_file": PROBE_FILE,
        "probe_text": _PROBE.read_text(),
        "notes": [note[0].upper() + note[1:] for note in told],
    }
    wanted = (name for name in _names() if filled.autoscales or name != _AUTOSCALER)
    texts = {name: fill(_TEMPLATES / f"{name}.jinja", **shared, **_container(name, filled)) for name in wanted}
    for name, text in texts.items():
        _read_back(name, text)
    with whole_folder(output, marker=MARKER_FILE) as temporary:
        for name, text in texts.items():
            path = temporary / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        marker = {"model": deployed.model, "bundle_sha256": deployed.bundle_sha256, "options": asdict(options)}
        (temporary / MARKER_FILE).write_text(json.dumps(marker, indent=2) + "\n")
    return Deployment(folder=output, files=(*texts, MARKER_FILE), notes=told)


def _names() -> list[str]:
    """The files to render: every template except those that others include."""
    found = (path.relative_to(_TEMPLATES) for path in sorted(_TEMPLATES.rglob("*.jinja")))
    return [str(path.with_suffix("")) for path in found if not path.name.startswith("_")]


def _container(name: str, filled: Values) -> dict[str, object]:
    """What differs between the containers of Kubernetes and KServe."""
    kserve = name.startswith("kserve/")
    return {
        "arguments": filled.kserve_arguments if kserve else filled.arguments,
        # KServe mounts the files that it fetches from STORAGE_URI.
        "models_claim": bool(filled.claim) and not kserve,
        "extra_environment": {
            **filled.environment,
            **({"STORAGE_URI": filled.storage_uri} if kserve and filled.storage_uri else {}),
        },
    }


def _read_back(name: str, text: str) -> None:
    """Check that a YAML or JSON file can be parsed."""
    try:
        if name.endswith((".yaml", ".yml")):
            documents = list(yaml.safe_load_all(text))
        elif name.endswith(".json"):
            documents = [json.loads(text)]
        else:
            return
    except (yaml.YAMLError, ValueError) as error:
        raise DyndetError(f"template deploy/{name}.jinja rendered a file that cannot be parsed: {error}") from error
    if not documents or not all(isinstance(document, dict) for document in documents):
        raise DyndetError(f"template deploy/{name}.jinja rendered an empty document")
