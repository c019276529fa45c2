"""The load generators that are compared, each as a command line and a reader of what it writes.

SCOOT and the C client are always there; vllm bench serve, aiperf and guidellm live in environments of their own and are
left out where those are missing.
"""

from __future__ import annotations

import abc
import json
import math
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final

import msgspec
import numpy as np
from tools.loadbench.judge import NEVER, Reported, Served

from scoot.benchmark.metrics import summarise
from scoot.benchmark.plan import LoadPlan, Priority, PromptMode
from scoot.benchmark.spool import SpoolReader
from scoot.benchmark.trace_row import TraceRow
from scoot.benchmark.validity import judge as judge_validity
from scoot.benchmark.workload import to_blob
from scoot.wire.columns import NONE_US, RequestStatus, TimingBatch, concatenate, decode
from scoot.wire.errors import ScootError
from scoot.wire.measurement import LoadAudit
from scoot.wire.spec import ArrivalProcess, Arrivals, Limits, Workload

INPUT_TOKENS: Final = 16
START_S: Final = 90.0
"""Seconds a client may take beyond its load: to start, to compute its summary, to end."""

_SPARE: Final = 1.1
_FEW: Final = 16
"""The C client opens its connections beforehand: those that are busy at one time, and some."""

_FEW_WILL_DO: Final = Limits(min_requests=1)
_REVISION: Final = "0" * 40
_REPOSITORY: Final = "bench/tiny"
_OFFLINE: Final = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "NO_PROXY": "127.0.0.1",
    "no_proxy": "127.0.0.1",
}
_VLLM_MAIN: Final = """
import argparse
from vllm.benchmarks.serve import add_cli_args, main
parser = argparse.ArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What a client is to send: an open loop of a constant `rate`, or a closed one of `users`.

    Attributes:
        port: of the server, on 127.0.0.1.
        tokens: output tokens of each request.
        requests: of an open loop.
        rate: requests per second; None in a closed loop.
        users: connections of a closed loop; None in an open one.
        seconds: of a closed loop, about.
        stream_s: what one answer takes, about.
        deadline_s: SCOOT's deadline of a request; other clients have none, or not one that can be set.
    """

    port: int
    tokens: int
    requests: int = 0
    rate: float | None = None
    users: int | None = None
    seconds: float = 0.0
    stream_s: float = 0.0
    deadline_s: float = 60.0

    @property
    def url(self) -> str:
        """Of the server."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def duration_s(self) -> float:
        """From the first intended start to the last."""
        return self.requests / self.rate if self.rate else self.seconds


@dataclass(frozen=True, slots=True, eq=False)
class Said:
    """What a client wrote: its requests, in the order it began them, and figures of its own by name."""

    requests: list[Reported]
    facts: dict[str, Any] = field(default_factory=dict)


class WrongOutputError(Exception):
    """A client's output is missing or not understood."""


class Client(abc.ABC):
    """A load generator.

    Attributes:
        name: as in the tables.
        closed_rate: requests per second it is expected to reach in a closed loop, to choose how many to ask for.
    """

    name: ClassVar[str]
    closed_rate: ClassVar[float] = 0.0

    def missing(self) -> str:
        """Why it cannot be run here, "" if it can."""
        return ""

    def env(self, folder: Path) -> Mapping[str, str]:
        """Environment variables it needs."""
        del folder
        return {}

    @abc.abstractmethod
    def argv(self, load: Load, folder: Path) -> list[str]:
        """Its command line for `load`; files it needs are written to `folder`, which is its own."""

    @abc.abstractmethod
    def read(self, load: Load, folder: Path) -> Said:
        """What it wrote to `folder`.

        Raises:
            WrongOutputError: nothing, or something else.
        """

    def key(self, served: Served) -> str:
        """What `Reported.key` is of a served request."""
        return served.request_id

    def requests(self, load: Load) -> int:
        """How many requests to ask it for."""
        return load.requests or max(load.users or 1, round(self.closed_rate * load.seconds))


