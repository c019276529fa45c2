"""The part that all argument checks share: questions on standard input, answers on standard output, until it ends.

Runs in the engine's interpreter: the standard library only. One JSON object a line; `id` comes back with the answer.
First, unasked, once the engine is imported: `{"ready": true, "version": ..., "device": ...}`, or
`{"ready": false, "error": ...}`. Then

    {"id": 1, "op": "catalogue"}
        -> {"id": 1, "options": [...]}: every option, as scoot.wire.catalogue.option has it, with the defaults that a
        small model gets on this host
    {"id": 2, "op": "check", "config": {"max_num_seqs": 64}, "model": "/models/llama"}
        -> {"id": 2, "ok": true, "effective": {...}}: the engine accepts it, and makes this of it
        -> {"id": 2, "ok": false, "reason": ..., "kind": ..., "options": [...]}: it does not
        -> {"id": 2, "ok": null, "why": ...}: nobody can tell (the model alone is refused, memory is short)

Without a model a tiny reference stands in. Whatever a check raises is an answer. What a check leaves behind in the
environment is put back, and from time to time the default is resolved again: if it has come to differ, the process ends
with status 3, so that another takes its place. At the end of its input it ends, and with its parent.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, TextIO

from scoot.agent.engines.helpers.plain import is_plain, line
from scoot.agent.engines.helpers.refusal import UsageError, concerns_configuration, kind_and_reason, located, mentions

DRIFTED = 3
DRIFT_EVERY = 100
"""Checks between two looks at whether the default still resolves to the same."""

_PR_SET_PDEATHSIG = 1

_REFERENCE = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "vocab_size": 256,
    "torch_dtype": "bfloat16",
}
"""Eight heads and layers, so that usual degrees of parallelism divide them."""


class Arguments(Protocol):
    """An imported engine: what it knows of its options, and what it makes of a configuration.

    Attributes:
        title: the engine's name and release, for people.
        version, device: as it calls them.
        options: every option a configuration may have.
    """

    @property
    def title(self) -> str: ...  # noqa: D102 - see the class
    @property
    def version(self) -> str: ...  # noqa: D102 - see the class
    @property
    def device(self) -> str: ...  # noqa: D102 - see the class
    @property
    def options(self) -> Collection[str]: ...  # noqa: D102 - see the class

    def resolve(self, config: Mapping[str, Any], model: str) -> dict[str, Any]:
        """What it makes of a configuration, flattened. Raises whatever the engine raises."""
        ...

    def describe(self) -> list[dict[str, Any]]:
        """Every option, without effective defaults."""
        ...


def reference_model(folder: Path) -> Path:
    """A folder below `folder` with the configuration of a tiny Llama, and no weights."""
    made = folder / "reference"
    made.mkdir()
    (made / "config.json").write_text(json.dumps(_REFERENCE), encoding="utf-8")
    return made


class Desk:
    """Asks an engine, and tells whether a configuration is to blame for what comes of it."""

    def __init__(self, engine: Arguments) -> None:
        self._engine = engine
        self._unsteady: frozenset[str] = frozenset()
        self._default: dict[str, Any] = {}
        self._good_models: set[str] = set()
        self._checks = 0

    def settle(self) -> None:
        """Resolve the default twice: what differs between the two is by chance (ports, identifiers), and left out."""
        self._default = {}
        one, two = (self._resolve({}, "") for _ in range(2))
        self._unsteady = frozenset(name for name in {*one, *two} if name not in one or one[name] != two.get(name))
        self._default = self._steady(one)

    def drifted(self) -> bool:
        """Whether earlier checks have changed what the default resolves to; looked at every DRIFT_EVERY checks."""
        self._checks += 1
        if self._checks % DRIFT_EVERY or not self._default:
            return False
        try:
            return self._steady(self._resolve({}, "")) != self._default
        except Exception:  # noqa: BLE001 - it worked at the start
            return True

    def catalogue(self) -> dict[str, Any]:
        """Every option, described."""
        options = []
        for described in sorted(self._engine.describe(), key=lambda each: str(each["name"])):
            effective = self._default.get(described["name"])
            options.append({**described, "effective": effective if is_plain(effective) else None})
        return {"options": options}

    def check(self, config: Mapping[str, Any], model: str) -> dict[str, Any]:
        """What the engine makes of a configuration, or why it refuses it."""
        unknown = [name for name in config if name not in self._engine.options]
        if unknown:
            shown = ", ".join(f"--{name.replace('_', '-')}" for name in unknown)
            return {
                "ok": False,
                "reason": f"{self._engine.title} has no {shown}",
                "kind": "unknown_option",
                "options": unknown,
            }
        try:
            effective = self._steady(self._resolve(config, model))
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever it raises is the answer
            return self._refusal(error, config, model)
        self._good_models.add(model)
        return {"ok": True, "effective": effective}

    def _refusal(self, error: BaseException, config: Mapping[str, Any], model: str) -> dict[str, Any]:
        """An error as an answer. The configuration is to blame only where the model alone works."""
        kind, reason = kind_and_reason(error)
        if not concerns_configuration(error):
            return {"ok": None, "why": f"{type(error).__name__}: {reason}"}
        if model not in self._good_models and not isinstance(error, UsageError):
            try:
                self._resolve({}, model)
                self._good_models.add(model)
            except (Exception, SystemExit) as alone:  # noqa: BLE001 - as in `check`
                return {"ok": None, "why": f"refused even without any option: {kind_and_reason(alone)[1]}"}
        # A single word is a name only where it was asked for: "model" and "watermark" are words as well.
        names = [name for name in self._engine.options if "_" in name or name in config]
        mentioned = {name for name in names if mentions(reason, name)} | (located(error) & set(self._engine.options))
        return {"ok": False, "reason": reason, "kind": kind, "options": sorted(mentioned)}

    def _resolve(self, config: Mapping[str, Any], model: str) -> dict[str, Any]:
        """As the engine's; what that leaves behind in the environment is put back."""
        kept = dict(os.environ)
        try:
            return self._engine.resolve(config, model)
        finally:
            if dict(os.environ) != kept:
                os.environ.clear()
                os.environ.update(kept)

    def _steady(self, resolved: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in resolved.items() if name not in self._unsteady}


