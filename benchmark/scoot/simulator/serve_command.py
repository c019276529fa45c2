"""`python -m scoot.simulator serve`: one replica of a simulated service behind HTTP, in real time."""

from __future__ import annotations

import asyncio
import sys
from typing import Any, Final

import click
import msgspec
import uvloop

from scoot.simulator.profile_file import read_profile
from scoot.simulator.service import SimulatedService, resolve
from scoot.simulator.serving.arguments import read_flags
from scoot.simulator.serving.log import Log
from scoot.simulator.serving.server import EXIT_OK, STOP_SIGNALS, happens_within, run_server
from scoot.simulator.serving.target import Target
from scoot.simulator.settings import StartFailure
from scoot.simulator.shapes import LINKS, model_named
from scoot.wire import limits
from scoot.wire.errors import UserError
from scoot.wire.spec import Config
from scoot.wire.topology import TENSOR_PARALLEL_NAMES

EXIT_USAGE: Final = 2

_USUAL: Final = Target()


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": True})
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes a free one.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--engine", default=_USUAL.engine, show_default=True, help="Generation and version of the engine.")
@click.option("--model", required=True, help="A model the simulator knows; also the name it is served under.")
@click.option("--gpu", default=_USUAL.gpu, show_default=True, help="Each device.")
@click.option("--link", type=click.Choice(LINKS), help="Between devices of the replica; else what the GPU usually has.")
@click.option("--profile", default="", help="File of your own timings, from `fit`.")
@click.option(
    "--start-scale",
    type=click.FloatRange(min=0),
    default=_USUAL.start_scale,
    show_default=True,
    help="Times the time a real start takes; 0 is at once.",
)
@click.argument("flags", nargs=-1, type=click.UNPROCESSED)
def serve(**options: Any) -> None:  # noqa: ANN401 - click's options, each of its own type
    """Serve one replica of a simulated engine, OpenAI-compatible.

    FLAGS are the engine's own parameters: --max-num-seqs=64 --no-enable-prefix-caching. SIGTERM ends it.
    """
    flags = options.pop("flags")
    try:
        sys.exit(_serve(read_flags(flags), **options))
    except UserError as error:
        # As argument parsers say it: the agent looks for that.
        sys.stderr.write(f"serve: error: {'argument ' if error.key else ''}{error}\n")
        sys.exit(EXIT_USAGE)


def _serve(
    parameters: Config,
    *,
    port: int,
    host: str,
    engine: str,
    model: str,
    gpu: str,
    link: str | None,
    profile: str,
    start_scale: float,
) -> int:
    """The exit code.

    Raises:
        UserError: what is to be simulated makes no sense.
    """
    log = Log("simulator.py")
    try:
        fitted = read_profile(profile) if profile else None
        service = SimulatedService(
            engine=engine,
            model=model,
            gpu=gpu,
            devices=_degree(parameters),
            link=link or "",
            parameters=parameters,
            profile=profile,
            fitted=fitted,
            start_scale=start_scale,
        )
        resolved, _ = resolve(service)
    except StartFailure as failure:
        return _fail(failure, log, start_scale * failure.after_s)
    log.say("non-default args: " + msgspec.json.encode(parameters).decode())
    for line in resolved.log:
        log.say(line)
    return run_server(resolved, model_named(model), name=model, host=host, port=port, start_s=resolved.start_s, log=log)


def _degree(parameters: Config) -> int:
    """Devices of the replica: its tensor-parallel degree. One that makes no sense is left to the engine to refuse."""
    for name in TENSOR_PARALLEL_NAMES:
        degree = parameters.get(name)
        if type(degree) is int and 1 <= degree <= limits.DEVICES_PER_AGENT:
            return degree
    return 1


def _fail(failure: StartFailure, log: Log, seconds: float) -> int:
    """End as a real engine does that does not start: at once over its arguments, else after some time."""
    if failure.exit_code == EXIT_USAGE:
        sys.stderr.write("".join(f"{line}\n" for line in failure.lines))
    elif failure.kind == "arguments" or uvloop.run(_fail_after(seconds)):
        log.fail(*failure.lines)
    else:
        return EXIT_OK
    return failure.exit_code


async def _fail_after(seconds: float) -> bool:
    """Let the time of a start that fails pass; False if it was told to stop before."""
    stop = asyncio.Event()
    for number in STOP_SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return not await happens_within(stop, seconds)
