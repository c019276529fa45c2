"""Mutual TLS between real processes: a study runs over it, and nobody gets in without a certificate of the CA."""

from __future__ import annotations

import pathlib

import pytest
import trustme
from rig import rig, study, submit

from scoot.cli.client import Coordinator as Client
from scoot.cli.exits import CoordinatorUnreachableError
from scoot.wire.endpoint import TlsFiles, parse_endpoint
from scoot.wire.states import StudyState

pytestmark = pytest.mark.timeout(120)


def issue(folder: pathlib.Path, ca: trustme.CA, trusted: trustme.CA, name: str) -> TlsFiles:
    """A certificate of `ca` for 127.0.0.1, held by someone who trusts `trusted`."""
    files = TlsFiles(*(str(folder / f"{name}.{part}") for part in ("ca", "cert", "key")))
    trusted.cert_pem.write_to_path(files.ca)
    certificate = ca.issue_cert("127.0.0.1")
    certificate.cert_chain_pems[0].write_to_path(files.cert)
    certificate.private_key_pem.write_to_path(files.key)
    return files


async def test_a_study_over_mutual_tls_and_strangers_kept_out(tmp_path: pathlib.Path) -> None:
    ca, other = trustme.CA(), trustme.CA()
    tls = {name: issue(tmp_path, ca, ca, name) for name in ("coordinator", "agent", "client")}
    async with rig(tmp_path, tls=tls) as made:
        study_id = await submit(made, study(trials=1))
        detail = await made.until(study_id, lambda d: d.study.state.is_terminal)
        assert detail.study.state is StudyState.COMPLETED
        endpoint = parse_endpoint(made.address)
        strangers = {
            "plaintext": None,
            "another CA's certificate": issue(tmp_path, other, ca, "stranger"),
            "a client that trusts another CA": issue(tmp_path, ca, other, "suspicious"),
        }
        refused = []
        for who, files in strangers.items():
            async with Client(endpoint, files) as client:
                try:
                    await client.list_studies()
                except CoordinatorUnreachableError:
                    refused.append(who)
        assert refused == list(strangers)
