"""`transformers serve` with continuous batching, of transformers 5.

Its console script need not be on PATH: it is started as a module. Prompts go as text, since its completions take no
token ids, and outputs may end early, since it cannot be told to ignore the end of a sequence. It knows no context
length and no tensor parallelism; a replica has one device.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from scoot.agent.core.command import EngineCommand
from scoot.agent.engines import base, permits
from scoot.agent.engines.base import EngineSettings, LaunchRequest
from scoot.agent.engines.package import PackageEngine
from scoot.agent.engines.permits import Permits
from scoot.benchmark.plan import PromptMode
from scoot.wire.errors import UserError
from scoot.wire.spec import Config

ENTRY: Final = "transformers.cli.transformers"
NEEDS: Final = ("transformers.cli.serving", "accelerate", "fastapi", "openai", "pydantic", "uvicorn")
"""What serving needs beyond the package: `pip install transformers[serving] accelerate`."""

ALLOWED_OPTIONS: Final = frozenset(
    {
        "attn_implementation",
        "cb_block_size",
        "cb_max_batch_tokens",
        "cb_max_memory_percent",
        "cb_num_blocks",
        "cb_use_cuda_graph",
        "compile",
        "continuous_batching",
        "default_seed",
        "dtype",
        "quantization",
    }
)
_ATTENTION: Final = frozenset({"eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"})
_CHOICES: Final = MappingProxyType({"attn_implementation": _ATTENTION})
"""Any other attention is a kernel that is downloaded, and run."""

_ALWAYS: Final = MappingProxyType(
    {**permits.QUIET, "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_UPDATE_CHECK": "1"}
)
_BATCHING: Final = "continuous_batching"
_KEPT: Final = frozenset({"dtype", "quantization"})
"""Parameters that are used as asked for, or refused; others may be altered: attention becomes flash attention, graphs
are left out where there are none."""
_KEPT_IN_BATCHES: Final = frozenset({"cb_block_size", "cb_max_batch_tokens", "cb_max_memory_percent", "cb_num_blocks"})
"""Likewise, where batching is continuous: it is not for every model."""

_REQUEST_LINE: Final = re.compile(r"\[Request received\] Model: .{1,4096}, CB: (True|False)$", re.MULTILINE)


class TransformersAdapter(PackageEngine):
    """Adapter for `transformers serve`; see EngineAdapter. `cache_dir` keeps probe results over restarts."""

    name = "transformers"
    prompt_mode = PromptMode.TEXT
    ignore_eos = False
    health_path = "/health"
    info_paths: tuple[str, ...] = ()

    def __init__(self, settings: EngineSettings, *, cache_dir: Path | None = None) -> None:
        allowed = Permits(settings=settings, options=ALLOWED_OPTIONS, always=_ALWAYS, choices=_CHOICES)
        super().__init__(allowed, package="transformers", entry=ENTRY, needs=NEEDS, cache_dir=cache_dir)

    def command(self, request: LaunchRequest) -> EngineCommand:
        """The server's command line: one replica on one device, loopback only."""
        model = permits.model_of(request.service)
        if "@" in model:
            raise UserError(
                f"{model!r} has an @, which transformers takes for a revision",
                key="service.model",
                hint="rename the folder",
            )
        if request.tensor_parallel > 1:
            raise UserError(
                f"transformers serve cannot spread a model over {request.tensor_parallel} devices",
                key=permits.key_of(request, "tensor_parallel_size"),
                hint="leave the degree at 1: more devices run more replicas",
            )
        argv = [
            *(*self._start(), "serve", model, "--host", "127.0.0.1", "--port", str(request.port)),
            *("--device", "cpu" if permits.on_cpu(request) else "cuda:0"),
        ]
        asked: Config = {_BATCHING: True, **permits.asked(request)}
        for name in permits.flags(asked):
            key = permits.key_of(request, name)
            self._permits.check(name, asked[name], key=key)
            argv += base.flag_arguments(name, asked[name], key=key)
        return EngineCommand(argv=tuple(argv), env=self._permits.environment(request))

    def effective_config(self, log_text: str, request: LaunchRequest, bodies: Mapping[str, str] | None) -> Config:
        """What was asked for, as far as it is kept; its log tells whether batching is continuous, and no more."""
        del bodies
        asked = permits.asked(request)
        line = _REQUEST_LINE.search(log_text)
        batching = line[1] == "True" if line is not None else asked.get(_BATCHING, True) is not False
        kept = _KEPT | (_KEPT_IN_BATCHES if batching else frozenset())
        return {_BATCHING: batching, **{name: asked[name] for name in sorted(kept & asked.keys())}}