class Scoot(Client):
    """SCOOT's load process."""

    name = "scoot"

    def __init__(self, priority: Priority = Priority.NORMAL, limits: Limits = _FEW_WILL_DO) -> None:
        """`limits` are what its own verdict on its validity is by."""
        self._priority = priority
        self._limits = limits

    def argv(self, load: Load, folder: Path) -> list[str]:
        """See Client."""
        if load.rate:
            arrivals = Arrivals(process=ArrivalProcess.CONSTANT, rate=load.rate)
        else:
            arrivals = Arrivals(process=ArrivalProcess.CLOSED, users=load.users)
        (folder / "rows").write_bytes(to_blob([TraceRow(input_tokens=INPUT_TOKENS, output_tokens=load.tokens)]))
        plan = LoadPlan(
            targets=(load.url,),
            model="truth",
            prompt_mode=PromptMode.TOKEN_IDS,
            token_low=16,
            token_high=4_000,
            ignore_eos=True,
            max_model_len=0,
            workload=Workload(
                profile="BOT",
                arrivals=arrivals,
                # Half a gap less, so that rounding makes no request more.
                duration_s=load.duration_s - 0.5 / load.rate if load.rate else load.seconds,
                warm_up_s=0.0,
                request_timeout_s=load.deadline_s,
                drain_s=max(5.0, 2 * load.deadline_s),
            ),
            rows_path=str(folder / "rows"),
            run_seeds=(1,),
            limits=self._limits,
            spool_path=str(folder / "spool"),
            audit_path=str(folder / "audit.json"),
            priority=self._priority,
        )
        (folder / "plan.json").write_bytes(msgspec.json.encode(plan))
        return [sys.executable, "-m", "scoot.benchmark.process", str(folder / "plan.json")]

    def read(self, load: Load, folder: Path) -> Said:
        """See Client. Facts: `audit`, `metrics`, `validity` as built-in types."""
        del load
        try:
            with SpoolReader(folder / "spool") as reader:
                batches = []
                while frames := reader.read():
                    batches += [decode(frame.payload) for frame in frames]
            audits = msgspec.json.decode((folder / "audit.json").read_bytes(), type=list[LoadAudit])
        except (OSError, ScootError, msgspec.DecodeError) as error:
            raise WrongOutputError(str(error)) from error
        batch = concatenate(batches)
        metrics = summarise(batch, run=0)
        facts = {"metrics": metrics, "audit": audits[0], "validity": judge_validity(metrics, audits[0], self._limits)}
        return Said(_of_batch(batch), {name: msgspec.to_builtins(value) for name, value in facts.items()})


def _of_batch(batch: TimingBatch) -> list[Reported]:
    """Requests of a batch, in the order of their intended starts."""
    ends = np.cumsum(batch.chunks.astype(np.int64))
    requests = []
    for at in np.argsort(batch.intended_us, kind="stable"):
        mine = slice(int(ends[at]) - int(batch.chunks[at]), int(ends[at]))
        tokens = None if batch.chunk_tokens is None else batch.chunk_tokens[mine].astype(np.int64)
        merged = np.zeros(int(batch.chunks[at]), np.bool_) if batch.merged is None else batch.merged[mine] > 0
        sent = int(batch.sent_us[at])
        first = int(batch.first_us[at])
        status = RequestStatus(int(batch.status[at]))
        requests.append(
            Reported(
                key=f"{batch.run[at]}-{batch.index[at]}",
                ok=status is RequestStatus.OK,
                ttft_us=NEVER if NONE_US in (first, sent) else float(first - sent),
                gaps_us=batch.gap_us[mine][1:].astype(np.float64),
                tokens=tokens,
                # The truth server sends one token per event, so several tokens under one stamp are several events.
                merged=merged if tokens is None else merged | (tokens > 1),
                intended_us=float(batch.intended_us[at]),
                late_us=NEVER if sent == NONE_US else float(sent),
                note=f"{status.name} {batch.http_status[at]}" if batch.http_status[at] else status.name,
            )
        )
    return requests


