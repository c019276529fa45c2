"""How well the simulator's step times agree with timings that were left out of their fit.

    python -m tools.simulator_accuracy [--data ../shared/data/gpu_timings]

Every table names what was fitted and what was tested. Errors are relative, per operator or per iteration: mean absolute
(MAPE), mean (bias) and the 95th percentile of the absolute ones.

What these figures hide: the tile of the roofline (128 x 128, of five) and the knots of attention were chosen with
errors like these in view, so they are a little kind. Vidur composes the same tables of layers that the simulator has
curves of: "tables" rows of iterations test composition and attention, and only the roofline rows test layers as well.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
import numpy as np
from tools import fit_simulator as fitting

from scoot.simulator.all_reduce import AllReduce, all_reduce
from scoot.simulator.attention import decode_attention, prefill_attention
from scoot.simulator.calibration import Calibration, RooflineFit
from scoot.simulator.curves import curve
from scoot.simulator.overheads import overheads
from scoot.simulator.roofline import layer_us as roofline_layer_us
from scoot.simulator.roofline import multiply_us
from scoot.simulator.shapes import GPUS, MODELS, ModelShape
from scoot.simulator.step_time import LayeredStepTime

MOST_TOKENS: Final = 4096
HELD_OUT_PREFILL: Final = (24, 48)
HELD_OUT_DECODE: Final = ((12, 2), (24, 4), (48, 8))
HELD_OUT_POINTS: Final = {
    "prefill": ((32, 128), (1536, 3072, 6144, 10240, 12288)),
    "decode": ((2, 8), (8191, 32767, 65535)),
}
"""Batch sizes and lengths of which nothing was fitted when attention is tested on points."""
VIDUR_LAUNCH_US: Final = 20.0
VIDUR_LINKS: Final = ("pairwise", "NVLink")
"""Vidur's iterations do not say which of its nodes they are for, nor what launch they add to an all-reduce (20 us is
common in its configurations): all combinations are printed, because the best of them was not known beforehand."""
SHORTEST: Final = 128
"""Prompts and contexts below are all launch; they are not tested."""


class Errors(msgspec.Struct, frozen=True, kw_only=True):
    """Relative errors of `n` predictions: mean absolute, mean, and 95th percentile of the absolute ones."""

    what: str
    n: int
    mape: float
    bias: float
    p95: float


def errors(what: str, pairs: Iterable[tuple[float, float]]) -> Errors:
    """Of pairs (predicted, measured)."""
    away = np.array([predicted / measured - 1 for predicted, measured in pairs])
    far = np.abs(away)
    return Errors(
        what=what,
        n=len(away),
        mape=float(far.mean()),
        bias=float(away.mean()),
        p95=float(np.quantile(far, 0.95)),
    )


def dense_by_curve(folder: pathlib.Path = fitting.DATA) -> list[Errors]:
    """Curves fitted to every third token count, tested on the others."""
    pairs: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for key, rows in sorted(fitting.layer_shapes(fitting.read("vidur_layer_ops", folder)).items()):
        tokens = sorted({int(row["num_tokens"]) for row in rows})
        kept = {*tokens[::3], tokens[-1]}
        table = fitting.fit_dense({key: [row for row in rows if int(row["num_tokens"]) in kept]})[0]
        known = curve(table.tokens, table.us)
        tested = [row for row in rows if int(row["num_tokens"]) not in kept]
        pairs[key[0]] += [(known.at(int(row["num_tokens"])), fitting.layer_us(row)) for row in tested]
    return [errors(f"layer, curve, {gpu}", each) for gpu, each in sorted(pairs.items())]


def dense_by_roofline(folder: pathlib.Path = fitting.DATA) -> list[Errors]:
    """Rooflines fitted without a layer's shape (at every degree), tested on it."""
    layers = fitting.layer_shapes(fitting.read("vidur_layer_ops", folder))
    out = []
    for left in sorted({key[:5] for key in layers}):
        roof = fitting.fit_roofline(left[0], {key: rows for key, rows in layers.items() if key[:5] != left})
        pairs = []
        for key, rows in layers.items():
            if key[:5] == left:
                shape = fitting.shape_of(key)
                few = [row for row in rows if int(row["num_tokens"]) <= MOST_TOKENS]
                pairs += [
                    (
                        roofline_layer_us(roof, GPUS[left[0]], shape, key[5], int(row["num_tokens"])),
                        fitting.layer_us(row),
                    )
                    for row in few
                ]
        out.append(errors(f"layer, roofline, {left[0]}, held out hidden {left[1]} ffn {left[2]} kv {left[4]}", pairs))
    return out


