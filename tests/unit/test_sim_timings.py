"""Timings of simulated answers are those that the load process makes of the same answers' bytes."""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scoot.benchmark import answer as answers
from scoot.benchmark.answer import Answer
from scoot.benchmark.ask import Ask
from scoot.benchmark.batching import BatchBuilder
from scoot.benchmark.messages import Begun, Ended
from scoot.benchmark.metrics import summarise
from scoot.simulator import timings
from scoot.simulator.sequence import Sequence
from scoot.simulator.timings import TimingRecorder, ideal_audit
from scoot.simulator.virtual import Exchange
from scoot.wire.columns import NONE_US, RequestPhase, RequestStatus, TimingBatch, decode, encode

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


class Told:
    """A replica that knows the times of tokens beforehand."""

    def __init__(self) -> None:
        self.times: dict[Sequence, list[int]] = {}

    def tokens_ns(self, sequence: Sequence) -> npt.NDArray[np.int64]:
        return np.array(self.times[sequence], np.int64)


def _ask(index: int, wanted: int, *, intended_us: int = 1_000, slo_class: int = 0) -> Ask:
    return Ask(
        index=index,
        intended_us=intended_us,
        phase=RequestPhase.MEASURED,
        input_tokens=7,
        wanted_tokens=wanted,
        exact=True,
        body=b"",
        slo_class=slo_class,
    )


def _exchange(replica: Told, ask: Ask, times_ns: list[int], *, status: RequestStatus, end_ns: int) -> Exchange:
    exchange = Exchange(ask)
    exchange.admitted_us = ask.intended_us
    exchange.http_status = 200
    exchange.sequence = Sequence(ask.index, ask.input_tokens, ask.wanted_tokens, arrived_ns=0)
    exchange.status = status
    exchange.end_ns = end_ns
    replica.times[exchange.sequence] = times_ns
    return exchange


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def _event(tokens: int, total: int, *, last: bool) -> bytes:
    choice = {"index": 0, "text": "x" * tokens, "finish_reason": "length" if last else None}
    usage = {"prompt_tokens": 7, "completion_tokens": total, "total_tokens": 7 + total}
    return _chunk(b"data: " + msgspec.json.encode({"choices": [choice], "usage": usage}) + b"\n\n")


