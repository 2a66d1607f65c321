"""`verify`: whether the claims of exactness of a finished run are true."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.arguments import RunFolders, Runs, Trust
from cli.folders import find_runs
from cli.output import Json, emit, emit_json, emit_table, note
from cli.tables import one_or_all, show_name

if TYPE_CHECKING:
    from lifelong.verification.certificate import Certificate, Verified

_LEGEND = (
    "claims: what the strategy says of its deletions: bits, law (equal in distribution), certified, or none",
    "found: the strongest of these that the tests support",
    "verdict: upheld, REFUTED, or claims nothing",
)
"""What the columns mean."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(verify)


def verify(
    folders: RunFolders,
    strategies: Annotated[
        list[str], typer.Option("--strategy", help="Verify only that strategy; may be repeated.", show_default=False)
    ] = [],  # noqa: B006 (Typer copies it)
    requests: Annotated[int, typer.Option(min=1, help="Test at most that many requests, evenly spread.")] = 5,
    controls: Annotated[
        bool, typer.Option("--controls/--no-controls", help="Also run strategies with known faults, to be caught.")
    ] = True,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
    as_json: Json = False,
    trust: Trust = False,
    runs: Runs = Path("runs"),
) -> None:
    """Replay finished runs, test their claims of exactness, and write a certificate into each folder.

    Exit codes: 0 all claims are upheld, 3 one is refuted.
    """
    from lifelong.verification.certificate import verify

    tell = (lambda _: None) if quiet else note
    found = find_runs(folders, runs)
    certificates = [verify(folder, strategies, requests, controls, tell, trust) for folder in found]
    if as_json:
        plain = [certificate.to_json() for certificate in certificates]
        emit_json(one_or_all(plain))
    else:
        for number, (folder, certificate) in enumerate(zip(found, certificates, strict=True)):
            show_name(folder, number, len(found))
            _show(certificate)
    if not all(certificate.upheld for certificate in certificates):
        raise typer.Exit(3)


def _show(certificate: Certificate) -> None:
    """Print a certificate."""
    emit_table(
        ["strategy", "claims", "found", "requests", "verdict"],
        [[v.strategy, v.claim, v.grade, str(len(v.findings)), _verdict(v)] for v in certificate.verified],
    )
    for said in _LEGEND:
        emit(f"  {said}")
    for v in certificate.verified:
        if not v.reproduced:
            emit(f"{v.strategy}: the replay ended in another state than the run folder holds, or other answers.")
        for line in _stated(v):
            emit(f"{v.strategy}: {line}")
    if certificate.controls:
        emit("")
        emit_table(
            ["negative control", "caught by", "at"],
            [
                [c.control, "cannot be run here" if c.caught is None else c.by or "NOTHING", c.request or ""]
                for c in certificate.controls
            ],
        )
    if certificate.missed:
        emit(f"On this stream the tests have no power against: {', '.join(certificate.missed)}.")
    emit("")
    emit("Not shown by this: " + " ".join(certificate.not_shown))
    emit(f"certificate: {certificate.file}")


def _stated(verified: Verified) -> list[str]:
    """Return what a strategy with the grade certified promises, and how much of it was found to be spent."""
    found = [f.certified for f in verified.findings if f.certified is not None]
    if not found:
        return []
    stated = found[-1].guarantee
    covers = {"published": "of what is published", "state": "of the whole state"}[stated["covers"]]
    without = {"all-deleted": "all that was deleted by then", "per-request": "the request's own samples"}
    scope = {"transcript": "all publications since a request together", "last": "the last publication alone"}
    asked = "requesters may look at what is published" if stated["adaptive"] else "requests are fixed in advance"
    lines = [
        f"certified(epsilon {stated['epsilon']:g}, delta {stated['delta']:g}) {covers}, beside a life without "
        f"{without[stated['reference']]}; {scope[stated['scope']]}; {asked}; basis: {stated['basis']}.",
        f"most spent of these requests' budgets: {max(f.account / stated['mu'] for f in found):.1%} (epsilon "
        f"{max(f.epsilon for f in found):.3g}).",
    ]
    compared = [f.distance / f.allowed for f in found if f.distance is not None and f.allowed]
    if compared:
        lines.append(f"largest distance to that life: {max(compared):.1%} of what is allowed.")
    else:
        lines.append("no distance could be compared: both lives have other noise in what they solve.")
    if any(f.steps_tell for f in found):
        lines.append("the number of steps depends on what was deleted: who can time it sees that (not covered).")
    if verified.noise is not None:
        lines.append(
            f"noise of {verified.noise.publications} publications: variance {verified.noise.variance:.3f} of the "
            f"stated one, p {verified.noise.p_value:.2g}; {'as stated' if verified.noise.upheld else 'NOT as stated'}."
        )
    return lines


def _verdict(verified: Verified) -> str:
    if not verified.upheld:
        return "REFUTED"
    if verified.grade == "cannot be tested":
        return "cannot be tested"
    return "upheld" if verified.claim != "none" else "claims nothing"
