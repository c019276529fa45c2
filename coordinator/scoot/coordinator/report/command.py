"""Command lines for people: which tokens of an engine's argument list set the tuned parameters, and how to paste it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence

from scoot.wire.spec import Config


def tuned_flags(command: Sequence[str], names: Iterable[str]) -> tuple[str, ...]:
    """The tokens of `command` that set one of the parameters `names` (snake case).

    Understands `--max-num-seqs 8`, `--max_num_seqs=8`, `--enable-x` and `--no-enable-x`.
    """
    wanted = set(names)
    out: list[str] = []
    taking = False
    for token in command:
        if token.startswith("--"):
            name = token[2:].partition("=")[0].replace("-", "_")
            taking = name in wanted or (name.startswith("no_") and name[3:] in wanted)
            if taking:
                out.append(token)
                taking = "=" not in token
        elif taking:
            out.append(token)
            taking = False
    return tuple(out)


def shell_line(command: Sequence[str], env: Mapping[str, str] | None = None) -> str:
    """A line to paste into a POSIX shell: environment first, every token quoted as needed, one flag per line."""
    words = [f"{shlex.quote(name)}={shlex.quote(value)}" for name, value in (env or {}).items()]
    lines: list[str] = []
    for token in command:
        if token.startswith("--"):
            lines.append(" ".join(words))
            words = ["  " + shlex.quote(token)]
        else:
            words.append(shlex.quote(token))
    lines.append(" ".join(words))
    return " \\\n".join(line for line in lines if line)


def flat_line(command: Sequence[str]) -> str:
    """The tokens on one line, quoted as needed."""
    return shlex.join(command)


def config_text(config: Config) -> str:
    """A configuration on one line: "block_size=16 enable_x=true", control characters made harmless."""
    return " ".join(f"{name}={scalar_text(value)}" for name, value in config.items())


def scalar_text(value: object) -> str:
    """A parameter's value as TOML would show it, without quotes; control characters are escaped."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:g}"
    return re.sub(r"[\x00-\x1f\x7f]", lambda found: f"\\x{ord(found[0]):02x}", str(value))
