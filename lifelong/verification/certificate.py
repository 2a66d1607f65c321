"""The certificate of a run: which claims of exactness its replays uphold, which faults they would have caught."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from lifelong.config.run import content_hash
from lifelong.execution.manifest import open_folder, read_manifest, versions
from lifelong.files import code_version, write_atomically
from lifelong.setup.preparation import Prepared, prepare
from lifelong.verification.certified import NoiseFinding, noise
from lifelong.verification.certified_controls import CERTIFIED_CONTROLS
from lifelong.verification.controls import CONTROLLED, CONTROLS
from lifelong.verification.lives import Who, answers_of_checkpoint, live_alone
from lifelong.verification.replay import Finding, choose, find
from strategies.outcome import GRADES, Exactness
from strategies.parts.model import digest
from streams.config import parse
from streams.errors import CheckpointError, ConfigError, closest
from streams.randomness import Key
from streams.registry import load
from streams.source import Source

SUPPORTS = (
    "Independent: the whole state after the request, and what is answered about test samples and deleted ones (outputs "
    "and features), are, bit for bit, the same whatever the deleted samples were.",
    "As without: they are, bit for bit, those of a life in which the deleted samples never came.",
    "Each of these lives was a process of its own: nothing that another one had kept in memory was there.",
    "Both hold for this stream, this data, this code, this machine and this number of threads, at the requests listed.",
)
DOES_NOT_SUPPORT = (
    "Adaptive requesters: requests that depend on published models can learn what fixed randomness hides.",
    "Behaviour on deleted data: a model that never saw a sample may still get it right.",
    "Differences of published models: two successive models can reveal the record that was deleted between them.",
    "Copies outside of the state: logs, reports, references, backups, and per-sample scores in the run folder.",
    "Malice: code that finds out that it is tested, or keeps data in files, can pass.",
)
SUPPORTS_CERTIFIED = (
    "Certified: the secret weights lie as near to those of the life without the deleted samples, and to those of a "
    "life with other samples in their place, as the guarantee states; noise and schedule do not depend on the deleted.",
    "Every publication is in the account of every earlier request, and no account exceeds what was promised; the noise "
    "of all publications has the stated size and is drawn anew each time.",
)
DOES_NOT_SUPPORT_CERTIFIED = (
    "Certified: the secret state, which checkpoints hold; whoever has it needs no attack.",
    "Certified: noise is drawn from the run's seed; a deployment needs a secret source, and samplers of floating-point "
    "numbers leak.",
    "Certified: the time and the number of steps that a request takes, which depend on what is deleted.",
    "Certified: what the features were trained on, and constants chosen by looking at data that can be deleted.",
)
VOCABULARY = (
    "The vocabulary: the tokeniser was trained on all texts, deleted ones among them. Their names and answers can be "
    "tokens, and all lives here share it; source.vocabulary_texts trains it on other texts."
)


@dataclass(frozen=True, slots=True)
class Verified:
    """One strategy: what it claims and what was found.

    Attributes:
        strategy: its name in the run.
        claim: the weakest grade that it gave any of the requests.
        reproduced: whether the replay ended in the very state that the run folder holds, and what is restored from that
            state answers the same.
        findings: one per request that was looked at.
        digest: of the state after the last event.
        noise: of all publications, of a strategy that publishes with noise.
    """

    strategy: str
    claim: str
    reproduced: bool
    findings: tuple[Finding, ...]
    digest: str
    noise: NoiseFinding | None = None

    @property
    def upheld(self) -> bool:
        """Whether nothing that was found speaks against the claim."""
        hidden = self.noise is None or self.noise.upheld
        return self.reproduced and all(f.upheld for f in self.findings) and hidden

    @property
    def grade(self) -> str:
        """The grade that the findings support: bits, bits with samples given up, law, certified, or none."""
        findings = self.findings
        if self.claim == "certified" and findings:
            shown = all(f.certified is not None for f in findings if f.claim == "certified")
            return "none" if not self.upheld else "certified" if shown else "cannot be tested"
        if not findings or not all(f.independent and not f.held for f in findings) or self.claim == "none":
            return "none"
        if all(f.as_without for f in findings):
            return "bits"
        if all(f.as_without or f.stranded for f in findings):
            return "bits, others given up"
        return "law" if self.claim == "law" else "none"


@dataclass(frozen=True, slots=True)
class Controlled:
    """One negative control.

    Attributes:
        control: its name.
        fault: what it does wrong.
        caught: whether the same tests caught it; None if it could not be run.
        request, by: where, and by which test; or why it could not be run.
    """

    control: str
    fault: str
    caught: bool | None
    request: str | None
    by: str | None


@dataclass(frozen=True, slots=True, eq=False)
class Certificate:
    """All that was verified.

    Attributes:
        about: identity, digests and versions.
        verified: one per strategy.
        controls: the negative controls, on the same stream.
        not_shown: what none of this speaks about.
        file: where it was written.
    """

    about: dict[str, Any]
    verified: tuple[Verified, ...]
    controls: tuple[Controlled, ...]
    not_shown: tuple[str, ...]
    file: Path

    @property
    def upheld(self) -> bool:
        """Whether every claim is upheld."""
        return all(v.upheld for v in self.verified)

    @property
    def certifies(self) -> bool:
        """Whether any strategy gives the grade certified."""
        return any(f.claim == "certified" for v in self.verified for f in v.findings)

    @property
    def missed(self) -> tuple[str, ...]:
        """The controls that were not caught: against such faults, these tests have no power on this stream."""
        return tuple(c.control for c in self.controls if c.caught is False)

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain data, with a hash of it."""
        content: dict[str, Any] = {
            "about": self.about,
            "strategies": [
                {
                    "strategy": v.strategy,
                    "claim": v.claim,
                    "grade": v.grade,
                    "upheld": v.upheld,
                    "reproduced": v.reproduced,
                    "state": v.digest,
                    "requests": [asdict(f) | {"upheld": f.upheld} for f in v.findings],
                    "noise": None if v.noise is None else asdict(v.noise) | {"upheld": v.noise.upheld},
                }
                for v in self.verified
            ],
            "controls": [asdict(c) for c in self.controls],
            "upheld": self.upheld,
            "missed_controls": list(self.missed),
            "supports": [*SUPPORTS, *(SUPPORTS_CERTIFIED if self.certifies else ())],
            "does_not_support": list(self.not_shown),
        }
        return content | {"digest": content_hash(content)}


