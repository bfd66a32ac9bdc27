"""What many tests share: the demo's images and checkpoint, its bundle and repository, one running server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


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


@pytest.fixture(scope="session")
def bundle_folder(demo_checkpoint: Path, demo_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo checkpoint, exported."""
    from dyndet_builder.bundle.export import export

    folder = tmp_path_factory.mktemp("bundle") / "bundle"
    export(demo_checkpoint, folder, images=demo_images, parity_images=30)
    return folder


@pytest.fixture(scope="session")
def half_bundle_folder(demo_checkpoint: Path, demo_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo checkpoint, exported in half precision."""
    from dyndet_builder.bundle.export import export

    folder = tmp_path_factory.mktemp("half") / "bundle"
    export(demo_checkpoint, folder, images=demo_images, precision="fp16", parity_images=12, route_images=12)
    return folder


@pytest.fixture(scope="session")
def repository_folder(bundle_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle rendered as a model repository. Tests that change it work on a copy."""
    from dyndet_builder.repository.render import RenderOptions, render

    return render(bundle_folder, tmp_path_factory.mktemp("repository") / "models", RenderOptions())


@pytest.fixture(scope="session")
def server(repository_folder: Path) -> Iterator[object]:
    """A running `dyndet_builder.server.triton.TritonServer` that serves `repository_folder`."""
    from dyndet_builder.server.options import ServerOptions
    from dyndet_builder.server.triton import TritonServer

    with TritonServer(repository_folder, ServerOptions(stop_timeout_s=0)) as running:  # see `servers_end_at_once`
        yield running
