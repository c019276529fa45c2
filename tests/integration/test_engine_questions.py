"""What the coordinator asks agents of their engines, over real gRPC: checks before trials, catalogues, refusals."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
import msgspec
import pytest
from coordinator_desk import Agent, Desk, desk, spec, submit

from scoot.v1 import agent_service_pb2 as agent_pb
from scoot.v1 import study_service_pb2 as pb
from scoot.wire.catalogue.option import Catalogue, EngineOption, OptionKind, Source, decode_catalogue, encode_catalogue
from scoot.wire.catalogue.verdict import Checked, CheckState
from scoot.wire.protobuf import to_message
from scoot.wire.spec import Config, Parameter, ParameterKind, Service, StudySpec
from scoot.wire.states import StudyState

INVALID = Checked(state=CheckState.INVALID, reason="more than the engine takes")


def checking(d: Desk, engine: str = "mock", **names: Any) -> Agent:
    """An agent that can ask its engine before a start."""
    agent = Agent(d, **names)
    agent.hello.inventory.engines[0].name = engine
    agent.hello.inventory.engines[0].checks = True
    return agent


def ok(value: object) -> Checked:
    return Checked(state=CheckState.OK, digest=f"d{value}", effective={"max_num_seqs": 1})


async def answer(agent: Agent, verdict: Callable[[Any], Checked]) -> list[Any]:
    """Answer the next question; the values of max_num_seqs that it was about, None for the default."""
    question = (await agent.hear()).check
    assert (question.service.engine, list(question.names)) == ("mock", ["max_num_seqs"])
    values = [each.values["max_num_seqs"].int_value if each.values else None for each in question.configs]
    checked = [to_message(verdict(value), agent_pb.Checked()) for value in values]
    await agent.say(check_reply=agent_pb.CheckReply(check_id=question.check_id, checked=checked))
    return values


async def test_suggestions_are_shown_to_the_engine_before_they_become_trials(tmp_path: pathlib.Path) -> None:
    async with desk(tmp_path) as d:
        created = await submit(d, spec(trials=3))
        agent = checking(d)
        await agent.connect()
        await agent.complete(await agent.assignment(), 5_000)
        assert (await agent.hear()).outcome_ack.attempt_id
        assert await answer(agent, ok) == [None, 1, 64]
        refused = await answer(agent, lambda _: INVALID)
        again = await answer(agent, ok)
        assert refused != again
        work = await agent.assignment()
        assert [work.config["max_num_seqs"]] == again
        await agent.complete(work, 1_000)
        assert (await agent.hear()).outcome_ack.attempt_id
        double = await answer(agent, lambda _: ok(again[0]))
        third = await answer(agent, ok)
        assert double != third
        work = await agent.assignment()
        await agent.complete(work, 2_000)
        await d.until(lambda state: state.studies[created.study_id].state is StudyState.COMPLETED)
        detail = await d.studies.GetStudy(pb.GetStudyRequest(study_id=created.study_id))
        assert [trial.number for trial in detail.trials] == [0, 1, 2]
        assert list(detail.study.spared) == [
            "1 suggestion(s) refused by the engine's own check cost no trial (the last: more than the engine takes)",
            "1 suggestion(s) that come to the same as an earlier trial were not measured again",
        ]
        record = d.coordinator.state.studies[created.study_id]
        assert [(each.config["max_num_seqs"], each.before, each.same_as) for each in record.rejected] == [
            (refused[0], 1, None),
            (double[0], 2, 1),
        ]


async def test_an_agent_that_goes_away_leaves_the_search_to_go_on_without_it(tmp_path: pathlib.Path) -> None:
    async with desk(tmp_path) as d:
        await submit(d, spec(trials=2))
        agent = checking(d)
        await agent.connect()
        await agent.complete(await agent.assignment(), 5_000)
        await question(agent)
        agent.hang_up()
        await d.until(lambda state: all(not study.asking for study in state.studies.values()))
        (trials,) = d.coordinator.state.trials.values()
        assert len(trials) == 2
        assert trials[1].resolved == ""


async def test_a_question_that_would_not_fit_into_a_message_is_not_asked(tmp_path: pathlib.Path) -> None:
    async with desk(tmp_path) as d:
        agent = checking(d)
        await agent.connect()
        await agent.say(heartbeat=agent_pb.Heartbeat(seq=1))
        assert (await agent.hear()).heartbeat_ack.seq == 1
        long: list[Config] = [{"max_num_seqs": "x" * 4_000}] * 1_000
        assert await d.coordinator._sessions.engines.check(spec().service, long, ["max_num_seqs"]) is None
        await agent.say(heartbeat=agent_pb.Heartbeat(seq=2))
        assert (await agent.hear()).heartbeat_ack.seq == 2


async def question(agent: Agent) -> agent_pb.CheckConfigs:
    """The next question; what else is said is passed over."""
    while True:
        message = await agent.hear()
        if message.WhichOneof("body") == "check":
            return message.check


CATALOGUE = Catalogue(
    engine="vllm",
    version="9.9",
    device="cpu",
    source=Source.LIVE,
    options=(EngineOption(name="max_num_seqs", kind=OptionKind.INT, minimum=1),),
)


def vllm(*names: str, **fields: Any) -> StudySpec:
    parameters = tuple(Parameter(name=name, kind=ParameterKind.INT, low=1, high=64) for name in names)
    service = Service(engine="vllm", model="m", device="cpu")
    return msgspec.structs.replace(spec(), service=service, parameters=parameters, **fields)


async def tell(agent: Agent) -> None:
    """Tell the catalogue; a heartbeat behind it that is answered says that it was taken."""
    await agent.say(catalogue=agent_pb.EngineCatalogue(engine="vllm", json=encode_catalogue(CATALOGUE)))
    await agent.say(heartbeat=agent_pb.Heartbeat(seq=1))
    assert (await agent.hear()).heartbeat_ack.seq == 1


async def told(d: Desk) -> Catalogue:
    reply = await d.studies.GetCatalogue(pb.GetCatalogueRequest(engine="vllm"))
    return decode_catalogue(reply.json, path="reply")


async def test_a_study_is_checked_against_the_options_an_agent_tells(tmp_path: pathlib.Path) -> None:
    async with desk(tmp_path) as d:
        agent = checking(d, engine="vllm")
        await agent.connect()
        await tell(agent)
        assert await told(d) == CATALOGUE
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await submit(d, vllm("max_num_seqs", "scheduler_delay_factor"))
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        details = str(refused.value.details())
        assert "parameters.scheduler_delay_factor" in details
        assert "was removed" in details
        assert "max_num_active_seqs" in details
        created = await submit(d, vllm("max_num_seqs"), key="other")
        assert created.study_id
        agent.hang_up()


async def test_what_an_agent_told_goes_with_its_session(tmp_path: pathlib.Path) -> None:
    async with desk(tmp_path) as d:
        agent = checking(d, engine="vllm")
        await agent.connect()
        await tell(agent)
        again = checking(d, engine="vllm")
        await again.connect()
        with pytest.raises(grpc.aio.AioRpcError) as missing:
            await told(d)
        assert missing.value.code() is grpc.StatusCode.NOT_FOUND
        assert "no connected agent has told the options of 'vllm'" in str(missing.value.details())


async def test_nonsense_about_engines_ends_the_session(tmp_path: pathlib.Path) -> None:
    async with desk(tmp_path) as d:
        agent = checking(d)
        await agent.connect()
        await agent.say(catalogue=agent_pb.EngineCatalogue(engine="mock", json=b"{}"))
        refusal = (await agent.hear()).refusal
        assert refusal.retry
        assert "not a catalogue" in refusal.message
        await submit(d, spec(trials=2))
        agent = checking(d)
        await agent.connect()
        await agent.complete(await agent.assignment(), 5_000)
        asked = await question(agent)
        await agent.say(check_reply=agent_pb.CheckReply(check_id=asked.check_id))
        assert "0 answers to" in (await agent.hear()).refusal.message
