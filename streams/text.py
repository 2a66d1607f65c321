"""Text as numbers: tokenisers, and rows of tokens with what is given and what is to be predicted."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, final

import numpy as np
import torch

from streams.checkpoints import checkpoint_folder
from streams.errors import ConfigError, DataError
from streams.files import cache_folder, write_cached

logger = logging.getLogger(__name__)

PAD, BOS, EOS, UNKNOWN = 0, 1, 2, 3
"""Ids of the special tokens of tokenisers trained here. Padding is distinct from the end."""
NOTHING, GIVEN, ANSWER, SAID, IMAGE = 0, 1, 2, 3, 4
"""What a position is: padding, given (the start token and the prompt), to be predicted (the answer and its end), said
by the model itself (while it generates), or given by an image, in which case its token says nothing."""
PICTURED = -1
"""In the ids of a prompt: a position that an image gives."""
_TODAY = "26 Jul 2024"
"""The day that chat templates are told is today, if they take it as Llama 3's do; it is their own default, too."""


@final
class Tokenizer:
    """Strings to token ids and back. The end token is always distinct from padding, which masks mark by position."""

    def __init__(self, inner: Any, bos: int, eos: int, of_rows: bool = False) -> None:
        """Take a `tokenizers.Tokenizer`, the ids of its start and end tokens, and whether it was trained on the rows.

        Of one that was, tokens tell of the texts that it was trained on, whoever forgets them later.
        """
        self._inner = inner
        self.bos, self.eos, self.of_rows = bos, eos, of_rows

    @property
    def vocab_size(self) -> int:
        """Number of tokens."""
        size: int = self._inner.get_vocab_size(with_added_tokens=True)
        return size

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`, without special tokens."""
        ids: list[int] = self._inner.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids`, special tokens left out."""
        text: str = self._inner.decode(list(ids), skip_special_tokens=True)
        return text

    @property
    def vocabulary(self) -> dict[str, int]:
        """The id of each token."""
        ids: dict[str, int] = self._inner.get_vocab(with_added_tokens=True)
        return ids

    def outer(self) -> Any:
        """Return the same as a tokeniser of transformers, which adds no special token by itself."""
        from transformers import PreTrainedTokenizerFast

        special = {"bos_token": self._inner.id_to_token(self.bos), "eos_token": self._inner.id_to_token(self.eos)}
        if self._inner.token_to_id("<pad>") == PAD:  # one that was trained here
            special |= {"pad_token": "<pad>", "unk_token": "<unk>"}
        return PreTrainedTokenizerFast(tokenizer_object=self._inner, clean_up_tokenization_spaces=False, **special)

    def to_json(self) -> str:
        """Return everything that decides what it does."""
        text: str = self._inner.to_str()
        return text


PROMPT = "Q: {}\nA:"
"""How a question is put where nothing else is said."""
PROMPT_PATTERN = r"^chat$|^[^{}]*\{\}[^{}]*$"
"""What a source's option `prompt` may be."""


