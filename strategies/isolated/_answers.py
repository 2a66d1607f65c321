"""Which subnetwork answers: the one of the task label, or the one that is surest, sample by sample."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, final

import torch

from strategies.isolated._canvas import Canvas
from strategies.isolated._subnetwork import Subnetwork, Units
from strategies.isolated._supermasks import binary, entropy, one_shot, positions_of, slopes_of, superfluous
from streams.data import Batch

Inference = Literal["enumerate", "one-shot", "binary"]
Signal = Literal["entropy", "superfluous"]


@final
class Answers:
    """Asks the subnetworks of one canvas."""

    def __init__(self, canvas: Canvas, inference: Inference, signal: Signal) -> None:
        """Take the canvas, and how a subnetwork is found where several may know: what is done, and what is lowered."""
        self._canvas, self._inference, self._signal = canvas, inference, signal

    def to(self, batch: Batch, nets: Mapping[Units, Subnetwork]) -> torch.Tensor:
        """Return outputs ``[B, num_outputs]``; all alike where no subnetwork knows the task."""
        outputs = self._canvas.blank(batch)
        for rows, known in _routes(batch, nets):
            if known:
                answer = self._answer(known, batch if rows is None else batch.rows(rows))
                outputs = answer if rows is None else outputs.index_copy(0, rows, answer)
        return outputs

    def _answer(self, subnetworks: Sequence[tuple[Units, Subnetwork]], batch: Batch) -> torch.Tensor:
        if len(subnetworks) == 1:
            return self._outputs(*subnetworks[0], batch)
        if not self._canvas.classifies:
            return torch.stack([self._outputs(u, net, batch) for u, net in subnetworks]).mean(0)
        if self._inference == "enumerate":
            tried = [self._own_outputs(u, net, batch) for u, net in subnetworks]
            chosen = torch.stack([entropy(logits) for logits in tried]).argmin(0)
            return _by_choice(
                chosen, lambda i, rows: self._widened(subnetworks[i][0], tried[i][rows], batch.rows(rows))
            )
        masks = [positions_of(net.bits, len(self._canvas), self._canvas.device) for _, net in subnetworks]
        chosen = torch.tensor([self._infer(subnetworks, masks, x) for x in batch.x.split(1)], device=batch.x.device)
        return _by_choice(chosen, lambda i, rows: self._outputs(*subnetworks[i], batch.rows(rows)))

    def _infer(
        self, subnetworks: Sequence[tuple[Units, Subnetwork]], masks: Sequence[torch.Tensor], x: torch.Tensor
    ) -> int:
        """Return who the slopes of the signal point to; running statistics are the mean of all."""
        canvas = self._canvas
        outputs = max(canvas.width_of(u) for u, _ in subnetworks)
        classes = max(len(canvas.classes_of(u)) for u, _ in subnetworks)
        with torch.inference_mode(False):
            x = x.clone()
            statistics = zip(*(net.buffers for _, net in subnetworks), strict=True)
            canvas.put([torch.stack(b).mean(0, dtype=torch.float64).to(b[0].dtype) for b in statistics])
            canvas.model.train(False)

            def signal(logits: torch.Tensor) -> torch.Tensor:
                used_logits = logits[:, :outputs]
                return entropy(used_logits) if self._signal == "entropy" else superfluous(used_logits, classes)

            def slopes(coefficients: torch.Tensor) -> torch.Tensor:
                return slopes_of(canvas.model, canvas.lens, masks, coefficients, x, signal)

            return (one_shot if self._inference == "one-shot" else binary)(slopes, len(subnetworks))

    def _outputs(self, units: Units, net: Subnetwork, batch: Batch) -> torch.Tensor:
        """Return a subnetwork's outputs ``[B, num_outputs]``."""
        return self._widened(units, self._own_outputs(units, net, batch), batch)

    def _widened(self, units: Units, outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        objective = self._canvas.objective_of(units)
        return objective.widen(outputs, batch)[:, : objective.num_outputs]

    def _own_outputs(self, units: Units, net: Subnetwork, batch: Batch) -> torch.Tensor:
        """Return a subnetwork's own outputs, the superfluous ones too."""
        self._canvas.wear(net)
        return self._canvas.objective_of(units).own(self._canvas.model, batch)


def _routes(
    batch: Batch, nets: Mapping[Units, Subnetwork]
) -> Iterable[tuple[torch.Tensor | None, list[tuple[Units, Subnetwork]]]]:
    """Yield rows (None: all of them) and the subnetworks that may know them."""
    if batch.task is None:
        yield None, list(nets.items())
        return
    tasks = batch.task.unique().tolist()
    for task in tasks:
        rows = torch.nonzero(batch.task == task).squeeze(1) if len(tasks) > 1 else None
        yield rows, [(units, net) for units, net in nets.items() if task in units]


def _by_choice(chosen: torch.Tensor, answer: Callable[[int, torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Return every sample's answer by the one that was chosen for it; `answer` takes one and its rows."""
    rows = [(i, torch.nonzero(chosen == i).squeeze(1)) for i in chosen.unique().tolist()]
    return torch.cat([answer(i, r) for i, r in rows])[torch.cat([r for _, r in rows]).argsort()]
