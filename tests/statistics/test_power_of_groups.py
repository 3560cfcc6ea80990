"""What can be found on images of which too little is known."""

import math

from segbench.statistics.inference import Errors
from segbench.statistics.power import detectable, power_at


def test_images_of_a_single_group_let_nothing_be_found():
    for errors in (Errors((0.5, 0.2), (3.0, 0.0)), Errors((0.5, math.inf), (3.0, math.inf))):
        assert detectable(errors) == math.inf
        assert power_at(10.0, errors) == 0.0
