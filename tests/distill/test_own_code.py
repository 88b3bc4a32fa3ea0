"""Parts of a user's own that fail: one message with the part, the item, the error, and file and line in their code."""

import sys

import pytest
from distill_helpers import run

from unirain_plugin.distill.records import DistillError

PARTS = """
import numpy as np
from unirain_plugin.distill.describers.base import Captioner, Embedder
from unirain_plugin.distill.records import Vote
from unirain_plugin.distill.registry import CAPTIONER, EMBEDDER, VOTER
from unirain_plugin.distill.voters.base import Voter

@VOTER.register()
class OwnVoter{number}(Voter):
    def {hook}(self, x):
        {line}
    {vote}

@CAPTIONER.register()
class OwnCaptioner{number}(Captioner):
    def caption(self, scenes):
        {caption}

@EMBEDDER.register()
class OwnEmbedder{number}(Embedder):
    def embed(self, images):
        {embed}
"""
VOTE = "def vote(self, tasks): return [Vote(self.name, True, 'good') for task in tasks]"
GOOD = {"hook": "setup", "line": "pass", "vote": VOTE}
CASES = [
    ({"hook": "vote", "line": "return [1 / ('coffee' not in t.candidate.id) for t in x]", "vote": ""},
     r"the voter 'OwnVoterN' failed on 'drs/input/coffee0\.png': ZeroDivisionError: division by zero \(FILE:11, in "
     r"OwnVoterN\.vote.*\)\.$"),
    ({"hook": "vote", "line": "return [1 / (len(x) < 2) for t in x] and [Vote(self.name, True, '')]", "vote": ""},
     r"the voter 'OwnVoterN' failed on '.*astronaut0\.png' to 'drs/input/coffee0\.png' together: Zero"),
    ({"hook": "vote", "line": "raise SystemExit(0)", "vote": ""}, r"failed on '.*\.png': SystemExit: 0 \(FILE:11"),
    ({"hook": "vote", "line": "return None", "vote": ""}, "gave None on [123] tasks"),
    ({"hook": "vote", "line": "return [Vote(self.name, True, '', {'x': np.float32(1)}) for t in x]", "vote": ""},
     r"its vote on '.*\.png' holds more than plain values .*float32"),
    ({**GOOD, "hook": "measure", "line": "return {'x': self.y}"},
     r"the voter 'OwnVoterN' failed on '.*\.png': AttributeError: .*'y' \(FILE:11, in OwnVoterN\.measure\)"),
    ({**GOOD, "hook": "measure", "line": "return {'x': np.zeros(2)}"}, r"its measurement of '.*\.png' holds more than"),
    ({**GOOD, "hook": "setup", "line": "open('/no/such/file')"},
     r"the voter 'OwnVoterN' failed on the references: FileNotFoundError: .*/no/such/file' \(FILE:11"),
    ({**GOOD, "caption": "return [{}[s.id] for s in scenes]"}, r"the captioner failed on '.*\.png': KeyError: '.*' \("),
    ({**GOOD, "caption": "return None"}, "the captioner gave None for"),
    ({**GOOD, "embed": "return [len(i) for i in None]"}, r"the embedder failed on '.*\.png': TypeError: .* \(FILE:2"),
    ({**GOOD, "embed": "return ['x']"}, r"the embedder failed on '.*\.png': ValueError: could not convert"),
]  # fmt: skip


@pytest.mark.parametrize(("code", "told"), CASES)
def test_what_fails_in_a_part_is_told_with_item_file_and_line(settings, tmp_path, monkeypatch, code, told):
    number = CASES.index((code, told))
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    text = {"caption": "return ['rain'] * len(scenes)", "embed": "return np.ones((len(images), 2))", **code}
    (tmp_path / f"own_parts_{number}.py").write_text(PARTS.format(**text, number=number))
    options = {
        "imports": [f"own_parts_{number}"],
        "voters": [{"type": f"OwnVoter{number}"}],
        "captioner": {"type": f"OwnCaptioner{number}"},
        "embedder": {"type": f"OwnEmbedder{number}"},
    }
    told = told.replace("FILE", f"{tmp_path}/own_parts_{number}.py").replace("VoterN", f"Voter{number}")
    with pytest.raises(DistillError, match=told):
        run(settings, **options)
