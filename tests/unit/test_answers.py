"""Records of answers and what is made of them, against numbers by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from lifelong.evaluation.outputs import Outputs
from lifelong.formulas.language import harmonic_mean, priv_leak
from lifelong.metrics.answers import attack_auc, gap_rows, record_rows, request_rows, sides_of
from lifelong.models import tiny_llama
from strategies.objectives._answers import Answers, AnswersConfig
from strategies.objectives.causal_lm import CausalLM
from strategies.parts.model import FlatModel
from strategies.parts.text.generation import Predict, greedy
from strategies.parts.text.scores import (
    exact_memorisation,
    extraction_strength,
    min_k,
    normalised,
    porter,
    rouge_l,
    truth_ratio,
    words,
)
from streams.config import parse
from streams.data import Batch
from streams.randomness import Key, seeded_globals
from streams.text import ANSWER, BOS, EOS, GIVEN, Text, Tokenizer, refusals, train_tokenizer

V = 5


def answers_of(text: Text) -> Answers:
    return Answers(text, CausalLM(V, text).responses)


def records_of(predict: Predict, batch: Batch, text: Text) -> dict[str, np.ndarray]:
    return answers_of(text).records(predict, batch)


class Plain:
    """A tokeniser whose tokens are letters."""

    bos, eos, vocab_size = BOS, EOS, V

    def decode(self, ids: list[int]) -> str:
        return " ".join("abcdefgh"[i] for i in ids if i not in (0, BOS, EOS))


def a_row(prompt: list[int], answer: list[int], length: int) -> torch.Tensor:
    x = torch.zeros(2, length, dtype=torch.int32)
    ids = [BOS, *prompt, *answer, EOS]
    x[0, : len(ids)] = torch.tensor(ids)
    x[1, : 1 + len(prompt)], x[1, 1 + len(prompt) : len(ids)] = GIVEN, ANSWER
    return x


def make_batch(*rows: torch.Tensor) -> Batch:
    return Batch(torch.arange(len(rows)), torch.stack(rows), torch.zeros(len(rows), dtype=torch.long))


def table(batch: Batch) -> torch.Tensor:
    """A model that looks at the last token only: its logits are rows of one table."""
    generator = torch.Generator().manual_seed(3)
    rows = 2 * torch.randn(V, V, generator=generator)
    length = int((batch.x[:, 1] > 0).sum(1).max())
    return rows[batch.x[:, 0, :length].long()]


TEXT = Text(tokenizer=Plain(), refusals=())  # type: ignore[arg-type]


def test_records_by_hand() -> None:
    batch = make_batch(a_row([3], [4, 3, 4], 8), a_row([4, 4], [3], 8))
    found = records_of(table, batch, TEXT)
    log_p = table(batch).log_softmax(2)
    steps = [[(1, 4), (2, 3), (3, 4), (4, EOS)], [(2, 3), (3, EOS)]]
    for i, positions in enumerate(steps):
        own = np.array([float(log_p[i, t, token]) for t, token in positions])
        assert found["loss"][i] == pytest.approx(-own.mean(), rel=1e-5)
        assert found["probability"][i] == pytest.approx(math.exp(own.mean()), rel=1e-5)
        hits = np.array([int(log_p[i, t].argmax()) == token for t, token in positions[:-1]])
        assert found["exact_memorisation"][i] == pytest.approx(hits.mean())
        lowest = np.sort(own[:-1])[: max(1, int(0.4 * len(hits)))]
        assert found["min_k"][i] == pytest.approx(-lowest.mean(), rel=1e-5)
        units = []
        for t, token in positions[:-1]:
            p = log_p[i, t].exp()
            mean = float((p * log_p[i, t]).sum())
            variance = float((p * (log_p[i, t] - mean).square()).sum())
            units.append((float(log_p[i, t, token]) - mean) / math.sqrt(variance))
        lowest = np.sort(units)[: max(1, int(0.4 * len(units)))]
        assert found["min_k_plus_plus"][i] == pytest.approx(-lowest.mean(), rel=1e-3)
    assert "truth_ratio" not in found


def test_the_fixture_of_four_words() -> None:
    """Probabilities that are powers of two: every number can be worked out on paper."""
    batch = make_batch(a_row([3], [3, 0, 3], 6))
    likely = {3: [1 / 8, 1 / 8, 1 / 4, 1 / 2], 0: [1 / 4, 1 / 2, 1 / 8, 1 / 8], EOS: [1 / 8, 1 / 8, 1 / 2, 1 / 4]}
    said = torch.tensor([[0.25] * 4, *(likely[t] for t in (3, 0, 3, EOS)), [0.25] * 4]).log().unsqueeze(0)
    found = {name: float(v[0]) for name, v in records_of(lambda _: said, batch, TEXT).items()}
    bit = math.log(2)
    assert found["loss"] == pytest.approx(5 / 4 * bit, abs=1e-6)  # 1, 2, 1 and 1 bits, the end counted
    assert found["probability"] == pytest.approx(2**-1.25, abs=1e-6)
    assert found["exact_memorisation"] == pytest.approx(2 / 3, abs=1e-6)  # from here on without the end
    assert found["extraction_strength"] == pytest.approx(1 / 3, abs=1e-6)
    assert found["min_k"] == pytest.approx(2 * bit, abs=1e-6)  # the least likely one of three
    # log p has mean -1.75 bits and variance 3.75 - 1.75^2 = 0.6875 at every position.
    assert found["min_k_plus_plus"] == pytest.approx(0.25 / math.sqrt(0.6875), abs=1e-6)


def test_records_and_text_of_a_transformer_depend_on_neither_batch_nor_padding() -> None:
    with seeded_globals(Key(0)):
        sizes = {"width": 16, "inner": 24, "heads": 2, "tied": False}
        model = FlatModel(tiny_llama.build(parse(tiny_llama.Config, sizes), (2, 20), 8))
    model.parameters.mul_(4)  # far from uniform
    model.train(False)

    def predict(batch: Batch) -> torch.Tensor:
        return model(batch.x)

    rows = ([3, 4, 5], [4, 3, 4]), ([6], [7, 3]), ([5, 5, 6, 7, 3], [3])
    batch = make_batch(*(a_row(*r, 12) for r in rows))
    longer = make_batch(*(a_row(*r, 20) for r in rows))
    found, padded = (records_of(predict, b, TEXT) for b in (batch, longer))
    texts = greedy(predict, batch, Plain())  # type: ignore[arg-type]
    assert len(set(texts)) > 1
    for i, r in enumerate(rows):
        alone = make_batch(a_row(*r, 12))
        own = records_of(predict, make_batch(a_row(*r, 2 + len(r[0]) + len(r[1]))), TEXT)  # nothing is padded
        for name, values in own.items():
            assert found[name][i] == pytest.approx(values[0], rel=1e-5, abs=1e-5), name
            assert padded[name][i] == pytest.approx(values[0], rel=1e-5, abs=1e-5), name
        assert greedy(predict, alone, Plain()) == [texts[i]]  # type: ignore[arg-type]


def test_an_attack_that_knows_nothing_and_one_turned_round() -> None:
    members, non_members = np.array([0.1, 0.4, 0.7]), np.array([0.2, 0.5, 0.5, 0.9])
    auc = attack_auc(members, non_members)
    assert auc is not None
    assert attack_auc(non_members, members) == pytest.approx(1 - auc)
    uniform = records_of(lambda b: torch.zeros(*b.x[:, 0].shape, V), make_batch(a_row([3], [4, 3, 4], 6)), TEXT)
    for attack in ("loss", "min_k", "min_k_plus_plus"):
        assert np.isfinite(uniform[attack]).all()
        assert attack_auc(uniform[attack].repeat(5), uniform[attack].repeat(7)) == 0.5


def test_records_of_a_row_do_not_depend_on_its_batch() -> None:
    batch = make_batch(a_row([3], [4, 3, 4], 8), a_row([4, 4], [3], 8))
    both = records_of(table, batch, TEXT)
    for i in range(2):
        alone = records_of(table, batch.part(i, i + 1), TEXT)
        assert all(alone[name][0] == pytest.approx(both[name][i], rel=1e-6) for name in both)


def test_truth_ratio_and_rouge_need_other_answers() -> None:
    batch = make_batch(a_row([3], [4, 3, 4], 8), a_row([4, 4], [3], 8))
    other = torch.stack([a_row([3], [3, 3], 8), a_row([4, 4], [4], 8)])
    wrong = torch.stack([torch.stack([a_row([3], [k, 4], 8), a_row([4, 4], [k, k], 8)]) for k in (3, 4)], 1)
    found = records_of(table, batch, replace(TEXT, paraphrased=other, perturbed=wrong))
    losses = [records_of(table, replace(batch, x=x), TEXT)["loss"] for x in (other, wrong[:, 0], wrong[:, 1])]
    for i in range(2):
        expected = math.exp(losses[0][i] - (losses[1][i] + losses[2][i]) / 2)
        assert found["truth_ratio"][i] == pytest.approx(expected, rel=1e-5)
    said = greedy(table, batch, Plain())  # type: ignore[arg-type]
    true = [Plain().decode([4, 3, 4]), Plain().decode([3])]
    expected_recall = [rouge_l(words(t), words(s))[0] for t, s in zip(true, said, strict=True)]
    assert found["rouge_recall"].tolist() == pytest.approx(expected_recall)


def test_records_are_taken_that_are_asked_for() -> None:
    batch = make_batch(a_row([3], [4, 3, 4], 8), a_row([4, 4], [3], 8))
    other = torch.stack([a_row([3], [3, 3], 8), a_row([4, 4], [4], 8)])
    text = replace(TEXT, paraphrased=other, perturbed=other[:, None])
    passes: list[int] = []

    def counted(batch: Batch) -> torch.Tensor:
        passes.append(len(batch))
        return table(batch)

    def recorded(*records: Any) -> set[str]:
        passes.clear()
        config = parse(AnswersConfig, {"records": records})
        return set(Answers(text, CausalLM(V, text).responses, config).records(counted, batch))

    whole = recorded("wrong", "text")
    wrong, said = {"truth_ratio", "truth_prob", "choice"}, {"rouge_recall", "text_entropy", "text_words"}
    assert whole >= wrong | said
    assert recorded() == whole - wrong - said
    assert passes == [2]
    assert recorded("wrong") == whole - said
    assert passes == [2, 2, 2]
    assert recorded("text") == whole - wrong
    assert len(passes) >= 3  # one for the answers, then greedy text


def test_greedy_text_of_more_tokens_than_a_row_has() -> None:
    batch = make_batch(a_row([3], [4], 5), a_row([4, 4], [3], 5))
    rambling = torch.full((V, V), -9.0)
    rambling[:, 3] = 1.0

    def says(b: Batch) -> torch.Tensor:
        return rambling[b.x[:, 0, : int((b.x[:, 1] > 0).sum(1).max())].long()]

    assert greedy(says, batch, Plain()) == ["d d d", "d d"]  # type: ignore[arg-type]
    assert greedy(says, batch, Plain(), 7) == [" ".join("ddddddd")] * 2  # type: ignore[arg-type]
    assert greedy(says, batch, Plain(), 1) == ["d", "d"]  # type: ignore[arg-type]
    text = replace(TEXT, paraphrased=batch.x, perturbed=batch.x[:, None])
    found = Answers(text, CausalLM(V, text).responses, AnswersConfig(tokens=7)).records(says, batch)
    assert found["text_words"].tolist() == [7.0, 7.0]
    assert found["text_entropy"].tolist() == [0.0, 0.0]


def test_rouge_of_stems_is_that_of_its_package() -> None:
    scorer = pytest.importorskip("rouge_score.rouge_scorer", reason="pip install rouge-score")
    stem, theirs = porter(), scorer.RougeScorer(["rougeL"], use_stemmer=True)
    draw = np.random.default_rng(0)
    vocabulary = [
        "running",
        "runs",
        "ran",
        "cities",
        "city's",
        "award",
        "awarded",
        "winning",
        "the",
        "a",
        "novel",
        "novels",
        "ties",
        "tie",
        "Ünder",
        "1999",
        "flies",
    ]
    for _ in range(60):
        true, said = (" ".join(draw.choice(vocabulary, n)) for n in draw.integers(1, 12, 2))
        expected = theirs.score(true, said)["rougeL"]
        recall, f_measure = rouge_l(words(true, stem), words(said, stem))
        assert (recall, f_measure) == pytest.approx((expected.recall, expected.fmeasure), abs=1e-9)
    assert rouge_l(words("she wins awards", stem), words("she won an award", stem))[0] == pytest.approx(2 / 3)
    assert rouge_l(words("she wins awards"), words("she won an award"))[0] == pytest.approx(1 / 3)


def test_greedy_text_is_that_of_single_rows_and_ends() -> None:
    batch = make_batch(a_row([3], [4, 3, 4], 8), a_row([4, 4], [3], 8), a_row([3, 4, 3], [3], 8))
    rows = 2 * torch.randn(V, V, generator=torch.Generator().manual_seed(3))
    expected = []
    for x in batch.x:
        ids = x[0][x[1] == GIVEN].tolist()
        count = len(ids)
        while len(ids) < 8:
            ids.append(int(rows[ids[-1]].argmax()))
            if ids[-1] == EOS:
                break
        expected.append(Plain().decode(ids[count:]))
    assert greedy(table, batch, Plain()) == expected  # type: ignore[arg-type]
    alone = [greedy(table, batch.part(i, i + 1), Plain())[0] for i in range(3)]  # type: ignore[arg-type]
    assert alone == expected


def test_an_exact_answer_is_generated_where_every_token_is_right() -> None:
    def knows(batch: Batch) -> torch.Tensor:
        """Predicts the row (3 -> 4 -> 3 -> end) whatever comes."""
        length = int((batch.x[:, 1] > 0).sum(1).max())
        logits = torch.zeros(len(batch), length, V)
        for t, token in ((1, 4), (2, 3), (3, EOS)):
            if t < length:
                logits[:, t, token] = 9.0
        return logits

    batch = make_batch(a_row([3], [4, 3], 6))
    found = records_of(knows, batch, replace(TEXT, paraphrased=batch.x, perturbed=batch.x.unsqueeze(1)))
    assert found["exact_memorisation"][0] == found["extraction_strength"][0] == found["rouge_recall"][0] == 1.0
    assert found["truth_ratio"][0] == pytest.approx(1.0)


def test_memorisation_and_extraction() -> None:
    for hits, strength in (("0000", 0.0), ("0001", 0.25), ("1111", 1.0), ("1011", 0.5), ("1110", 0.0)):
        assert extraction_strength(np.array([h == "1" for h in hits])) == strength
    assert exact_memorisation(np.array([True, False])) == 0.5


def test_min_k_and_its_normalised_form() -> None:
    values = np.array([-1.0, -2.0, -3.0, -4.0, -10.0])
    assert min_k(values, 0.4) == 7.0
    assert min_k(values, 0.2) == 10.0
    assert min_k(values[:1], 0.4) == 1.0
    assert min_k(values, 1.0) == pytest.approx(-values.mean())
    uniform = np.full(3, -math.log(8))
    assert np.isfinite(normalised(uniform, uniform, np.zeros(3))).all()


def test_truth_ratio_and_rouge_fixtures() -> None:
    assert truth_ratio(1.0, [0.5, 3.0]) == pytest.approx(0.472367, abs=1e-6)
    assert rouge_l(words("the cat sat on the mat"), words("the mat"))[0] == pytest.approx(2 / 6, abs=1e-9)
    assert rouge_l(words("a b"), words("a b c d"))[1] == pytest.approx(2 / 3)
    assert rouge_l(words("a b c"), words("a b c")) == (1.0, 1.0)
    assert rouge_l(words("a b c"), words("")) == (0.0, 0.0)
    recall, f = rouge_l(words("a b c d"), words("d c b a"))
    assert 0 < recall == f < 1


def test_utility_and_privacy_fixtures() -> None:
    assert harmonic_mean([0.3] * 9) == pytest.approx(0.3)
    assert harmonic_mean([0.3, 0.0]) == 0.0
    # The usual AUC is 1 where all members are found; MUSE's is 0 there.
    assert priv_leak(1.0, 0.5) == -100.0
    assert priv_leak(0.0, 0.5) == 100.0
    assert priv_leak(0.7, 0.7) == 0.0
    assert priv_leak(0.9, 0.6) == pytest.approx(-75)
    assert priv_leak(0.9, 1.0) is None


# -- rows


@pytest.fixture
def audit() -> Any:
    class Audit:
        name = "request-0"
        forget = np.array([2, 5, 7])
        forget_test = np.array([8])

    return Audit()


DETAILED = np.array([2, 5, 7, 8])
AVERAGED = dict.fromkeys(Answers.averaged, Answers.undefined)


def outputs(seed: int, low: float) -> Outputs:
    draw = np.random.default_rng(seed)
    records = {name: draw.uniform(0.1, 1, 4) for name in ("probability", "truth_ratio", "truth_prob", "rouge_recall")}
    records |= {name: draw.uniform(0, 1, 4) for name in ("exact_memorisation", "extraction_strength")}
    for attack in ("loss", "zlib", "min_k", "min_k_plus_plus"):
        records[attack] = draw.uniform(0, 1, 4) + low
        records[f"holdout_{attack}"] = draw.uniform(2, 3, 6)
    return Outputs(np.zeros(9), np.zeros(9), records=records)


def test_rows_of_a_request(audit: Any) -> None:
    found = outputs(0, 0.0)
    rows = {r.metric: r for r in request_rows(4, "run", audit, DETAILED, found)}
    rows |= {r.metric: r for r in record_rows(4, "run", audit, DETAILED, found, AVERAGED)}
    assert rows["probability"].value == pytest.approx(found.records["probability"][:3].mean())
    ratio = found.records["truth_ratio"][:3]
    assert rows["truth_ratio"].value == pytest.approx(np.minimum(ratio, 1 / ratio).mean())
    assert rows["min_k_auc"].value == 1.0  # every member lies below every non-member
    sides = sides_of("loss", np.arange(3), np.array([], dtype=int), outputs(0, 5.0))
    assert sides is not None
    assert attack_auc(*sides) == 0.0
    nothing = Outputs(np.zeros(9), np.zeros(9))
    assert request_rows(4, "run", audit, DETAILED, nothing) == []
    assert record_rows(4, "run", audit, DETAILED, nothing, AVERAGED) == []


def test_two_copies_of_one_model_do_not_differ(audit: Any) -> None:
    rows = {
        r.metric: r.value for r in gap_rows(4, "retrained", audit, DETAILED, outputs(0, 2.0), outputs(0, 2.0), AVERAGED)
    }
    assert rows["ks_distance"] == 0.0
    assert rows["forget_quality"] == pytest.approx(1.0)
    assert rows["priv_leak"] == 0.0
    assert all(v == 0.0 for name, v in rows.items() if name.startswith("gap_"))


def test_true_positives_at_one_percent_need_many_non_members(audit: Any) -> None:
    few = {r.metric: r.value for r in request_rows(4, "run", audit, DETAILED, outputs(0, 0.0))}
    assert "loss_tpr" in few
    assert "loss_tpr_1" not in few
    found = outputs(0, 0.0)
    found.records["holdout_loss"] = np.concatenate([[-1.0, -1.0], np.linspace(2, 3, 198)])
    many = {r.metric: r.value for r in request_rows(4, "run", audit, DETAILED, found)}
    assert many["loss_tpr_1"] == 1.0  # two of 200 lie below all, and a third at 2
    found.records["holdout_loss"][2] = -1.0
    assert {r.metric: r.value for r in request_rows(4, "run", audit, DETAILED, found)}["loss_tpr_1"] == 0.0


def test_the_attack_beside_a_reference_sees_what_content_hides(audit: Any) -> None:
    """Members that are hard for everybody look like non-members by their loss, and not by what the reference lacks."""
    run, reference = outputs(0, 0.0), outputs(0, 0.0)
    run.records["loss"], reference.records["loss"] = np.array([2.5, 2.6, 2.7, 1.0]), np.array([4.0, 4.0, 4.0, 1.0])
    run.records["holdout_loss"] = reference.records["holdout_loss"] = np.linspace(2, 3, 6)
    rows = {r.metric: r.value for r in gap_rows(4, "retrained", audit, DETAILED, run, reference, AVERAGED)}
    assert rows["reference_auc"] == 1.0
    assert rows["loss_auc"] == 0.0  # of the reference; the run's own is near one half
    same = {r.metric: r.value for r in gap_rows(4, "retrained", audit, DETAILED, run, run, AVERAGED)}
    assert same["reference_auc"] == 0.5


def test_a_memorised_request_stands_out(audit: Any) -> None:
    rows = {
        r.metric: r.value for r in gap_rows(4, "retrained", audit, DETAILED, outputs(0, 0.0), outputs(1, 2.0), AVERAGED)
    }
    assert rows["priv_leak"] is not None
    assert rows["priv_leak"] < -50
    assert rows["gap_min_k_auc"] is not None
    assert rows["gap_min_k_auc"] > 0.2


def test_the_floor_of_forget_quality() -> None:
    """Two sets of 40 that do not overlap: the smallest p-value there can be."""
    from scipy.stats import ks_2samp

    assert ks_2samp(np.arange(40), np.arange(40) + 100).pvalue == pytest.approx(1.86e-23, rel=0.01)


def test_holdout(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIFELONG_CACHE", str(tmp_path))
    batch = make_batch(a_row([3], [4, 3, 4], 8), a_row([4, 4], [3], 8))
    text = replace(TEXT, holdout=batch.x)
    found = answers_of(text).held_out(table, batch, 1)
    own = records_of(table, batch, TEXT)
    assert found.keys() == {"loss", "zlib", "min_k", "min_k_plus_plus"}
    assert found["loss"].tolist() == pytest.approx(own["loss"].tolist())
    assert answers_of(TEXT).held_out(table, batch, 1) == {}
    tokenizer: Tokenizer = train_tokenizer(["a"], 320)
    assert all(r[-1] == tokenizer.eos for r in refusals(tokenizer))