def products_by_roofline(folder: pathlib.Path = fitting.DATA) -> list[Errors]:
    """The L40S: a roofline fitted to multiplications with other (n, k), tested on a quarter of them."""
    rows = [row for row in fitting.read("aic_gemm", folder) if row["gpu"] == "l40s" and fitting.large(row)]
    shapes = sorted({(int(row["n"]), int(row["k"])) for row in rows})
    left = set(shapes[::4])
    like = fitting.fit_roofline("a40", fitting.layer_shapes(fitting.read("vidur_layer_ops", folder)))
    roof = fitting.fit_products("l40s", [r for r in rows if (int(r["n"]), int(r["k"])) not in left], like)
    pairs = [
        (
            multiply_us(roof, GPUS["l40s"], int(r["m"]), int(r["n"]), int(r["k"])),
            float(r["latency_ms"]) * 1e3,
        )
        for r in rows
        if (int(r["n"]), int(r["k"])) in left
    ]
    return [errors("multiplication, roofline, l40s, held out (n, k)", pairs)]


def heads_model(heads: int, kv_heads: int) -> ModelShape:
    """A model of one layer with these heads."""
    return ModelShape(
        name="", layers=1, hidden=128, ffn=128, heads=heads, kv_heads=kv_heads, vocab=128, max_model_len=1
    )


def attention(kind: str, folder: pathlib.Path = fitting.DATA) -> list[Errors]:
    """Surfaces fitted to two thirds of the points, tested on the others; and on head counts that were left out."""
    measured = fitting.points_of(kind, folder)
    points = fitting.cleaned(kind, measured)
    batches, lengths = (set(each) for each in HELD_OUT_POINTS[kind])
    # Split first and cleaned after, so that nothing that is tested has a say in what is fitted.
    some = fitting.cleaned(
        kind,
        {
            key: {at: us for at, us in each.items() if at[0] not in batches and at[1] not in lengths}
            for key, each in measured.items()
        },
    )
    every = fitting.PREFILL_HEADS if kind == "prefill" else fitting.DECODE_HEADS
    without = [heads for heads in every if heads[0] not in HELD_OUT_PREFILL] if kind == "prefill" else list(every)
    held_out = [heads for heads in every if heads not in without] if kind == "prefill" else list(HELD_OUT_DECODE)
    others = fitting.cleaned(kind, {key: each for key, each in measured.items() if key[1:] not in held_out})
    base = fitting.fit(folder)
    by_points = msgspec.structs.replace(base, attention=fitting.fit_attention(kind, some, every, but=sorted(batches)))
    by_heads = msgspec.structs.replace(base, attention=fitting.fit_attention(kind, others, without))
    out = []
    for gpu in sorted({key[0] for key in points}):
        pairs: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for label, calibration, heads in (("points", by_points, every), ("head counts", by_heads, held_out)):
            for q, kv in heads:
                for at, us in measured[gpu, q, kv].items():
                    cached = points[gpu, q, kv][at] > us
                    if (label == "points" and at in some[gpu, q, kv]) or at[1] < SHORTEST - 1 or cached:
                        continue
                    pair = (attention_us(kind, calibration, gpu, (q, kv), at), us)
                    pairs[f"{label}, glitches and all"].append(pair)
                    if points[gpu, q, kv][at] == us:
                        pairs[f"{label}, without glitches"].append(pair)
        out += [errors(f"{kind} attention, {gpu}, held out {label}", each) for label, each in sorted(pairs.items())]
    return out


def attention_us(kind: str, calibration: Calibration, gpu: str, heads: tuple[int, int], at: tuple[int, int]) -> float:
    """Microseconds of one layer for (batch, length), as the simulator has it."""
    batch, length = at
    model = heads_model(*heads)
    if kind == "prefill":
        return prefill_attention(calibration, model, GPUS[gpu], 1).us([(length, 0)] * batch)
    return decode_attention(calibration, model, GPUS[gpu], 1).us(batch, batch * length)


