"""dyndet: dynamic object detectors on NVIDIA Triton Inference Server. `from dyndet import Detector` asks a server."""

from importlib.metadata import version

from dyndet_client import AsyncDetector, Detector

__version__ = version("dyndet")
__all__ = ["AsyncDetector", "Detector", "__version__"]
