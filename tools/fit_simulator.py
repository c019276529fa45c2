"""Fit the simulator's figures to measured GPU timings, and write them into the package.

    python -m tools.fit_simulator [--check] [--data ../shared/data/gpu_timings]

Every figure is fitted by least squares of relative errors, robust to outliers. Nothing of the timings is copied: curves
are knots of a fit that never falls with more tokens. `--check` fits again and fails when what is committed is stale;
without the timings it says so and passes.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import pathlib
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares

from scoot.simulator.calibration import (
    AttentionTable,
    Calibration,
    CpuFit,
    DenseTable,
    ReduceTable,
    RooflineFit,
)
from scoot.simulator.roofline import Roofline, element_bytes, multiplications, multiply_us
from scoot.simulator.shapes import GPUS, ModelShape

ROOT: Final = pathlib.Path(__file__).resolve().parent.parent
DATA: Final = ROOT.parent / "shared" / "data" / "gpu_timings"
TARGET: Final = ROOT / "benchmark" / "scoot" / "simulator" / "calibration.json"

Row = dict[str, str]
Floats = npt.NDArray[np.floating]

OPERATORS: Final = ("attn_pre_proj", "attn_post_proj", "mlp_up_proj", "mlp_down_proj")
ELEMENTS: Final = ("input_layernorm", "attn_rope", "post_attention_layernorm", "mlp_act", "add")
"""Columns of a layer: multiplications, in the order of roofline.multiplications, and element-wise work."""

DENSE_KNOTS: Final = 24
DECODE_BATCHES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
DECODE_CONTEXTS: Final = (1, 127, 255, 511, 1023, 2047, 4095, 16383, 131071)
DECODE_HEADS: Final = tuple((kv * group, kv) for kv in (1, 2, 4, 8) for group in (1, 4, 8))
PREFILL_BATCHES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)
PREFILL_LENGTHS: Final = (1, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
PREFILL_HEADS: Final = (
    *((q, q) for q in (4, 8, 12, 16, 24, 32, 48, 64)),
    *((4, 1), (8, 1), (12, 2), (16, 2), (24, 4), (32, 4), (48, 8), (64, 8)),
)
NOISE: Final = 1.1
GROWTH: Final = 1.25
"""How much a measurement may exceed what its neighbours allow."""
REDUCE_KNOTS: Final = 14
OWN_REDUCE_BYTES: Final = 8 << 20
"""vLLM's own all-reduce leaves larger messages to NCCL."""

_VIDUR = "microsoft/vidur 7d47513363ec (MIT)"
_AIC = "ai-dynamo/aiconfigurator 095f58a51c4c (Apache-2.0)"
SOURCES: Final = {
    "vidur-layers": f"fitted to vidur_layer_ops: measured operators of a layer by tokens, {_VIDUR}",
    "aic-gemm": f"fitted to aic_gemm: measured multiplications, {_AIC}; element-wise shares taken to be an A40's",
    "aic-prefill": f"fitted to aic_attention_prefill: measured vLLM 0.14 kernels, {_AIC}",
    "aic-decode": f"fitted to aic_attention_decode: measured vLLM 0.14 kernels, {_AIC}; cache contents that no engine "
    "would find in the L2 cache are taken at the speed of memory",
    "aic-reduce": f"fitted to all_reduce: measured, {_AIC}",
    "vidur-reduce": f"fitted to all_reduce: measured NCCL of a node without peer-to-peer access, {_VIDUR}",
    "vidur-cpu": "fitted to cpu_overheads: vLLM of early 2024, Llama-2-7B on one A100, microsoft/vidur "
    "b09e4fff7f72 (MIT); time of several workers ASSUMED at a third of the 6 ms measured with Ray",
    "gpustack-async": "DERIVED: of such a size that asynchronous scheduling gains the 5 to 16 % of throughput "
    "measured with vLLM 0.11, gpustack/gpustack 47277d79f4a5 (Apache-2.0)",
    "assumed": "ASSUMED: no table was found; far below vLLM 0.4, as the makers of this generation say",
}
UNMEASURED_CPU: Final = {
    "vllm-0.32": ((600.0, 14.0, 200.0), "gpustack-async"),
    "trtllm-1.2": ((400.0, 4.0, 150.0), "assumed"),
}
"""Profile -> (microseconds a step, a sequence, for several workers), and where from."""
WORKERS_US: Final = 2000.0


