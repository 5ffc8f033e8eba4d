"""Training steps that are held: of every family every variant of the contract, and what else changes a step.

Each has a moving average, clipping, weight decay, smoothing and, where there is any, dropout, so that all of a step is
in them. Of a family that labels what it reads its predictions are held too, which are one pass of the model.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from s2sjax import models
from tests.contract.conftest import SLOW_SUBJECTS, SMALL, SUBJECTS
from tests.goldens.inside import experiment, fields_of, labels, predictions_text, step_text
from tests.goldens.stablehlo import normalised


@dataclass(frozen=True)
class Step:
    """A step of a tiny model."""

    family: str
    options: Mapping[str, Any]
    """Of the model's config."""
    others: Mapping[str, Any]
    """Config keys of other sections."""
    devices: int = 1
    predictions: bool = False
    """Hold what the model predicts, in place of its step."""

    def text(self) -> str:
        """Its normalised StableHLO."""
        fields = fields_of(self.family)
        sizes = {name: size for name, size in SMALL.items() if name in fields}
        dropout = {"dropout": 0.1} if "dropout" in fields else {}
        options = {**sizes, **dropout, **self.options}
        model = {f"model.{name}": value for name, value in options.items()}
        counts = self.options.get("learning") == "em"
        config = {**BASE, **(COUNTING if counts else GRADIENT), **model, **self.others}
        made = experiment(self.family, config)
        return normalised(predictions_text(made) if self.predictions else step_text(made, self.devices))


BASE = {
    "batching.tokens": 128,
    "batching.max_source_length": 8,
    "batching.max_target_length": 8,
    "train.ema_decay": 0.99,
}
GRADIENT = {
    "optimizer.clip_norm": 1.0,
    "optimizer.weight_decay": 0.1,
    "train.z_loss": 1e-4,
}
COUNTING = {"optimizer.name": "em", "optimizer.learning_rate": 0.5, "train.label_smoothing": 0.0}
"""For a model that learns by counting."""

_SCAN = {"scan": True, "remat": "full"}
_TRANSFORMER = "transformer"
_MORE = {
    "adafactor": Step(_TRANSFORMER, _SCAN, {"optimizer.name": "adafactor"}),
    "lion, cosine": Step("lstm_lm", {}, {"optimizer.name": "lion", "optimizer.schedule": "cosine"}),
    "sgd, wsd": Step("lstm_lm", {}, {"optimizer.name": "sgd", "optimizer.schedule": "wsd"}),
    "no average, no clipping": Step("lstm_lm", {}, {"train.ema_decay": 0.0, "optimizer.clip_norm": 0.0}),
    "accumulation": Step("rnn_seq2seq", {}, {"train.accumulate": 2}),
    "accumulation, experts": Step("causal_lm", {"layers": 2, "experts": 3, "scan": True}, {"train.accumulate": 2}),
    "bfloat16": Step("gnmt", {}, {"train.precision": "bfloat16"}),
    "bfloat16 products": Step(_TRANSFORMER, _SCAN, {"train.precision": "bfloat16_products"}),
    "8 devices, layers gathered": Step(_TRANSFORMER, _SCAN, {"mesh.fsdp": 2, "mesh.tensor": 2}, 8),
    "8 devices, stored in parts": Step("rnn_seq2seq", {}, {"mesh.fsdp": 8}, 8),
    "8 devices, sequence and experts": Step(
        "causal_lm", {"layers": 2, "experts": 4, "positions": "rotary"}, {"mesh.sequence": 2, "mesh.expert": 2}, 8
    ),
}

STEPS = {subject.name: Step(subject.family, dict(subject.options), {}) for subject in (*SUBJECTS, *SLOW_SUBJECTS)}
STEPS |= {
    f"{subject.name}, predictions": Step(subject.family, dict(subject.options), {}, predictions=True)
    for subject in SUBJECTS
    if labels(subject.family)
}
STEPS |= _MORE
FAST = {
    *(next(subject.name for subject in SUBJECTS if subject.family == family) for family in models.families()),
    *_MORE,
}
"""Those that are tried with the fast tests; the others are a family's further variants."""