def serve(lines: Iterator[str], out: TextIO, make: Callable[[], Arguments]) -> int:
    """Answer until the input ends; the exit status."""

    def say(answer: Mapping[str, Any]) -> None:
        out.write(json.dumps(answer, allow_nan=False) + "\n")
        out.flush()

    notes = ""
    try:
        engine = make()
        desk = Desk(engine)
        try:
            desk.settle()
        except (Exception, SystemExit) as error:  # noqa: BLE001 - only defaults stay unknown
            notes = kind_and_reason(error)[1]
        say({"ready": True, "version": engine.version, "device": engine.device, "notes": notes})
    except (Exception, SystemExit) as error:  # noqa: BLE001 - anything an installation can raise is the answer
        say({"ready": False, "error": f"{type(error).__name__}: {line(str(error))}"})
        return 0
    for text in lines:
        number: object = None
        try:
            asked: dict[str, Any] = json.loads(text)
            number = asked.get("id")
            if asked["op"] == "catalogue":
                answer = desk.catalogue()
            elif asked["op"] == "check":
                answer = desk.check(asked["config"], asked.get("model", ""))
            else:
                answer = {"error": f"unknown op {asked['op']!r}"}
        except Exception as error:  # noqa: BLE001 - a wrong question is not the end
            answer = {"error": kind_and_reason(error)[1]}
        say({"id": number, **answer})
        if desk.drifted():
            return DRIFTED
    return 0


def stay(make: Callable[[Path], Arguments]) -> None:
    """Serve on the descriptors it was started with; everything else that prints goes to standard error.

    `make` imports the engine; it is given an empty folder that lasts as long as the process.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    lines = os.fdopen(os.dup(0), "r", encoding="utf-8")
    os.dup2(2, 1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="scoot-oracle-"))).resolve()
        status = serve(iter(lines.readline, ""), out, lambda: make(folder))
    sys.exit(status)
