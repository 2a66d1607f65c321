"""MUSE's News or Books from its folder: texts to learn and forget, folds, and questions that are never taught.

The folder is laid out as MUSE has it (Shi et al. 2024, arXiv 2407.06460): ``raw/`` with forget, retain1, retain2 and
holdout, ``sust/`` with forget_1, forget_2 ..., ``knowmem/`` with forget_qa, retain2_qa (or retain_qa) and examples in
forget_qa_icl. A file of texts is .txt, or .json with objects that have a ``text``; one of questions is .json with
``question`` and ``answer``.

A user is a file of texts (forget, or fold-1, fold-2 ..., retain1, retain2), a class says whether it is one of those to
forget, and a question belongs to the user that it is about; those about forget belong to the first fold. Texts are cut
into rows, of which a last short one is left out, where MUSE fills it up. The held-out text is for membership attacks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field

from streams.config import Config as BaseConfig
from streams.errors import DataError
from streams.question_files import read
from streams.source import Source
from streams.text import (
    PROMPT_PATTERN,
    Form,
    Text,
    Tokenizer,
    blocks,
    refusals,
    rows,
    tokenizer_of,
)


class Config(BaseConfig):
    """Options of `muse`."""

    path: str
    """The folder, such as ``data/bbc`` of MUSE's repository."""
    requests: Literal["forget", "sust"] = "forget"
    """forget: raw/forget is one user. sust: every fold in ``sust/`` is one, as for MUSE's sustainability; the first is
    raw/forget."""
    length: int = Field(256, ge=8)
    """Tokens of a row, the start token among them. MUSE has 2,048."""
    rows: int | None = Field(None, ge=1)
    """At most so many rows of each file, its first ones; null takes all."""
    questions: int = Field(100, ge=0)
    """At most so many questions of each file, its first ones."""
    prompt: str = Field("Question: {}\nAnswer:", pattern=PROMPT_PATTERN)
    """How a question is put; ``{}`` stands for it. chat: by the chat template of `tokenizer`. The answer begins with a
    space, which MUSE's code has in the prompt."""
    vocabulary: int = Field(4096, ge=320)
    """Tokens of the tokeniser that is trained on the texts that are taught."""
    vocabulary_texts: tuple[str, ...] = ()
    """Files of text to train the tokeniser on instead, public or never to be deleted: else words of what is deleted may
    stay tokens."""
    tokenizer: str | None = None
    """A checkpoint's tokeniser in its place (folder or name on the hub), for models that have one."""


FORGET, RETAIN = 0, 1
"""Classes."""


def load(config: Config) -> Source:
    """Return texts and questions, int32 ``x [N, 2, L]`` (tokens, and what they are), ``y`` the class.

    Raises:
        ConfigError: the tokeniser cannot be had.
        DataError: a file is missing, or no text or JSON, or a text fills no row.
    """
    root = Path(config.path).expanduser()
    if not root.is_dir():
        raise DataError(f"source.path: {config.path!r} is no folder. Name one that holds raw/ and knowmem/.")
    taught = {name: _text(file) for name, file in _taught_files(root, config).items()}
    tokenizer = tokenizer_of(config, list(taught.values()))
    form = Form.of(config.prompt, config.tokenizer)
    users = list(taught)
    parts, user_ids, is_test = [], [], []
    for user, text in enumerate(taught.values()):
        parts.append(_rows(text, users[user], config, tokenizer))
        user_ids += [user] * len(parts[-1])
        is_test += [False] * len(parts[-1])
    for user, name in ((0, "forget"), (len(users) - 1, "retain")):
        asked = _questions(root, name, "qa", form, tokenizer)[: config.questions]
        parts.append(rows(asked, tokenizer))
        user_ids += [user] * len(asked)
        is_test += [True] * len(asked)
    examples = rows(_questions(root, "forget", "qa_icl", form, tokenizer), tokenizer)
    holdout = _rows(_text(_file(root / "raw" / "holdout")), "holdout", config, tokenizer)
    x, holdout, examples = _padded([torch.cat(_padded(parts)), holdout, examples])
    classes = np.array([RETAIN if users[u].startswith("retain") else FORGET for u in user_ids], dtype=np.int64)
    return Source(
        name="muse",
        licence=f"as {root.name} of MUSE says",
        x=x,
        y=torch.from_numpy(classes.copy()),
        class_ids=classes,
        user_ids=np.array(user_ids, dtype=np.int64),
        is_test=np.array(is_test),
        class_names=("forget", "retain"),
        user_names=tuple(users),
        notes=(f"rows of {config.length} tokens; {', '.join(users)}",),
        text=Text(tokenizer, refusals(tokenizer, form), holdout=holdout, examples=examples, form=form),
    )


def _taught_files(root: Path, config: Config) -> dict[str, Path]:
    """Return the files of texts that are taught, by the user that each is."""
    raw = root / "raw"
    if config.requests == "forget":
        forget = {"forget": _file(raw / "forget")}
    else:
        folds = sorted({f.stem for f in (root / "sust").glob("forget_*")}, key=lambda n: int(n.rpartition("_")[2]))
        if not folds:
            raise DataError(f"source.requests: {root / 'sust'} has no forget_1, forget_2 ... Set requests: forget.")
        forget = {f"fold-{n.rpartition('_')[2]}": _file(root / "sust" / n) for n in folds}
    return forget | {name: _file(raw / name) for name in ("retain1", "retain2")}


def _file(stem: Path) -> Path:
    for ending in (".json", ".jsonl", ".txt"):
        if (file := stem.with_name(stem.name + ending)).is_file():
            return file
    raise DataError(f"{stem}: there is neither a .json nor a .txt file of that name. See MUSE's data folder.")


def _text(file: Path) -> str:
    """Return what a file says, its texts one after the other."""
    if file.suffix == ".txt":
        try:
            return file.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(f"{file}: is not UTF-8 ({error}). Convert it.") from error
    return "\n\n".join(located.text("text", "path") for located in read(file))


def _rows(text: str, name: str, config: Config, tokenizer: Tokenizer) -> torch.Tensor:
    letters = None if config.rows is None else 12 * config.length * config.rows  # a token rarely has more than ten
    cut = blocks(tokenizer.encode(text[:letters]), config.length, tokenizer)[: config.rows]
    if not len(cut):
        raise DataError(f"{name}: its text fills no row of {config.length} tokens. Lower source.length, or add text.")
    return cut


def _questions(
    root: Path, about: str, kind: str, form: Form, tokenizer: Tokenizer
) -> list[tuple[list[int], list[int]]]:
    """Return prompts and answers; MUSE calls the questions about what is kept retain_qa or retain2_qa."""
    folder = root / "knowmem"
    names = (f"{about}_{kind}", f"{about}2_{kind}")
    stem = next((n for n in names if (folder / f"{n}.json").is_file()), names[0])
    pairs = [(q.text("question", "path"), q.text("answer", "path")) for q in read(_file(folder / stem))]
    return [form.encoded(question, answer, tokenizer) for question, answer in pairs]


def _padded(parts: list[torch.Tensor]) -> list[torch.Tensor]:
    longest = max(part.shape[2] for part in parts)
    return [F.pad(part, (0, longest - part.shape[2])) for part in parts]
