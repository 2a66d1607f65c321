"""Follow the value vectors that spoke of what was deleted: how far they have come, and what they say now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, final

import numpy as np
import torch
from pydantic import Field
from typing_extensions import override

from lifelong.audits._base import Audit
from lifelong.config.run import ReferenceKind
from lifelong.evaluation.outputs import Findings
from lifelong.evaluation.plan import RequestPlan
from lifelong.results.table import Row, row
from strategies.base import Strategy
from strategies.metric import Metric
from strategies.parts.text.concepts import concept_tokens
from strategies.parts.weights.blocks import blocks_of
from strategies.parts.weights.feed_forward import top_tokens, value_places
from streams.config import Config as BaseConfig
from streams.errors import ConfigError

_METHOD = "audit: 'concept-trace'"


class Config(BaseConfig):
    """Options of `concept-trace` (Hong et al. 2024, arXiv 2406.11614)."""

    vectors: int = Field(4, ge=1)
    """Value vectors of a request that are followed: those of the reference that speak of it most."""
    share: float = Field(0.02, gt=0, le=1)
    """Share of the vocabulary that counts as what a vector speaks of (published: 200 tokens of 32,000)."""


METRICS = {
    "concept_hits": Metric(
        "Largest share, over all value vectors, of a vector's top tokens that belong to what the request deletes.",
        "share",
        "reference",
    ),
    "trace_cosine": Metric(
        "Mean cosine between the reference's vectors that speak of the deleted most and the run's at the same places.",
        "-1 to 1",
        "neither",
    ),
    "trace_distance": Metric("Mean distance of these, relative to the reference's length.", "ratio", "neither"),
    "trace_jaccard": Metric("Mean overlap of their top tokens: shared ones over all of both.", "share", "neither"),
    "trace_kept": Metric(
        "How many of these vectors' top tokens belong to the deleted, relative to how many do in the reference: 1 for "
        "as many, or more.",
        "share",
        "neither",
    ),
}


@final
class ConceptTrace(Audit):
    """Keeps the value vectors of the weights, without a guard, and holds them against a life without the request."""

    config: Config
    needs_text: ClassVar[bool] = True
    needs_token_body: ClassVar[bool] = True
    beside: ClassVar[tuple[ReferenceKind, ...]] = ("original", "no-op", "retrained")
    undefined: ClassVar[str] = "there is no single model with known feed-forward layers"

    @override
    def look(self, strategy: Strategy, event: int) -> Findings:
        """Return all value vectors and the head, and how much any of them speaks of each request that is due."""
        model = strategy.network()
        if model is None:
            return Findings()
        try:
            places = [value_places(model, block, _METHOD) for block in range(len(blocks_of(model)))]
        except ConfigError:
            return Findings()
        vectors = torch.cat([model.parameters[p.to(model.parameters.device)] for p in places]).float()
        head = next(model.network.head.parameters()).detach().float()
        concepts = [self._concept(r, len(head)).to(head.device) for r in self.plan.due(event)]
        hits = [float(self._hits(vectors, head, concept).max()) for concept in concepts]
        kept = {"vectors": vectors.cpu().numpy(), "head": head.cpu().numpy()}
        return Findings({"concept_hits": np.array(hits, dtype=np.float32)}, kept)

    @override
    def before_requests(self, strategy: Strategy, event: int) -> Findings:
        return Findings()

    @override
    def rows(self, model: str, event: int, findings: Findings, losses_before: Mapping[str, np.ndarray]) -> list[Row]:
        hits = findings.requests.get("concept_hits", np.full(len(self.plan.due(event)), np.nan))
        due = zip(self.plan.due(event), hits.tolist(), strict=True)
        return [row(event, model, r.name, "concept_hits", h, len(r.forget), self.undefined) for r, h in due]

    @override
    def rows_beside(
        self, kind: str, event: int, run: Findings, reference: Findings, losses_before: Mapping[str, np.ndarray]
    ) -> list[Row]:
        """Return how far the vectors that spoke of a request have come; none where either has no such vectors."""
        if "vectors" not in run.stream or "vectors" not in reference.stream:
            return []
        now, then = (torch.from_numpy(f.stream["vectors"]) for f in (run, reference))
        heads = [torch.from_numpy(f.stream["head"]) for f in (run, reference)]
        if now.shape != then.shape:
            return []
        result = []
        for request in self.plan.due(event):
            concept = self._concept(request, len(heads[1]))
            best = self._hits(then, heads[1], concept).topk(min(self.config.vectors, len(then))).indices
            told = traced(now[best], then[best], heads[0], heads[1], concept, self.config.share)
            n = len(request.forget)
            result += [row(event, kind, request.name, f"trace_{name}", value, n) for name, value in told.items()]
        return result

    def _concept(self, request: RequestPlan, count: int) -> torch.Tensor:
        """Return which of so many tokens belong to what a request deletes, bool ``[V]``."""
        assert self.source.text is not None
        x = self.source.x[torch.from_numpy(self.plan.ids[request.forget])]
        return concept_tokens(self.source.text, x, None, count)

    def _hits(self, vectors: torch.Tensor, head: torch.Tensor, concept: torch.Tensor) -> torch.Tensor:
        """Return which share of each vector's top tokens belong to the concept, ``[n]``."""
        parts = [concept[top_tokens(v @ head.T, self.config.share)].float().mean(1) for v in vectors.split(256)]
        return torch.cat(parts)


def traced(
    now: torch.Tensor,
    then: torch.Tensor,
    head: torch.Tensor,
    head_then: torch.Tensor,
    concept: torch.Tensor,
    share: float,
) -> dict[str, float]:
    """Return what has become of some value vectors, each a mean over them.

    Args:
        now, then: ``[n, width]``.
        head, head_then: of both models, ``[V, width]``.
        concept: which tokens belong to it, bool ``[V]``.
        share: of the vocabulary that counts.
    """
    tops = [top_tokens(v @ h.T, share) for v, h in ((now, head), (then, head_then))]
    sets = [[set(row) for row in top.tolist()] for top in tops]
    of_concept = set(concept.nonzero().squeeze(1).tolist())
    overlaps = [len(a & b) / len(a | b) for a, b in zip(*sets, strict=True)]
    spoke = [(len(a & of_concept), len(b & of_concept)) for a, b in zip(*sets, strict=True)]
    kept = [min(1.0, a / b) for a, b in spoke if b]
    return {
        "cosine": float(torch.nn.functional.cosine_similarity(now, then).mean()),
        "distance": float(((now - then).norm(dim=1) / then.norm(dim=1).clamp(min=1e-12)).mean()),
        "jaccard": float(np.mean(overlaps)),
        "kept": float(np.mean(kept)) if kept else float("nan"),
    }