def verify(
    folder: Path | str,
    strategies: Iterable[str] = (),
    requests: int = 5,
    controls: bool = True,
    tell: Callable[[str], None] = lambda _: None,
    trust: bool = False,
) -> Certificate:
    """Replay a finished run, test the claims of exactness, and write ``certificate.json`` into its folder.

    Args:
        folder: the run folder.
        strategies: which ones; none means all.
        requests: at most that many requests are tested, evenly spread, the first and the last among them.
        controls: whether to run the negative controls on the same stream as well.
        tell: is told what is done next.
        trust: whether files that the folder names may run although they have not been run on this machine before.

    Raises:
        CheckpointError: there is no finished run, or it was made by another version of the code or other data.
        ConfigError: the stream has no request, or there is no strategy of that name.
        TrustError: it names files that may not run.
    """
    folder = Path(folder).resolve()
    config = open_folder(folder, trust)
    chosen = tuple(strategies) or tuple(config.strategies)
    for name in chosen:
        if name not in config.strategies:
            raise ConfigError(f"--strategy: the run has no {name!r}. {closest(name, config.strategies)}")
    prepared = prepare(config)
    _check(folder, prepared)
    events = choose(prepared.stream, requests)
    if not events:
        raise ConfigError(f"{folder}: the stream has no deletion request, so there is nothing to verify.")
    verified = tuple(_verify(prepared, name, folder, events, tell) for name in chosen)
    certifies = any(f.claim == "certified" for v in verified for f in v.findings)
    planted = [*CONTROLS, *(CERTIFIED_CONTROLS if certifies else ())] if controls else []
    controlled = tuple(_control(prepared, name, events, tell) for name in planted)
    limits, file = not_shown(prepared.stream.source), folder / "certificate.json"
    limits = (*limits, *(DOES_NOT_SUPPORT_CERTIFIED if certifies else ()))
    certificate = Certificate(_provenance(prepared, folder), verified, controlled, limits, file)
    write_atomically(certificate.file, json.dumps(certificate.to_json(), indent=1).encode())
    return certificate


