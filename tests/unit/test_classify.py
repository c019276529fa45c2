"""The failure catalogue: logs of real engines, and the line that names the cause."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from scoot.agent.core.classify import classify_load, classify_start, may_be_noise, root_cause
from scoot.agent.host.process import ExitStatus
from scoot.wire import limits
from scoot.wire.measurement import LoadAudit
from scoot.wire.reasons import Blame, Reason, blame_of
from scoot.wire.spec import Limits

GOLDEN = Path(__file__).parents[1] / "golden" / "engine_logs"

CATALOGUE = [
    ("unknown_flag", 2, Reason.ENGINE_REJECTED_ARGS, "unrecognized arguments: --frobnicate"),
    ("bad_choice", 2, Reason.ENGINE_REJECTED_ARGS, "argument --scheduling-policy: invalid choice: 'lifo'"),
    ("bad_type", 2, Reason.ENGINE_REJECTED_ARGS, "argument --max-num-seqs: invalid int value: 'many'"),
    (
        "tokens_below_seqs",
        1,
        Reason.ENGINE_REJECTED_ARGS,
        "SchedulerConfig: max_num_batched_tokens (256) must be greater than or equal to max_num_seqs (512).",
    ),
    ("tokens_below_length", 1, Reason.ENGINE_REJECTED_ARGS, "SchedulerConfig: max_num_batched_tokens (256) is smaller"),
    ("block_size_16", 1, Reason.ENGINE_EXITED_ON_START, "ValueError: No common block size for 16 (CPU_ATTN: ["),
    ("block_size_16_workers", 1, Reason.ENGINE_EXITED_ON_START, "ValueError: No common block size for 16 (CPU_ATTN"),
    ("tensor_parallel_4", 1, Reason.ENGINE_EXITED_ON_START, "AssertionError: Not enough allowed NUMA nodes to bind"),
    ("kv_space_400_gb", 1, Reason.ENGINE_OOM, "ValueError: Available memory on node 0 ("),
    ("kv_too_small", 1, Reason.ENGINE_OOM, "ValueError: To serve at least one request with the model's max seq len"),
    ("port_in_use", 1, Reason.PORT_TAKEN, "OSError: [Errno 98] Address already in use"),
    ("no_model", 1, Reason.MODEL_MISSING, "huggingface_hub.errors.HFValidationError: Repo id must be in the form"),
]


def golden(name: str) -> str:
    return (GOLDEN / f"vllm_0.32_{name}.log").read_text()


def test_every_golden_log_is_used() -> None:
    used = {name for name, *_ in CATALOGUE} | {"ready", "ready_defaults", "core_killed_under_load"}
    assert {path.stem.removeprefix("vllm_0.32_") for path in GOLDEN.glob("vllm_0.32_*.log")} == used


@pytest.mark.parametrize(("name", "code", "reason", "line"), CATALOGUE)
def test_catalogue_of_real_failures(name: str, code: int, reason: Reason, line: str) -> None:
    for status in (ExitStatus(code=code), ExitStatus(code=0)):
        found = classify_start(status, timed_out=False, log_text=golden(name), engine="vllm")
        assert found[0] is reason, "the text decides, never the exit code"
        assert found[1].startswith(line)
        assert "initialization failed" not in found[1]


def test_healthy_log_that_was_cut_off_is_a_timeout() -> None:
    reason, line = classify_start(None, timed_out=True, log_text=golden("ready"), engine="vllm")
    assert reason is Reason.ENGINE_START_TIMEOUT
    assert line.startswith("vllm was not ready in time")
    assert root_cause(golden("ready").split("\n")) == ""


def test_api_process_that_hangs_after_its_core_failed_times_out_with_the_cause() -> None:
    reason, line = classify_start(None, timed_out=True, log_text=golden("block_size_16"), engine="vllm")
    assert reason is Reason.ENGINE_START_TIMEOUT
    assert "No common block size for 16" in line


def test_core_killed_under_load_exits_zero() -> None:
    text = golden("core_killed_under_load")
    for status, hung in ((ExitStatus(code=0), False), (None, False), (None, True)):
        reason, line = classify_load(status, hung=hung, failed_share=1.0, log_text=text, engine="vllm")
        assert reason is Reason.ENGINE_CRASHED_UNDER_LOAD
        assert line.startswith("a process of vllm ended without a word (killed, or a crash in native code)")
    told = text + "\n(EngineCore pid=7) ERROR 11-20 12:10:21 [core.py:1] ValueError: the cause\n"
    assert classify_load(None, hung=False, failed_share=1.0, log_text=told, engine="vllm")[1] == "ValueError: the cause"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has", Reason.ENGINE_OOM),
        ("ValueError: No available memory for the cache blocks. Try increasing", Reason.ENGINE_OOM),
        ("RuntimeError: CUDA error: out of memory", Reason.ENGINE_OOM),
        ("MemoryError", Reason.ENGINE_OOM),
        ("terminate called after throwing an instance of 'std::bad_alloc'", Reason.ENGINE_OOM),
        ("OSError: [Errno 28] No space left on device", Reason.DISK_FULL),
        (
            "/usr/bin/python: No module named vllm.entrypoints\nModuleNotFoundError: No module named 'vllm'",
            Reason.ENGINE_MISSING,
        ),
        ("OSError: /models/x does not appear to have a file named config.json", Reason.MODEL_MISSING),
        (
            "TypeError: EngineArgs.__init__() got an unexpected keyword argument 'swap_space'",
            Reason.ENGINE_REJECTED_ARGS,
        ),
        ("ModuleNotFoundError: No module named 'xxhash'", Reason.ENGINE_EXITED_ON_START),
        ("Fatal Python error: Segmentation fault", Reason.ENGINE_EXITED_ON_START),
        ("everything is fine", Reason.ENGINE_EXITED_ON_START),
        ("", Reason.ENGINE_EXITED_ON_START),
    ],
)
def test_other_endings_of_a_start(text: str, reason: Reason) -> None:
    found = classify_start(ExitStatus(code=1), timed_out=False, log_text=f"INFO begin\n{text}\n", engine="mock")
    assert found[0] is reason
    assert found[1]


KILLED = ExitStatus(signal=9)


def test_sigkill_that_was_not_ours_is_memory_only_where_the_kernel_says_so() -> None:
    def start(oom_kills: int | None, text: str = "x") -> tuple[Reason, str]:
        return classify_start(KILLED, timed_out=False, log_text=text, engine="vllm", oom_kills=oom_kills)

    def load(oom_kills: int | None, text: str = "x") -> tuple[Reason, str]:
        return classify_load(KILLED, hung=False, failed_share=1, log_text=text, engine="vllm", oom_kills=oom_kills)

    assert start(1)[0] is load(2)[0] is Reason.ENGINE_OOM
    assert "killed 2 process(es) of this host for lack of memory" in load(2)[1]
    for unknown in (None, 0):
        assert start(unknown)[0] is Reason.ENGINE_EXITED_ON_START
        assert load(unknown)[0] is Reason.ENGINE_CRASHED_UNDER_LOAD
        assert "SIGKILL" in start(unknown)[1]
    assert "by the kernel for lack of memory, or by somebody's hand" in load(None)[1]
    assert "neither by SCOOT nor by the kernel" in load(0)[1]
    # What the log says of memory needs no second witness; what it says of something else is believed.
    assert load(0, "torch.OutOfMemoryError: CUDA out of memory")[0] is Reason.ENGINE_OOM
    assert start(1, "ValueError: No common block size for 7")[0] is Reason.ENGINE_EXITED_ON_START
    assert load(1, "ValueError: block table overflow")[0] is Reason.ENGINE_CRASHED_UNDER_LOAD


def test_sigkill_that_was_ours_is_a_stop() -> None:
    ours = ExitStatus(signal=9, by_us=True)
    found = classify_start(ours, timed_out=True, log_text="x", engine="v", oom_kills=0)
    assert found == (Reason.ENGINE_EXITED_ON_START, "v was ended by signal 9 and logged no cause: x")


def test_the_core_killed_for_lack_of_memory_is_told_from_one_killed_by_hand() -> None:
    """The API process then exits by itself, with status 0 or 1, and its log holds no cause."""
    text = golden("core_killed_under_load")
    for status in (ExitStatus(code=0), None):

        def load(oom_kills: int | None, status: ExitStatus | None = status) -> Reason:
            return classify_load(status, hung=False, failed_share=1, log_text=text, engine="vllm", oom_kills=oom_kills)[
                0
            ]

        assert load(1) is Reason.ENGINE_OOM
        assert load(0) is load(None) is Reason.ENGINE_CRASHED_UNDER_LOAD
    line = "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {'E': -9}"
    for oom_kills, reason in ((1, Reason.ENGINE_OOM), (0, Reason.ENGINE_EXITED_ON_START)):
        exited = ExitStatus(code=1)
        found = classify_start(exited, timed_out=False, log_text=line, engine="vllm", oom_kills=oom_kills)
        assert found[0] is reason
        assert "'E': -9" in found[1]
    # An engine that lives and answers had nothing to do with it.
    alive = classify_load(None, hung=False, failed_share=0.5, log_text="x", engine="v", oom_kills=3)
    assert alive[0] is Reason.ENGINE_REQUESTS_FAILED
    slow = classify_start(None, timed_out=True, log_text="x", engine="v", oom_kills=3)
    assert slow[0] is Reason.ENGINE_START_TIMEOUT


def test_other_signals_and_silence_name_the_ending() -> None:
    _, line = classify_start(ExitStatus(signal=11), timed_out=False, log_text="", engine="vllm")
    assert line == "vllm was ended by signal 11 and logged no cause: nothing"
    _, line = classify_start(ExitStatus(), timed_out=False, log_text="bye\n", engine="vllm")
    assert line == "vllm ended and logged no cause: bye"


def test_endings_under_load() -> None:
    def verdict(status: ExitStatus | None, *, hung: bool = False, text: str = "") -> Reason:
        return classify_load(status, hung=hung, failed_share=0.25, log_text=text, engine="vllm")[0]

    assert verdict(None, hung=True) is Reason.ENGINE_HUNG_UNDER_LOAD
    hung = classify_load(None, hung=True, failed_share=0, log_text=golden("ready"), engine="vllm")
    assert hung == (Reason.ENGINE_HUNG_UNDER_LOAD, "vllm stopped answering under load")
    said = classify_load(None, hung=True, failed_share=0, log_text="ValueError: told\nINFO routes", engine="vllm")[1]
    assert said == "vllm stopped answering under load; its log says: ValueError: told"
    assert verdict(ExitStatus(code=1), hung=True) is Reason.ENGINE_CRASHED_UNDER_LOAD
    assert verdict(None, text="torch.OutOfMemoryError: CUDA out of memory") is Reason.ENGINE_OOM
    assert verdict(None) is Reason.ENGINE_REQUESTS_FAILED
    crashed = classify_load(ExitStatus(code=3), hung=False, failed_share=1, log_text="SystemExit: 3", engine="v")
    assert crashed == (Reason.ENGINE_CRASHED_UNDER_LOAD, "v exited with status 3 under load: SystemExit: 3")
    assert "25.0%" in classify_load(None, hung=False, failed_share=0.25, log_text="", engine="vllm")[1]


def test_first_inner_error_beats_later_ones_and_warnings() -> None:
    lines = [
        "(EngineCore pid=7) WARNING 11-20 11:45:30 [x.py:1] ImportError: optional thing",
        "(EngineCore_DP0 pid=7) ERROR 11-20 11:45:30 [core.py:1510] Traceback (most recent call last):",
        "(EngineCore_DP0 pid=7) ERROR 11-20 11:45:30 [core.py:1510] ValueError: the cause",
        "(EngineCore_DP0 pid=7) ERROR 11-20 11:45:31 [core.py:1510] RuntimeError: a consequence",
        "RuntimeError: another",
    ]
    assert root_cause(lines) == "ValueError: the cause"
    assert (
        root_cause(["ValueError: a", "KeyError: 'b'", "RuntimeError: Engine core initialization failed."])
        == "KeyError: 'b'"
    )
    assert root_cause(["RuntimeError: Engine core initialization failed. See"]).startswith("RuntimeError")


def test_heads_of_older_releases() -> None:
    """No bracket before the file; workers had other names; torch puts its rank before the last words."""
    lines = [
        "(VllmWorkerProcess pid=7) INFO 07-24 08:26:01 utils.py:9] ValueError: harmless",
        "(VllmWorkerProcess pid=7) ERROR 07-24 08:26:01 multiproc_worker_utils.py:226] RuntimeError: the cause",
        "[rank0]: KeyError: 'a consequence'",
    ]
    assert root_cause(lines) == "RuntimeError: the cause"
    assert root_cause(lines[2:]) == "KeyError: 'a consequence'"
    ray = "(RayWorkerWrapper pid=7, ip=10.0.0.1) ERROR 03-27 10:29:13 [worker_base.py:620] ValueError: the cause"
    assert root_cause([ray, lines[2]]) == "ValueError: the cause"


exits = st.one_of(
    st.none(),
    st.builds(ExitStatus, code=st.integers(0, 255), by_us=st.booleans()),
    st.builds(ExitStatus, signal=st.integers(1, 64), by_us=st.booleans()),
)
texts = st.one_of(
    st.text(),
    st.lists(
        st.one_of(
            st.text(max_size=40),
            st.sampled_from(
                [
                    "pydantic_core._pydantic_core.ValidationError: 1 validation error for X",
                    "  Value error, [type=value_error",
                    "(EngineCore pid=1) ERROR 11-20 11:45:30 [core.py:1] ValueError:",
                    "x: error: argument ",
                    "ValueError: \x1b[31m\x00\u2028" + "y" * 9000,
                    "(",
                ]
            ),
        )
    ).map("\n".join),
)


@given(exits, st.booleans(), texts)
@example(None, True, "A" * 100 + "Error")
def test_never_raises_and_always_one_line(status: ExitStatus | None, flag: bool, text: str) -> None:
    for reason, line in (
        classify_start(status, timed_out=flag, log_text=text, engine="vllm"),
        classify_load(status, hung=flag, failed_share=0.5, log_text=text, engine="vllm"),
    ):
        assert 0 < len(line) <= limits.STRING_CHARS
        assert line.isprintable()
        assert blame_of(reason) in (Blame.CONFIG, Blame.HOST)


def test_hostile_sizes_are_bounded() -> None:
    text = "a." * 2_000_000 + "\n" + "(" * 3_000_000 + "\n" + "ValueError: x" * 100_000
    reason, line = classify_start(ExitStatus(code=1), timed_out=False, log_text=text, engine="vllm")
    assert reason is Reason.ENGINE_EXITED_ON_START
    assert len(line) <= limits.STRING_CHARS


def used_by_others(share: float | None, run: int = 0) -> LoadAudit:
    """Of a run of 10 s on 4 CPUs."""
    other_cpu_s = None if share is None else 40.0 * share
    return LoadAudit(
        run=run,
        cpu_share=0.1,
        run_queue_s=0.0,
        clock_step_ms=0.0,
        dropped=0,
        wall_s=10.0,
        host_cpus=4,
        other_cpu_s=other_cpu_s,
    )


@pytest.mark.parametrize(
    ("error_share", "shares", "limit", "maybe"),
    [
        (0.0, [0.4], 0.25, True),
        (0.01, [0.0, 0.4], 0.25, True),  # one run of two; the coordinator looks at each
        (0.02, [0.4], 0.25, False),  # errors alone are too many
        (0.0, [0.25], 0.25, False),
        (0.0, [0.4], 0.0, False),  # the rule is left out
        (0.0, [None], 0.25, False),
        (0.0, [], 0.25, False),
    ],
)
def test_failed_requests_may_be_the_doing_of_others(
    error_share: float, shares: list[float | None], limit: float, maybe: bool
) -> None:
    audits = [used_by_others(share, run) for run, share in enumerate(shares)]
    assert may_be_noise(error_share, audits, Limits(max_failed_share=0.01, other_cpu_share=limit)) is maybe
