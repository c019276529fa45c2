"""llama.cpp: its own server where the agent's configuration names one, else that of llama-cpp-python.

`program = "/opt/llama.cpp/bin/llama-server"` starts llama.cpp's server: it batches continuously, takes prompts as token
ids and can be told to ignore the end of a sequence. `python = ".../bin/python"` starts `llama_cpp.server` from that
environment: it computes one request at a time, takes text, and may end outputs early. The two have options of their
own, each by its own names. Models are .gguf files.

A tensor-parallel degree is the number of GPUs of a replica; how the model is laid over them is `split_mode`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from scoot.agent.core.command import EngineCommand
from scoot.agent.engines import base, gguf_file, llamacpp_launch, permits, probing
from scoot.agent.engines.base import EngineSettings, LaunchRequest
from scoot.agent.engines.inquiry import Inquiry
from scoot.agent.engines.package import package_prober
from scoot.agent.engines.permits import Permits
from scoot.agent.engines.probing import Probe, Prober
from scoot.agent.host.process import HelperResult
from scoot.benchmark.plan import PromptMode
from scoot.wire.assignment import EngineOffer
from scoot.wire.errors import UserError
from scoot.wire.reasons import Reason
from scoot.wire.spec import Config, Scalar

ENTRY: Final = llamacpp_launch.SERVER
NEEDS: Final = (
    "llama_cpp.server.__main__",
    "fastapi",
    "pydantic_settings",
    "sse_starlette",
    "starlette_context",
    "uvicorn",
)

SETTINGS: Final = ("llama_cpp.server.settings:ModelSettings", "llama_cpp.server.settings:ServerSettings")
"""The models behind the Python server's options."""

SERVER_OPTIONS: Final = frozenset(
    {
        "batch_size",
        "cache_idle_slots",
        "cache_prompt",
        "cache_ram",
        "cache_reuse",
        "cache_type_k",
        "cache_type_v",
        "cont_batching",
        "cpu_moe",
        "ctx_checkpoints",
        "ctx_size",
        "fit",
        "flash_attn",
        "kv_offload",
        "kv_unified",
        "main_gpu",
        "n_cpu_moe",
        "n_gpu_layers",
        "numa",
        "op_offload",
        "parallel",
        "poll",
        "poll_batch",
        "repack",
        "seed",
        "slot_prompt_similarity",
        "split_mode",
        "swa_full",
        "tensor_split",
        "threads",
        "threads_batch",
        "threads_http",
        "ubatch_size",
        "warmup",
    }
)
"""Options of llama-server that a study may set."""

PYTHON_OPTIONS: Final = frozenset(
    {
        "cache",
        "cache_size",
        "flash_attn",
        "logits_all",
        "main_gpu",
        "n_batch",
        "n_ctx",
        "n_gpu_layers",
        "n_threads",
        "n_threads_batch",
        "n_ubatch",
        "numa",
        "offload_kqv",
        "seed",
        "split_mode",
        "use_mlock",
        "use_mmap",
    }
)
"""Options of llama_cpp.server that a study may set."""

_PLACE_ENV: Final = frozenset({"CUDA_DEVICE_ORDER", "OMP_NUM_THREADS"})
_ON_OFF: Final = frozenset({"fit", "flash_attn"})
"""Options of llama-server with the values on, off and auto; others are switched with --NAME and --no-NAME."""
_ONLY_TRUE: Final = frozenset({"cpu_moe", "swa_full"})
"""Switches without a --no- form: False leaves them out."""

_SLOTS: Final = 4
"""Requests at a time where nothing is asked for, by llama-server's own rule; earlier releases have one."""
_ALL_LAYERS: Final = 999
"""More than any model has: earlier releases leave all of it on the CPU when they are not told."""

_PROPS_PATH: Final = "/props"
_KEPT: Final = frozenset({"cache_prompt", "cont_batching", "flash_attn", "threads", "threads_batch", "threads_http"})
"""Options that llama-server uses as asked for, or refuses; others may be altered, sizes of batches for one."""

