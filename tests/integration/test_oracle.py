"""The oracle over helpers that die, hang and lie, and over the real helper with a package that behaves like vLLM."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from engine_bench import packages_in

from scoot.agent.engines.base import EngineSettings
from scoot.agent.engines.helpers import resident
from scoot.agent.engines.oracle import Oracle
from scoot.agent.host.process import run_helper
from scoot.agent.host.proctable import read_process
from scoot.wire.catalogue.option import Catalogue, OptionKind, Source
from scoot.wire.catalogue.verdict import Invalid, Ok, RefusalKind, Unknown, Verdict

DEADLINE_S = 30.0

# A stand-in for vLLM: as much of its surface as the helper uses, with options that misbehave when asked to.
FAKE = {
    "vllm/__init__.py": '__version__ = "9.9"\nprint("noise on standard output")\n',
    "vllm/platforms.py": 'class P:\n    device_type = "cpu"\ncurrent_platform = P()\n',
    "vllm/usage/usage_lib.py": "import enum\nclass UsageContext(enum.Enum):\n    OPENAI_API_SERVER = 1\n",
    "vllm/utils/argparse_utils.py": "from argparse import ArgumentParser as FlexibleArgumentParser\n",
    "vllm/config.py": """
class Ge:
    def __init__(self, ge): self.ge = ge
class Lt:
    def __init__(self, lt): self.lt = lt
class Field:
    def __init__(self, *metadata): self.metadata = metadata
class SchedulerConfig:
    __dataclass_fields__ = {}
    __pydantic_fields__ = {"max_num_seqs": Field(Ge(1)), "share": Field(Ge(0.0), Lt(1.0))}
""",
    "vllm/entrypoints/openai/cli_args.py": """
def make_arg_parser(parser):
    from vllm.engine.arg_utils import AsyncEngineArgs
    parser.add_argument("--log-level", choices=["info", "debug"], default="info", help="How much to say. And more.")
    return AsyncEngineArgs.add_cli_args(parser)
""",
    "vllm/engine/arg_utils.py": """
import argparse, itertools, os, signal, sys
from vllm.config import SchedulerConfig
NEEDS_HELP = False
chance = itertools.count()
drift = 0
class ValidationError(ValueError):
    def __init__(self, *errors): self._errors = errors
    def errors(self): return self._errors
def count(text):
    return int(text[:-1]) * 1000 if text.endswith("k") else int(text)
class Parts:
    __dataclass_fields__ = {}
class AsyncEngineArgs:
    @staticmethod
    def add_cli_args(parser):
        assert NEEDS_HELP, "descriptions are wanted"
        group = parser.add_argument_group("SchedulerConfig")
        group.add_argument("--max-num-seqs", "--mns", type=count, help="Sequences a step, e.g. 4. It is 100%% true.")
        group.add_argument("--max-num-tokens", type=int)
        group.add_argument("--share", type=float, default=0.5)
        group.add_argument("--overlap", action=argparse.BooleanOptionalAction)
        group.add_argument("--sizes", type=int, nargs="+")
        group.add_argument("--only-on", action="store_true")
        group.add_argument("--trap", default="")
        group.add_argument("--store", default=[])  # filled in in place
        group.add_argument("--model", default="/hub/model")
        group.add_argument("--skip-tokenizer-init", action="store_true")
        group.add_argument("--load-format", default="auto")
        return parser
    @classmethod
    def from_cli_args(cls, args):
        self = cls()
        self.args = args
        return self
    def create_engine_config(self, usage_context):
        global drift
        args, seqs = self.args, self.args.max_num_seqs
        print("resolving")
        if args.model == "/broken":
            raise ValueError("no such model")
        if seqs is None:
            seqs = 128 + drift + len(args.store) + int(os.environ.get("LEAK", "0"))
        tokens = args.max_num_tokens or 2048
        if seqs < 1:
            raise ValidationError({"loc": ("max_num_seqs",), "msg": "Input should be at least 1",
                                   "type": "greater_than_equal", "input": seqs})
        if tokens < seqs:
            raise ValidationError({"loc": (), "type": "value_error", "input": object(),
                                   "msg": f"Value error, max_num_tokens ({tokens}) is below max num seqs ({seqs})"})
        match args.trap:
            case "leak":
                os.environ["LEAK"] = "7"
                args.store.append(1)
            case "drift": drift += 1
            case "exit": sys.exit(2)
            case "die": os._exit(9)
            case "hang": signal.pause()
            case "memory": raise MemoryError("no memory left")
            case "bug": raise KeyError("what")
            case "bare": raise AssertionError
            case "long": raise ValueError("x" * 5000 + chr(10) + "more")
        made = Parts()
        made.scheduler_config = SchedulerConfig()
        part = made.scheduler_config
        part.max_num_seqs, part.max_num_tokens, part.share = seqs, tokens, args.share
        part.overlap = False  # decided by the platform
        part.user_specified_overlap = args.overlap is not None
        part.some_port, part.by_chance, part.inner = 5000 + next(chance), next(chance), {1, 2}
        part.cache_dir, part.trap = "/somewhere", args.trap
        return made
