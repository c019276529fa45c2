"""Asks an engine's own argument checks what they make of a configuration, in milliseconds instead of a start.

A helper (`helpers.resident`) lives in the engine's interpreter as long as the oracle: importing the engine takes 10 s
and more, a question milliseconds. It is a child like every other of the agent: a session of its own, killed and reaped
with the oracle, and killed by the kernel should the agent die. Whatever goes wrong with it is `Unknown`, which is never
held against a configuration; a helper that died or hangs is replaced at the next question, a few times at most.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Final, Self, TypeVar

import msgspec

from scoot.agent.engines import base
from scoot.agent.engines.base import EngineSettings
from scoot.agent.engines.helpers import resident
from scoot.agent.host import logs
from scoot.agent.host.process import HelperProcess, SpawnError, spawn_helper
from scoot.wire.catalogue.option import Catalogue, EngineOption, Source
from scoot.wire.catalogue.verdict import Invalid, Ok, RefusalKind, Unknown, Verdict, inert, told
from scoot.wire.spec import Scalar

S = TypeVar("S", bound=msgspec.Struct)

START_S: Final = 300.0
"""Importing an engine takes 8 s on a quiet machine, minutes on a cold disk or a loaded host."""

ASK_S: Final = 60.0
"""A question takes 2 to 30 ms; so long takes only a helper that hangs."""

MAX_STARTS: Final = 3
"""Starts in a row without an answer, after which the oracle gives up."""

_QUIET: Final = MappingProxyType(
    {
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "NO_COLOR": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
    }
)
"""No download, no telemetry, no word for every question."""


class _Ready(msgspec.Struct, frozen=True):
    """The helper's first line."""

    ready: bool
    version: str = ""
    device: str = ""
    error: str = ""
    notes: str = ""


class _Answer(msgspec.Struct, frozen=True):
    """Every later line; which fields count depends on the question."""

    id: int
    error: str = ""
    ok: bool | None = None
    effective: dict[str, Any] = {}
    reason: str = ""
    kind: RefusalKind = RefusalKind.OTHER
    options: Any = ()
    why: str = ""


class _LostError(Exception):
    """The helper cannot answer; the text says why."""


class _RetiredError(_LostError):
    """The helper ended because earlier questions had left something behind: another can answer."""


