"""RD: random search by a Sobol sequence over the space that the known constraints leave (SCOOT, appendix A.3).

It is scoot.coordinator.optimizer.sobol under the paper's name.
"""

from __future__ import annotations

from typing import Final

import msgspec

from scoot.coordinator.optimizer import sobol
from scoot.coordinator.optimizer.base import Suggestion, Task

SOURCE: Final = "rd"


def suggest(task: Task) -> tuple[Suggestion, ...]:
    """The next `task.n` Sobol points (a Method)."""
    return tuple(msgspec.structs.replace(point, source=SOURCE) for point in sobol.suggest(task))
