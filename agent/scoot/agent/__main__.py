"""`scoot-agent`: the command line of the agent daemon.

Exit status: 0 after a clean stop, 1 when something broke, 2 when the configuration or the coordinator refuses.
"""

from __future__ import annotations

import os

# We fork only to exec. gRPC's fork handlers run Python in the child of a process with threads in mid-call, which kills
# the child now and then with SIGSEGV; gRPC reads this when it is imported.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"


import argparse
import asyncio
import logging
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import uvloop

from scoot.agent.config import AgentConfig, load_config
from scoot.agent.daemon import Daemon, scoot_version
from scoot.wire.errors import ScootError, UserError

LOG: Final = logging.getLogger("scoot.agent")

_LEVELS: Final = ("debug", "info", "warning", "error")
_CONTROL: Final = {code: f"\\x{code:02x}" for code in (*range(32), 127)}


class _OneLine(logging.Formatter):
    """A message is one line whatever an engine or a peer put into it; only tracebacks take more."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        record.message = record.message.translate(_CONTROL)
        return super().formatMessage(record)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the agent until it is told to stop; exits with the statuses above."""
    parser = argparse.ArgumentParser(prog="scoot-agent", description="Runs SCOOT's attempts on this host.")
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="agent.toml (docs/agent-config.md)")
    parser.add_argument("--check", action="store_true", help="check the configuration and exit")
    parser.add_argument("--exit-with-stdin", action="store_true", help="stop cleanly when standard input ends")
    parser.add_argument(
        "--once-ready-file", type=Path, metavar="PATH", help="written once the coordinator has welcomed this agent"
    )
    parser.add_argument("--log-level", choices=_LEVELS, default="info")
    parser.add_argument("--version", action="version", version=f"scoot-agent {scoot_version()}")
    options = parser.parse_args(argv)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine("%(asctime)s %(levelname)-7s %(message)s"))
    logging.basicConfig(level=options.log_level.upper(), handlers=[handler])
    try:
        config = load_config(options.config)
        if not options.check:
            uvloop.run(_run(config, options.once_ready_file, exit_with_stdin=options.exit_with_stdin))
    except UserError as error:
        sys.stderr.write(f"scoot-agent: {error}\n")
        sys.exit(2)
    except (ScootError, OSError):
        LOG.exception("the agent cannot go on")
        sys.exit(1)


async def _run(config: AgentConfig, ready_file: Path | None, *, exit_with_stdin: bool) -> None:
    # Who holds the other end of our standard input started us for a study of its own, as `scootctl tune` does: whatever
    # it runs beside us, such as the coordinator, is part of that study and no noise. An init process runs everything.
    parent = os.getppid()
    own_root = parent if exit_with_stdin and parent > 1 else os.getpid()
    daemon = Daemon(config, ready_file=ready_file, own_root=own_root)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, daemon.drain)
    if exit_with_stdin:
        threading.Thread(target=_until_eof, args=(loop, daemon), daemon=True, name="stdin").start()
    await daemon.run()


def _until_eof(loop: asyncio.AbstractEventLoop, daemon: Daemon) -> None:
    """Standard input may be a pipe, a file or a terminal; a blocking read knows them all."""
    try:
        while os.read(0, 4096):
            continue
    except OSError as error:
        LOG.warning("standard input cannot be read: %s", error)
    try:
        loop.call_soon_threadsafe(daemon.drain)
    except RuntimeError:  # the loop has ended already
        return


if __name__ == "__main__":
    main()
