"""A router of our own form leaves the exporters as standard operators that compute what PyTorch does."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch

import dynamicdet
from dynamicdet.networks.router.form import RouterForm
from dyndet_builder.bundle import graphs
from dyndet_builder.bundle.graphs import Exporter
from dyndet_builder.bundle.manifest import Nms


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
def test_difficulties_of_the_graph_are_those_of_the_network(
    small_network: str, exporter: Exporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rich inputs with ranks: many images at once, a grey one among them, and images beyond all that were ranked."""
    torch.manual_seed(0)
    network = dynamicdet.create(small_network, 2).eval()
    network.router = network.fresh_router(RouterForm(inputs="rich", ranked=True)).eval()
    images = torch.randint(0, 256, (12, 64, 64, 3), dtype=torch.uint8)
    images[0] = 114
    x = images.permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        pooled = network.router.pool([network.features(x)[name] for name in network.router_reads])
        deviation, mean = torch.std_mean(pooled[1:], dim=0)
        network.router.absorb(mean.flatten(), 1 / deviation.clamp(min=1e-3).flatten())
        values = network.router.value(pooled)
        network.router.ranks.fit(values[2:8].double().numpy())
        expected = network.difficulty(x).numpy()
    plans = graphs._plans  # of the other stages none has a router
    monkeypatch.setattr(graphs, "_plans", lambda *of: {"backbone1": plans(*of)["backbone1"]})
    made, used = graphs.export_graphs(network.deploy(), Nms(pre_top_k=20, max_detections=10), exporter=exporter)
    assert used == exporter
    model = made["backbone1"].model
    assert all(node.domain == "" for node in model.graph.node)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (found,) = session.run(["difficulty"], {"image": images.numpy()})
    assert np.ptp(expected) > 0.5 and 0 < expected.min() and expected.max() < 1
    np.testing.assert_allclose(found[:, 0], expected, atol=2e-4)
    alone = [session.run(["difficulty"], {"image": one[None]})[0].item() for one in images.numpy()]
    np.testing.assert_allclose(alone, found[:, 0], atol=1e-5)