_CONTEXT_LINE: Final = re.compile(r"llama_context: (n_batch|n_ubatch|n_ctx) += (\d{1,18})$", re.MULTILINE)
_SLOTS_LINE: Final = re.compile(r"n_slots = (\d{1,9}), n_ctx_slot = (\d{1,9}), kv_unified = '(true|false)'")
_VERSION: Final = re.compile(r"^version: (\S.{0,99})$", re.MULTILINE)


class _Props(msgspec.Struct):
    """What llama-server says of itself."""

    total_slots: int


class LlamaCppAdapter:
    """Adapter for llama.cpp; see EngineAdapter. `cache_dir` keeps probe results over restarts of the agent."""

    name = "llamacpp"

    def __init__(self, settings: EngineSettings, *, cache_dir: Path | None = None) -> None:
        if settings.program and settings.python:
            raise UserError(
                "names two servers",
                key="engines.llamacpp.program",
                hint="give `program` for llama-server, or `python` for llama_cpp.server",
            )
        self._native = bool(settings.program)
        self._program = settings.program or settings.python
        permits.require_absolute(
            self._program,
            key=f"engines.llamacpp.{'program' if self._native else 'python'}",
            example="name llama-server as `program`, or as `python` the interpreter that has llama-cpp-python",
        )
        self._settings = settings
        options = SERVER_OPTIONS if self._native else PYTHON_OPTIONS
        self._permits = Permits(settings=settings, options=options, env=_PLACE_ENV)
        self._prober = (
            Prober(
                settings,
                (self._program, *settings.fixed_args, "--version"),
                watched=(),
                env=permits.QUIET,
                cache_dir=cache_dir,
                read=read_version,
            )
            if self._native
            else package_prober(self._permits, "llama_cpp", ENTRY, NEEDS, cache_dir)
        )

    @property
    def prompt_mode(self) -> PromptMode:
        """How prompts are sent: the Python server takes text only."""
        return PromptMode.TOKEN_IDS if self._native else PromptMode.TEXT

    @property
    def ignore_eos(self) -> bool:
        """Whether exact output lengths can be asked for: the Python server's streams do not tell their tokens."""
        return self._native

    @property
    def health_path(self) -> str:
        """The Python server has no path for it; it listens when the model is loaded."""
        return "/health" if self._native else "/v1/models"

    @property
    def info_paths(self) -> tuple[str, ...]:
        """Only llama-server tells of itself."""
        return (_PROPS_PATH,) if self._native else ()

    async def probe(self) -> EngineOffer:
        """The version, and which of the two servers it is; remembered until the installation changes."""
        offer = probing.offer_of(self.name, self._program, await self._prober.probe(), entry=ENTRY)
        if offer.error:
            return offer
        which = "llama-server" if self._native else "llama-cpp-python"
        return EngineOffer(name=self.name, version=f"{which} {offer.version}")

    def command(self, request: LaunchRequest) -> EngineCommand:
        """The server's command line: one replica, loopback only."""
        model = permits.model_of(request.service)
        if request.tensor_parallel > 1 and permits.on_cpu(request):
            raise UserError(
                "llama.cpp spreads a model over GPUs only",
                key=permits.key_of(request, "tensor_parallel_size"),
                hint="leave the degree at 1 on CPU slots",
            )
        asked = self._asked(request)
        argv = [self._program, *self._settings.fixed_args]
        argv += [] if self._native else [llamacpp_launch.__file__, "--interrupt_requests", "false"]
        argv += ["--model", model, "--host", "127.0.0.1", "--port", str(request.port)]
        for name in permits.flags(asked):
            key = permits.key_of(request, name)
            self._permits.check(name, asked[name], key=key)
            argv += (_server_flag if self._native else _python_flag)(name, asked[name], key=key)
        env = self._permits.environment(request)
        if not self._native:
            # It believes these more than its arguments, wherever they come from.
            env |= {"HOST": "127.0.0.1", "PORT": str(request.port)}
        return EngineCommand(argv=tuple(argv), env=env)

    def checked(self, request: LaunchRequest) -> Config:
        """A replica's options by their own names, for the Python server's argument check.

        Raises:
            UserError: as `command`.
        """
        asked = self._asked(request)
        for name in permits.flags(asked):
            self._permits.check(name, asked[name], key=permits.key_of(request, name))
        return {name: asked[name] for name in permits.flags(asked)}

    def _asked(self, request: LaunchRequest) -> Config:
        """What is asked for, with the context for every slot, and all layers on the GPU where there is one."""
        asked = permits.asked(request)
        length = request.service.max_model_len
        if not self._native:
            places: Config = {} if permits.on_cpu(request) else {"n_gpu_layers": -1}
            return {**places, **({} if length is None else {"n_ctx": length}), **asked}
        ours: Config = {} if permits.on_cpu(request) else {"n_gpu_layers": _ALL_LAYERS}
        if length is not None:
            slots = asked.get("parallel", _SLOTS)
            ours["ctx_size"] = length * (slots if isinstance(slots, int) and slots > 0 else _SLOTS)
        return {**ours, **asked}

    def served_model_name(self, request: LaunchRequest) -> str:
        """The path it was given."""
        return request.service.model

    def token_range(self, model: str) -> tuple[int, int]:
        """From the model's file."""
        return gguf_file.vocabulary_range(Path(model))

    def models_ok(self, model: str, roots: tuple[str, ...]) -> str | Reason:
        """A .gguf file inside one of the roots."""
        path = base.model_path(model, roots)
        if path is None or path.suffix != gguf_file.SUFFIX or not path.is_file():
            return Reason.MODEL_MISSING
        return str(path)

    def effective_config(self, log_text: str, request: LaunchRequest, bodies: Mapping[str, str] | None) -> Config:
        """Sizes as its log and llama-server's own answer tell them, and what was asked for as far as it is kept."""
        if not self._native:
            told: Config = {}
            for name, number in _CONTEXT_LINE.findall(log_text):
                told.setdefault(name, int(number))
            return told
        asked = permits.asked(request)
        out: Config = {name: asked[name] for name in sorted(_KEPT & asked.keys())}
        line = _SLOTS_LINE.search(log_text)
        if line is not None:
            slots, each, unified = int(line[1]), int(line[2]), line[3] == "true"
            out |= {"parallel": slots, "kv_unified": unified, "ctx_size": each if unified else each * slots}
        try:
            slots = msgspec.json.decode((bodies or {}).get(_PROPS_PATH, ""), type=_Props).total_slots
        except (msgspec.DecodeError, msgspec.ValidationError, RecursionError):
            return out
        return {**out, "parallel": slots}


