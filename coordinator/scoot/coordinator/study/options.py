"""A submitted study's options against what is known of its engine. Pure."""

from __future__ import annotations

import msgspec

from scoot.coordinator.space.study_space import space_of
from scoot.wire.catalogue.option import Catalogue
from scoot.wire.catalogue.overlay import Overlay
from scoot.wire.catalogue.shelf import engines, overlay_of, snapshot_of, versions
from scoot.wire.catalogue.study_check import Finding, Level, check_options, unstated_rules
from scoot.wire.errors import UserError
from scoot.wire.spec import StudySpec


class Advice(msgspec.Struct, frozen=True, kw_only=True):
    """What a study is told at its submission.

    Attributes:
        notes: a sentence each.
        implied: constraints that the engine enforces and the study does not state.
    """

    notes: tuple[str, ...] = ()
    implied: tuple[str, ...] = ()


def advise(spec: StudySpec, live: Catalogue | None, version: str) -> Advice:
    """Check a study's options.

    Args:
        spec: the study, otherwise checked.
        live: the options as a connected agent's installation lists them; None where none has told.
        version: the release that agents offer, "" if that is not known: its snapshot stands in for `live`.

    Raises:
        UserError: the engine would refuse an option; names the first by its key, and what replaced it.
    """
    kind = spec.service.engine if live is None else live.engine
    overlay = overlay_of(kind) if kind in engines() else None
    catalogue = live
    if catalogue is None and version in versions(kind):
        catalogue = snapshot_of(kind, version)
    if catalogue is None and overlay is None:
        return Advice()
    findings = check_options(spec, catalogue, overlay)
    refused = [finding for finding in findings if finding.level is Level.ERROR]
    if refused:
        first, *others = refused
        more = "".join(f"; {other.key}: {_sentence(other)}" for other in others)
        of = "" if catalogue is None else f" ({catalogue.title})"
        raise UserError(f"{first.message}{of}", key=first.key, hint=f"{first.remedy}{more}".lstrip("; "))
    warned = tuple(f"{each.key}: {_sentence(each)}" for each in findings if each.level is Level.WARNING)
    implied, added = _implied(spec, overlay)
    return Advice(notes=(*warned, *added), implied=implied)


def _sentence(finding: Finding) -> str:
    return f"{finding.message}; {finding.remedy}" if finding.remedy else finding.message


def _implied(spec: StudySpec, overlay: Overlay | None) -> tuple[tuple[str, ...], list[str]]:
    """Rules of the engine between tuned parameters, as far as the study's space has room under them."""
    kept: list[str] = []
    notes: list[str] = []
    sometimes = {parameter.name for parameter in spec.parameters if parameter.when is not None}
    if overlay is None or not spec.engine_constraints:
        return (), []
    for rule, names in unstated_rules(spec, overlay):
        if names & sometimes:
            continue  # a rule between parameters says nothing where one of them is in no configuration
        try:
            space_of(msgspec.structs.replace(spec, constraints=(*spec.constraints, *kept, rule.rule)))
        except UserError as error:
            notes.append(f"constraints: {spec.service.engine} enforces `{rule.rule}`, but with it {error.message}")
        else:
            kept.append(rule.rule)
            notes.append(f"constraints: `{rule.rule}` holds in this search, as {spec.service.engine} enforces it")
    return tuple(kept), notes
