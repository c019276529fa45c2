"""What an agent says of its engines beside attempts."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from scoot.agent.advisor import Advisor
from scoot.agent.engines.base import EngineSettings, LaunchRequest
from scoot.agent.engines.mock import MockAdapter
from scoot.agent.folders import AttemptFolders
from scoot.agent.host.gpu_fake import FakeGpus
from scoot.agent.link.codec import CheckQuestion, CheckReply
from scoot.agent.workplace import Workplace
from scoot.wire.assignment import Device, EngineOffer
from scoot.wire.catalogue.option import Catalogue, Source, decode_catalogue
from scoot.wire.catalogue.verdict import CheckState, Invalid, Ok, RefusalKind, Unknown, Verdict
from scoot.wire.errors import UserError
from scoot.wire.spec import Config, Service

CATALOGUE = Catalogue(engine="mock", version="1", device="cpu", source=Source.LIVE, options=())
DEVICES = {f"cpu-{n}": Device(id=f"cpu-{n}", kind="cpu") for n in range(2)}


class Checker:
    """Refuses more than 8 sequences."""

    def __init__(self, catalogue: Catalogue | Unknown = CATALOGUE) -> None:
        self.requests: list[LaunchRequest] = []
        self._catalogue = catalogue

    async def check(self, request: LaunchRequest) -> Verdict:
        self.requests.append(request)
        if "LD_PRELOAD" in request.service.env:
            raise UserError("may not be set", key="service.env.LD_PRELOAD")
        seqs = request.config.get("max_num_seqs", 4)
        if isinstance(seqs, int) and seqs > 8:
            return Invalid("too many", RefusalKind.CONSTRAINT)
        return Ok({"max_num_seqs": seqs, "other": 1})

    async def catalogue(self) -> Catalogue | Unknown:
        return self._catalogue

    async def aclose(self) -> None:
        """Nothing is open."""


class Hearing:
    """Notices that there is news."""

    def __init__(self) -> None:
        self.event = asyncio.Event()

    async def news(self) -> None:
        async with asyncio.timeout(10):
            await self.event.wait()
        self.event.clear()


def advisor(tmp_path: Path, checker: Checker, hearing: Hearing, *, error: str = "") -> Advisor:
    async def fetch(sha256: str) -> Path:
        raise NotImplementedError(sha256)

    workplace = Workplace(
        adapters={"mock": MockAdapter(EngineSettings(kind="mock")), "other": MockAdapter(EngineSettings(kind="mock"))},
        offers={"mock": EngineOffer(name="mock", version="1", error=error)},
        model_roots=(),
        devices=DEVICES,
        gpus=FakeGpus(0),
        folders=AttemptFolders(tmp_path / "attempts", "boot"),
        state_dir=tmp_path,
        fetch=fetch,
        uploader=cast("Any", None),
        reserve_memory_bytes=0,
        room_wait_s=0.0,
        clock=lambda: 0.0,
        checkers={"mock": checker},
        listers={"mock": checker},
    )
    return Advisor(workplace, hearing.event.set)


def question(*configs: Config, engine: str = "mock", **service: Any) -> CheckQuestion:
    return CheckQuestion(
        check_id=7,
        service=Service(**({"engine": engine, "model": "m", "device": "cpu"} | service)),
        configs=configs,
        names=("max_num_seqs",),
    )


async def ask(tmp_path: Path, asked: CheckQuestion, checker: Checker | None = None) -> CheckReply:
    hearing = Hearing()
    of = advisor(tmp_path, checker or Checker(), hearing)
    of.ask(asked)
    await hearing.news()
    (reply,) = of.take_replies()
    assert of.take_replies() == ()
    await of.aclose()
    return reply


async def test_it_answers_in_order_and_tells_what_was_asked_for(tmp_path: Path) -> None:
    checker = Checker()
    reply = await ask(tmp_path, question({}, {"max_num_seqs": 9}, {"max_num_seqs": 4}), checker)
    assert reply.check_id == 7
    assert [each.state for each in reply.checked] == [CheckState.OK, CheckState.INVALID, CheckState.OK]
    assert reply.checked[0].effective == {"max_num_seqs": 4}
    assert reply.checked[0].digest == reply.checked[2].digest != ""
    assert reply.checked[1].reason == "too many"
    assert [each.devices for each in checker.requests] == [(DEVICES["cpu-0"],)] * 3


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (question({}, engine="sglang"), "no engine 'sglang' here"),
        (question({}, engine="other"), "has no argument check"),
        (question({"tensor_parallel_size": 4}), "4 x 'cpu' are needed, this host has 2"),
        (question({"tensor_parallel_size": 0}), "is not a positive integer"),
        (question({}, device="gpu"), "1 x 'gpu' are needed, this host has 0"),
        (question({}, {}, env={"LD_PRELOAD": "x"}), "may not be set"),
    ],
)
async def test_what_cannot_be_asked_is_unknown(tmp_path: Path, asked: CheckQuestion, why: str) -> None:
    reply = await ask(tmp_path, asked)
    assert len(reply.checked) == len(asked.configs)
    for checked in reply.checked:
        assert (checked.state, checked.digest) == (CheckState.UNKNOWN, "")
        assert why in checked.reason


async def test_it_looks_options_up_and_tells_them(tmp_path: Path) -> None:
    hearing = Hearing()
    of = advisor(tmp_path, Checker(), hearing)
    of.look_up()
    await hearing.news()
    assert decode_catalogue(of.catalogues["mock"], path="told") == CATALOGUE
    await of.aclose()


@pytest.mark.parametrize(("catalogue", "error"), [(Unknown("it died"), ""), (CATALOGUE, "it is broken")])
async def test_without_options_there_is_nothing_to_tell(tmp_path: Path, catalogue: Any, error: str) -> None:
    hearing = Hearing()
    of = advisor(tmp_path, Checker(catalogue), hearing, error=error)
    of.look_up()
    of.ask(question({}))  # answered after it: one thing at a time in one loop
    await hearing.news()
    assert of.catalogues == {}
    await of.aclose()