class Ceiling(Client):
    """The C client: as little as can measure at all, which no fault-aware client can reach."""

    name = "C"
    closed_rate = 13_000.0

    def __init__(self, program: Path) -> None:
        """`program` is the compiled truth client."""
        self._program = program

    def argv(self, load: Load, folder: Path) -> list[str]:
        """See Client."""
        most = round(load.rate * load.stream_s * _SPARE) + _FEW if load.rate else 0
        how = ["--rate", str(load.rate), "--connections", str(most)] if load.rate else ["--closed", str(load.users)]
        return [
            *(str(self._program), "--port", str(load.port), *how, "--requests", str(self.requests(load))),
            *(
                "--tokens",
                str(load.tokens),
                "--prompt-tokens",
                str(INPUT_TOKENS),
                "--usage",
                "--dump",
                str(folder / "dump"),
            ),
        ]

    def read(self, load: Load, folder: Path) -> Said:
        """See Client. Facts: `cpu_s` of its run, without the writing of its dump."""
        del load
        try:
            lines = [json.loads(line) for line in (folder / "dump").read_text("utf-8").splitlines()]
            requests = [self._request(line) for line in lines]
            summary = json.loads((folder / "log").read_text("utf-8").splitlines()[-1])
            return Said(requests, {"cpu_s": float(summary["cpu_s"])})
        except (OSError, IndexError, KeyError, TypeError, ValueError) as error:
            raise WrongOutputError(f"dump: {error!r}") from error

    @staticmethod
    def _request(line: dict[str, Any]) -> Reported:
        sent, first = line["sent_ns"], line["first_ns"]
        return Reported(
            key=line["id"],
            ok=line["ok"],
            ttft_us=(first - sent) / 1e3 if first else NEVER,
            # It counts merged tokens, but does not say which they were.
            gaps_us=None if line["merged"] else np.array(line["gaps_ns"], np.float64) / 1e3,
            intended_us=line["intended_ns"] / 1e3,
            late_us=(sent - line["intended_ns"]) / 1e3,
            note=str(line["status"]),
        )


class Vllm(Client):
    """`vllm bench serve`, by its module: the CPU build's `vllm` command does not find its own package's metadata."""

    name = "vllm"
    closed_rate = 1_500.0

    def __init__(self, python: Path, model: Path) -> None:
        """`python` has vLLM; `model` is a folder with a tokenizer."""
        self._python = python
        self._model = model

    def missing(self) -> str:
        """See Client."""
        return "" if self._python.exists() else f"{self._python} is not there"

    def env(self, folder: Path) -> Mapping[str, str]:
        """See Client."""
        return {**_OFFLINE, "HF_HOME": str(folder / "hf")}

    def argv(self, load: Load, folder: Path) -> list[str]:
        """See Client."""
        how = (
            ["--request-rate", str(load.rate), "--burstiness", "inf"]
            if load.rate
            else ["--request-rate", "inf", "--max-concurrency", str(load.users)]
        )
        return [
            *(str(self._python), "-c", _VLLM_MAIN, "--base-url", load.url, "--endpoint", "/v1/completions"),
            *("--backend", "openai", "--model", str(self._model), "--dataset-name", "random"),
            *("--random-input-len", str(INPUT_TOKENS), "--random-output-len", str(load.tokens), "--ignore-eos"),
            *("--num-prompts", str(self.requests(load)), *how, "--ready-check-timeout-sec", "0", "--disable-tqdm"),
            *("--request-id-prefix", "b-", "--save-result", "--save-detailed"),
            *("--result-dir", str(folder), "--result-filename", "result.json"),
        ]

    def read(self, load: Load, folder: Path) -> Said:
        """See Client."""
        del load
        result = _json(folder / "result.json")
        try:
            columns = zip(result["ttfts"], result["itls"], result["errors"], strict=True)
            return Said(
                [
                    Reported(
                        key=f"b-{index}",
                        ok=not error,
                        ttft_us=ttft * 1e6 if ttft else NEVER,  # 0.0 stands for none
                        gaps_us=np.array(itl, np.float64) * 1e6,
                        note=error.strip().rsplit("\n", 1)[-1],
                    )
                    for index, (ttft, itl, error) in enumerate(columns)
                ]
            )
        except (KeyError, TypeError, ValueError) as error:
            raise WrongOutputError(f"result.json: {error!r}") from error


