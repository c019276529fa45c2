"""scoot-coordinator: the daemon's command line."""

from __future__ import annotations

import os

# We fork only to exec. gRPC's fork handlers run Python in the child of a process with threads in mid-call, which kills
# the child now and then with SIGSEGV; gRPC reads this when it is imported.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"


import asyncio
import logging
import pathlib
import signal
import socket
import sys

import click
import msgspec
import uvloop

from scoot.coordinator.config import CoordinatorConfig, read_config
from scoot.coordinator.daemon import Coordinator, open_store
from scoot.coordinator.solver.pool import Solver
from scoot.wire.endpoint import TlsFiles
from scoot.wire.errors import PermanentInfraError, UserError
from scoot.wire.lease import LeasePolicy

_log = logging.getLogger("scoot.coordinator")


@click.group(invoke_without_command=True)
@click.option("--config", "config_path", type=click.Path(dir_okay=False), help="TOML file; flags override it.")
@click.option("--data", "data_dir", type=click.Path(file_okay=False), help="Folder of the store.")
@click.option("--listen", help='Address, "host:port"; port 0 takes a free one.')
@click.option("--tls-ca", help="PEM file of the CA that signs clients and agents.")
@click.option("--tls-cert", help="PEM file of this coordinator's certificate.")
@click.option("--tls-key", help="PEM file of its key.")
@click.option("--lease", "lease", multiple=True, metavar="NAME=SECONDS", help="Override a time of the lease policy.")
@click.option("--ready-file", type=click.Path(dir_okay=False), help="Written with the bound address once serving.")
@click.option("--exit-with-stdin", is_flag=True, help="Stop when standard input ends (for embedding).")
@click.pass_context
def cli(
    context: click.Context,
    /,
    config_path: str | None,
    ready_file: str | None,
    lease: tuple[str, ...],
    *,
    exit_with_stdin: bool,
    **flags: str | None,
) -> None:
    """Run SCOOT's coordinator."""
    config = read_config(config_path) if config_path else CoordinatorConfig()
    for key in ("data_dir", "listen"):
        if flags[key]:
            config = msgspec.structs.replace(config, **{key: flags[key]})
    tls = [flags["tls_ca"], flags["tls_cert"], flags["tls_key"]]
    if any(tls):
        if not all(tls):
            raise UserError("mutual TLS needs all of --tls-ca, --tls-cert and --tls-key")
        config = msgspec.structs.replace(config, tls=TlsFiles(*map(str, tls)))
    if lease:
        config = msgspec.structs.replace(config, lease=_override(config, lease))
    if context.invoked_subcommand is None:
        uvloop.run(_serve(config, ready_file, exit_with_stdin=exit_with_stdin))
    else:
        context.obj = config


@cli.command()
@click.pass_obj
def doctor(config: CoordinatorConfig) -> None:
    """Check a store that no coordinator is using: every finding with its remedy. Exits 1 if there is any error."""
    from scoot.coordinator.store.doctor import check_store

    findings = check_store(config.data_dir)
    for finding in findings:
        click.echo(f"{finding.severity}: {finding.where}: {finding.message} ({finding.remedy})")
    if not findings:
        click.echo(f"{config.data_dir}: no findings")
    sys.exit(1 if any(finding.severity == "error" for finding in findings) else 0)


def _override(config: CoordinatorConfig, pairs: tuple[str, ...]) -> LeasePolicy:
    values = msgspec.to_builtins(config.lease)
    for pair in pairs:
        name, _, seconds = pair.partition("=")
        values[name] = seconds
    try:
        return msgspec.convert(values, LeasePolicy, strict=False)
    except msgspec.ValidationError as error:
        raise UserError(str(error), key="--lease", hint=f"names: {', '.join(values)}") from error


async def _serve(config: CoordinatorConfig, ready_file: str | None, *, exit_with_stdin: bool) -> None:
    """Serve until SIGTERM, SIGINT or, if asked, the end of standard input."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if exit_with_stdin:
        loop.add_reader(sys.stdin.fileno(), _on_stdin, loop, stop)
    store = open_store(config)
    solver = Solver(memory_bytes=config.solver_memory_mib * 1024 * 1024)
    async with Coordinator(config, store, solver).serving() as bound:
        _log.info("serving on %s, data in %s", bound, config.data_dir)
        if ready_file:
            _write_whole(pathlib.Path(ready_file), f"{bound}\n")
        _notify("READY=1")
        await stop.wait()
        _notify("STOPPING=1")
        _log.info("stopping")


def _on_stdin(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    """Whoever embeds us holds the other end: its end is our end."""
    if not os.read(sys.stdin.fileno(), 4096):
        loop.remove_reader(sys.stdin.fileno())
        stop.set()


def _write_whole(path: pathlib.Path, text: str) -> None:
    """Write a file that readers see whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    temporary.replace(path)


def _notify(message: str) -> None:
    """Tell systemd (sd_notify), if it started us."""
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifier:
            notifier.connect("\0" + address[1:] if address.startswith("@") else address)
            notifier.sendall(message.encode())


def main() -> None:
    """Entry point. Exit status: 0 stopped as asked, 1 the storage is broken, 2 bad configuration."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except click.Abort:
        sys.exit(130)
    except UserError as error:
        click.echo(f"scoot-coordinator: {error}", err=True)
        sys.exit(2)
    except PermanentInfraError as error:
        click.echo(f"scoot-coordinator: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
