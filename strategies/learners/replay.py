"""Experience replay: keep a few old samples and mix them into every batch."""

from __future__ import annotations

from typing import ClassVar, final

from pydantic import Field
from typing_extensions import override

from strategies.learners._rehearsal import Rehearsal, RehearsalConfig
from strategies.parts.memory.draws import Draws
from strategies.parts.memory.exemplars import Policy
from streams.data import Batch


class Config(RehearsalConfig):
    """Options of `replay` (experience replay; Chaudhry et al. 2019, arXiv 1902.10486)."""

    memory: int = Field(200, ge=1)
    """Samples kept."""
    policy: Policy = "reservoir"
    """A uniform subset of all that was seen, or an equal share for every class."""
    batch: int | None = Field(None, ge=1)
    """Replayed samples added to each batch; null takes the training batch size."""


@final
class Replay(Rehearsal):
    """Adds samples from a memory to every batch; the mean loss runs over both."""

    carries = ()
    config: Config
    name: ClassVar[str] = "replay"

    @override
    def adds(self) -> tuple[Draws, ...]:
        return () if self._draws is None else (self._draws,)

    @override
    def extend(self, batch: Batch, step: int) -> Batch:
        return batch if self._draws is None else batch.concat(self._draws[step])