def _heard(exchange: Exchange, times_ns: list[int], *, interval: int) -> Answer:
    """What the conductor makes of the answer's bytes."""
    ask = exchange.ask
    answer = Answer(Begun.of(ask, 0, ask.intended_us, ask.intended_us))
    answer.receive(ask.intended_us, _HEAD)
    sent = 0
    for number, at_ns in enumerate(times_ns, 1):
        last = number == ask.wanted_tokens
        if sent == 0 or last or number - sent >= interval:
            data = _event(number - sent, number, last=last)
            if last:
                data += _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"
            answer.receive(at_ns // 1000, data)
            sent = number
    whole = exchange.status is RequestStatus.OK
    transport = RequestStatus.OK if whole else exchange.status or RequestStatus.OK
    answer.end(Ended(ask.index, exchange.end_ns // 1000, int(transport), ""))
    return answer


def _batch(heard: list[Answer]) -> TimingBatch:
    builder = BatchBuilder()
    for answer in heard:
        builder.add(answer, run=3, now_us=0)
    return decode(builder.take())


def _columns(batch: TimingBatch) -> dict[str, tuple[str, list[int]] | None]:
    """Every column: its type and values, None for one that is left out."""
    columns = {name: getattr(batch, name) for name in batch.__slots__}
    return {name: None if each is None else (each.dtype.str, each.tolist()) for name, each in columns.items()}


@st.composite
def _answers(draw: st.DrawFn) -> list[tuple[list[int], bool, int]]:
    """(times of tokens, whether the answer is whole, SLO class) of some requests. Some tokens come at once."""
    made = []
    for _ in range(draw(st.integers(1, 5))):
        gaps = draw(st.lists(st.sampled_from([0, 300, 999, 1_000, 1_700, 25_000_000]), min_size=1, max_size=12))
        times = (2_000_000 + np.cumsum(gaps)).tolist()
        made.append((times, draw(st.booleans()), draw(st.integers(0, 2))))
    return made


@given(made=_answers(), interval=st.integers(1, 4))
def test_columns_are_those_of_the_load_process(made: list[tuple[list[int], bool, int]], interval: int) -> None:
    replica = Told()
    recorder = TimingRecorder([replica], stream_interval=interval, run=3)
    heard = []
    for index, (times, whole, slo_class) in enumerate(made):
        ask = _ask(index, len(times) if whole else len(times) + 5, slo_class=slo_class)
        status = RequestStatus.OK if whole else RequestStatus.DEADLINE
        exchange = _exchange(replica, ask, times, status=status, end_ns=times[-1] + (0 if whole else 7_000))
        recorder.add(exchange)
        heard.append(_heard(exchange, times, interval=interval))
    assert _columns(decode(encode(recorder.batch()))) == _columns(_batch(heard))


def test_chunks_beyond_the_most_are_added_to_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "CHUNKS_MAX", 4)
    monkeypatch.setattr(timings, "CHUNKS_MAX", 4)
    replica = Told()
    recorder = TimingRecorder([replica], run=3)
    heard = []
    for index, count in enumerate((9, 3, 4)):
        times = [2_000_000 + 10_000 * at for at in range(count)]
        exchange = _exchange(replica, _ask(index, count), times, status=RequestStatus.OK, end_ns=times[-1])
        recorder.add(exchange)
        heard.append(_heard(exchange, times, interval=1))
    batch = recorder.batch()
    assert batch.chunks.tolist() == [4, 3, 4]
    assert _columns(decode(encode(batch))) == _columns(_batch(heard))


def test_many_tokens_are_looked_up_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    replica = Told()
    exchanges = [
        _exchange(
            replica,
            _ask(index, 3),
            [5_000_000 + index, 6_000_000, 7_000_000],
            status=RequestStatus.OK,
            end_ns=7_000_000,
        )
        for index in range(9)
    ]

    def made(tokens: int) -> TimingBatch:
        monkeypatch.setattr(timings, "_PENDING_TOKENS", tokens)
        recorder = TimingRecorder([replica], run=3)
        for exchange in exchanges:
            recorder.add(exchange)
        return recorder.batch()

    assert _columns(decode(encode(made(6)))) == _columns(decode(encode(made(1 << 20))))


@pytest.mark.parametrize(("end_ns", "came"), [(3_100_000, 2), (3_050_000, 1)])
def test_tokens_after_the_end_are_not_the_client_s(end_ns: int, came: int) -> None:
    replica = Told()
    recorder = TimingRecorder([replica], transport_ns=100_000)
    exchange = _exchange(
        replica, _ask(0, 9), [2_000_000, 3_000_000, 4_000_000], status=RequestStatus.DEADLINE, end_ns=end_ns
    )
    recorder.add(exchange)
    batch = recorder.batch()
    assert batch.output_tokens.tolist() == [came]
    assert batch.first_us.tolist() == [1_100]
    assert batch.gap_us.tolist() == [0, 1_000][:came]


def test_a_request_without_an_answer_has_no_chunks() -> None:
    recorder = TimingRecorder([])
    exchange = Exchange(_ask(4, 9))
    exchange.http_status, exchange.status, exchange.end_ns = 503, RequestStatus.HTTP_ERROR, 1_000_000
    recorder.add(exchange)
    batch = decode(encode(recorder.batch()))
    assert (batch.first_us.tolist(), batch.end_us.tolist(), batch.chunks.tolist()) == ([NONE_US], [0], [0])
    assert summarise(batch, run=0).failures == {"HTTP_503": 1}


def test_nothing_sent_is_an_empty_batch() -> None:
    batch = TimingRecorder([]).batch()
    assert (len(batch), len(batch.gap_us)) == (0, 0)
    assert summarise(decode(encode(batch)), run=0).sent == 0


def test_the_audit_is_of_a_load_generator_that_takes_no_time() -> None:
    audit = ideal_audit(run=2, wall_s=110.0)
    assert (audit.run, audit.wall_s, audit.dropped, audit.cpu_share) == (2, 110.0, 0, 0.0)
    assert audit.clock == "virtual"
