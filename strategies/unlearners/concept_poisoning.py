"""Concept poisoning: break a class's link to its concepts by images of a confusable class pasted into its own."""

from __future__ import annotations

from typing import Literal, final

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from typing_extensions import override

from strategies.base import Door, Learner, Outcome, Scope
from strategies.parts.fit import Hooks, fit
from strategies.parts.model import FlatModel
from strategies.parts.weights.fisher import evaluating
from strategies.ranges import TRAINED, linear
from strategies.unlearners._classes import whole_classes
from strategies.unlearners._poisoned import Poison
from strategies.unlearners._relabel import candidate_labels, draw_labels
from strategies.unlearners._retained import DefaultRetainConfig, RetainUnlearner, finish, live_classes
from streams.data import Data
from streams.errors import DataError
from streams.events import DeletionRequest
from streams.randomness import Key


class Config(DefaultRetainConfig):
    """Options of `concept-poisoning` (arXiv 2405.15662), with the classes' own concepts in place of CLIP's."""

    epochs: int = Field(10, ge=1)
    """Passes over retained and poisoned data."""
    patch: Literal["localized", "center", "random", "full", "none"] = "localized"
    """What is pasted into an image of the class from one of the donor: the window that its top concept answers to most,
    the central or a random window, the whole donor at 5/7 of its size, or nothing (all that the published runs came to,
    by the authors' notes; and all that inputs which are no images permit)."""
    size: float = Field(0.4, gt=0, le=1)
    """Height and width of a window, as shares of the image's."""
    labels: Literal["targeted", "random", "keep"] = "targeted"
    """Labels of the poisoned samples: the donor's, any other live class's, or their own."""
    trained: Literal["all", "head"] = "all"
    """Train the whole model, or the head on a frozen body."""
    concept_samples: int = Field(100, ge=2)
    """Samples of a class, and as many others, that its concept is learned from."""
    sparsity: float = Field(0.01, gt=0)
    """Strength of the l1 penalty of the layer from concepts to the class (lasso)."""


def donor_and_concept(
    features: np.ndarray, labels: np.ndarray, label: int, allowed: list[int], config: Config, key: Key
) -> tuple[int, np.ndarray]:
    """Return the class that competes most for the concepts of `label`, and the vector of its top concept.

    Concepts are ranked by weight x mean score over the class's samples.

    Args:
        features, labels: of forget set and retained data, ``[n, F]`` and ``[n]``.
        label: the class to forget.
        allowed: classes that may be the donor, at least one.
        config: concept options.
        key: names the draws.
    """
    # scikit-learn is loaded only by those who need it.
    from strategies.unlearners._concepts import class_weights, concept_vectors

    vectors = concept_vectors(features, labels, config.concept_samples, key)
    names = sorted(vectors)
    scores = features @ np.stack([vectors[c] for c in names]).T
    spread = scores.std(0)
    scores = (scores - scores.mean(0)) / np.where(spread > 0, spread, 1.0)
    rank = class_weights(scores, labels == label, config.sparsity) * scores[labels == label].mean(0)
    ranked = [names[i] for i in np.argsort(-rank, kind="stable")]
    # A class whose concept speaks for `label` shares it; among those that speak against, the nearest in score.
    donor = next((c for c in ranked if c in allowed and rank[names.index(c)] > 0), None)
    if donor is None:
        mean = dict(zip(names, scores[labels == label].mean(0), strict=True))
        donor = max(allowed, key=lambda c: float(mean[c]))
    return donor, vectors[ranked[0]]


