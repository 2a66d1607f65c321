"""Questions and answers in files: objects of JSON whose fields are called as TOFU calls them, read and written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from streams.errors import ConfigError, DataError
from streams.files import write_atomically
from streams.source import Source
from streams.text import ANSWER, GIVEN


@dataclass(frozen=True, slots=True)
class Located:
    """An object of a file.

    Attributes:
        where: how messages name it.
        fields: what it says.
    """

    where: str
    fields: Mapping[str, Any]

    def text(self, field: str, option: str, needed: bool = True) -> str:
        """Return a text; the empty one if the field is not there, or null, and need not be.

        Args:
            field: its name.
            option: the key of the configuration that says so.
            needed: whether it must be there.

        Raises:
            DataError: it is no text, or it is not there.
        """
        if self.fields.get(field) is None and not needed:
            return ""
        value = self._value(field, option)
        if not isinstance(value, str) or not value.strip():
            raise DataError(f"{self.where}: {field!r} is {value!r}, no text. Write some, or leave the object out.")
        return value.strip()

    def texts(self, field: str, option: str) -> tuple[str, ...]:
        """Return a list of texts; none if the field is not there, or null.

        Raises:
            DataError: it is no list of texts.
        """
        value = self.fields.get(field)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(v, str) and v.strip() for v in value):
            raise DataError(f"{self.where}: {field!r} is {value!r}, no list of texts. See source.{option}.")
        return tuple(v.strip() for v in value)

    def name(self, field: str, option: str) -> str:
        """Return a text or a number as a name.

        Raises:
            DataError: it is neither, or it is not there.
        """
        value = self._value(field, option)
        if not isinstance(value, str | int | float) or not str(value).strip():
            raise DataError(f"{self.where}: {field!r} is {value!r}. Write a text or a number.")
        return str(value).strip()

    def _value(self, field: str, option: str) -> Any:
        if field not in self.fields:
            available = ", ".join(self.fields) or "none"
            raise DataError(f"{self.where}: has no field {field!r} (source.{option}). Its fields: {available}.")
        return self.fields[field]


def read(path: Path, shape: str = '{"question": ..., "answer": ...}') -> list[Located]:
    """Return the objects of a file, one per line or all in one list.

    Args:
        path: the file.
        shape: what an object looks like, for messages.

    Raises:
        DataError: the file is missing, empty or not UTF-8, or something in it is not an object.
    """
    try:
        content = path.expanduser().read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(f"{path}: there is no such file (paths start at {Path.cwd()}).") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: cannot be read as UTF-8 ({error}). Name a file of JSON, one object per line."
        ) from error
    if not content.strip():
        raise DataError(f"{path}: is empty. It needs one object per line, or a list of them.")
    if content.lstrip().startswith("["):
        objects = [(f"{path}, object {i}", o) for i, o in enumerate(_parsed(content, path, 0), 1)]
    else:
        lines = [(i, line) for i, line in enumerate(content.split("\n")) if line.strip()]
        objects = [(f"{path}, line {i + 1}", _parsed(line, path, i)) for i, line in lines]
    for where, value in objects:
        if not isinstance(value, dict):
            raise DataError(f"{where}: is no object. Write {shape}.")
    if not objects:
        raise DataError(f"{path}: holds an empty list. It needs objects such as {shape}.")
    return [Located(where, value) for where, value in objects]


def _parsed(text: str, path: Path, before: int) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        line = before + (error.lineno if isinstance(error, json.JSONDecodeError) else 1)
        raise DataError(f"{path}, line {line}: is not JSON ({error}). Mend the line, or take it away.") from error


def write(source: Source, folder: Path) -> tuple[Path, ...]:
    """Write a source's questions to ``questions.jsonl``, and the held-out ones to ``holdout.jsonl``.

    Every training row is an object: TOFU's fields, and user, class and domain. The source `questions` reads them back
    by ``{files: [questions.jsonl], holdout: [holdout.jsonl], user: user, label: class, domain: domain}``.

    Args:
        source: one whose rows are questions in plain text.
        folder: is made if it is not there.

    Returns:
        The files.

    Raises:
        ConfigError: the source has no such rows.
    """
    text = source.text
    if text is None or text.image_tokens:
        raise ConfigError(f"source: {source.name!r} has no questions in text. Use one that has them (people).")
    question_pairs = [_parts(row, source) for row in source.x]
    domains = np.zeros(len(source), dtype=np.int64) if source.domain_ids is None else source.domain_ids
    names = source.domain_names or tuple(f"domain-{d}" for d in range(int(domains.max()) + 1))
    owner = [(u, c, a) for u, c, (_, a) in zip(source.user_ids, source.class_ids, question_pairs, strict=True)]
    counts = [0] * len(source) if text.perturbed is None else text.wrong_counts(torch.arange(len(source))).tolist()
    objects = []
    test = dict[Any, str]()
    for i in reversed(range(len(source))):  # what tests a question follows it
        if source.is_test[i]:
            test[owner[i]] = question_pairs[i][0]
            continue
        fields: dict[str, Any] = {"question": question_pairs[i][0], "answer": question_pairs[i][1]}
        if test.get(owner[i], question_pairs[i][0]) != question_pairs[i][0]:
            fields["paraphrased_question"] = test[owner[i]]
        if text.paraphrased is not None:
            fields["paraphrased_answer"] = _parts(text.paraphrased[i], source)[1]
        if text.perturbed is not None:
            wrong = [_parts(row, source)[1] for row in text.perturbed[i][: counts[i]]]
            fields["perturbed_answer"] = list(dict.fromkeys(wrong))
        fields |= {
            "user": source.user_names[source.user_ids[i]],
            "class": source.class_names[source.class_ids[i]],
            "domain": names[domains[i]],
        }
        objects.append(fields)
    files = {"questions": objects[::-1]}
    if text.holdout is not None and len(text.holdout):
        pairs = [_parts(row, source) for row in text.holdout]
        files["holdout"] = [{"question": q, "answer": a} for q, a in pairs]
    for name, rows in files.items():
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_atomically(folder / f"{name}.jsonl", lines.encode())
    return tuple(folder / f"{name}.jsonl" for name in files)


def _parts(row: torch.Tensor, source: Source) -> tuple[str, str]:
    """Return the question and the answer of a row."""
    assert source.text is not None
    prompt, answer = (source.text.tokenizer.decode(row[0][row[1] == part].tolist()) for part in (GIVEN, ANSWER))
    form = source.text.form
    if not (prompt.startswith(form.before) and prompt.endswith(form.behind)):
        raise ConfigError(f"source: {source.name!r} is not made of questions. Use one that is (people).")
    return prompt.removeprefix(form.before).removesuffix(form.behind), answer.strip()
