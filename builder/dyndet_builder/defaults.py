"""Numbers that commands show as defaults, apart from the modules that need torch or onnx.

So `--help` works where only the client is installed.
"""

from __future__ import annotations

from typing import Literal

PRECISIONS: tuple[Literal["fp32", "fp16"], ...] = ("fp32", "fp16")
"""of an export"""
TARGETS: tuple[Literal["onnxruntime", "tensorrt"], ...] = ("onnxruntime", "tensorrt")
"""of the graphs of a two-stage detector"""
DETECTIONS = 100
"""the most per image, unless the architecture says its own number"""
PARITY_IMAGES = 36
"""the most images that prove that graphs match their network"""
PAIR_IMAGES = 12
"""the most on which a merged graph is compared with the detector's own file"""
CALIBRATION_IMAGES = 64
"""that set the ranges of an int8 bundle"""
COMPARED_IMAGES = 36
"""that show what int8 changes"""
TOPOLOGY_ROUNDS = 5
REPLAYED_S = 3600.0
"""measurements that decide something are not used when they are older: machines change their speed"""
MARGIN = 0.1
"""of the replicas of a plan"""
PROBE_PICTURES = 50
MIN_SCORE, PARTNER_SCORE, MIN_IOU = 0.25, 0.15, 0.5
"""a box of at least the first score needs a partner of at least the second, of its class, with at least this IoU"""