def window_of(
    model: FlatModel, x: torch.Tensor, concept: torch.Tensor, config: Config, key: Key, ids: np.ndarray
) -> torch.Tensor:
    """Return the upper left corner of each image's window, int64 ``[n, 2]``.

    Args:
        model: whose features the concept lives in; in evaluation mode.
        x: images ``[n, C, H, W]``.
        concept: unit vector ``[F]``.
        config: which window.
        key: names the draw of random windows.
        ids: of the samples.
    """
    height, width = x.shape[2:]
    h, w = window_size(height, width, config.size)
    if config.patch == "center":
        return torch.tensor([(height - h) // 2, (width - w) // 2]).expand(len(x), 2)
    if config.patch == "random":
        down, right = (key / "top").below(ids, height - h + 1), (key / "left").below(ids, width - w + 1)
        return torch.from_numpy(np.stack([down, right], 1))
    corners = [(t, s) for t in _places(height, h) for s in _places(width, w)]
    projections = []
    with torch.no_grad():
        for top, left in corners:
            window = x[:, :, top : top + h, left : left + w]
            projections.append(model.features(F.interpolate(window, (height, width), mode="bilinear")) @ concept)
    return torch.tensor(corners)[torch.stack(projections).argmax(0).cpu()]


def window_size(height: int, width: int, share: float) -> tuple[int, int]:
    """Return a window's size in pixels."""
    return max(round(height * share), 1), max(round(width * share), 1)


def _places(length: int, window: int) -> list[int]:
    """Half a window apart, and one at the end."""
    return sorted({*range(0, length - window + 1, max(window // 2, 1)), length - window})


def pasted(x: torch.Tensor, donors: torch.Tensor, corners: torch.Tensor | None, share: float) -> torch.Tensor:
    """Return images with a window of the donor's in place of their own, or the whole donor at 5/7 in the centre.

    Args:
        x, donors: ``[n, C, H, W]``.
        corners: upper left corners ``[n, 2]``; None for the whole donor.
        share: size of a window.
    """
    out = x.clone()
    height, width = x.shape[2:]
    if corners is None:
        h, w = max(height * 5 // 7, 1), max(width * 5 // 7, 1)
        top, left = (height - h) // 2, (width - w) // 2
        out[:, :, top : top + h, left : left + w] = F.interpolate(donors, (h, w), mode="bilinear")
        return out
    h, w = window_size(height, width, share)
    for i, (top, left) in enumerate(corners.tolist()):
        out[i, :, top : top + h, left : left + w] = donors[i, :, top : top + h, left : left + w]
    return out


@final
class ConceptPoisoning(RetainUnlearner):
    """Finds the class that competes most for a class's concepts, pastes its images in, and fine-tunes.

    It needs retained data: donors come from it.
    """

    test_options = {"epochs": 1, "patch": "none", "concept_samples": 3}
    config: Config
    supports = frozenset({"classes"})
    scopes: tuple[Scope, ...] = ("class", "task")
    whole_classes = True
    ranges = TRAINED | {"size": linear(0.2, 0.8)}

    @override
    def serve(self, request: DeletionRequest, learner: Learner, retained: Data, door: Door, key: Key) -> Outcome:
        """Poison every class of the request, and train on all together.

        Classes without any other live class in their task are left out; their share is reported as ``left_out``.

        Raises:
            DataError: a patch is wanted, and inputs are no images.
        """
        config, model, setting = self.config, learner.model, self.setting
        forget_set = door.forget_set()
        classes = whole_classes(request, setting)
        forget_batch = forget_set.all()
        if config.patch != "none" and forget_batch.x.ndim != 4:
            raise DataError(
                f"concept-poisoning.patch: {config.patch} needs images [C, H, W], and inputs have the shape "
                f"{tuple(forget_batch.x.shape[1:])}. Set patch: none, or choose another source."
            )
        live = live_classes(retained, setting.objective.num_outputs)
        candidates = candidate_labels(forget_set, live, setting, exclude_true=True)
        x, y = forget_batch.x.clone(), forget_batch.y.clone()
        poisoned = torch.zeros(len(forget_batch), dtype=torch.bool, device=y.device)
        with evaluating(model):
            features, labels = self._features(model, retained.joined(forget_set))
            for label in classes:
                rows = torch.nonzero(forget_batch.y == label).squeeze(1)
                allowed = torch.nonzero(candidates[rows].all(0)).squeeze(1).tolist() if len(rows) else []
                if not allowed:
                    continue
                donor, concept = donor_and_concept(features, labels, label, allowed, config, key / "concepts" / label)
                poisoned[rows] = True
                ids = forget_set.ids[rows.cpu().numpy()]
                if config.patch != "none":
                    donors = self._donors(retained, donor, len(rows), key / "donors" / label)
                    vector = torch.from_numpy(concept).to(x)
                    whole = config.patch == "full"
                    corners = None if whole else window_of(model, x[rows], vector, config, key / "windows", ids)
                    x[rows] = pasted(x[rows], donors, corners, config.size)
                if config.labels == "targeted":
                    y[rows] = donor
                elif config.labels == "random":
                    y[rows] = draw_labels(ids, candidates[rows], key / "labels")
        poisoned_rows = np.flatnonzero(poisoned.cpu().numpy())
        left_out = 1 - len(poisoned_rows) / len(forget_batch)
        used = forget_set.part(poisoned_rows)
        data = retained.joined(used.relabelled(y[poisoned]))
        hooks: list[Hooks] = [] if config.patch == "none" else [Poison(used.ids, x[poisoned], setting.num_samples)]
        part = model.mask("all" if config.trained == "all" else "head").bool()
        with model.moving_only(part):
            outcome = fit(model, setting.objective, data, config, key, hooks)
        outcome += Outcome(forward=len(features), losses={"left_out": left_out}) + finish(config, learner, retained)
        return outcome

    def _features(self, model: FlatModel, data: Data) -> tuple[np.ndarray, np.ndarray]:
        objective = self.setting.objective
        with torch.no_grad():
            features = torch.cat([objective.features(model, batch) for batch in objective.batches(data, 256)])
        return features.cpu().numpy().astype(np.float64), data.targets().cpu().numpy()

    def _donors(self, retained: Data, donor: int, count: int, key: Key) -> torch.Tensor:
        """Return images of the donor class, live ones only, drawn by name and repeated if there are too few."""
        rows = np.flatnonzero((retained.targets() == donor).cpu().numpy())
        chosen = rows[key.order(retained.ids[rows])][np.arange(count) % len(rows)]
        return retained.batch(torch.from_numpy(chosen).to(retained.targets().device)).x
