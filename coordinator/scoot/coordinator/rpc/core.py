"""What the services need of the rest of the coordinator. The daemon provides it; tests may too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from scoot.coordinator.report.results import Results
from scoot.coordinator.store.base import Segment
from scoot.coordinator.study.draft import CoordinatorState
from scoot.coordinator.study.events import Event
from scoot.coordinator.study.options import Advice
from scoot.wire.catalogue.option import Catalogue
from scoot.wire.lease import LeasePolicy
from scoot.wire.spec import StudySpec


class Core(Protocol):
    """The coordinator behind its network face."""

    lease: LeasePolicy

    @property
    def state(self) -> CoordinatorState:
        """The committed state."""

    async def submit(self, event: Event) -> None:
        """Take up an event; returns when its change is durable.

        Raises:
            TransientError, PermanentInfraError: the store refused; nothing changed.
        """

    def heard(self, agent_id: str) -> None:
        """An agent gave a sign of life now."""

    def silent_s(self, agent_id: str) -> float:
        """Seconds since its last sign of life."""

    async def put_blob(self, data: bytes) -> str:
        """Keep a blob; its SHA-256 (hex)."""

    async def get_blob(self, sha256: str) -> bytes:
        """A blob; KeyError if it is not stored."""

    async def add_segments(self, segments: Sequence[Segment]) -> None:
        """Keep timing batches durably (store.base.Store.add_segments)."""

    def advice(self, spec: StudySpec) -> Advice:
        """What a study is told at its submission.

        Raises:
            UserError: its engine would refuse an option.
        """

    def catalogue(self, engine: str, agent_id: str) -> Catalogue | None:
        """The options of an engine as a connected agent has it, "" any; None where none has told."""

    def results(self, study_id: str) -> Results:
        """The study's results as they stand."""
