"""One strategy's way through the stream of a run: act, measure, record, event by event."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lifelong.evaluation.evaluator import Evaluator
from lifelong.evaluation.outputs import Outputs
from lifelong.execution.prefix import Lived, Prefix
from lifelong.metrics.cost import cost_rows
from lifelong.metrics.measure import Measure
from lifelong.references.comparison import Shared, compare
from lifelong.references.points import requests_with_references, wanted_points
from lifelong.references.shadows import shadow_rows
from lifelong.references.tree import Cost
from lifelong.results.record import Checkpoint, Record
from lifelong.results.table import Row, read_rows
from lifelong.setup.instruments import Instruments
from lifelong.setup.preparation import Prepared
from lifelong.trackers._base import RunInfo, Watch
from strategies.base import State, Strategy
from strategies.parts.fit import observed
from strategies.parts.training.progress import Progress, keeping
from strategies.parts.training.timing import now
from strategies.parts.training.timing import timing as timed_parts
from strategies.step import Step, ledger_after, restore, step
from streams.errors import LifelongError
from streams.events import DeletionRequest
from streams.ledger import Access, Ledger


class _Looks:
    """Looks at a strategy while it learns, and keeps the scores."""

    def __init__(self, strategy: Strategy, evaluator: Evaluator, every: int) -> None:
        self._strategy, self._evaluator, self._every = strategy, evaluator, every
        self.scores: list[np.ndarray] = []
        self.seconds = 0.0

    def __call__(self, step: int) -> None:
        if step % self._every == 0:
            started = now()
            self.scores.append(self._evaluator.evaluate(self._strategy).scores)
            self.seconds += now() - started

    def state_dict(self) -> State:
        """Return the scores, for an event that is interrupted."""
        return {"scores": [torch.from_numpy(scores) for scores in self.scores]}

    def load_state_dict(self, state: State) -> None:
        """Put them in the place of those that are there."""
        self.scores = [scores.cpu().numpy() for scores in state["scores"]]


class Life:
    """One strategy's way through the stream of a run."""

    def __init__(
        self,
        prepared: Prepared,
        name: str,
        folder: Path,
        instruments: Instruments,
        shared: Shared,
        watch: Watch,
        prefix: Prefix | None,
        taken_from: Path | None = None,
    ) -> None:
        """Open or create the folder.

        Args:
            prepared: the run.
            name, folder: of the strategy.
            instruments, shared, watch: of the run.
            prefix: the beginning that it shares with others.
            taken_from: the run folder from which its whole life was taken over.
        """
        self._p, self._name, self._watch, self._prefix = prepared, name, watch, prefix
        self._instruments, self._evaluator, self._shared = instruments, instruments.evaluator, shared
        self._config = prepared.config.strategies[name]
        recording = prepared.config.recording
        life = prepared.life_of(name)
        self._record = Record(folder, life, prepared.plan, recording.keep == "all", recording.fsync)
        self._every_s = None if recording.checkpoint_minutes is None else 60 * recording.checkpoint_minutes
        self._last = len(prepared.stream.events) - 1
        self._shows = recording.keep != "numbers"
        # Details are for being held against references.
        beside = {point.event for point in wanted_points(prepared.stream, prepared.config.references)}
        self._detailed = range(self._last + 1) if recording.keep == "all" else beside
        self._is_taken = taken_from is not None
        self._info = RunInfo(
            prepared.config.name, prepared.identity, name, prepared.resolved, prepared.stream, folder, taken_from
        )

    def live(self) -> None:
        """Live to the end, then compute references. Nothing happens if that was done before."""
        try:
            if self._record.done:
                self._record.drop_rest()  # a crash may have come before
                if self._is_taken:
                    self._retell()
                return
            access = self._play()
            rows, cost = compare(self._p, self._name, self._record, self._instruments, self._shared)
            more, more_cost = shadow_rows(self._p, self._name, self._evaluator)
            rows, cost = rows + more, cost + more_cost
            self._record.write(rows)
            self._watch.references(rows, cost.seconds)
            self._record.finish(self._summary(access, cost))
        except Exception as error:
            self._watch.failed(error)
            raise
        finally:
            self._record.close()
            self._watch.end()

    def _retell(self) -> None:
        """Tell trackers what was lived elsewhere."""
        rows = read_rows(self._record.folder / "results.jsonl")
        of_event: dict[int, list[Row]] = {}
        for r in rows:
            if r.model == "run":
                of_event.setdefault(r.event, []).append(r)
        self._watch.begin(self._info, 0)
        for line in (self._record.folder / "timings.jsonl").read_text(encoding="utf-8").splitlines():
            timing = json.loads(line)
            self._watch.event(timing["event"], of_event.get(timing["event"], []), timing["act_s"])
        self._watch.references([r for r in rows if r.model != "run"], 0.0)

    def _play(self) -> Access:
        """Live through the events that are left; return the access that the strategy was held to."""
        stream, plan = self._p.stream, self._p.plan
        objective = self._p.setting.objective
        measure = Measure(
            stream,
            plan,
            objective.measure,
            self._instruments.metrics,
            self._instruments.audits,
            objective.predicts == "tokens",
        )
        strategy = self._p.strategies.build(self._name)
        ledger = Ledger(stream.source, stream.task_of, self._p.config.device)
        access = ledger.held_to(strategy.access)
        first = self._restore(strategy, ledger, measure)
        self._watch.begin(self._info, first)
        if self._prefix is not None and self._prefix.state is not None and not first:
            first = self._record_prefix(self._prefix, strategy, ledger, measure)
        learned = sum(not isinstance(e, DeletionRequest) for e in stream.events[:first])
        for index in range(first, len(stream.events)):
            started = now()
            with timed_parts() as spent:
                done, looks, was_kept = self._step(strategy, index, ledger)
            acted = now()
            outputs = self._evaluate(strategy, index)
            evaluated = now()
            rows = [] if outputs is None else measure.update(index, outputs)
            if plan.watched[index]:
                rows += measure.within(index, looks.scores)
            rows += cost_rows(index, stream, plan, done, strategy, learned)
            learned += not isinstance(stream.events[index], DeletionRequest)
            self._record.write(rows, outputs)
            if done.outcome.draw is not None:
                self._record.write_draw(index, done.outcome.draw)
            self._show(index, outputs)
            if outputs is not None and index in self._detailed and outputs.stored():
                self._record.write_details(index, outputs)
            timing: dict[str, float | int | str] = {
                "event": index,
                "act_s": acted - started - looks.seconds,
                "evaluate_s": evaluated - acted + looks.seconds,
                **spent,
            }
            self._record.write_timing(timing)
            if self._prefix is not None:
                self._prefix.add(index, Lived(rows, outputs, timing, done.outcome.draw), strategy)
            must = isinstance(stream.events[index], DeletionRequest) or index == self._last
            if was_kept or self._record.is_due(must):
                self._record.save(Checkpoint(index, strategy.state_dict(), whole=index == self._last), must)
            self._watch.event(index, rows, acted - started - looks.seconds)
        return access

    def _record_prefix(self, prefix: Prefix, strategy: Strategy, ledger: Ledger, measure: Measure) -> int:
        """Record the events that a strategy with the same learner has lived through, as lived; return the next."""
        assert prefix.state is not None
        for index, lived in enumerate(prefix.lived):
            if lived.outputs is not None:
                measure.update(index, lived.outputs)
            self._show(index, lived.outputs)
            self._record.write(lived.rows, lived.outputs)
            if lived.draw is not None:
                self._record.write_draw(index, lived.draw)
            self._record.write_timing(lived.timing)
            self._watch.event(index, lived.rows, float(lived.timing["act_s"]))
        ledger_after(ledger, self._p.stream.events[: prefix.length])
        restore(strategy, prefix.state, ledger)
        last = prefix.length - 1
        must = last == self._last  # nothing is ever deleted, and the prefix is the whole life
        if self._record.is_due(must):
            self._record.save(Checkpoint(last, prefix.state, whole=must), must)
        return prefix.length

    def _show(self, index: int, outputs: Outputs | None) -> None:
        """Keep what reports show of the run beside numbers, where that is wanted."""
        if outputs is None or not self._shows:
            return
        for audit in self._instruments.audits:
            if audit.shows and audit.name in outputs.audits:
                self._record.write_shown(index, "run", audit.shown(outputs.audits[audit.name]))

    def _step(self, strategy: Strategy, index: int, ledger: Ledger) -> tuple[Step, _Looks, bool]:
        """Let an event happen; return what it did, what was seen meanwhile, and if trainings in it were kept."""
        event, every = self._p.stream.events[index], self._p.config.evaluation.dense_every
        looks = _Looks(strategy, self._evaluator, every or 1)
        watched = observed(looks) if self._p.plan.watched[index] else contextlib.nullcontext()
        progress = Progress(self._record.within(index, self._p.config.device), self._every_s, looks)
        where = f"Strategy {self._name!r}, event {index} ({event.name})"
        if isinstance(event, DeletionRequest) and self._config.isolated is None:
            where += f", unlearner {self._config.unlearner.name!r}"
            where += "" if self._config.guard is None else f", guard {self._config.guard.name!r}"
        try:
            with watched, keeping(progress):
                return step(strategy, event, ledger), looks, progress.keeps
        except LifelongError as error:
            raise type(error)(f"{where}: {error}") from error
        except Exception as error:
            error.add_note(where)
            raise

    def _evaluate(self, strategy: Strategy, index: int) -> Outputs | None:
        if not self._p.plan.measured[index]:
            return None
        return self._evaluator.evaluate(strategy, index)

    def _restore(self, strategy: Strategy, ledger: Ledger, measure: Measure) -> int:
        """Bring everything to where the last checkpoint left it; return the next event."""
        checkpoint = self._record.latest(self._p.config.device)
        if checkpoint is None:
            outputs = self._evaluator.evaluate(strategy)
            measure.start(outputs)
            self._record.write([], outputs)
            self._record.save(Checkpoint(-1, strategy.state_dict()), must=True)
            return 0
        stored = self._record.stored(self._p.plan.num_outputs(checkpoint.event))
        measure.start(stored[0])
        for number, index in enumerate(np.flatnonzero(self._p.plan.measured[: checkpoint.event + 1]), 1):
            measure.update(int(index), stored[number])
        ledger_after(ledger, self._p.stream.events[: checkpoint.event + 1])
        restore(strategy, checkpoint.state, ledger)
        return checkpoint.event + 1

    def _summary(self, access: Access, cost: Cost) -> dict[str, Any]:
        stream, config = self._p.stream, self._p.config.references
        references: dict[str, Any] = {
            "computed": cost.computed,
            "cached": cost.cached,
            "steps": cost.outcome.steps,
            "seconds": round(cost.seconds, 3),
        }
        if config.num_beside(len(stream.requests)) < len(stream.requests):
            references["beside"] = [stream.requests[n].name for n in requests_with_references(stream, config)]
        return {"access": access.label(), "events": self._last + 1, "references": references}
