"""Real-image data sets made of photographic cut-outs pasted on photographs, both from Debian packages."""

from dynamicdet.datasets.cutpaste.build import Summary, build, check_output
from dynamicdet.datasets.cutpaste.sources import Sources, download, locate

__all__ = ["Sources", "Summary", "build", "check_output", "download", "locate"]
