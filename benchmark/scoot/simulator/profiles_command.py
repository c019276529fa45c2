"""`scoot.simulator profiles`: what the simulator knows without a user's timings, and where it is from. IO."""

from __future__ import annotations

from typing import Final

import click

from scoot.simulator.memory import STYLES, MemoryPlan, plan_memory
from scoot.simulator.settings import StartFailure
from scoot.simulator.shapes import DEGREES, GIB, GPUS, LINKS, MODELS, Gpu, ModelShape, gpu_named, model_named
from scoot.wire.errors import UserError

_BIG_GIB: Final = 70.0
"""Devices with more have larger defaults in vLLM 0.32, but for the A100 (its engine/arg_utils.py)."""
_LEAST_BLOCK: Final = 16


@click.command("profiles", context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--model", metavar="NAME", help="Only this one.")
@click.option("--gpu", metavar="NAME", help="Only this one.")
@click.option("--tp", type=int, metavar="N", help="Only this many devices of a replica.")
@click.option("--link", type=click.Choice(LINKS), help="Between devices. Default: the GPU's usual one.")
@click.option(
    "--engine", type=click.Choice(list(STYLES)), default="vllm-0.32", show_default=True, help="Whose memory defaults."
)
def profiles(model: str | None, gpu: str | None, tp: int | None, link: str | None, engine: str) -> None:
    """List the built-in profiles: model x GPU x tensor-parallel degree, and the KV cache each has by default.

    With --model, --gpu and --tp it shows one: what was measured, what was derived, and how memory is shared out.
    """
    models = [model_named(model, key="--model")] if model else list(MODELS.values())
    gpus = [gpu_named(gpu, key="--gpu")] if gpu else list(GPUS.values())
    if tp is not None and tp not in DEGREES:
        raise UserError(f"no times for {tp} devices", key="--tp", hint=f"one of {', '.join(map(str, DEGREES))}")
    if model and gpu and tp:
        lines = _one(models[0], gpus[0], tp, link or gpus[0].link, engine)
    else:
        lines = listing(models, gpus, [tp] if tp else list(DEGREES), engine)
    for line in lines:
        click.echo(line)


def listing(models: list[ModelShape], gpus: list[Gpu], degrees: list[int], engine: str) -> list[str]:
    """One line for each model and GPU, one column for each degree."""
    utilization = _utilization(engine)
    head = f"KV cache in tokens, {engine} at its defaults (memory share {utilization}); - does not fit"
    lines = [head, f"{'model':<14} {'gpu':<5} " + " ".join(f"{f'tp {degree}':>11}" for degree in degrees)]
    short = False
    for model in models:
        for gpu in gpus:
            cells = []
            for degree in degrees:
                text = _cell(model, gpu, degree, engine)
                short |= text.endswith("*")
                cells.append(f"{text:>11}")
            lines.append(f"{model.name:<14} {gpu.name:<5} " + " ".join(cells))
    if short:
        lines.append("* less than one sequence of the model's longest context: vLLM needs a smaller max_model_len")
    lines.append("--model, --gpu and --tp together show where one profile's figures are from")
    return lines


def _cell(model: ModelShape, gpu: Gpu, degree: int, engine: str) -> str:
    if model.heads % degree:
        return "-"
    try:
        tokens = default_plan(model, gpu, degree, engine, max_model_len=1).blocks * _LEAST_BLOCK
    except StartFailure:
        return "-"
    return f"{tokens:,}" + ("*" if tokens < model.max_model_len else "")


def default_plan(
    model: ModelShape, gpu: Gpu, tensor_parallel: int, engine: str, *, max_model_len: int | None = None
) -> MemoryPlan:
    """The memory plan of an engine generation with the defaults of its server.

    Raises:
        StartFailure: it does not start with them.
    """
    longest = model.max_model_len if max_model_len is None else max_model_len
    if engine == "vllm-0.4.2":
        budget, running = max(2048, model.max_model_len), 256
    elif engine == "trtllm-1.2":
        budget, running = 8192, 2048
    elif gpu.usable_gib >= _BIG_GIB and gpu.name != "a100":
        budget, running = 8192, 1024
    else:
        budget, running = 2048, 256
    return plan_memory(
        model,
        gpu,
        tensor_parallel,
        style=engine,
        utilization=_utilization(engine),
        token_budget=budget,
        max_running=running,
        max_model_len=longest,
        block_size=_LEAST_BLOCK,
    )


def _utilization(engine: str) -> float:
    return 0.92 if engine == "vllm-0.32" else 0.9


def _one(model: ModelShape, gpu: Gpu, degree: int, link: str, engine: str) -> list[str]:
    """Where one profile's figures are from."""
    from scoot.simulator.step_time import provenance  # reads the tables: not for the listing

    devices = f"{degree} x {gpu.name}" + (f" ({link})" if degree > 1 else "")
    lines = [f"{model.name} on {devices}"]
    lines += [f"  step time: {line}" for line in provenance(model, gpu, degree, link)]
    try:
        plan = default_plan(model, gpu, degree, engine, max_model_len=1)
    except StartFailure as failure:
        return [*lines, f"  memory: {engine} does not start with its defaults: {failure.lines[0]}"]
    lines.append(
        f"  memory of a device, {engine} at its defaults: {gpu.usable_gib:.1f} GiB usable, "
        f"weights {plan.weights_bytes / GIB:.2f}, activation {plan.activation_bytes / GIB:.2f}, "
        f"KV cache {plan.kv_bytes / GIB:.2f} ({plan.blocks * _LEAST_BLOCK:,} tokens)"
    )
    lines.append("  memory is COMPUTED from shapes, with overheads set from public logs of vLLM")
    return lines
