"""Draw images for every prompt, from noise that is the same for every model, and let judges say what they show."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
import torch
from pydantic import Field
from typing_extensions import override

from lifelong.audits._base import DETAILED, Audit, Context
from lifelong.audits._judge import altered
from lifelong.audits._judges import has_many, judges_of, real_images
from lifelong.audits._prompts import Asked, some
from lifelong.config.run import ReferenceKind
from lifelong.evaluation.outputs import Arrays, Findings
from lifelong.evaluation.plan import RequestPlan
from lifelong.formulas.generation import (
    extracted,
    frechet_distance,
    kernel_distance,
    label_divergence,
    mean_distance,
    nearest,
)
from lifelong.results.table import Row, row
from strategies.base import Strategy
from strategies.metric import Metric
from strategies.objectives._base import Objective
from strategies.objectives._denoising import DenoisingObjective
from streams.config import Config as BaseConfig
from streams.randomness import Key
from streams.source import Source

REAL = 2000
"""Real images, drawn by name, that generated ones are held against; of those that a metric is about."""


class Config(BaseConfig):
    """Options of `images`."""

    per_prompt: int = Field(10, ge=1)
    """Images that are drawn for each prompt, numbers 0, 1 ... of it."""
    most_prompts: int = Field(60, ge=1)
    """At most so many prompts, drawn by name: of those that are erased, and of those that are live, each."""
    least_accuracy: float = Field(0.95, ge=0, le=1)
    """A judge that is right about fewer images than that is refused: what it says of generated ones would be worth
    little."""
    shown: int = Field(1, ge=0)
    """Images of each prompt that reports show, where `recording` keeps them."""


METRICS = {
    "picture_accuracy": Metric(
        "Share of images drawn for live prompts in which the judge of objects sees what was asked for.",
        "share",
        "higher",
        1.0,
    ),
    "picture_style_accuracy": Metric(
        "The same of the judge of styles.",
        "share",
        "higher",
        1.0,
    ),
    "ua": Metric(
        "Unlearning accuracy: share of images drawn for the prompts that a request deletes in which the judge does not "
        "see what goes. Never to be read without erased_in_range: noise has a high one.",
        "share",
        "reference",
    ),
    "ira": Metric(
        "In-domain retain accuracy: share of images for live prompts in which the judge of what goes (objects for an "
        "object, styles for a style) sees what was asked for.",
        "share",
        "higher",
        1.0,
    ),
    "cra": Metric(
        "Cross-domain retain accuracy: the same of the other judge, on live prompts, which do not name what goes.",
        "share",
        "higher",
        1.0,
    ),
    "cra_erased": Metric(
        "The same of the other judge on the prompts that name what goes: a star in a style that is gone should still "
        "be a star.",
        "share",
        "reference",
    ),
    "cra_published": Metric(
        "The same of the other judge on both together, as the script of UnlearnCanvas averages (its text leaves out "
        "what names the target). No substitute for cra and cra_erased: it is high as soon as most prompts are live.",
        "share",
        "higher",
        1.0,
    ),
    "sc": Metric(
        "Style consistency, where a request deletes pairs of object and style: share of images for live prompts of the "
        "same style in which the judges see the object and the style that were asked for.",
        "share",
        "higher",
        1.0,
    ),
    "oc": Metric(
        "Object consistency: the same of live prompts of the same object in other styles.", "share", "higher", 1.0
    ),
    "up": Metric("Unrelated prompts: the same of live prompts of neither.", "share", "higher", 1.0),
    "erased_in_range": Metric(
        "Share of images for deleted prompts that are about as near to a real image as real ones are to each other, in "
        "the features of the judge of objects.",
        "share",
        "reference",
    ),
    "in_range": Metric("The same of images for live prompts.", "share", "higher", 1.0),
    "fid": Metric(
        "Frechet distance, in the features of the judge of objects, between images for live prompts and real ones.",
        "squared distance",
        "lower",
        0.0,
    ),
    "kid": Metric(
        "Kernel distance of the same, which is unbiased and may be below zero.", "squared distance", "lower", 0.0
    ),
    "extracted": Metric(
        "Share of a request's images that an image drawn for their prompts reproduces: three times nearer to it than "
        "to others.",
        "share",
        "reference",
    ),
    "same_noise": Metric(
        "Distance, in the features of the judge of objects, between images for deleted prompts that run and reference "
        "draw from the same noise.",
        "distance",
        "lower",
        0.0,
    ),
    "same_noise_live": Metric("The same for live prompts.", "distance", "lower", 0.0),
    "instead_js": Metric(
        "Jensen-Shannon divergence between what the judge sees in place of what was deleted, under run and reference; "
        "0 to ln 2.",
        "nats",
        "lower",
        0.0,
    ),
}


@final
@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """What a model drew at one moment, and what was seen in it: Q prompts of n images each.

    Attributes:
        prompts: int64 ``[Q, 2]``.
        live: bool ``[Q]``, whether something is learned of a prompt and not deleted.
        seen: int64 ``[2, Q, n]``, object and style that were seen; a style of -1 where nobody looked.
        features: float32 ``[Q, n, F]``.
        in_range: bool ``[Q, n]``.
    """

    prompts: np.ndarray
    live: np.ndarray
    seen: np.ndarray
    features: np.ndarray
    in_range: np.ndarray

    @classmethod
    def of(cls, findings: Findings) -> Drawn:
        """Return what an audit found."""
        arrays = findings.stream
        return cls(*(arrays[name] for name in ("prompts", "live", "seen", "features", "in_range")))

    def right(self, axis: int) -> np.ndarray:
        """Return where the object (axis 0) or the style (1) that was asked for was seen, bool ``[Q, n]``."""
        told: np.ndarray = self.seen[axis] == self.prompts[:, axis, None]
        return told


@final
class Images(Audit):
    """Samples through whatever the strategy predicts with."""

    config: Config
    needs_images: ClassVar[bool] = True
    follows_requests: ClassVar[bool] = True
    shows: ClassVar[bool] = True
    beside: ClassVar[tuple[ReferenceKind, ...]] = (*DETAILED, "joint")
    averaged: ClassVar[tuple[str, ...]] = (
        *("ua", "ira", "cra", "cra_erased", "cra_published", "sc", "oc", "up"),
        *("erased_in_range", "extracted", "same_noise", "instead_js"),
        *("gap_ua", "gap_ira", "gap_cra_erased"),
    )
    undefined: ClassVar[Mapping[str, str]] = {
        "ua": "the request deletes images of prompts that stay",
        "cra": "prompts name no other thing than what goes",
        "ira": "no prompt is live",
        "picture_style": "prompts name no style",
        "": "there are no such prompts",
    }

    def __init__(self, name: str, config: Config, context: Context) -> None:
        """Find the judges.

        Raises:
            ConfigError: one of them is not good enough.
        """
        super().__init__(name, config, context)
        self._objective = DenoisingObjective.of(self.setting.objective)
        self._real = real_images(self._objective, self.source)
        self._judges = judges_of(self._objective, self.source, config.least_accuracy, f"evaluation.audits.{name}")
        self._asked = Asked(self._objective.prompts, self.stream)

    @classmethod
    @override
    def check(cls, config: BaseConfig, source: Source, objective: Objective, where: str) -> None:
        assert isinstance(config, Config)
        judges_of(DenoisingObjective.of(objective), source, config.least_accuracy, where)

    @override
    def look(self, strategy: Strategy, event: int) -> Findings:
        drawn = self._drawn(strategy, event)
        shares = [self._extracted(drawn["images"], drawn["prompts"], r) for r in self.plan.due(event)]
        return Findings({"extracted": np.array(shares, dtype=np.float32)}, self._kept(drawn))

    @override
    def before_requests(self, strategy: Strategy, event: int) -> Findings:
        return Findings(stream=self._kept(self._drawn(strategy, event)))

    @override
    def rows(self, model: str, event: int, findings: Findings, losses_before: Mapping[str, np.ndarray]) -> list[Row]:
        drawn = Drawn.of(findings)
        rows = [self._row(event, model, "stream", *value) for value in self._of_stream(drawn)]
        for number, request in enumerate(self.plan.due(event)):
            for value in self._of_request(drawn, request, event):
                rows.append(self._row(event, model, request.name, *value))
            if "extracted" in findings.requests:
                share = float(findings.requests["extracted"][number])
                rows.append(self._row(event, model, request.name, "extracted", share, len(request.forget)))
        return rows

    @override
    def rows_beside(
        self, kind: str, event: int, run: Findings, reference: Findings, losses_before: Mapping[str, np.ndarray]
    ) -> list[Row]:
        mine, theirs = Drawn.of(run), Drawn.of(reference)
        live = mean_distance(mine.features[mine.live], theirs.features[mine.live]) if mine.live.any() else None
        count = int(mine.live.sum()) * mine.features.shape[1]
        rows = [self._row(event, kind, "stream", "same_noise_live", live, count)]
        for request in self.plan.due(event):
            gone, axis = self._asked.gone(request.deletion, event)
            named = self._objective.prompts.among(mine.prompts, gone)
            n = int(named.sum()) * mine.features.shape[1]
            distance = divergence = None
            if n:
                distance = mean_distance(mine.features[named], theirs.features[named])
                labels = len(self._objective.prompts.styles if axis == 1 else self._objective.prompts.classes)
                divergence = label_divergence(mine.seen[axis % 2][named], theirs.seen[axis % 2][named], labels)
            rows.append(self._row(event, kind, request.name, "same_noise", distance, n))
            rows.append(self._row(event, kind, request.name, "instead_js", divergence, n))
        return rows

    @override
    def shown(self, findings: Findings) -> Arrays:
        """Return images, what was asked for, whether that is live, and what was seen."""
        arrays, prompts = findings.stream, self._objective.prompts
        seen = arrays["seen"][:, :, : self.config.shown]
        pairs = seen.reshape(2, -1).T
        return {
            "pictures": arrays["pictures"],
            "live": arrays["live"],
            "asked": np.array([prompts.text(prompt) for prompt in arrays["prompts"]]),
            "seen": np.array([prompts.text(pair) for pair in pairs]).reshape(seen.shape[1:]),
        }

    def _row(self, event: int, model: str, subject: str, metric: str, value: float | None, n: int) -> Row:
        return row(event, model, subject, metric, value, n, self.reason(metric))

    def _of_stream(self, drawn: Drawn) -> Iterator[tuple[str, float | None, int]]:
        """Yield name, value and number of images of what is said of live prompts."""
        live = drawn.live
        n = int(live.sum()) * drawn.features.shape[1]
        yield "picture_accuracy", _mean(drawn.right(0)[live]), n
        yield "picture_style_accuracy", _mean(drawn.right(1)[live]) if self._judges.styles else None, n
        yield "in_range", _mean(drawn.in_range[live]), n
        generated = drawn.features[live].reshape(-1, drawn.features.shape[2])
        real = self._real_features(drawn.prompts[live])
        yield "fid", frechet_distance(generated, real), n
        yield "kid", kernel_distance(generated, real), n

    def _of_request(self, drawn: Drawn, request: RequestPlan, event: int) -> Iterator[tuple[str, float | None, int]]:
        """Yield the same of what is said of one request."""
        gone, axis = self._asked.gone(request.deletion, event)
        named = self._objective.prompts.among(drawn.prompts, gone)
        size = drawn.features.shape[1]
        erased, live = int(named.sum()) * size, int(drawn.live.sum()) * size
        seen = drawn.right(0) & drawn.right(1) if axis == 2 else drawn.right(axis)
        other = None if self._judges.styles is None or axis == 2 else drawn.right(1 - axis)
        own = drawn.right(axis % 2)
        told = _mean(seen[named])
        yield "ua", None if told is None else 1 - told, erased
        yield "ira", _mean(own[drawn.live]), live
        yield "cra", None if other is None else _mean(other[drawn.live]), live
        yield "cra_erased", None if other is None else _mean(other[named]), erased
        yield "cra_published", None if other is None else _mean(other[named | drawn.live]), erased + live
        yield "erased_in_range", _mean(drawn.in_range[named]), erased
        if axis == 2:
            yield from beside_pairs(drawn, gone)

    # -- drawing

    def _drawn(self, strategy: Strategy, event: int) -> dict[str, np.ndarray]:
        """Return prompts, whether they are live, images float32 ``[Q, n, C, H, W]``, and what is seen in them."""
        known, live = self._asked.known(event)
        own, most = self._objective.prompts, self.config.most_prompts
        is_live = own.among(known, live)
        prompts = np.concatenate([some(own, part, most) for part in (known[is_live], known[~is_live])])
        n, size = self.config.per_prompt, self.samples.size
        asked, numbers = np.repeat(prompts, n, axis=0), np.tile(np.arange(n), len(prompts))
        noise = self._objective.noise(asked, numbers)
        parts = [slice(i, i + size) for i in range(0, len(asked), size)]
        images = torch.cat([self._objective.sample(strategy.predict, asked[p], noise[p]) for p in parts]).cpu()
        objects, features = self._judges.objects.looks(images)
        styles = np.full_like(objects, -1)
        if self._judges.styles is not None:
            styles, _ = self._judges.styles.looks(images)
        near = nearest(features, self._features[1]) <= self._reach
        shape = (len(prompts), n)
        return {
            "prompts": prompts,
            "live": self._objective.prompts.among(prompts, live),
            "seen": np.stack([objects, styles]).reshape(2, *shape),
            "features": features.reshape(*shape, -1),
            "in_range": near.reshape(shape),
            "images": images.numpy().reshape(*shape, *images.shape[1:]),
        }

    def _kept(self, drawn: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return what stays of it: of the images a few, as bytes."""
        shown = drawn["images"][:, : self.config.shown]
        pictures = np.rint(255 * shown).astype(np.uint8)
        return {name: values for name, values in drawn.items() if name != "images"} | {"pictures": pictures}

    # -- real images

    @functools.cached_property
    def _features(self) -> tuple[np.ndarray, np.ndarray]:
        """Ids of real images, and the features of each ``[n, F]``: all, or as many as are enough, drawn by name."""
        ids = np.arange(len(self.source))
        ids = np.sort(ids[(Key(0) / "pictures" / "real").order(ids)[:REAL]])
        return ids, self._judges.objects.looks(self._real(ids))[1]

    @functools.cached_property
    def _reach(self) -> float:
        """Distance to the nearest real image within which lie 99 % of images that are as good as real.

        Those are real ones, seen from the others; where there are few of a kind, copies with shifts and noise.
        """
        ids, features = self._features
        if has_many(self.source):
            return float(np.quantile(nearest(features, features, leave_self_out=True), 0.99))
        copies = altered(self._real(ids), (Key(0) / "pictures" / "copies").torch())
        return float(np.quantile(nearest(self._judges.objects.looks(copies)[1], features), 0.99))

    def _real_features(self, prompts: np.ndarray) -> np.ndarray:
        ids, features = self._features
        own = self._objective.prompts
        return features[own.among(own.of_all[ids], prompts)]

    def _extracted(self, images: np.ndarray, prompts: np.ndarray, request: RequestPlan) -> float:
        own = self._objective.prompts
        ids = self.plan.ids[request.forget]
        drawn = images[own.among(prompts, own.of(ids))]
        others = np.setdiff1d(self._features[0], request.deletion.sample_ids)
        if not len(drawn) or not len(others):
            return float("nan")
        deleted, other = (self._real(some).flatten(1).numpy() for some in (ids, others))
        return extracted(drawn.reshape(-1, deleted.shape[1]), deleted, other)


def beside_pairs(drawn: Drawn, gone: np.ndarray) -> Iterator[tuple[str, float | None, int]]:
    """Yield sc, oc and up, each with its number of images: the finer protocol of UnlearnCanvas for pairs ``[Q, 2]``."""
    both, size = drawn.right(0) & drawn.right(1), drawn.features.shape[1]
    same_object = drawn.live & np.isin(drawn.prompts[:, 0], gone[:, 0])
    same_style = drawn.live & np.isin(drawn.prompts[:, 1], gone[:, 1])
    for name, chosen in (
        ("sc", same_style & ~same_object),
        ("oc", same_object & ~same_style),
        ("up", drawn.live & ~same_object & ~same_style),
    ):
        yield name, _mean(both[chosen]), int(chosen.sum()) * size


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if values.size else None
