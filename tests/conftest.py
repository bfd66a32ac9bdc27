"""What many tests share: the demo's images and checkpoint, its bundle and repository, one running server."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import settings

Once = Callable[[str, Callable[[Path], object]], Path]

ROOT = Path(__file__).parent.parent
WITH_A_SERVER = ROOT / "tests" / "triton"

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # torch would start a thread per core in each of the test processes


# How long an example takes depends on what else runs, so there is no deadline. Examples are the same in every run, so
# that a change is not blamed for what another example would have shown before it; DYNDET_EXPLORE=1 draws new ones.
settings.register_profile("busy", deadline=None, derandomize="DYNDET_EXPLORE" not in os.environ)
settings.load_profile("busy")


_EXPORTED = {"bundle_folder", "half_bundle_folder", "quick_graphs"}


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a running server, and what needs the demo network exported, which takes half a minute.

    Modules with the latter come first: each test process begins at another part of the list, so one exports while the
    others do something else, in place of waiting for it.
    """
    for item in items:
        if WITH_A_SERVER in item.path.parents or "server" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.server)
        if _EXPORTED & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)
    exported = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in exported)


@pytest.fixture(scope="session", autouse=True)
def sessions_have_one_thread() -> Iterator[None]:
    """ONNX Runtime, too, would start a thread per core in each of the test processes; while idle, these spin."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        yield
        return
    onnxruntime = import_module("dyndet_builder.bundle.sessions").onnxruntime

    class OneThread(onnxruntime.SessionOptions):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.intra_op_num_threads = 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnxruntime, "SessionOptions", OneThread)
        yield


@pytest.fixture(scope="module", autouse=True)
def servers_end_at_once() -> Iterator[None]:
    """Kill a server that only served a test, also in a process of its own: Triton takes 3.5 s to unload models.

    Modules with tests of how a server stops have a fixture of this name that changes nothing.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DYNDET_STOP_TIMEOUT_S", "0")
        yield


@pytest.fixture(scope="session")
def demo_images() -> Path:
    """Folder of the real photographs that ship with the demo."""
    return ROOT / "benchmarks" / "demo" / "val" / "images"


@pytest.fixture(scope="session")
def demo_checkpoint() -> Path:
    """The Pico that ships."""
    return ROOT / "benchmarks" / "demo" / "dy-yolov7-pico-cutpaste.safetensors"


@pytest.fixture
def small_network(monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of an architecture that is quicker to train and to export than those that ship."""
    from dynamicdet.networks.architectures import ARCHITECTURES
    from tests.support.small_network import NAME, SMALL

    monkeypatch.setitem(ARCHITECTURES, NAME, SMALL)
    return NAME


@pytest.fixture
def small_static(monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a static architecture of the same size."""
    from dynamicdet.networks.architectures import STATIC_ARCHITECTURES
    from tests.support.small_network import SMALL_STATIC, STATIC_NAME

    monkeypatch.setitem(STATIC_ARCHITECTURES, STATIC_NAME, SMALL_STATIC)
    return STATIC_NAME


@pytest.fixture(scope="session")
def once(worker_id: str, tmp_path_factory: pytest.TempPathFactory) -> Once:
    """Makes a folder for all test processes: `once(name, make)` calls `make` with its path if it does not exist yet.

    `make` lets the folder appear whole or not at all. `make test` runs pytest twice, on the same folders.
    """
    base = tmp_path_factory.getbasetemp()
    shared = Path(os.environ.get("DYNDET_TEST_FOLDER") or (base if worker_id == "master" else base.parent))

    def made(name: str, make: Callable[[Path], object]) -> Path:
        with FileLock(shared / f"{name}.lock"):
            if not (shared / name).exists():
                make(shared / name)
        return shared / name

    return made


@pytest.fixture(scope="session")
def bundle_folder(demo_checkpoint: Path, demo_images: Path, once: Once) -> Path:
    """The demo checkpoint, exported."""
    from dyndet_builder.bundle.export import export

    return once("bundle", lambda folder: export(demo_checkpoint, folder, images=demo_images, parity_images=30))


@pytest.fixture(scope="session")
def half_bundle_folder(demo_checkpoint: Path, demo_images: Path, once: Once) -> Path:
    """The demo checkpoint, exported in half precision."""
    from dyndet_builder.bundle.export import export

    few = {"parity_images": 12, "route_images": 12}
    return once("half", lambda folder: export(demo_checkpoint, folder, images=demo_images, precision="fp16", **few))


@pytest.fixture(scope="session")
def half_two_stage_folder(demo_images: Path, once: Once, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small two-stage detector of two Swin transformers, exported in half precision for TensorRT."""
    from dyndet_builder.bundle.export import export
    from tests.support.two_stage.tiny import SWIN, known, save_decided

    def make(folder: Path) -> None:
        checkpoint = tmp_path_factory.mktemp("swin") / "swin.safetensors"
        save_decided(SWIN, checkpoint)
        few = {"parity_images": 3, "route_images": 3}
        with known():
            options = {"precision": "fp16", "target": "tensorrt", "exporter": "torchscript"}
            export(checkpoint, folder, images=demo_images, **options, **few)

    return once("two_stage_half", make)


@pytest.fixture(scope="session")
def repository_folder(bundle_folder: Path, once: Once) -> Path:
    """The bundle rendered as a model repository. Tests that change it work on a copy."""
    from dyndet_builder.repository.render import RenderOptions, render

    return once("models", lambda folder: render(bundle_folder, folder, RenderOptions()))


@pytest.fixture(scope="session")
def server(repository_folder: Path) -> Iterator[object]:
    """A running `dyndet_builder.server.triton.TritonServer` that serves `repository_folder`."""
    from dyndet_builder.server.options import ServerOptions
    from dyndet_builder.server.triton import TritonServer

    with TritonServer(repository_folder, ServerOptions(stop_timeout_s=0)) as running:  # see `servers_end_at_once`
        yield running
