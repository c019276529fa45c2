"""The command line of the stand-alone load generator. Texts become values here; what they mean is said elsewhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import click
import msgspec

from scoot.benchmark.plan import Endpoint, Priority, PromptMode
from scoot.benchmark.standalone import options as of
from scoot.benchmark.standalone.exits import MEANING, Exit
from scoot.benchmark.standalone.options import RunOptions
from scoot.wire.errors import PermanentInfraError, RemoteProtocolError, ScootError, UserError
from scoot.wire.spec import ArrivalProcess, Selection

T = TypeVar("T", bound=Callable[..., Any])

_EPILOG: Final = "\b\nExit codes:\n" + "\n".join(f"  {code.value:>3}  {text}" for code, text in MEANING.items())

_PROMPTS: Final = {"token-ids": PromptMode.TOKEN_IDS, "text": PromptMode.TEXT}
_LATENCY_HELP: Final = ", ".join(of.LATENCIES)


class ErrorGroup(click.Group):
    """Commands whose errors become one clear line and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's signature
        """Run a command; SCOOT's errors are shown and never traced, unless --debug."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # The reader of our output went away (`| head`): nothing to say, and nobody to say it to.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(Exit.FAILED)
        except KeyboardInterrupt:
            ctx.exit(Exit.INTERRUPTED)
        except (UserError, PermanentInfraError, RemoteProtocolError) as error:
            if ctx.params.get("debug"):
                raise
            click.echo(f"error: {_one_line(error)}", err=True)
            ctx.exit(Exit.USAGE if isinstance(error, UserError) else Exit.FAILED)


def _one_line(error: ScootError) -> str:
    return " ".join(str(error).split())


@click.group(cls=ErrorGroup, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def cli(debug: bool) -> None:
    """Loads OpenAI-compatible LLM servers, and measures them and itself. Guide: docs/benchmark.md."""


_SERVER: Final = (
    click.option("--url", "urls", multiple=True, metavar="URL", help="Base URL of the server. Several are replicas."),
    click.option("--model", default="", metavar="NAME", help="Default: the only one that the server lists."),
    click.option(
        "--endpoint", type=click.Choice([each.value for each in Endpoint]), default="completions", show_default=True
    ),
    click.option("--header", "headers", multiple=True, metavar="K:V", help="Another header of every request."),
    click.option("--api-key-env", default="", metavar="NAME", help="Variable that has the key (bearer token)."),
    click.option("--ca", "ca_path", default="", metavar="FILE", help="Certificates to trust (PEM)."),
    click.option("--insecure", is_flag=True, help="Do not check the server's certificate."),
    click.option("--proxy/--no-proxy", default=False, help="Use the proxies that the environment names."),
    click.option("--check/--no-check", default=True, help="Ask the server before the load.", show_default=True),
)
_REQUESTS: Final = (
    click.option("--profile", metavar="NAME", help="Built-in workload: BOT, SQL, CLS, REC, AZURE_CONV, ..."),
    click.option("--trace", metavar="FILE", help="Trace of requests (docs/traces.md)."),
    click.option("--input-tokens", metavar="N|LOW:HIGH", help="Synthetic requests: length of the prompt."),
    click.option("--output-tokens", metavar="N|LOW:HIGH", help="Synthetic requests: tokens to generate."),
    click.option("--prefix-tokens", type=int, default=0, metavar="N", help="Synthetic: shared start of the prompts."),
    click.option("--format", "format_", default="auto", metavar="NAME", help="Format of the trace."),
    click.option(
        "--select",
        type=click.Choice([each.value for each in Selection]),
        default=Selection.ALL.value,
        show_default=True,
        help="Which rows.",
    ),
    click.option("--length-scale", type=float, default=1.0, metavar="X", help="Lengths are multiplied by it."),
    click.option("--max-model-len", type=int, metavar="N", help="Clip requests to it. Default: what the server says."),
    click.option("--sessions", is_flag=True, help="Rows are turns of conversations."),
    click.option("--requests", type=int, metavar="N", help="So many distinct requests; sets the duration at a rate."),
    click.option("--prompt", type=click.Choice(list(_PROMPTS)), default="token-ids", show_default=True),
    click.option(
        "--vocab",
        default="16:32000",
        show_default=True,
        metavar="LOW:HIGH",
        help="Token ids of prompts, HIGH excluded.",
    ),
    click.option(
        "--ignore-eos/--no-ignore-eos",
        default=True,
        show_default=True,
        help="Ask for exactly the output length (ignore_eos, min_tokens).",
    ),
)
_LOAD: Final = (
    click.option(
        "--arrivals",
        type=click.Choice([each.value for each in ArrivalProcess]),
        help="Default: poisson with --rate, gamma with --cv, closed with --users.",
    ),
    click.option("--cv", type=float, metavar="X", help="Coefficient of variation of gamma gaps; 1 is Poisson."),
    click.option(
        "--ramp", "ramp_s", type=float, default=0.0, metavar="S", help="The load rises linearly for S seconds."
    ),
    click.option(
        "--ramp-from", type=float, default=0.0, metavar="SHARE", help="Share of the load the ramp begins with."
    ),
    click.option(
        "--max-in-flight", type=int, metavar="N", help="So many requests at the server at once; the others wait here."
    ),
    click.option("--duration", "duration_s", type=float, metavar="S", help="Measured window. Default: 60, see guide."),
    click.option("--warm-up", "warm_up_s", type=float, default=0.0, metavar="S", help="Load before it, not measured."),
    click.option(
        "--cool-down", "cool_down_s", type=float, default=0.0, metavar="S", help="Load after it, not measured."
    ),
    click.option("--seed", type=int, default=0, show_default=True),
    click.option("--runs", type=int, default=1, show_default=True, metavar="K", help="Arrival orders, one by one."),
    click.option(
        "--timeout", "timeout_s", type=float, default=300.0, show_default=True, metavar="S", help="Of a request."
    ),
    click.option("--senders", type=int, default=0, metavar="N", help="Sending processes. Default: as the load needs."),
    click.option(
        "--priority", type=click.Choice([each.value for each in Priority]), default="normal", show_default=True
    ),
    click.option("--cpus", metavar="LIST", help="CPUs of the senders, as 2,4-7."),
)
_RESULTS: Final = (
    click.option(
        "--slo", "slos", multiple=True, metavar="L=T,...", help=f"Goodput: limits of {_LATENCY_HELP}; ttft=500ms"
    ),
    click.option(
        "--slo-class", "slo_classes", multiple=True, metavar="NAME:share=X,...", help="Several classes, with shares."
    ),
    click.option("--limit", "limits", multiple=True, metavar="NAME=X", help="Limit of validity, as min_requests=5."),
    click.option("--out", metavar="DIR", help="New folder for results. Default: the next one in .scoot."),
    click.option("--records/--no-records", default=True, help="Parquet files (needs pyarrow).", show_default=True),
    click.option("--json", "as_json", is_flag=True, help="Print the results as JSON."),
    click.option("--quiet", is_flag=True, help="No progress and no table."),
)


def _with(*groups: Sequence[Callable[[T], T]]) -> Callable[[T], T]:
    """A decorator that gives a command the options of some groups, in their order."""

    def decorate(command: T) -> T:
        for option in reversed([option for group in groups for option in group]):
            command = option(command)
        return command

    return decorate


@cli.command("run")
@_with(_SERVER, _REQUESTS)
@click.option("--rate", type=float, metavar="R", help="Requests per second.")
@click.option("--users", type=int, metavar="N", help="Closed loop: each sends again when it was answered.")
@click.option(
    "--time-scale", type=float, default=1.0, metavar="X", help="Replay: a second of the trace lasts X seconds."
)
@_with(_LOAD, _RESULTS)
@click.pass_context
def run_command(ctx: click.Context, /, **texts: Any) -> None:  # noqa: ANN401 - options of many types
    """Load a server once, or --runs times, and print what it did."""
    asked = _options(texts)
    # Below here only what every run needs is loaded: the first request should leave within a second.
    from scoot.benchmark.standalone.folder import make_folder
    from scoot.benchmark.standalone.planning import checked
    from scoot.benchmark.standalone.run import prepare, run, trace_rows
    from scoot.benchmark.standalone.server import ask_server

    asked = checked(asked)
    rows = trace_rows(asked)
    prepared = prepare(asked, ask_server(asked), rows)
    ctx.exit(run(prepared, make_folder(texts["out"], kind="run"), _manner(texts)))


@cli.command("sweep")
@click.option("--rates", required=True, metavar="LIST|auto", help="As 1,2,4,8. auto: between one user and many.")
@click.option("--points", type=int, default=8, show_default=True, metavar="N", help="auto: rates between.")
@click.option("--users", type=int, default=256, show_default=True, metavar="N", help="auto: the many.")
@click.option(
    "--goodput-share", type=float, default=0.9, show_default=True, metavar="X", help="Within the SLOs, up to the knee."
)
@click.option("--keep-going", is_flag=True, help="Go on past saturation.")
@click.option("--csv", "as_csv", is_flag=True, help="Write sweep.csv too.")
@_with(_SERVER, _REQUESTS, _LOAD, _RESULTS)
@click.pass_context
def sweep_command(ctx: click.Context, /, **texts: Any) -> None:  # noqa: ANN401 - options of many types
    """Load a server at rising rates, and find the knee of its goodput."""
    rates = of.parse_rates(texts["rates"], key="--rates")
    base = _options({**texts, "rate": rates[0] if rates else 1.0, "users": None, "time_scale": 1.0})
    from scoot.benchmark.standalone.folder import make_folder
    from scoot.benchmark.standalone.planning import checked
    from scoot.benchmark.standalone.run import trace_rows
    from scoot.benchmark.standalone.server import ask_server
    from scoot.benchmark.standalone.sweep import Sweeper, SweepOptions, check_sweep

    asked = SweepOptions(
        base=base,
        rates=rates,
        points=texts["points"],
        users=texts["users"],
        goodput_share=texts["goodput_share"],
        keep_going=texts["keep_going"],
        csv=texts["as_csv"],
    )
    check_sweep(asked)
    asked = msgspec.structs.replace(asked, base=checked(base))
    rows = trace_rows(asked.base)
    server = ask_server(asked.base)
    ctx.exit(Sweeper(asked, server, rows, make_folder(texts["out"], kind="sweep"), _manner(texts)).execute())


def _options(texts: dict[str, Any]) -> RunOptions:
    """Options as values.

    Raises:
        UserError: a text that is none.
    """
    if texts["slos"] and texts["slo_classes"]:
        raise UserError("and --slo-class exclude each other", key="--slo", hint="give one of them")
    lengths: dict[str, Any] = {
        name: of.parse_span(texts[name], key=f"--{name.replace('_', '-')}")
        for name in ("input_tokens", "output_tokens")
        if texts[name] is not None
    }
    plain: dict[str, Any] = {
        name: texts[name]
        for name in (
            *("urls", "model", "api_key_env", "ca_path", "insecure", "proxy", "check"),
            *(
                "profile",
                "trace",
                "prefix_tokens",
                "length_scale",
                "max_model_len",
                "sessions",
                "requests",
                "ignore_eos",
            ),
            *("rate", "users", "time_scale", "cv", "ramp_s", "ramp_from", "max_in_flight"),
            *("duration_s", "warm_up_s", "cool_down_s"),
            *("seed", "runs", "timeout_s", "senders"),
        )
    }
    return RunOptions(
        **plain,
        **lengths,
        endpoint=Endpoint(texts["endpoint"]),
        headers=tuple(of.parse_header(text, key="--header") for text in texts["headers"]),
        format=texts["format_"],
        select=Selection(texts["select"]),
        prompt=_PROMPTS[texts["prompt"]],
        vocab=of.parse_vocab(texts["vocab"], key="--vocab"),
        arrivals=ArrivalProcess(texts["arrivals"]) if texts["arrivals"] else None,
        priority=Priority(texts["priority"]),
        cpus=of.parse_cpus(texts["cpus"], key="--cpus") if texts["cpus"] else (),
        slo_classes=of.parse_slos(texts["slos"], key="--slo")
        or of.parse_slo_classes(texts["slo_classes"], key="--slo-class"),
        limits=of.parse_limits(texts["limits"], key="--limit"),
    )


def _manner(texts: dict[str, Any]) -> Any:  # noqa: ANN401 - run.Manner, which is loaded late
    from scoot.benchmark.standalone.run import Manner

    return Manner(
        command=without_secrets(sys.argv[1:]),
        as_json=texts["as_json"],
        quiet=texts["quiet"],
        records=texts["records"],
    )


def without_secrets(arguments: Sequence[str]) -> tuple[str, ...]:
    """A command line with the values of its headers left out. Pure."""
    kept: list[str] = []
    for argument in arguments:
        is_header = argument.startswith("--header=") or bool(kept and kept[-1] == "--header")
        kept.append(f"{argument.partition(':')[0]}:..." if is_header else argument)
    return tuple(kept)
