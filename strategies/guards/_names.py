"""Which names prompts mention, and at which of their tokens: for guards that know what they guard by name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import final

import torch

from streams.data import Batch
from streams.errors import ConfigError
from streams.text import GIVEN, Text


@final
class Names:
    """Finds whole names in prompts; of names that begin alike the longest counts."""

    def __init__(self, text: Text, names: Sequence[str] | None) -> None:
        """Take the names to look for; None takes those that the source says its prompts are about.

        Raises:
            ConfigError: there are none.
        """
        wanted = names or tuple(sorted(text.subjects or ()))
        if not wanted:
            raise ConfigError(
                "guard.subjects: the source does not say what its prompts are about; name it (subjects: [Hogwarts])."
            )
        ordered = sorted(wanted, key=lambda n: (-len(n), n))
        self._tokenizer = text.tokenizer
        self._pattern = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, ordered))})(?!\w)")

    def named(self, batch: Batch) -> list[list[str]]:
        """Return the names that each prompt mentions, each once; of a row without a prompt, those of the whole text."""
        found = []
        for tokens, marks in batch.x.cpu():
            is_prompt = marks == GIVEN
            chosen = is_prompt if int(is_prompt.sum()) > 1 else marks > 0
            text = self._tokenizer.decode(tokens[chosen].tolist())
            found.append(list(dict.fromkeys(self._pattern.findall(text))))
        return found

    def all_named(self, batch: Batch) -> tuple[str, ...]:
        """Return the names that any of the prompts mentions, each once."""
        return tuple(dict.fromkeys(name for names in self.named(batch) for name in names))

    def positions(self, row: torch.Tensor) -> torch.Tensor:
        """Return which tokens of a row's prompt belong to a name, bool ``[L]``.

        Args:
            row: int ``[2, L]``.
        """
        places = (row[1] == GIVEN).nonzero().squeeze(1).cpu()
        ids = row[0].cpu()[places].tolist()
        ends = [len(self._tokenizer.decode(ids[: i + 1])) for i in range(len(ids))]
        marked = torch.zeros(row.shape[1], dtype=torch.bool)
        for match in self._pattern.finditer(self._tokenizer.decode(ids)):
            for place, begin, end in zip(places.tolist(), [0, *ends], ends, strict=False):
                if begin < match.end() and end > match.start():
                    marked[place] = True
        return marked.to(row.device)