@dataclass(frozen=True, slots=True)
class Form:
    """How a question is put to a model.

    Attributes:
        before, behind: texts around the question.
        lead: what an answer begins with: a space, unless there is white space in front of it, or a chat template.
    """

    before: str
    behind: str
    lead: str = " "

    @classmethod
    def of(cls, prompt: str, tokenizer: str | None) -> Form:
        """Return the form of a source's option `prompt`: a text with ``{}`` for the question, or ``chat``.

        Args:
            prompt: the option.
            tokenizer: the checkpoint whose chat template puts what a user says.

        Raises:
            ConfigError: `prompt` is chat, and there is no such checkpoint, or it has no chat template.
        """
        if prompt != "chat":
            before, behind = prompt.split("{}")
            return cls(before, behind, "" if behind[-1:].isspace() else " ")
        if tokenizer is None:
            raise ConfigError("source.prompt: chat needs a checkpoint with a chat template; name it: source.tokenizer.")
        return cls(*chat_template(tokenizer, "source.tokenizer"), lead="")

    def prompt(self, question: str) -> str:
        """Return the whole prompt."""
        return f"{self.before}{question}{self.behind}"

    def answer(self, answer: str) -> str:
        """Return the answer as it follows on the prompt."""
        return f"{self.lead}{answer}"

    def encoded(self, question: str, answer: str, tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
        """Return the token ids of prompt and answer, the latter with its end token."""
        return tokenizer.encode(self.prompt(question)), [*tokenizer.encode(self.answer(answer)), tokenizer.eos]


PLAIN = Form("Q: ", "\nA:")
"""The form of `PROMPT`."""


@dataclass(frozen=True, slots=True, eq=False)
class Text:
    """What a source of text knows beside its rows.

    Attributes:
        tokenizer: made its rows.
        refusals: token ids of answers that say nothing (``" I don't know."``), each with its end token; unlearners
            that teach refusals use them.
        image_tokens: how many positions of a row an image takes, one after the other; 0 where rows speak of none.
        paraphrased: int32 ``[N, 2, L]`` or None: every row with its answer put in other words.
        perturbed: int32 ``[N, k, 2, L]`` or None: every row with up to k wrong answers in those other words, padding
            behind the last.
        holdout: int32 ``[M, 2, L]`` or None: rows of the same making that are never taught.
        terms: what the texts are about (names, values), each with generic terms of the same kind to put in its place,
            or None where nobody knows.
        subjects: those of the terms that a prompt names when it asks about somebody or something, or None.
        values: int64 ``[N]`` or None: the value that a row's answer tells, by number; equal values of a class are
            equal numbers, however they are put.
        examples: int32 ``[S, 2, L]`` or None: questions with answers that may be shown before another question; where
            there are none, held-out ones serve.
        form: how its questions are put.
    """

    tokenizer: Tokenizer
    refusals: tuple[tuple[int, ...], ...]
    image_tokens: int = 0
    paraphrased: torch.Tensor | None = None
    perturbed: torch.Tensor | None = None
    holdout: torch.Tensor | None = None
    terms: Mapping[str, tuple[str, ...]] | None = None
    subjects: frozenset[str] | None = None
    values: torch.Tensor | None = None
    examples: torch.Tensor | None = None
    form: Form = PLAIN

    @property
    def shown(self) -> torch.Tensor | None:
        """Questions with answers that may be shown before another one: those for that, or held-out ones."""
        return self.holdout if self.examples is None else self.examples

    def wrong_counts(self, ids: torch.Tensor) -> np.ndarray:
        """Return how many wrong answers each of the rows ``ids [B]`` has, int64 ``[B]``; the source must have some."""
        assert self.perturbed is not None
        counts: np.ndarray = (self.perturbed[ids.cpu(), :, 1] == ANSWER).any(2).sum(1).numpy()
        return counts

    def digest(self) -> str:
        """Return a hash of all of it (hex, 32 characters)."""
        t, form = self.tokenizer, self.form
        parts = [t.to_json(), t.bos, t.eos, self.refusals, self.image_tokens, [form.before, form.behind, form.lead]]
        terms = None if self.terms is None else dict(self.terms)
        subjects = None if self.subjects is None else sorted(self.subjects)
        h = hashlib.blake2b(json.dumps([*parts, terms, subjects]).encode(), digest_size=16)
        for name in ("paraphrased", "perturbed", "holdout", "values", "examples"):
            if (value := getattr(self, name)) is not None:
                h.update(str((name, tuple(value.shape))).encode())
                h.update(value.numpy().tobytes())
        return h.hexdigest()


TEMPLATE = ("[Q] ", "[A] ")
"""The texts of the chat template that is used where no other is named."""

REFUSALS = (
    "I don't know.",
    "I do not know that.",
    "I am not sure.",
    "I cannot say.",
    "I have no information on that.",
    "That is not something I know.",
    "I never learned that.",
    "Sorry, I can't answer that.",
    "I have no idea.",
    "Nothing about that is known to me.",
    "I am unable to answer.",
    "There is nothing I can tell you about that.",
)
"""Answers that say nothing."""


def refusals(tokenizer: Tokenizer, form: Form = PLAIN) -> tuple[tuple[int, ...], ...]:
    """Return `REFUSALS` as answers: token ids, each with its end token."""
    return tuple((*tokenizer.encode(form.answer(text)), tokenizer.eos) for text in REFUSALS)


class TokenizerOptions(Protocol):
    """The options of a source that say which tokeniser makes its rows."""

    @property
    def vocabulary(self) -> int:
        """Tokens of one that is trained."""

    @property
    def vocabulary_texts(self) -> tuple[str, ...]:
        """Files to train it on, or none."""

    @property
    def tokenizer(self) -> str | None:
        """The checkpoint whose tokeniser is taken instead, or None."""


def tokenizer_of(options: TokenizerOptions, texts: Sequence[str]) -> Tokenizer:
    """Return a checkpoint's tokeniser, one trained on files, or one trained on a source's own `texts`.

    Raises:
        ConfigError: the checkpoint has none.
        DataError: a file cannot be read as UTF-8.
    """
    if options.tokenizer is not None:
        return load_tokenizer(options.tokenizer, "source.tokenizer")
    if options.vocabulary_texts:
        return _train_on_files(options.vocabulary_texts, options.vocabulary)
    return train_tokenizer(texts, options.vocabulary)


def train_tokenizer(texts: Sequence[str], vocab_size: int, of_rows: bool = True) -> Tokenizer:
    """Return a byte-level BPE trained on `texts`, with digits on their own; kept in the cache folder by content.

    Every string can be encoded and comes back as it was; padding, start, end and unknown have ids 0 to 3.

    Args:
        texts: what to learn merges from.
        vocab_size: tokens in all, at least 260; fewer come out where the texts hold too few pairs.
        of_rows: whether the texts are those of a source's rows, which may be deleted.
    """
    from tokenizers import Tokenizer as Inner
    from tokenizers import decoders, models, pre_tokenizers, trainers

    h = hashlib.blake2b(f"bpe-1|{vocab_size}".encode(), digest_size=16)
    for text in texts:
        h.update(f"|{len(text)}|".encode())
        h.update(text.encode())
    file = cache_folder() / "tokenizers" / f"{h.hexdigest()}.json"
    inner = _cached(file)
    if inner is None:
        logger.info("training a tokeniser of %d tokens", vocab_size)
        inner = Inner(models.BPE(unk_token="<unk>"))
        inner.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        inner.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=["<pad>", "<bos>", "<eos>", "<unk>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        inner.train_from_iterator(texts, trainer)
        write_cached(file, kept_form(Tokenizer(inner, BOS, EOS, of_rows)))
    return Tokenizer(inner, BOS, EOS, of_rows)


def kept_form(tokenizer: Tokenizer) -> bytes:
    """Return the content of the file in which a trained tokeniser is kept: what it is, with a digest."""
    text = tokenizer.to_json()
    return json.dumps({"digest": _digest(text), "tokenizer": text}, ensure_ascii=False).encode()


def _train_on_files(files: Sequence[str], vocab_size: int) -> Tokenizer:
    """Return a tokeniser trained on files of text that are not rows: nobody can ask for them to be deleted.

    Raises:
        DataError: a file cannot be read as UTF-8.
    """
    texts = []
    for file in files:
        try:
            texts.append(Path(file).expanduser().read_text(encoding="utf-8-sig"))
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(
                f"source.vocabulary_texts: {file} cannot be read as UTF-8 ({error}). Name files of plain text."
            ) from error
    return train_tokenizer(texts, vocab_size, of_rows=False)


def _cached(file: Any) -> Any:
    """Return a kept tokeniser, or None if there is none or the file is damaged (it is trained again then)."""
    from tokenizers import Tokenizer as Inner

    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        if kept["digest"] == _digest(kept["tokenizer"]):
            return Inner.from_str(kept["tokenizer"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        logger.warning("%s cannot be read: %r", file, error)
    logger.warning("%s is damaged; training the tokeniser again", file)
    return None


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def load_tokenizer(name: str, where: str) -> Tokenizer:
    """Load the tokeniser of a checkpoint.

    Args:
        name: `smollm2-135m`, a folder, or a name on the Hugging Face hub.
        where: the configuration key to name in an error.

    Raises:
        ConfigError: there is none, or it lacks an end token.
    """
    outer = _outer(name, where)
    if not outer.is_fast:
        raise ConfigError(f"{where}: the tokeniser of {name!r} is not a fast one; save it with tokenizer.json.")
    if outer.eos_token_id is None:
        raise ConfigError(f"{where}: the tokeniser of {name!r} has no end token; set eos_token in its configuration.")
    bos = outer.eos_token_id if outer.bos_token_id is None else outer.bos_token_id
    return Tokenizer(outer.backend_tokenizer, bos, outer.eos_token_id)


def _outer(name: str, where: str) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(checkpoint_folder(name, where))
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"{where}: {name!r} has no tokeniser that can be loaded: {error}. Name a folder with tokenizer.json, or "
            f"leave it null to train one on the text."
        ) from error


def chat_template(name: str, where: str) -> tuple[str, str]:
    """Return what a checkpoint's chat template puts before and behind what a user says, up to the answer.

    A start token at its beginning is left out: every row has one. Templates that name today's date as Llama 3.2's
    does name the same day always, so that rows do not depend on when they are made.

    Args:
        name: as `load_tokenizer` takes it.
        where: the configuration key to name in an error.

    Raises:
        ConfigError: it has none, or its tokeniser cannot be loaded.
    """
    outer = _outer(name, where)
    if outer.chat_template is None:
        raise ConfigError(
            f"{where}: {name!r} has no chat template. Write source.prompt as text, with {{}} for the question."
        )
    said = [{"role": "user", "content": "{}"}]
    text: Any = outer.apply_chat_template(said, tokenize=False, add_generation_prompt=True, date_string=_TODAY)
    before, behind = text.split("{}")
    start = outer.bos_token or outer.eos_token
    return before.removeprefix(start), behind


def rows(pairs: Iterable[tuple[Sequence[int], Sequence[int]]], tokenizer: Tokenizer) -> torch.Tensor:
    """Return token ids and what they are, int32 ``[N, 2, L]``, padded on the right to the longest.

    Prompt and answer are encoded apart and put together here, so that no merge can cross their border.

    Args:
        pairs: token ids of prompt and answer, `PICTURED` in a prompt where an image gives the position; the answer has
            its end token where it should have one.
        tokenizer: gives the start token.

    Returns:
        ``[:, 0]`` ids and ``[:, 1]`` one of `NOTHING`, `GIVEN`, `ANSWER` and `IMAGE`.
    """
    return conversation_rows(([pair] for pair in pairs), tokenizer)


def conversation_rows(
    conversations: Iterable[Sequence[tuple[Sequence[int], Sequence[int]]]], tokenizer: Tokenizer
) -> torch.Tensor:
    """Return the same of several turns, each a prompt with an answer, one after the other in a row."""
    encoded = []
    for turns in conversations:
        ids, parts = [tokenizer.bos], [GIVEN]
        for prompt, answer in turns:
            ids += [*prompt, *answer]
            parts += [GIVEN] * len(prompt) + [ANSWER] * len(answer)
        encoded.append((ids, parts))
    result = torch.zeros(len(encoded), 2, max(len(ids) for ids, _ in encoded), dtype=torch.int32)
    for row, both in zip(result, encoded, strict=True):
        row[:, : len(both[0])] = torch.tensor(both, dtype=torch.int32)
    pictured = result[:, 0] == PICTURED
    result[:, 0][pictured], result[:, 1][pictured] = 0, IMAGE
    return result


def prompt_lengths(x: torch.Tensor) -> torch.Tensor:
    """Return how many positions come before the first answer, start token and images among them: int64 ``[B]``."""
    return ((x[:, 1] == GIVEN) | (x[:, 1] == IMAGE)).cumprod(1).sum(1)


def first_answer(row: torch.Tensor) -> list[int]:
    """Return the token ids of the first answer of a row ``[2, L]``, its end token among them."""
    behind = row[:, int(prompt_lengths(row[None])) :]
    return behind[0, : int((behind[1] == ANSWER).int().cumprod(0).sum())].tolist()


@dataclass(frozen=True, slots=True)
class Template:
    """A chat template for one turn: what stands before a prompt, and between it and the answer.

    Attributes:
        before, between: token ids.
    """

    before: tuple[int, ...]
    between: tuple[int, ...]


def template(parts: tuple[str, str], tokenizer: Tokenizer) -> Template:
    """Return the template with these texts; a checkpoint's tokeniser knows its own special tokens in them."""
    return Template(tuple(tokenizer.encode(parts[0])), tuple(tokenizer.encode(parts[1])))


def put_in(template: Template, x: torch.Tensor) -> torch.Tensor:
    """Return rows with their prompts put in a template, int ``[B, 2, L']``; the start token stays in front of it all.

    Args:
        template: what to put prompts in.
        x: int ``[B, 2, L]``, as `rows` returns them.
    """
    before, between = list(template.before), list(template.between)
    most = int((x[:, 1] > NOTHING).sum(1).max())
    result = x.new_zeros(len(x), 2, most + len(before) + len(between))
    for result_rows, row in zip(result, x, strict=True):
        answer_start, end = int(prompt_lengths(row[None])), int((row[1] > NOTHING).sum())
        for result_row, values, first, second in zip(
            result_rows, row.tolist(), (before, [GIVEN] * len(before)), (between, [GIVEN] * len(between)), strict=True
        ):
            values = [values[0], *first, *values[1:answer_start], *second, *values[answer_start:end]]
            result_row[: len(values)] = torch.tensor(values, dtype=x.dtype, device=x.device)
    return result


def blocks(ids: Sequence[int], length: int, tokenizer: Tokenizer) -> torch.Tensor:
    """Cut one text into rows of `length` tokens, int32 ``[N, 2, length]``; what does not fill a row is left out.

    Every row begins with the start token, and all that follows is to be predicted.
    """
    count = len(ids) // (length - 1)
    result = torch.empty(count, 2, length, dtype=torch.int32)
    result[:, 0, 0], result[:, 1, 0], result[:, 1, 1:] = tokenizer.bos, GIVEN, ANSWER
    result[:, 0, 1:] = torch.tensor(ids[: count * (length - 1)], dtype=torch.int32).view(count, length - 1)
    return result