class Aiperf(Client):
    """`aiperf profile`."""

    name = "aiperf"
    closed_rate = 800.0

    def __init__(self, home: Path, model: Path) -> None:
        """`home` is its environment; `model` is a folder with a tokenizer."""
        self._program = home / "bin" / "aiperf"
        self._model = model

    def missing(self) -> str:
        """See Client."""
        return "" if self._program.exists() else f"{self._program} is not there"

    def env(self, folder: Path) -> Mapping[str, str]:
        """See Client."""
        return {**_OFFLINE, "HF_HOME": str(folder / "hf")}

    def argv(self, load: Load, folder: Path) -> list[str]:
        """See Client. Offline it takes no folder as tokenizer, only what is in a cache of the hub: so one is made."""
        home = folder / "hf" / "hub" / f"models--{_REPOSITORY.replace('/', '--')}"
        shutil.copytree(self._model, home / "snapshots" / _REVISION)
        (home / "refs").mkdir()
        (home / "refs" / "main").write_text(_REVISION)
        how = (
            ["--request-rate", str(load.rate), "--arrival-pattern", "constant"]
            if load.rate
            else ["--concurrency", str(load.users)]
        )
        return [
            *(str(self._program), "profile", "--model", "truth", "--tokenizer", _REPOSITORY, "--url", load.url),
            *("--endpoint-type", "completions", "--streaming", "--use-legacy-max-tokens", "--use-server-token-count"),
            *("--isl", str(INPUT_TOKENS), "--osl", str(load.tokens), "--extra-inputs", "ignore_eos:true"),
            *(*how, "--request-count", str(self.requests(load)), "--random-seed", "1"),
            *("--ui", "none", "--no-gpu-telemetry", "--no-server-metrics", "--export-level", "records"),
            *("--artifact-dir", str(folder / "out")),
        ]

    def read(self, load: Load, folder: Path) -> Said:
        """See Client."""
        del load
        path = folder / "out" / "profile_export.jsonl"
        try:
            lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
            lines.sort(key=lambda line: int(line["metadata"]["request_start_ns"]))
            return Said([self._request(line) for line in lines])
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise WrongOutputError(f"{path.name}: {error!r}") from error

    @staticmethod
    def _request(line: dict[str, Any]) -> Reported:
        metrics = line["metrics"]
        ttft = metrics.get("time_to_first_token", {}).get("value")
        error = line.get("error")
        return Reported(
            key=line["metadata"]["x_request_id"],
            ok=not error,
            ttft_us=NEVER if ttft is None else ttft * 1e3,
            gaps_us=np.array(metrics.get("inter_chunk_latency", {}).get("value", []), np.float64) * 1e3,
            note="" if not error else f"{error.get('code') or ''} {error.get('type') or ''}: {error.get('message')}",
        )


class Guidellm(Client):
    """`guidellm run`. It keeps no single gaps, only the times of the first and the last token."""

    name = "guidellm"
    closed_rate = 280.0

    def __init__(self, home: Path, model: Path) -> None:
        """`home` is its environment; `model` is a folder with a tokenizer."""
        self._program = home / "bin" / "guidellm"
        self._model = model

    def missing(self) -> str:
        """See Client."""
        return "" if self._program.exists() else f"{self._program} is not there"

    def env(self, folder: Path) -> Mapping[str, str]:
        """See Client."""
        return {**_OFFLINE, "HF_HOME": str(folder / "hf")}

    def argv(self, load: Load, folder: Path) -> list[str]:
        """See Client."""
        profile = f"kind=constant,rate={load.rate}" if load.rate else f"kind=concurrent,streams={load.users}"
        return [
            *(str(self._program), "run", "--disable-console", "--profile", profile),
            *("--backend", f"kind=openai_http,target={load.url},model=truth,request_format=/v1/completions"),
            *("--constraint", f"kind=max_requests,count={self.requests(load)}"),
            *("--tokenizer", f"kind=huggingface_auto,model={self._model}"),
            *("--data", f"kind=synthetic_text,prompt_tokens={INPUT_TOKENS},output_tokens={load.tokens}"),
            *("--output", f"kind=json,path={folder / 'result.json'}"),
        ]

    def key(self, served: Served) -> str:
        """The id in the server's answer, which is the request's number."""
        return f"cmpl-{served.n}"

    def read(self, load: Load, folder: Path) -> Said:
        """See Client."""
        del load
        result = _json(folder / "result.json")
        try:
            kinds = result["benchmarks"][0]["requests"]
            entries = [
                (entry, kind) for kind in ("successful", "errored", "incomplete") for entry in kinds.get(kind) or []
            ]
            entries.sort(key=lambda one: one[0]["request_start_time"] or math.inf)
            return Said([self._request(entry, kind) for entry, kind in entries])
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise WrongOutputError(f"result.json: {error!r}") from error

    @staticmethod
    def _request(entry: dict[str, Any], kind: str) -> Reported:
        timings = entry["info"]["timings"]
        start, first = timings["request_start"], timings["first_token_iteration"]
        error = entry["info"].get("error") or ""
        tokens = timings.get("token_iterations") or 0
        return Reported(
            key=entry.get("response_id") or "",
            ok=kind == "successful",
            ttft_us=NEVER if start is None or first is None else (first - start) * 1e6,
            note=f"{kind}, {tokens} tokens {error}".strip(),
        )


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise WrongOutputError(f"{path.name}: {error}") from error
    if not isinstance(value, dict):
        raise WrongOutputError(f"{path.name}: not an object")
    return value