def not_shown(source: Source) -> tuple[str, ...]:
    """Return what a certificate on that data does not speak about."""
    of_rows = source.text is not None and source.text.tokenizer.of_rows
    return (*DOES_NOT_SUPPORT, VOCABULARY) if of_rows else DOES_NOT_SUPPORT


def _check(folder: Path, p: Prepared) -> None:
    manifest_digests = read_manifest(folder)["digests"]
    now = {"stream": p.stream_digest, "data": p.data_digest}
    for name, value in now.items():
        if manifest_digests.get(name) != value:
            raise CheckpointError(
                f"{folder}: the {name} digest was {manifest_digests.get(name)} and is now {value}; "
                f"the data has changed."
            )


def _provenance(p: Prepared, folder: Path) -> dict[str, Any]:
    return {
        "run": folder.name,
        "identity": p.identity,
        "code": code_version(),
        "stream": p.stream_digest,
        "data": p.data_digest,
        "versions": versions(p.config.device),
        "device": p.config.device,
        "threads": p.config.threads,
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _verify(p: Prepared, name: str, folder: Path, events: tuple[int, ...], tell: Callable[[str], None]) -> Verified:
    tell(f"{name}: living through the stream again")
    who = Who(p.config, p.stream, name)
    lived, new_findings = find(live_alone(who), p.stream, events, Key(0))
    findings = []
    for finding in new_findings:
        verdict = "refuted" if not finding.upheld else "upheld" if finding.claim != "none" else "claims nothing"
        tell(f"{name}: {finding.request} {verdict}")
        findings.append(finding)
    file = _final_checkpoint(folder / "strategies" / name, len(p.stream.events) - 1)
    restored = answers_of_checkpoint(who, file)
    reproduced = lived.digest == _digest_of(file) and restored in {None, lived.answers}
    claim = weakest(s.claim for s in lived.served.values())
    return Verified(name, claim, reproduced, tuple(findings), lived.digest, noise(lived.shown))


def weakest(grades: Iterable[Exactness]) -> Exactness:
    """Return the lowest of some grades, which is what a strategy claims that gave them."""
    return min(grades, key=GRADES.index)


def _final_checkpoint(folder: Path, last: int) -> Path:
    """Return the file of the state that the run ended in."""
    file = folder / "checkpoints" / f"event-{last + 1:06d}.pt"
    if not file.exists():
        raise CheckpointError(f"{folder} has no final checkpoint: the run is not finished. Go on: lifelong resume RUN")
    return file


def _digest_of(checkpoint: Path) -> str:
    return digest(torch.load(checkpoint, map_location="cpu", weights_only=True)["state"])


def _control(p: Prepared, name: str, events: tuple[int, ...], tell: Callable[[str], None]) -> Controlled:
    """Run one control with the options of the run's own `sisa` or `certified-head`, until a test catches it."""
    tell(f"control: {name}")
    like, build = CONTROLLED[name]
    own = [s.isolated for s in p.config.strategies.values() if s.isolated is not None and s.isolated.name == like]
    config = parse(load("isolated", like).Config, own[0].options if own else {})
    fault = (build.__doc__ or "").split("\n", 1)[0]
    try:
        build(config, p.setting)
    except ConfigError as error:
        return Controlled(name, fault, None, None, str(error))
    lived, findings = find(live_alone(Who(p.config, p.stream, name, config)), p.stream, events, Key(0))
    found = noise(lived.shown)
    if found is not None and not found.upheld:
        return Controlled(name, fault, True, None, "noise")
    for finding in findings:
        if not finding.upheld:
            return Controlled(name, fault, True, finding.request, _caught_by(finding))
    return Controlled(name, fault, False, None, None)


def _caught_by(finding: Finding) -> str:
    if finding.certified is not None:
        return finding.certified.refuted_by
    return "other data" if not finding.independent else "life without"