class Oracle:
    """What an engine makes of configurations: `async with Oracle(settings) as oracle:`. One question at a time.

    Args:
        settings: of the engine; its interpreter is asked.
        allowed: options that may be asked about, as the adapter would start them; None: all. Options can load code and
            open files, so an agent passes its allow-list.
        env: the environment a study gives the engine, checked by the caller: it decides as options do.
        start_s, ask_s: limits for the import and for a question, seconds.
        max_starts: see MAX_STARTS.
        command: of the helper, one of `helpers` that stays; () is vLLM's.

    Attributes:
        starts: helpers started so far.
    """

    def __init__(
        self,
        settings: EngineSettings,
        *,
        allowed: Collection[str] | None = None,
        env: Mapping[str, str] | None = None,
        start_s: float = START_S,
        ask_s: float = ASK_S,
        max_starts: int = MAX_STARTS,
        command: Sequence[str] = (),
    ) -> None:
        self.starts = 0
        self._settings = settings
        self._allowed = None if allowed is None else frozenset(allowed)
        self._env = dict(env or {})
        self._start_s = start_s
        self._ask_s = ask_s
        self._max_starts = max_starts
        self._command = tuple(command) or base.helper_command(settings, "vllm_arguments")
        self._helper: HelperProcess | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._ready = _Ready(ready=False)
        self._number = 0
        self._in_vain = 0
        self._turn = asyncio.Lock()

    @property
    def pid(self) -> int | None:
        """The running helper's process, None where none runs."""
        return None if self._helper is None else self._helper.pid

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the helper. Questions after it start another."""
        async with self._turn:
            await self._end()

    async def check(self, config: Mapping[str, Any], *, model: str = "") -> Verdict:
        """What the engine makes of a configuration.

        Args:
            config: options, tuned and fixed.
            model: the model's folder as the engine is given it; "" is a small one, which fits usual parallelism.
        """
        if self._allowed is not None:
            refused = sorted(config.keys() - self._allowed)
            if refused:
                return Unknown(f"not asked: this agent does not let a study set {', '.join(refused)}")
        try:
            answer = await self._ask({"op": "check", "config": config, "model": model})
        except _LostError as error:
            return Unknown(str(error))
        if answer.error or answer.ok is None:
            return Unknown(answer.error or answer.why or "the helper did not say")
        if answer.ok:
            return Ok(answer.effective)
        return Invalid(answer.reason, answer.kind, tuple(map(str, answer.options)))

    async def catalogue(self) -> Catalogue | Unknown:
        """Every option of the installation, with the defaults it resolves on this host."""
        try:
            answer = await self._ask({"op": "catalogue"})
            if answer.error:
                return Unknown(answer.error)
            options = msgspec.convert(answer.options, tuple[EngineOption, ...])
        except _LostError as error:
            return Unknown(str(error))
        except msgspec.ValidationError as error:
            return Unknown(f"the helper described an option that is none: {error}")
        return Catalogue(
            engine=self._settings.kind,
            version=self._ready.version,
            device=self._ready.device,
            source=Source.LIVE,
            options=tuple(sorted(options, key=lambda option: option.name)),
        )

    async def inert(self, space: Mapping[str, Sequence[Scalar]], *, model: str = "") -> frozenset[str]:
        """Options that change nothing on this host, whichever of these values they take, each tried by itself."""
        base_case = told(await self.check({}, model=model), space)
        return inert(
            base_case,
            {
                name: [(value, told(await self.check({name: value}, model=model), space)) for value in values]
                for name, values in space.items()
            },
        )

    async def _ask(self, question: Mapping[str, object]) -> _Answer:
        """An answer of the helper, started where there is none.

        Raises:
            _LostError: there is none.
        """
        async with self._turn:
            try:
                return await self._ask_one(question)
            except _RetiredError:
                return await self._ask_one(question)

    async def _ask_one(self, question: Mapping[str, object]) -> _Answer:
        helper = await self._started()
        self._number += 1
        try:
            async with asyncio.timeout(self._ask_s):
                with contextlib.suppress(ConnectionError):  # it has ended: reading tells how
                    await helper.send(msgspec.json.encode({"id": self._number, **question}) + b"\n")
                answer = await self._line(helper, _Answer)
        except TimeoutError as error:
            await self._end()
            raise _LostError(f"no answer within {self._ask_s:g} s") from error
        except _LostError:
            await self._end()
            raise
        except asyncio.CancelledError:
            # Its answer would be taken for the next question's.
            await asyncio.shield(self._end())
            raise
        if answer.id != self._number:
            await self._end()
            raise _LostError(f"an answer to question {answer.id} instead of {self._number}")
        self._in_vain = 0
        return answer

    async def _started(self) -> HelperProcess:
        """The running helper.

        Raises:
            _LostError: it cannot be started, or has been too often.
        """
        if self._helper is not None and not self._helper.exited.done():
            return self._helper
        await self._end()
        if self._in_vain >= self._max_starts:
            raise _LostError(
                f"the helper did not answer after {self._in_vain} starts: {self._ready.error or 'it died'}"
            )
        self._in_vain += 1
        self.starts += 1
        self._folder = tempfile.TemporaryDirectory(prefix="scoot-oracle-")
        try:
            helper = await spawn_helper(
                self._command,
                env=self._environment(self._folder.name),
                cwd=Path(self._folder.name),
                stderr_path=Path(self._folder.name) / "stderr",
            )
        except SpawnError as error:
            await self._end()
            raise _LostError(str(error)) from error
        self._helper = helper
        try:
            async with asyncio.timeout(self._start_s):
                self._ready = await self._line(helper, _Ready)
        except TimeoutError as error:
            await self._end()
            raise _LostError(f"not ready within {self._start_s:g} s") from error
        except (_LostError, asyncio.CancelledError):
            await asyncio.shield(self._end())
            raise
        if not self._ready.ready:
            await self._end()
            raise _LostError(f"{self._settings.python}: {self._ready.error}")
        return helper

    def _environment(self, home: str) -> dict[str, str]:
        return {
            **base.base_environment(),
            "HOME": home,
            "TMPDIR": home,
            **self._env,
            **self._settings.fixed_env,
            **_QUIET,
        }

    async def _line(self, helper: HelperProcess, kind: type[S]) -> S:
        """The helper's next line.

        Raises:
            _LostError: it ended, or talks nonsense.
        """
        try:
            line = await helper.stdout.readline()
        except ConnectionError:  # it ended with a question unread
            line = b""
        except (ValueError, OSError) as error:
            raise _LostError(f"the helper cannot be read: {error}") from error
        if not line.endswith(b"\n"):
            status = await asyncio.shield(helper.exited)
            if status.code == resident.DRIFTED:
                raise _RetiredError("the helper ended: its default had come to differ")
            how = f"signal {status.signal}" if status.signal is not None else f"status {status.code}"
            raise _LostError(f"the helper ended with {how}: {self._last_words()}".rstrip(": "))
        try:
            return msgspec.json.decode(line, type=kind)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            raise _LostError(f"the helper answered nonsense: {error}") from error

    def _last_words(self) -> str:
        text = logs.read_tail(Path(self._folder.name) / "stderr") if self._folder is not None else ""
        return text.strip().rpartition("\n")[2][:300]

    async def _end(self) -> None:
        helper, self._helper = self._helper, None
        folder, self._folder = self._folder, None
        if helper is not None:
            await helper.aclose()
        if folder is not None:
            await asyncio.to_thread(folder.cleanup)