def inquiry(settings: EngineSettings) -> Inquiry | None:
    """How the Python server's argument check is asked; llama-server has none that can be asked by itself."""
    if settings.program:
        return None
    return Inquiry(
        title="llama_cpp.server",
        helper=("schema_arguments", "llama_cpp.server", *SETTINGS),
        env=_PLACE_ENV | set(settings.allow_env),
        asked=LlamaCppAdapter(settings).checked,
    )


def read_version(done: HelperResult) -> Probe:
    """What `llama-server --version` answered. Pure."""
    text = (done.stdout + b"\n" + done.stderr).decode(errors="replace")
    found = _VERSION.search(text)
    if done.exit.code != 0 or found is None:
        return Probe(error=probing.failure_of(done))
    return Probe(version=found[1].strip(), entry=True)


def _server_flag(name: str, value: Scalar, *, key: str) -> tuple[str, ...]:
    """An option of llama-server, which takes values as arguments of their own."""
    flag = "--" + name.replace("_", "-")
    if name in _ON_OFF and isinstance(value, bool):
        return (flag, "on" if value else "off")
    if isinstance(value, bool):
        if not value and name in _ONLY_TRUE:
            return ()
        return (flag if value else f"--no-{flag[2:]}",)
    return (flag, base.value_text(value, key=key))


def _python_flag(name: str, value: Scalar, *, key: str) -> tuple[str, ...]:
    """An option of llama_cpp.server: underscores, and switches with a value."""
    text = str(value).lower() if isinstance(value, bool) else base.value_text(value, key=key)
    return (f"--{name}={text}",)