""",
}


def alive(pid: int) -> bool:
    found = read_process(pid)
    return found is not None and found.state != "Z"


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    return packages_in(tmp_path / "packages", FAKE)


@pytest.fixture
def settings(packages: Path) -> EngineSettings:
    return EngineSettings(kind="vllm", python=sys.executable, fixed_env={"PYTHONPATH": str(packages)})


def pid_of(oracle: Oracle) -> int:
    assert oracle._helper is not None
    return oracle._helper.pid


def effective(verdict: Verdict) -> dict[str, object]:
    assert isinstance(verdict, Ok), verdict
    return verdict.effective


def why(verdict: Verdict | Catalogue) -> str:
    assert isinstance(verdict, Unknown), verdict
    return verdict.why


async def test_a_catalogue_of_the_parser_with_resolved_defaults(settings: EngineSettings) -> None:
    async with Oracle(settings) as oracle:
        found = await oracle.catalogue()
    assert isinstance(found, Catalogue)
    assert (found.engine, found.version, found.device, found.source) == ("vllm", "9.9", "cpu", Source.LIVE)
    kinds = {option.name: option.kind for option in found.options}
    assert kinds["max_num_seqs"] is OptionKind.INT
    assert kinds["share"] is OptionKind.FLOAT
    assert kinds["overlap"] is kinds["only_on"] is OptionKind.BOOL
    assert kinds["sizes"] is OptionKind.LIST
    assert kinds["log_level"] is OptionKind.ENUM, "the server's own options are there as well"
    assert kinds["trap"] is OptionKind.TEXT
    seqs = found.by_name["max_num_seqs"]
    assert (seqs.default, seqs.effective, seqs.nullable, seqs.minimum) == (None, 128, True, 1)
    assert (seqs.aliases, seqs.group) == (("mns",), "SchedulerConfig")
    assert seqs.help == "Sequences a step, e.g. 4."
    assert found.by_name["share"].limits() == "at least 0, below 1"
    assert found.by_name["overlap"].effective is False
    assert found.by_name["log_level"].choices == ("info", "debug")
    assert found.by_name["model"].effective is None, "paths say nothing"


async def test_earlier_releases_keep_their_parser_elsewhere(packages: Path, settings: EngineSettings) -> None:
    (packages / "vllm/utils/argparse_utils.py").rename(packages / "vllm/utils/__init__.py")
    (packages / "vllm/entrypoints/openai/cli_args.py").unlink()
    async with Oracle(settings) as oracle:
        found = await oracle.catalogue()
        assert isinstance(await oracle.check({"max_num_seqs": 4}), Ok)
    assert isinstance(found, Catalogue), found
    assert "max_num_seqs" in found.by_name
    assert "log_level" not in found.by_name, "the server's own options are not known there"


async def test_a_release_whose_parser_is_nowhere_says_so(packages: Path, settings: EngineSettings) -> None:
    (packages / "vllm/utils/argparse_utils.py").unlink()
    async with Oracle(settings) as oracle:
        assert "no FlexibleArgumentParser in vllm.utils" in why(await oracle.check({}))


async def test_what_a_configuration_comes_to(settings: EngineSettings) -> None:
    async with Oracle(settings) as oracle:
        base = effective(await oracle.check({}))
        assert base["max_num_seqs"] == 128
        assert base["overlap"] is False
        assert base["scheduler_config.inner"] == ["1", "2"]
        assert not {"some_port", "by_chance", "cache_dir", "model"} & {name.rpartition(".")[2] for name in base}
        assert effective(await oracle.check({"max_num_seqs": 64})) == {**base, "max_num_seqs": 64}
        assert effective(await oracle.check({"max_num_seqs": "1k"})) == {**base, "max_num_seqs": 1000}
        assert effective(await oracle.check({"overlap": True})) == base, "vLLM decides otherwise"
        assert effective(await oracle.check({"only_on": False})) == base, "there is no --no-only-on: left out"
        assert effective(await oracle.check({"log_level": "debug"})) == {**base, "log_level": "debug"}
        assert effective(await oracle.check({"share": 0.25}, model="/models/x")) == {**base, "share": 0.25}
        assert oracle.starts == 1


@pytest.mark.parametrize(
    ("config", "kind", "reason", "options"),
    [
        (
            {"scheduler_delay_factor": 0.5},
            "unknown_option",
            "vLLM 9.9 has no --scheduler-delay-factor",
            ["scheduler_delay_factor"],
        ),
        ({"max_num_seqs": 0}, "invalid_value", "max_num_seqs: Input should be at least 1 (given: 0)", ["max_num_seqs"]),
        (
            {"max_num_seqs": 1.5},
            "invalid_value",
            "argument --max-num-seqs/--mns: invalid count value: '1.5'",
            ["max_num_seqs"],
        ),
        ({"log_level": "all"}, "invalid_value", "argument --log-level: invalid choice: 'all'", ["log_level"]),
        (
            {"max_num_seqs": 64, "max_num_tokens": 32},
            "constraint",
            "max_num_tokens (32) is below max num seqs (64)",
            ["max_num_seqs", "max_num_tokens"],
        ),
        ({"trap": "bare"}, "constraint", "AssertionError", []),
        ({"trap": "bug"}, "other", "KeyError: 'what'", []),
        ({"trap": "long"}, "constraint", "x" * 600, []),
    ],
)
async def test_what_is_refused_and_why(
    settings: EngineSettings, config: dict[str, str | float], kind: str, reason: str, options: list[str]
) -> None:
    async with Oracle(settings) as oracle:
        verdict = await oracle.check(config)
    assert isinstance(verdict, Invalid), verdict
    assert verdict.kind is RefusalKind(kind)
    assert verdict.reason.startswith(reason)
    assert len(verdict.reason) <= 600
    assert list(verdict.options) == options


async def test_a_configuration_is_not_blamed_for_its_host_or_its_model(settings: EngineSettings) -> None:
    async with Oracle(settings) as oracle:
        assert "no memory left" in why(await oracle.check({"trap": "memory"}))
        assert "SystemExit" in why(await oracle.check({"trap": "exit"}))
        broken = why(await oracle.check({"max_num_tokens": 4096}, model="/broken"))
        assert "even without any option: no such model" in broken
        assert isinstance(await oracle.check({"trap": "bare"}, model="/good"), Invalid)


async def test_nothing_a_check_leaves_behind_changes_a_later_answer(settings: EngineSettings) -> None:
    async with Oracle(settings) as oracle:
        first = [await oracle.check({}), await oracle.check({"max_num_seqs": 7, "max_num_tokens": 3})]
        for number in range(50):
            await oracle.check({"trap": "leak", "max_num_seqs": number})
        assert [await oracle.check({}), await oracle.check({"max_num_seqs": 7, "max_num_tokens": 3})] == first
        assert oracle.starts == 1


async def test_a_helper_whose_default_has_drifted_is_replaced_unnoticed(settings: EngineSettings) -> None:
    async with Oracle(settings) as oracle:
        base = effective(await oracle.check({}))
        await oracle.check({"trap": "drift"})
        assert effective(await oracle.check({}))["max_num_seqs"] == 129, "this is what must not last"
        for _ in range(resident.DRIFT_EVERY):
            assert isinstance(await oracle.check({"max_num_seqs": 4}), Ok)
        assert effective(await oracle.check({})) == base
        assert oracle.starts == 2


@pytest.mark.parametrize("trap", ["die", "hang"])
async def test_a_helper_that_dies_or_hangs_is_unknown_and_replaced(settings: EngineSettings, trap: str) -> None:
    async with Oracle(settings, ask_s=DEADLINE_S if trap == "die" else 1.0) as oracle:
        base = await oracle.check({})
        before = pid_of(oracle)
        said = why(await oracle.check({"trap": trap}))
        assert ("status 9" in said) if trap == "die" else ("no answer within 1 s" in said)
        assert not alive(before)
        assert await oracle.check({}) == base
        assert oracle.starts == 2
        assert pid_of(oracle) != before


async def test_a_helper_that_dies_between_questions_is_replaced_unnoticed(settings: EngineSettings) -> None:
    async with Oracle(settings) as oracle:
        base = await oracle.check({})
        assert oracle._helper is not None
        os.kill(pid_of(oracle), signal.SIGKILL)
        await asyncio.shield(oracle._helper.exited)
        assert await oracle.check({}) == base
        assert oracle.starts == 2


async def test_a_cancelled_question_does_not_answer_the_next(settings: EngineSettings) -> None:
    async with Oracle(settings) as oracle:
        base = await oracle.check({})
        before = pid_of(oracle)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await oracle.check({"trap": "hang"})
        assert not alive(before)
        assert await oracle.check({}) == base


async def test_questions_take_turns(settings: EngineSettings) -> None:
    async with Oracle(settings) as oracle:
        verdicts = await asyncio.gather(*(oracle.check({"max_num_seqs": number}) for number in range(1, 30)))
        assert [effective(verdict)["max_num_seqs"] for verdict in verdicts] == list(range(1, 30))
        assert oracle.starts == 1


async def test_options_that_an_agent_does_not_allow_are_not_even_asked_about(settings: EngineSettings) -> None:
    async with Oracle(settings, allowed=["max_num_seqs"]) as oracle:
        assert "does not let a study set trap" in why(await oracle.check({"trap": "die", "max_num_seqs": 3}))
        assert oracle.starts == 0
        assert isinstance(await oracle.check({"max_num_seqs": 3}), Ok)


async def test_options_that_change_nothing_are_found(settings: EngineSettings) -> None:
    space: dict[str, list[bool | int | float | str]] = {
        "overlap": [True, False],
        "max_num_seqs": [64, 128],
        "share": [0.5],
        "unheard_of": [1],
        "max_num_tokens": [2048, 4096],
    }
    async with Oracle(settings) as oracle:
        assert await oracle.inert(space) == {"overlap"}
        assert await oracle.inert(space, model="/broken") == frozenset()


async def test_nothing_outlives_the_oracle(settings: EngineSettings) -> None:
    async with Oracle(settings) as oracle:
        await oracle.check({})
        pid = pid_of(oracle)
        assert oracle._folder is not None
        folder = oracle._folder.name
        inside = await asyncio.to_thread(os.listdir, folder)
        assert "stderr" in inside
        assert any(name.startswith("scoot-oracle-") for name in inside), "the helper's own folder goes with it"
    assert not alive(pid)
    assert not await asyncio.to_thread(os.path.exists, folder)
    assert isinstance(await oracle.check({}), Ok), "a later question starts another"
    await oracle.aclose()


PARENT = """
import asyncio, sys
from scoot.agent.engines.base import EngineSettings
from scoot.agent.engines.oracle import Oracle
async def main():
    oracle = Oracle(EngineSettings(kind="vllm", python=sys.executable, fixed_env={{"PYTHONPATH": {path!r}}}))
    await oracle.check({{}})
    print(oracle._helper.pid, flush=True)
    await oracle.check({{"trap": "hang"}})
