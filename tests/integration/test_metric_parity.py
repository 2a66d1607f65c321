"""On a stream without revisits and deletions our numbers are Avalanche's, given the same predictions."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lifelong.config.run import EvaluationConfig
from lifelong.evaluation.outputs import Outputs
from lifelong.evaluation.planning import plan_evaluation
from lifelong.metrics.measure import Measure
from streams.plan import Service, assemble
from streams.randomness import Key, seeded_globals
from streams.scenarios import class_incremental
from streams.schedules import none
from streams.stream import Stream

EXPERIENCES = 5


@pytest.fixture(scope="module")
def stream(digits: Any) -> Stream:
    plan = class_incremental.build(digits, class_incremental.Config(experiences=EXPERIENCES), 0)
    return assemble(plan, none.place(plan, none.Config(), Key(0)), Service(), Key(0))


@pytest.fixture(scope="module")
def avalanche_run(stream: Stream) -> list[dict[str, Any]]:
    """Train Avalanche's Naive; after each experience keep its metrics and the predictions they came from."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from avalanche.core import SupervisedPlugin
        from avalanche.evaluation.metrics import accuracy_metrics, bwt_metrics, forgetting_metrics
        from avalanche.logging import BaseLogger
        from avalanche.training import Naive
        from avalanche.training.plugins import EvaluationPlugin

        from streams.avalanche import to_benchmark

        class Listener(SupervisedPlugin):  # type: ignore[misc]
            def __init__(self) -> None:
                super().__init__()
                self.correct: list[torch.Tensor] = []

            def after_eval_iteration(self, strategy: Any, *args: object, **kwargs: object) -> None:
                self.correct.append(strategy.mb_output.argmax(1) == strategy.mb_y)

        benchmark, listener, moments = to_benchmark(stream), Listener(), []
        with seeded_globals(Key(0) / "parity"):
            model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
            evaluator = EvaluationPlugin(
                accuracy_metrics(experience=True, stream=True),
                forgetting_metrics(experience=True, stream=True),
                bwt_metrics(experience=True, stream=True),
                loggers=[BaseLogger()],
            )
            strategy = Naive(
                model=model,
                optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
                criterion=nn.CrossEntropyLoss(),
                train_mb_size=32,
                train_epochs=2,
                evaluator=evaluator,
                plugins=[listener],
            )
            for index, experience in enumerate(benchmark.train_stream):
                strategy.train(experience)
                listener.correct.clear()
                results = strategy.eval(benchmark.test_stream[: index + 1])
                ids = [i for e in benchmark.test_stream[: index + 1] for i in e.dataset.sample_ids]
                moments.append({"ids": ids, "correct": torch.cat(listener.correct).numpy(), "results": results})
    return moments


def test_accuracy_forgetting_and_backward_transfer_are_avalanches(
    stream: Stream, avalanche_run: list[dict[str, Any]]
) -> None:
    plan = plan_evaluation(stream, EvaluationConfig(probe=0))
    measure = Measure(stream, plan, "accuracy")
    nobody = np.zeros(len(plan.ids), dtype=np.float32)
    measure.start(Outputs(nobody, nobody))
    for event, moment in enumerate(avalanche_run):
        scores = nobody.copy()
        scores[np.searchsorted(plan.ids, moment["ids"])] = moment["correct"]
        rows = {f"{r.subject}.{r.metric}": r.value for r in measure.update(event, Outputs(scores, 1 - scores))}
        theirs = {name.split("/")[0] + name[-6:]: v for name, v in moment["results"].items() if "Exp0" in name}
        for unit in range(event + 1):
            assert rows[f"task-{unit}.accuracy"] == pytest.approx(theirs[f"Top1_Acc_ExpExp{unit:03d}"], abs=1e-6)
        stream_of = {name.split("/")[0]: v for name, v in moment["results"].items() if "Exp0" not in name}
        own = np.mean([theirs[f"Top1_Acc_ExpExp{u:03d}"] for u in range(event + 1)])
        assert rows["stream.average_accuracy"] == pytest.approx(own, abs=1e-6)
        assert rows["stream.sample_accuracy"] == pytest.approx(stream_of["Top1_Acc_Stream"], abs=1e-6)
        if event == 0:
            assert rows["stream.forgetting_from_first"] is None  # Avalanche says 0.0
            continue
        assert rows["stream.forgetting_from_first"] == pytest.approx(stream_of["StreamForgetting"], abs=1e-6)
        assert rows["stream.backward_transfer"] == pytest.approx(stream_of["StreamBWT"], abs=1e-6)
    assert rows["stream.forgetting_from_first"] > 0.3, "a run in which nothing is forgotten would prove nothing"


def test_value_classes_agree_on_any_matrix() -> None:
    """Avalanche's stand-alone Forgetting and BWT, fed with the same random accuracies."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from avalanche.evaluation.metrics import BWT, Forgetting

    from lifelong.metrics.accumulation import Accumulation

    draw, samples = np.random.default_rng(0), 20
    for _ in range(10):
        accumulation = Accumulation(
            np.repeat(np.arange(EXPERIENCES), samples),
            np.arange(EXPERIENCES * samples),
            EXPERIENCES,
            [str(u) for u in range(EXPERIENCES)],
            "accuracy",
        )
        accumulation.start(np.zeros(EXPERIENCES * samples))
        forgetting, bwt = Forgetting(), BWT()
        since = np.full(EXPERIENCES, -1)
        for event in range(EXPERIENCES):
            since[event] = event
            scores = (draw.random(EXPERIENCES * samples) < 0.6).astype(np.float64)
            forgetting.reset_last()  # as its plugins do before every evaluation
            bwt.reset_last()
            for unit, accuracy in enumerate(scores.reshape(EXPERIENCES, samples).mean(1)):
                for metric in (forgetting, bwt):
                    metric.update(unit, float(accuracy), initial=unit == event)
            everything = np.ones(len(scores), dtype=bool)
            rows = {
                r.metric: r.value
                for r in accumulation.update(event, scores, everything, since.copy(), since >= 0)
                if r.subject == "stream"
            }
            if event:
                assert rows["forgetting_from_first"] == pytest.approx(np.mean(list(forgetting.result().values())))
                assert rows["backward_transfer"] == pytest.approx(np.mean(list(bwt.result().values())))
