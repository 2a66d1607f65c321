"""Train on half of the forgotten facts again, and look at the others."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np
from pydantic import Field
from typing_extensions import override

from lifelong.audits._base import Values
from lifelong.audits._relearning import Relearning
from lifelong.audits._text import TextAudit
from lifelong.evaluation.plan import RequestPlan
from lifelong.formulas.attacks import area, halves
from strategies.base import Strategy
from strategies.metric import Metric
from streams.config import Config as BaseConfig

LOOKS = (0, 1, 5, 10, 20)
"""Steps of fine-tuning after which the rest of the forget set is looked at."""


class Config(BaseConfig):
    """Options of `relearn-rest`."""

    lr: float = Field(1e-3, gt=0)
    """Learning rate (Adam). A pretrained model takes less, such as 3e-5."""


METRICS = {
    **{
        f"relearned_{steps}": Metric(
            f"Mean probability of a request's answers after {steps} steps of fine-tuning on the other half of its "
            "facts.",
            "0 to 1",
            "reference",
        )
        for steps in LOOKS
    },
    "relearned": Metric(
        "Mean height of that curve over its steps; the difference to the reference is the relearning gap.",
        "0 to 1",
        "reference",
    ),
}


@final
class RelearnRest(TextAudit):
    """Fine-tunes on half of the facts, and never looks at what was trained on again."""

    config: Config
    undefined: ClassVar[str] = "there is no single model, or what is deleted is a single fact"

    @override
    def of_request(self, strategy: Strategy, event: int, request: RequestPlan) -> Values:
        names = [*(f"relearned_{s}" for s in LOOKS), "relearned"]
        model, groups = strategy.network(), self._facts(request.forget)
        key = self.setting.key / "relearn-rest" / request.name
        distinct = np.unique(groups)
        if model is None or len(distinct) < 2:
            return dict.fromkeys(names, float("nan"))
        taught, rest = halves(groups, distinct[key.order(distinct)])
        lesson = Relearning(self.setting, key, LOOKS[-1], LOOKS, self.likely, self.config.lr)
        again, others = (self.samples.batch(p) for p in (request.forget[taught], self.asked(request.forget[rest])))
        curve = lesson.curve(model, again, again.part(0, 0), others).tolist()
        return dict(zip(names, [*curve, area(LOOKS, curve)], strict=True))

    def _facts(self, positions: np.ndarray) -> np.ndarray:
        """Return what each row tells, by number; of text without questions, the row."""
        ids = self.plan.ids[positions]
        return self.fact_ids(ids) if self.are_questions(positions).all() else ids
