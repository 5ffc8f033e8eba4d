"""Which checkpoint is the best: one rule, also for equal scores, wherever one is chosen."""

import math
import random
import types

import pytest

from s2sjax.checkpoints.restore import CheckpointReader
from s2sjax.checkpoints.retention import CheckpointConfig, staying
from s2sjax.metrics.names import METRICS, sign_of
from s2sjax.runs.comparison import Recorded
from s2sjax.training.loop import Loop


class Kept(CheckpointReader):
    """Checkpoints with these scores, without a disk."""

    def __init__(self, metric, scores):
        super().__init__("nowhere", metric)
        self.scores = scores

    def steps(self):
        return sorted(self.scores)

    def _body(self, step, *, whole=False):
        return {"metrics": {self._metric: self.scores[step]}}


@pytest.mark.parametrize("metric", [*METRICS, "one/loss", "en-de/bleu"])
def test_training_its_log_retention_decoding_and_compare_agree_on_the_best(metric):
    """Of equals it is the newest; whatever moves is said."""
    rng = random.Random(metric)
    for _ in range(200):
        values = [rng.choice((0.0, 1.0, 2.0, math.nan)) for _ in range(rng.randint(1, 6))]
        scores = dict(zip(range(10, 70, 10), values, strict=False))
        finite = {step: sign_of(metric) * value for step, value in scores.items() if not math.isnan(value)}
        expected = max((s for s in finite if finite[s] == min(finite.values())), default=None)

        said = []
        experiment = types.SimpleNamespace(checkpoint=CheckpointConfig(metric=metric))
        loop = types.SimpleNamespace(
            experiment=experiment, best=None, report=types.SimpleNamespace(message=said.append)
        )
        moves = 0
        for step, value in scores.items():
            before = loop.best
            Loop._tell_best(loop, step, {metric: value})
            moves += before is not None and loop.best != before
        reader = Kept(metric, scores)
        records = [{"step": step, metric: value} for step, value in scores.items()]
        compared = Recorded("run", {}, metric, (), records, {}).best
        assert len(said) == moves and all(text.startswith(f"new best {metric} ") for text in said)
        assert (loop.best or (None,))[0] == reader.best_step() == compared.get("step") == expected
        if expected is not None:
            assert expected in staying(
                CheckpointConfig(keep_best=1, keep_last=1), reader.steps(), reader.ranked([*scores])
            )


def test_a_best_that_moves_between_equals_says_so():
    said = []
    experiment = types.SimpleNamespace(checkpoint=CheckpointConfig(metric="bleu"))
    loop = types.SimpleNamespace(
        experiment=experiment, best=(50, 100.0), report=types.SimpleNamespace(message=said.append)
    )
    Loop._tell_best(loop, 100, {"bleu": 100.0})
    assert said == ["new best bleu 100.0000: the same as at step 50, of equals the newest"]
