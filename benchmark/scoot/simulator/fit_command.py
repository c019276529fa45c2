"""`scoot.simulator fit`: a profile from a user's own timings, and a table that says how good it is. IO."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, cast

import click

from scoot.simulator.linear import TERMS, Covers, LinearModel, Link, Profile
from scoot.simulator.shapes import DEGREES, LINKS, gpu_named, model_named
from scoot.wire.errors import UserError

_PERCENT: Final = 100.0


@click.command("fit", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("timings", metavar="TIMINGS")
@click.option("--model", required=True, metavar="NAME", help="Model the steps are of.")
@click.option("--gpu", required=True, metavar="NAME", help="GPU they ran on.")
@click.option("--tp", type=int, default=1, show_default=True, metavar="N", help="Devices of a replica.")
@click.option("--link", type=click.Choice(LINKS), help="Between them. Default: the GPU's usual one.")
@click.option("--where", multiple=True, metavar="COL=VAL", help="Only steps with this value; may be given again.")
@click.option(
    "--covers",
    type=click.Choice(["step", "gpu"]),
    default="step",
    show_default=True,
    help="Times are of whole steps, or of the GPU alone (the CPU's time is then added).",
)
@click.option("--name", default="", metavar="NAME", help="Of the profile. Default: model, GPU and degree.")
@click.option("-o", "--output", required=True, metavar="FILE", help="Profile to write (JSON).")
@click.option("--force", is_flag=True, help="Replace the file if it is there.")
def fit(**texts: Any) -> None:  # noqa: ANN401 - options of many types
    """Fit step times to your own TIMINGS (CSV or JSON lines, plain or gzip) and write a profile.

    CSV columns: prefill_tokens, prefill_sum_sq, prefill_sum_tokens_x_ctx, decode_seqs, decode_ctx_sum, time_ms. JSON
    lines may instead hold "prefills" (pairs of tokens computed and cached), "decodes" (contexts) and "ms".
    """
    profile = _fitted(**texts)
    from scoot.simulator.profile_file import write_profile

    write_profile(texts["output"], profile, overwrite=texts["force"])
    for line in table(profile):
        click.echo(line)
    click.echo(f"written to {texts['output']}")


def _fitted(
    *,
    timings: str,
    model: str,
    gpu: str,
    tp: int,
    link: str | None,
    where: Sequence[str],
    covers: Covers,
    name: str,
    output: str,
    force: bool,
) -> Profile:
    """The profile that the options ask for."""
    shape, device = model_named(model, key="--model"), gpu_named(gpu, key="--gpu")
    if tp not in DEGREES or shape.heads % tp:
        raise UserError(f"{tp} devices cannot be", key="--tp", hint=f"one of {', '.join(map(str, DEGREES))}")
    if Path(output).exists() and not force:
        raise UserError("the file is there already", path=output, key="-o", hint="name another, or add --force")
    # Below here is what needs numpy.
    from scoot.simulator.fit import fit as fit_model
    from scoot.simulator.timings_file import read_timings

    chosen = _pairs(where)
    rows = read_timings(timings, where=chosen)
    source = Path(timings).name + "".join(f", {column}={value}" for column, value in chosen.items())
    try:
        linear = fit_model(rows, source=source, covers=covers)
    except UserError as error:
        raise error.at(path=timings) from error
    return Profile(
        name=name or f"{shape.name}-{device.name}-tp{tp}",
        model=shape.name,
        gpu=device.name,
        tensor_parallel=tp,
        link=cast("Link", link or device.link),
        linear=linear,
    )


def _pairs(texts: Sequence[str]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in texts:
        column, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not column:
            raise UserError(f"{text[:80]!r} is no condition", key="--where", hint="as gpu=a100")
        if column in pairs:
            raise UserError(f"two values of {column!r}", key="--where", hint="give one")
        pairs[column] = value
    return pairs


def table(profile: Profile) -> list[str]:
    """What a profile says about itself, as lines. Pure."""
    linear = profile.linear
    devices = f"{profile.tensor_parallel} x {profile.gpu}" + (
        f" ({profile.link})" if profile.tensor_parallel > 1 else ""
    )
    covered = "whole steps" if linear.covers == "step" else "the GPU alone"
    kept = f"{linear.rows - linear.trimmed} steps kept of {linear.rows}"
    lines = [
        f"{profile.name}: {profile.model} on {devices}, times of {covered}, from {linear.source or 'no named source'}",
        f"  {kept}, {linear.trimmed} dropped as outliers ({_share(linear.trimmed, linear.rows)})",
    ]
    lines += [f"  {letter}  {getattr(linear, field):11.4g} {unit:<10}  x {what}" for letter, field, what, unit in TERMS]
    lines.append(f"  no step is faster than {linear.floor_s * 1e3:.3g} ms")
    return lines + _error_lines(linear) + [f"  note: {note}" for note in linear.notes]


def _error_lines(linear: LinearModel) -> list[str]:
    if linear.error is None:
        return ["  error: not known"]
    error = linear.error
    mape, bias, p95 = (_PERCENT * value for value in (error.mape, error.bias, error.p95))
    return [f"  error: mean {mape:.1f} %, bias {bias:+.1f} %, p95 {p95:.1f} %", f"         ({linear.method})"]


def _share(part: int, whole: int) -> str:
    return f"{_PERCENT * part / whole:.1f} %" if whole else "-"