asyncio.run(main())
"""


async def test_a_hanging_helper_dies_with_its_agent(packages: Path, tmp_path: Path) -> None:
    def start_and_kill() -> int:
        code = PARENT.format(path=str(packages))
        environment = {**os.environ, "TMPDIR": str(tmp_path)}  # a killed agent cannot tidy up
        command = [sys.executable, "-c", code]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as agent:
            assert agent.stdout is not None
            pid = int(agent.stdout.readline())
            assert alive(pid)
            agent.kill()
        return pid

    pid = await asyncio.to_thread(start_and_kill)
    await until(lambda: not alive(pid))


async def until(told: Callable[[], bool]) -> None:
    """Poll up to a deadline; what is awaited between two looks is a real program."""
    async with asyncio.timeout(DEADLINE_S):
        while not told():
            await run_helper(("/bin/true",), env={}, cwd=Path("/"), timeout_s=DEADLINE_S)


# --- helpers that are none -------------------------------------------------------------------------------------------

READY = 'print(\'{"ready": true, "version": "1", "device": "cpu"}\', flush=True)\n'


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("import sys; sys.exit('cannot import engine')", "status 1: cannot import engine"),
        ("print('hello')", "nonsense"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "signal 9"),
        ("import signal; signal.pause()", "not ready within 1 s"),
        ('print(\'{"ready": false, "error": "no engine here"}\', flush=True)', "no engine here"),
        ("print('x' * 2000000)", "cannot be read"),
        (READY + "input(); print('{}', flush=True)", "nonsense"),
        (READY + "input(); print('[1]', flush=True)", "nonsense"),
        (READY + 'input(); print(\'{"id": 99, "ok": true}\', flush=True)', "question 99 instead of"),
        (READY + 'input(); print(\'{"id": 1, "ok": "yes"}\', flush=True)', "nonsense"),
        (READY + 'input(); print(\'{"id": 1, "error": "went wrong"}\', flush=True); input()', "went wrong"),
        (READY + "input(); print('{\"id\": 1}', flush=True); input()", "did not say"),
    ],
)
async def test_a_helper_that_lies_is_never_held_against_a_configuration(
    tmp_path: Path, program: str, said: str
) -> None:
    path = tmp_path / "helper.py"
    path.write_text(program, encoding="utf-8")
    hangs = "pause" in program
    oracle = Oracle(
        EngineSettings(kind="vllm", python=sys.executable),
        command=(sys.executable, str(path)),
        start_s=1.0 if hangs else DEADLINE_S,
    )
    async with oracle:
        assert said in why(await oracle.check({"max_num_seqs": 1}))


async def test_it_gives_up_after_some_starts_in_a_row_and_not_before(tmp_path: Path) -> None:
    path = tmp_path / "helper.py"
    path.write_text("import sys; sys.exit('broken')", encoding="utf-8")
    settings = EngineSettings(kind="vllm", python=sys.executable)
    async with Oracle(settings, command=(sys.executable, str(path)), max_starts=2) as oracle:
        verdicts = [await oracle.check({}) for _ in range(5)]
        catalogue = await oracle.catalogue()
    assert oracle.starts == 2
    assert "status 1" in why(verdicts[1])
    assert "did not answer after 2 starts" in why(verdicts[2])
    assert "did not answer after 2 starts" in why(catalogue)


async def test_an_answer_in_between_counts_starts_from_the_beginning(settings: EngineSettings) -> None:
    async with Oracle(settings, max_starts=1) as oracle:
        for _ in range(3):
            assert isinstance(await oracle.check({}), Ok)
            assert "status 9" in why(await oracle.check({"trap": "die"}))
        assert oracle.starts == 3


async def test_an_interpreter_that_is_none(tmp_path: Path) -> None:
    async with Oracle(EngineSettings(kind="vllm", python=str(tmp_path / "python"))) as oracle:
        assert "cannot start" in why(await oracle.check({}))


async def test_an_installation_without_vllm(tmp_path: Path) -> None:
    async with Oracle(EngineSettings(kind="vllm", python=sys.executable)) as oracle:
        assert "No module named 'vllm'" in why(await oracle.catalogue())
