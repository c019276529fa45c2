"""Asking an installed engine who it is: a helper process, whose answer is kept until the installation changes."""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from scoot.agent.engines import base
from scoot.agent.engines.base import EngineSettings
from scoot.agent.engines.helpers.plain import MARK
from scoot.agent.host.process import ExitStatus, HelperResult, SpawnError, run_helper
from scoot.wire import limits
from scoot.wire.assignment import EngineOffer

TIMEOUT_S: Final = 300.0
"""Importing an engine takes 8 s on a quiet machine, minutes on a cold disk or a loaded host."""

_SHOWN_CHARS: Final = 500


class Probe(msgspec.Struct, frozen=True):
    """What an installation answered.

    Attributes:
        version: "" where it is unknown.
        device: "cpu", "cuda", ... as the engine chose, "" where it does not say.
        entry: whether what the adapter starts is there.
        module: which module that is, where there are several.
        defaults: parameters as the engine resolves them when nothing is set.
        error: why it cannot be used, "" if it can.
        notes: what else did not work.
    """

    version: str = ""
    device: str = ""
    entry: bool = False
    module: str = ""
    defaults: dict[str, bool | int | float | str] = {}
    error: str = ""
    notes: str = ""


class Prober:
    """Probes one installation, one probe at a time.

    Attributes:
        known: what it answered last, None before.
    """

    def __init__(
        self,
        settings: EngineSettings,
        command: Sequence[str],
        *,
        watched: Sequence[str],
        env: Mapping[str, str],
        cache_dir: Path | None = None,
        read: Callable[[HelperResult], Probe] | None = None,
    ) -> None:
        """`command` asks, its first word being the installation's program; `read` understands the answer.

        Args:
            settings: of the engine; its fixed variables are set for the helper.
            command: argument list.
            watched: packages whose folders change with the installation.
            env: more variables for the helper.
            cache_dir: keeps answers over restarts of the agent, failures excepted.
            read: by default takes the line that begins with MARK.
        """
        self.known: Probe | None = None
        self._settings = settings
        self._command = tuple(command)
        self._watched = tuple(watched)
        self._env = dict(env)
        self._cache_dir = cache_dir
        self._read = read_marked if read is None else read
        self._asking = asyncio.Lock()
        self._identity = ""

    async def probe(self) -> Probe:
        """The answer, asked for once per state of the installation. Never raises for a broken one."""
        async with self._asking:
            identity = self._identify()
            if self.known is not None and self._identity == identity:
                return self.known
            name = f"{self._settings.kind}-probe-{identity}.json"
            path = self._cache_dir / name if self._cache_dir is not None and identity else None
            result = _read_cache(path)
            if result is None:
                result = await self._ask()
                if path is not None and not result.error:
                    await asyncio.to_thread(_write_cache, path, result)
            self.known, self._identity = result, identity
            return result

    def _identify(self) -> str:
        """Changes when the program, its packages' folder or a watched package changes; "" when there is no program."""
        program = Path(self._command[0])
        packages = sorted(program.parent.parent.glob("lib/python3*/site-packages"))
        stamps = [
            _stamp(path) for path in (program, *packages, *(item / each for item in packages for each in self._watched))
        ]
        if stamps[0] is None:
            return ""
        what = (self._command, stamps, self._settings.fixed_env)
        return hashlib.sha256(repr(what).encode()).hexdigest()[:32]

    async def _ask(self) -> Probe:
        with tempfile.TemporaryDirectory(prefix="scoot-probe-") as folder:
            env = {"HOME": folder, **base.base_environment(), **self._env, **self._settings.fixed_env}
            try:
                done = await run_helper(self._command, env=env, cwd=Path(folder), timeout_s=TIMEOUT_S)
            except SpawnError as error:
                return Probe(error=str(error))
        return self._read(done)


def read_marked(done: HelperResult) -> Probe:
    """The answer of a probe script: the last line that begins with MARK. Pure."""
    for line in reversed(done.stdout.decode(errors="replace").splitlines()):
        if line.startswith(MARK):
            try:
                return msgspec.json.decode(line.removeprefix(MARK), type=Probe)
            except (msgspec.DecodeError, msgspec.ValidationError) as error:
                return Probe(error=f"the probe answered nonsense: {error}")
    return Probe(error=failure_of(done))


def failure_of(done: HelperResult) -> str:
    """How a helper failed that gave no answer, in one line. Pure."""
    if done.timed_out:
        return f"the probe did not end within {TIMEOUT_S:.0f} s"
    last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
    return f"the probe ended with {_exit_text(done.exit)}: {last[:_SHOWN_CHARS]}"


def offer_of(name: str, program: str, result: Probe, *, entry: str) -> EngineOffer:
    """What an agent offers of an engine: its version, or why it cannot run. `entry` is what it is started by. Pure."""
    if result.error or not result.entry:
        why = result.error or f"has no module {entry}"
        return EngineOffer(name=name, error=f"{program}: {why}"[: limits.STRING_CHARS])
    return EngineOffer(name=name, version=result.version)


def _stamp(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


def _exit_text(status: ExitStatus) -> str:
    return f"signal {status.signal}" if status.signal is not None else f"status {status.code}"


def _read_cache(path: Path | None) -> Probe | None:
    if path is None:
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=Probe)
    except (OSError, msgspec.DecodeError, msgspec.ValidationError):
        return None


def _write_cache(path: Path, result: Probe) -> None:
    draft = path.with_suffix(".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(msgspec.json.encode(result))
        draft.replace(path)
    except OSError:  # only a cache
        draft.unlink(missing_ok=True)
