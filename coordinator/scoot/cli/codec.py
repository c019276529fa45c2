"""Where scoot.v1's messages end and scootctl's values begin: one function per pair."""

from __future__ import annotations

from scoot.v1 import study_pb2, study_service_pb2
from scoot.wire.protobuf import from_message, to_message
from scoot.wire.spec import StudySpec
from scoot.wire.view import Agent, Report, Study, StudyDetail


def spec_message(spec: StudySpec) -> study_pb2.StudySpec:
    """A specification for the wire."""
    return to_message(spec, study_pb2.StudySpec())


def study(message: study_pb2.Study) -> Study:
    """A study. RemoteProtocolError if it makes no sense here."""
    return from_message(message, Study)


def detail(message: study_service_pb2.StudyDetail) -> StudyDetail:
    """A study with its trials. RemoteProtocolError if it makes no sense here."""
    return from_message(message, StudyDetail)


def agent(message: study_service_pb2.Agent) -> Agent:
    """An agent. RemoteProtocolError if it makes no sense here."""
    return from_message(message, Agent)


def report(message: study_service_pb2.Report) -> Report:
    """A report."""
    return from_message(message, Report)
