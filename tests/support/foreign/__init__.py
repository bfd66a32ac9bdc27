"""The demo network's two routes as detectors of others: every output family, every way to prepare pictures.

What such a file must answer is known, because the network itself says it (`expected.py`).
"""

from tests.support.foreign.expected import expected as expected
from tests.support.foreign.recipes import Recipe as Recipe
from tests.support.foreign.recipes import recipes_of as recipes_of
from tests.support.foreign.write import write_detector as write_detector
