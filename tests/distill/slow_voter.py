"""The stub voters, with a pause in each description, so that a test can kill a run in the middle."""

import os
import time

from stub_voters import HashVoter

_measure = HashVoter.measure


def _slow_measure(self, candidate):
    time.sleep(float(os.environ.get("SLOW_VOTER", "0.01")))
    return _measure(self, candidate)


HashVoter.measure = _slow_measure