def read(name: str, folder: pathlib.Path = DATA) -> list[Row]:
    """Rows of a file of timings."""
    with gzip.open(folder / f"{name}.csv.gz", "rt", newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def robust(design: Floats, target: Floats, *, delta: float = 0.05) -> Floats:
    """Least squares with Huber's weights: errors beyond `delta` count only in proportion."""
    weight = np.ones(len(target))
    for _ in range(8):
        root = np.sqrt(weight)
        found: Floats = np.linalg.lstsq(design * root[:, None], target * root, rcond=None)[0]
        weight = np.minimum(1.0, delta / np.maximum(np.abs(design @ found - target), 1e-12))
    return found


def hats(knots: Floats, x: Floats) -> Floats:
    """(len(x), len(knots)) shares of the knots in a linear interpolation; flat outside."""
    at = np.clip(np.searchsorted(knots, x, side="right") - 1, 0, len(knots) - 2)
    share = np.clip((x - knots[at]) / (knots[at + 1] - knots[at]), 0.0, 1.0)
    out = np.zeros((len(x), len(knots)))
    rows = np.arange(len(x))
    out[rows, at] = 1 - share
    out[rows, at + 1] = share
    return out


def rising(y: Floats) -> Floats:
    """The nearest sequence that never falls (pool adjacent violators)."""
    pools: list[list[float]] = []
    for value in y:
        pools.append([float(value), 1.0])
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            mean, n = pools.pop()
            before, m = pools[-1]
            pools[-1] = [(mean * n + before * m) / (n + m), n + m]
    return np.concatenate([np.full(int(n), mean) for mean, n in pools])


def round4(values: Iterable[float]) -> tuple[float, ...]:
    """Values to four significant digits."""
    return tuple(float(f"{value:.4g}") for value in values)


def fit_curve(x: Sequence[float], y: Sequence[float], knots: int) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Knots of a curve that never falls: greedily where a line fits worst, values by robust least squares."""
    pooled: dict[float, list[float]] = defaultdict(list)
    for size, value in zip(x, y, strict=True):
        pooled[size].append(value)
    xs = np.array(sorted(pooled))
    medians = np.log([float(np.median(pooled[size])) for size in xs])
    # Of three neighbours the middle one: a step stays, a single value far off goes.
    inner = np.median(np.stack([medians[:-2], medians[1:-1], medians[2:]]), axis=0)
    ys = np.exp(rising(np.concatenate([medians[:1], inner, medians[-1:]])))
    chosen = {0, len(xs) - 1}
    while len(chosen) < min(knots, len(xs)):
        at = np.array(sorted(chosen))
        away = np.abs(np.interp(xs, xs[at], ys[at]) / ys - 1)
        # A span's worst point counts by how many points it speaks for, so that outliers do not draw all knots.
        worst, best = -1, 0.0
        for a, b in pairwise(at):
            inside = away[a + 1 : b]
            if len(inside) and (loss := float(inside.max() * np.sqrt(inside.sum()))) > best:
                worst, best = int(a + 1 + inside.argmax()), loss
        if worst < 0:
            break
        chosen.add(worst)
    at = np.array(sorted(chosen))
    values = robust(hats(xs[at], xs) / ys[:, None], np.ones(len(xs)))
    return tuple(int(size) for size in xs[at]), round4(np.maximum.accumulate(values))


Shape = tuple[str, int, int, int, int, int]


def layer_shapes(rows: Iterable[Row]) -> dict[Shape, list[Row]]:
    """Rows of gated layers by GPU, hidden, ffn, heads, kv heads and tensor-parallel degree."""
    out: dict[Shape, list[Row]] = defaultdict(list)
    for row in rows:
        if row["gated"] == "1":
            sizes = (int(row[key]) for key in ("n_embd", "ffn", "n_head", "n_kv_head", "tp"))
            out[(row["gpu"], *sizes)].append(row)  # type: ignore[index]  # mypy does not count a generator
    return dict(out)


def layer_us(row: Row) -> float:
    """Microseconds of a whole layer."""
    return 1e3 * sum(float(row[name]) for name in (*OPERATORS, *ELEMENTS))


def shape_of(key: Shape) -> ModelShape:
    """A model with this layer."""
    _, hidden, ffn, heads, kv_heads, _ = key
    return ModelShape(
        name="", layers=1, hidden=hidden, ffn=ffn, heads=heads, kv_heads=kv_heads, vocab=0, max_model_len=0
    )


def fit_dense(layers: Mapping[Shape, Sequence[Row]], knots: int = DENSE_KNOTS) -> tuple[DenseTable, ...]:
    """A curve per layer shape."""
    out = []
    for key, rows in sorted(layers.items()):
        gpu, hidden, ffn, heads, kv_heads, degree = key
        tokens, us = fit_curve([int(row["num_tokens"]) for row in rows], [layer_us(row) for row in rows], knots)
        sizes = {"hidden": hidden, "ffn": ffn, "heads": heads, "kv_heads": kv_heads, "degree": degree}
        out.append(DenseTable(gpu=gpu, tokens=tokens, us=us, source="vidur-layers", **sizes))
    return tuple(out)


Block = tuple[Any, Any, Any, Floats, Floats]
"""Multiplications: m, n, k (arrays or numbers), microseconds, weights."""


def _solve(gpu: str, blocks: Sequence[Block]) -> tuple[float, float, float, float, float]:
    """Compute, memory, power, wave and launch that fit (m, n, k, us, weight) best."""

    def away(x: Floats) -> Floats:
        roof = Roofline(
            compute=x[0], memory=x[1], power=x[2], wave=x[3], launch_us=x[4], element_us=0.0, element_memory=1.0
        )
        return np.concatenate([np.log(multiply_us(roof, GPUS[gpu], m, n, k) / us) * w for m, n, k, us, w in blocks])

    bounds = ([0.1, 0.1, 1.0, 0.0, 0.0], [1.2, 1.2, 8.0, 1.0, 50.0])
    found = least_squares(away, [0.75, 0.8, 2.0, 0.3, 3.0], bounds=bounds, loss="soft_l1", f_scale=0.1)
    compute, memory, power, wave, launch = round4(found.x)
    return compute, memory, power, wave, launch


def fit_roofline(gpu: str, layers: Mapping[Shape, Sequence[Row]], *, most_tokens: int = 4096) -> Roofline:
    """One roofline from the operators of all layers of a GPU, each by its share in its layer."""
    blocks: list[Block] = []
    moved: list[Floats] = []
    taken: list[Floats] = []
    for key, every in sorted(layers.items()):
        # Every second point is plenty for so few coefficients.
        rows = [row for row in every if int(row["num_tokens"]) <= most_tokens][::2]
        if key[0] != gpu or not rows:
            continue
        tokens = np.array([int(row["num_tokens"]) for row in rows])
        whole = np.array([layer_us(row) for row in rows])
        for name, (n, k) in zip(OPERATORS, multiplications(shape_of(key), key[-1]), strict=True):
            us = np.array([float(row[name]) * 1e3 for row in rows])
            blocks.append((tokens, n, k, us, np.sqrt(us / whole)))
        per_token = element_bytes(shape_of(key), key[-1], 1)
        moved.append(tokens * per_token / (GPUS[gpu].gb_per_s * 1e3))
        taken.append(np.array([1e3 * sum(float(row[name]) for name in ELEMENTS) for row in rows]))
    us = np.concatenate(taken)
    design = np.stack([np.ones(len(us)), np.concatenate(moved)], axis=1) / us[:, None]
    fixed, inverse = robust(design, np.ones(len(us)), delta=0.2)
    compute, memory, power, wave, launch = _solve(gpu, blocks)
    element_us, element_memory = round4((fixed, 1 / inverse))
    return Roofline(
        compute=compute,
        memory=memory,
        power=power,
        wave=wave,
        launch_us=launch,
        element_us=element_us,
        element_memory=element_memory,
    )


def large(row: Row) -> bool:
    """A multiplication as large as those of a model's layers, whose weights are not all in a cache."""
    m, n, k = (int(row[key]) for key in "mnk")
    return min(n, k) >= 1024 and max(n, k) <= 16384 and (n * k >= 1 << 24 or m >= 512)  # noqa: PLR2004 - sizes of layers


def fit_products(gpu: str, rows: Iterable[Row], like: Roofline) -> Roofline:
    """A roofline from single multiplications; element-wise shares are those of another GPU."""
    chosen = [row for row in rows if row["gpu"] == gpu and large(row)]
    m, n, k = (np.array([int(row[key]) for row in chosen]) for key in "mnk")
    us = np.array([float(row["latency_ms"]) * 1e3 for row in chosen])
    compute, memory, power, wave, launch = _solve(gpu, [(m, n, k, us, np.ones(len(us)))])
    return msgspec.structs.replace(like, compute=compute, memory=memory, power=power, wave=wave, launch_us=launch)


def without_glitches(points: Points, *, power: int) -> Points:
    """With values capped that contradict their neighbours.

    Work that is larger both ways never takes less time, and time grows at most in proportion to the batch and with
    `power` of the length.

    Measured tables have a few values that are several times their neighbours. A knot there would follow them.
    """
    out: Points = {}
    for (batch, length), us in sorted(points.items()):
        larger = min(v for (b, n), v in points.items() if b >= batch and n >= length)
        at_most = [larger * NOISE]
        before = [n for b, n in points if b == batch and n < length]
        fewer = [b for b, n in points if n == length and b < batch]
        if before:
            at_most.append(out[batch, max(before)] * (length / max(before)) ** power * GROWTH)
        if fewer:
            at_most.append(out[max(fewer), length] * batch / max(fewer) * GROWTH)
        out[batch, length] = min(us, *at_most)
    return out


Points = dict[tuple[int, int], float]
"""Microseconds by batch size and length."""


def points_of(kind: str, folder: pathlib.Path = DATA) -> dict[tuple[str, int, int], Points]:
    """Attention ("prefill" or "decode") as it was measured, by GPU, heads and kv heads of a device."""
    length = "isl" if kind == "prefill" else "ctx_tokens"
    out: dict[tuple[str, int, int], Points] = defaultdict(dict)
    for row in read(f"aic_attention_{kind}", folder):
        key = (row["gpu"], int(row["q_heads"]), int(row["kv_heads"]))
        out[key][int(row["batch_size"]), int(row[length])] = float(row["latency_ms"]) * 1e3
    return dict(out)


def cleaned(kind: str, points: Mapping[tuple[str, int, int], Points]) -> dict[tuple[str, int, int], Points]:
    """What is fitted of it."""
    power = 2 if kind == "prefill" else 1
    if kind == "decode":
        points = from_memory(points)
    return {key: without_glitches(each, power=power) for key, each in points.items()}


def from_memory(points: Mapping[tuple[str, int, int], Points]) -> dict[tuple[str, int, int], Points]:
    """Decode attention with nothing in the L2 cache: no faster than a launch and its bytes at memory's speed.

    Between two steps of an engine a layer's keys and values are displaced by those of all other layers; the
    measurements repeat one layer, and small ones come from the cache. What memory reaches is seen in the large ones.
    """
    out: dict[tuple[str, int, int], Points] = {}
    speeds: dict[str, list[float]] = defaultdict(list)
    for (gpu, _, kv_heads), each in points.items():
        launch = min(each.values())
        for (batch, length), us in each.items():
            if (size := batch * length * kv_heads * 512) > 1 << 28:
                speeds[gpu].append(size / (us - launch))
    for (gpu, heads, kv_heads), each in points.items():
        launch, speed = min(each.values()), float(np.quantile(speeds[gpu], 0.9))
        out[gpu, heads, kv_heads] = {
            (batch, length): max(us, launch + batch * length * kv_heads * 512 / speed)
            for (batch, length), us in each.items()
        }
    return out


def filled(points: Points, batches: Sequence[int], lengths: Sequence[int], *, power: float) -> Points:
    """With what did not fit into the memory of the device, or was left out.

    Twice the batch takes twice as long. Where no smaller batch has a length either, time goes on from the last one: in
    a straight line (`power` 1), or with the square of the length (2).
    """
    out = dict(points)
    every_batch = sorted({*batches, *(key[0] for key in points)})
    every_length = sorted({*lengths, *(key[1] for key in points)})
    for i, batch in enumerate(every_batch):
        for length in every_length:
            if (batch, length) in out:
                continue
            here = sorted(known for size, known in points if size == batch)
            if here and here[0] < length < here[-1]:
                continue
            below = every_batch[i - 1] if i else 0
            if (below, length) in out:
                out[batch, length] = out[below, length] * batch / below
            elif here and length > here[-1]:
                out[batch, length] = _onward(out, batch, here, length, power)
    return out


def _onward(points: Points, batch: int, here: Sequence[int], length: int, power: float) -> float:
    """Through the last two lengths of a batch size, as a straight line over length^power."""
    last = points[batch, here[-1]]
    if len(here) == 1:
        return float(last * (length / here[-1]) ** power)
    slope = (last - points[batch, here[-2]]) / (here[-1] ** power - here[-2] ** power)
    return float(last + max(0.0, slope) * (length**power - here[-1] ** power))


def fit_surface(points: Points, batches: Sequence[int], lengths: Sequence[int], *, powers: bool) -> Floats:
    """(b, n) microseconds at knots, never falling along either; `powers`: straight in logarithms."""
    whole = filled(points, batches, lengths, power=2.0 if powers else 1.0)
    weight = np.array([1.0 if key in points else 0.1 for key in whole])
    us = np.array(list(whole.values()))
    scale: Callable[[Any], Floats] = np.log if powers else np.asarray
    b, n = (scale(np.array([float(key[i]) for key in whole])) for i in (0, 1))
    shares_b = hats(scale(np.array(batches, np.float64)), b)
    shares_n = hats(scale(np.array(lengths, np.float64)), n)
    design = (shares_b[:, :, None] * shares_n[:, None, :]).reshape(len(us), -1)
    if powers:
        found = robust(design * weight[:, None], np.log(us) * weight)
    else:
        found = robust(design / us[:, None] * weight[:, None], weight)
    grid = found.reshape(len(batches), len(lengths))
    if powers:
        grid = np.exp(_steepening(grid, np.log(np.array(lengths, np.float64))))
    rounded = np.array([round4(row) for row in grid])
    return np.maximum.accumulate(np.maximum.accumulate(rounded, axis=0), axis=1)


def _steepening(grid: Floats, x: Floats) -> Floats:
    """Rows whose slope never falls, so that a prompt's later tokens never cost less than its earlier ones."""
    out = []
    for row in grid:
        slopes = np.clip(rising(np.diff(row) / np.diff(x)), 0.0, 2.0)
        line = np.concatenate([[0.0], np.cumsum(slopes * np.diff(x))])
        out.append(line + np.median(row - line))
    return np.array(out)


def fit_attention(
    kind: str,
    points: Mapping[tuple[str, int, int], Points],
    heads: Iterable[tuple[int, int]],
    *,
    but: Sequence[int] = (),
) -> tuple[AttentionTable, ...]:
    """Surfaces of the given (heads, kv heads), for every GPU; without knots at the batch sizes `but`."""
    decode = kind == "decode"
    lengths = DECODE_CONTEXTS if decode else PREFILL_LENGTHS
    batches = tuple(batch for batch in (DECODE_BATCHES if decode else PREFILL_BATCHES) if batch not in but)
    out = []
    for gpu in sorted({key[0] for key in points}):
        for q, kv in heads:
            grid = fit_surface(points[gpu, q, kv], batches, lengths, powers=not decode)
            out.append(
                AttentionTable(
                    kind=kind,
                    gpu=gpu,
                    heads=q,
                    kv_heads=kv,
                    batches=batches,
                    lengths=lengths,
                    us=tuple(tuple(map(float, row)) for row in grid),
                    source=f"aic-{kind}",
                )
            )
    return tuple(out)


def fit_all_reduce(rows: Sequence[Row]) -> tuple[ReduceTable, ...]:
    """Curves by GPU, link, number of devices and kernel."""
    measured: dict[tuple[str, str, int, str], dict[int, float]] = defaultdict(dict)
    for row in rows:
        link = "nvlink" if row["link"].startswith("NVLink") else "pcie"
        if row["link"].startswith("pairwise"):
            continue
        kernel = "nccl" if row["impl"].startswith("nccl-") else "own" if row["impl"].endswith("graph") else ""
        if row["gpu"] == "a40":
            kernel = "nccl"
        if kernel:
            key = (row["gpu"], link, int(row["num_gpus"]), kernel)
            measured[key][int(row["bytes"])] = float(row["latency_ms"]) * 1e3
    out = []
    for (gpu, link, devices, kernel), each in sorted(measured.items()):
        points = each
        if kernel == "own":
            nccl = measured[gpu, link, devices, "nccl"]
            points = {size: min(us, nccl.get(size, us)) for size, us in each.items() if size < OWN_REDUCE_BYTES}
            points |= {size: us for size, us in nccl.items() if size >= OWN_REDUCE_BYTES}
        sizes, us = fit_curve(list(points), list(points.values()), REDUCE_KNOTS)
        source = "vidur-reduce" if gpu == "a40" else "aic-reduce"
        custom = kernel == "own"
        out.append(ReduceTable(gpu=gpu, link=link, devices=devices, custom=custom, bytes=sizes, us=us, source=source))
    return tuple(out)


def fit_cpu(rows: Iterable[Row]) -> tuple[CpuFit, ...]:
    """Straight lines over the sequences of a step."""
    names = [f"{part}_median" for part in ("schedule", "sampler_e2e", "prepare_inputs_e2e", "process_model_outputs")]
    chosen = [
        row
        for row in rows
        if (row["gpu"], row["model_name"], row["tensor_parallel_degree"]) == ("a100", "meta-llama/Llama-2-7b-hf", "1")
    ]
    n = np.array([float(row["batch_size"]) for row in chosen])
    us = np.array([1e3 * sum(float(row[name]) for name in names) for row in chosen])
    base, per_sequence = round4(robust(np.stack([np.ones(len(n)), n], axis=1) / us[:, None], np.ones(len(n))))
    out = [
        CpuFit(
            profile="vllm-0.4.2",
            base_us=base,
            per_sequence_us=per_sequence,
            workers_us=WORKERS_US,
            source="vidur-cpu",
        )
    ]
    for profile, ((base_us, sequence_us, workers_us), source) in UNMEASURED_CPU.items():
        out.append(
            CpuFit(
                profile=profile,
                base_us=base_us,
                per_sequence_us=sequence_us,
                workers_us=workers_us,
                source=source,
            )
        )
    return tuple(out)


def fit(folder: pathlib.Path = DATA) -> Calibration:
    """All figures, from all timings."""
    layers = layer_shapes(read("vidur_layer_ops", folder))
    rooflines = [
        RooflineFit(gpu=gpu, roofline=fit_roofline(gpu, layers), source="vidur-layers")
        for gpu in ("a100", "a40", "h100")
    ]
    l40s = fit_products("l40s", read("aic_gemm", folder), rooflines[1].roofline)
    rooflines.append(RooflineFit(gpu="l40s", roofline=l40s, source="aic-gemm"))
    prefill, decode = (cleaned(kind, points_of(kind, folder)) for kind in ("prefill", "decode"))
    return Calibration(
        sources=SOURCES,
        dense=fit_dense(layers),
        rooflines=tuple(rooflines),
        attention=(
            *fit_attention("prefill", prefill, PREFILL_HEADS),
            *fit_attention("decode", decode, DECODE_HEADS),
        ),
        all_reduce=fit_all_reduce(read("all_reduce", folder)),
        cpu=fit_cpu(read("cpu_overheads", folder)),
    )


def encoded(calibration: Calibration) -> bytes:
    """The data file: a table a line, so that a change can be read."""
    text = msgspec.json.encode(calibration)
    return text.replace(b'},{"', b'},\n{"').replace(b'":[{"', b'":[\n{"') + b"\n"


def stale(old: bytes, new: bytes, *, tolerance: float = 2e-3) -> bool:
    """Whether figures differ by more than another machine's rounding."""
    mine, theirs = _flat(msgspec.json.decode(old)), _flat(msgspec.json.decode(new))
    if len(mine) != len(theirs):
        return True
    for a, b in zip(mine, theirs, strict=True):
        both = isinstance(a, float | int) and isinstance(b, float | int)
        if (abs(a - b) > tolerance * max(abs(a), abs(b))) if both else a != b:
            return True
    return False


def _flat(value: Any) -> list[Any]:  # noqa: ANN401 - any JSON
    if isinstance(value, dict):
        return [leaf for key in value for leaf in (key, *_flat(value[key]))]
    if isinstance(value, list):
        return [leaf for item in value for leaf in _flat(item)]
    return [value]


def main() -> None:
    """Fit in place, or compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the committed file, write nothing")
    parser.add_argument("--data", type=pathlib.Path, default=DATA, help="folder of the timings")
    options = parser.parse_args()
    if not options.data.is_dir():
        print(f"no timings in {options.data}: nothing to fit, and nothing to compare with")
        return
    fresh = encoded(fit(options.data))
    if options.check:
        if not TARGET.exists() or stale(TARGET.read_bytes(), fresh):
            sys.exit(f"{TARGET.name} is stale; run `python -m tools.fit_simulator` and commit the result")
        return
    TARGET.write_bytes(fresh)
    print(f"{TARGET.name}: {len(fresh)} bytes")


if __name__ == "__main__":
    main()
