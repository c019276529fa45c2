"""Keep credentials out of reports: they are passed around. A variable or option is a secret by its name."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

import msgspec

from scoot.wire.spec import StudySpec

REDACTED: Final = "***"

_SECRET_NAME: Final = re.compile(
    r"(?:^|[_-])(?:api_?key|access_?key|auth|authorization|credentials?|key|passphrase|passw(?:or)?d|secret|token)$",
    re.IGNORECASE,
)
"""Names that end in a word for a secret: HF_TOKEN, api_key. `max_tokens` and `tokenizer` do not."""

_MIN_CHARS: Final = 4
"""Shorter secret values are not searched for in other texts: they would blot out half of them."""


class Redactor:
    """Replaces the secret values of one study wherever they turn up."""

    def __init__(self, spec: StudySpec) -> None:
        service = spec.service
        self._spec = spec
        self._env = {name for name in service.env if _SECRET_NAME.search(name)}
        self._options = {
            name for name, value in service.options.items() if isinstance(value, str) and _SECRET_NAME.search(name)
        }
        values = {service.env[name] for name in self._env} | {str(service.options[name]) for name in self._options}
        self._values = sorted((value for value in values if len(value) >= _MIN_CHARS), key=len, reverse=True)

    @property
    def names(self) -> tuple[str, ...]:
        """Variables and options whose values are hidden."""
        return tuple(sorted(self._env | self._options))

    def spec(self) -> StudySpec:
        """The specification without secret values."""
        if not self.names:
            return self._spec
        service = msgspec.structs.replace(
            self._spec.service,
            env={name: REDACTED if name in self._env else value for name, value in self._spec.service.env.items()},
            options={
                name: REDACTED if name in self._options else value for name, value in self._spec.service.options.items()
            },
        )
        return msgspec.structs.replace(self._spec, service=service)

    def text(self, text: str) -> str:
        """`text` without secret values."""
        for value in self._values:
            text = text.replace(value, REDACTED)
        return text

    def command(self, argv: Iterable[str]) -> tuple[str, ...]:
        """An argument list without secret values, also those of secret-looking flags the study does not name."""
        out: list[str] = []
        hide_next = False
        for token in argv:
            flag, equals, _ = token.partition("=")
            if hide_next and not token.startswith("--"):
                out.append(REDACTED)
                hide_next = False
                continue
            hide_next = False
            secret = flag.startswith("--") and _SECRET_NAME.search(flag.lstrip("-")) is not None
            if secret and equals:
                out.append(f"{flag}={REDACTED}")
            else:
                hide_next = secret
                out.append(self.text(token))
        return tuple(out)