def iterations(folder: pathlib.Path = fitting.DATA) -> list[Errors]:
    """Whole iterations of another simulator (Vidur, its own composition and attention tables), none of them fitted.

    Once as the simulator has it, and once with layers from a roofline that was fitted without that layer's shape.
    """
    base = fitting.fit(folder)
    layers = fitting.layer_shapes(fitting.read("vidur_layer_ops", folder))
    rows: dict[tuple[str, str, int], list[fitting.Row]] = defaultdict(list)
    for row in fitting.read("iterations_vidur", folder):
        rows[row["gpu"], row["model"], int(row["tp"])].append(row)
    out = []
    for (gpu, name, degree), each in sorted(rows.items()):
        model = MODELS[name]
        shape = (gpu, model.hidden, model.ffn, model.heads, model.kv_heads)
        roof = fitting.fit_roofline(gpu, {key: value for key, value in layers.items() if key[:5] != shape})
        fits = tuple(fit for fit in base.rooflines if fit.gpu != gpu)
        held_out = msgspec.structs.replace(
            base, rooflines=(*fits, RooflineFit(gpu=gpu, roofline=roof, source="vidur-layers"))
        )
        variants = [("tables", base, True, all_reduce(base, GPUS[gpu], degree, link="nvlink", custom=False))]
        if degree > 1:
            variants += [
                (f"tables, all-reduce as Vidur measured ({link}, + {launch:g} us)", base, True, reduce)
                for link in VIDUR_LINKS
                for launch in (0.0, VIDUR_LAUNCH_US)
                for reduce in (_reduce_of_vidur(gpu, degree, link, launch, folder),)
            ]
        variants.append(("roofline without this shape, all-reduce as the last", held_out, False, variants[-1][3]))
        for label, calibration, tables, reduce in variants:
            times = LayeredStepTime(
                model,
                GPUS[gpu],
                degree,
                calibration=calibration,
                reduce=reduce,
                cpu=overheads(calibration, "none", degree),
                tables=tables,
                ends=False,
            )
            for kind, chosen in (("", each), *_kinds(each)):
                pairs = [(_predicted_ms(times, row), float(row["time_ms"])) for row in chosen]
                if pairs:
                    out.append(errors(f"iteration{kind}, {gpu} {name} tp {degree}, {label}", pairs))
    return out


def _reduce_of_vidur(gpu: str, degree: int, link: str, launch_us: float, folder: pathlib.Path) -> AllReduce:
    """Vidur's own measurements of NCCL, and a constant that its composition may add to each."""
    us = {
        int(row["bytes"]): float(row["latency_ms"]) * 1e3 + launch_us
        for row in fitting.read("all_reduce", folder)
        if (row["source"], row["gpu"], row["num_gpus"]) == ("vidur", gpu, str(degree)) and row["link"].startswith(link)
    }
    return AllReduce(curve(sorted(us), [us[size] for size in sorted(us)]), ())


def _kinds(rows: Sequence[fitting.Row]) -> tuple[tuple[str, list[fitting.Row]], ...]:
    only = [row for row in rows if row["prefill_tokens"] == "0"]
    return ((" of decodes only", only), (" with prompts", [row for row in rows if row["prefill_tokens"] != "0"]))


def _predicted_ms(times: LayeredStepTime, row: fitting.Row) -> float:
    """Of an iteration whose prompts are known by their sums: as many of one length, and as much cached for each."""
    tokens, sequences = int(row["prefill_tokens"]), int(row["prefill_seqs"])
    prefills: list[tuple[int, int]] = []
    if sequences:
        cached = round(float(row["prefill_sum_tokens_x_ctx"]) / tokens)
        prefills = _spread(tokens, sequences, float(row["prefill_sum_sq"]), cached)
    return 1e3 * times.gpu_s(int(row["decode_seqs"]), int(row["decode_ctx_sum"]), prefills)


def _spread(tokens: int, sequences: int, squares: float, cached: int) -> list[tuple[int, int]]:
    """Prompts with this sum and about this sum of squares: one long one and the others alike."""
    if sequences == 1:
        return [(tokens, cached)]
    mean = tokens / sequences
    away = max(0.0, squares / sequences - mean * mean) ** 0.5
    short = max(1, round(mean - away / (sequences - 1) ** 0.5))
    long = max(1, tokens - short * (sequences - 1))
    return [(long, cached)] + [(short, cached)] * (sequences - 1)


def table(rows: Iterable[Errors]) -> str:
    """A table to print."""
    lines = [f"{'n':>6} {'MAPE':>7} {'bias':>7} {'p95':>7}  what"]
    lines += [f"{r.n:6d} {r.mape:7.1%} {r.bias:+7.1%} {r.p95:7.1%}  {r.what}" for r in rows]
    return "\n".join(lines)


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, default=fitting.DATA, help="folder of the timings")
    folder = parser.parse_args().data
    if not folder.is_dir():
        sys.exit(f"no timings in {folder}")
    for title, rows in (
        ("Layers without attention: curves of every third token count, tested on the others", dense_by_curve(folder)),
        ("Layers without attention: rooflines, tested on shapes that were left out", dense_by_roofline(folder)),
        ("Multiplications of the L40S: roofline, tested on sizes that were left out", products_by_roofline(folder)),
        ("Attention of prompts: tested on points and head counts that were left out", attention("prefill", folder)),
        (
            "Attention of running sequences: the same; without points that came from a cache",
            attention("decode", folder),
        ),
        ("Whole iterations of Vidur (simulated, not measured), not fitted; no CPU", iterations(folder)),
    ):
        print(f"\n{title}\n{table(rows)}")


if __name__ == "__main__":
    main()
