"""What adapters of engines share that are Python packages and serve model folders of Hugging Face's form."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from scoot.agent.engines import base, permits, probing
from scoot.agent.engines.base import LaunchRequest
from scoot.agent.engines.permits import Permits
from scoot.agent.engines.probing import Prober
from scoot.wire.assignment import EngineOffer
from scoot.wire.reasons import Reason


def package_prober(allowed: Permits, package: str, entry: str, needs: Sequence[str], cache_dir: Path | None) -> Prober:
    """A prober of `package` in its own environment; `entry` and `needs` are modules that must be there, too."""
    settings = allowed.settings
    command = base.helper_command(settings, "package_probe", package, entry, *needs)
    watched = (package, *(name.partition(".")[0] for name in needs))
    return Prober(settings, command, watched=watched, env=allowed.always, cache_dir=cache_dir)


class PackageEngine:
    """An engine started with `python -m ENTRY` from the interpreter of its environment; see EngineAdapter.

    Attributes:
        name: as studies call it.
    """

    name: str

    def __init__(
        self, allowed: Permits, *, package: str, entry: str, needs: Sequence[str] = (), cache_dir: Path | None = None
    ) -> None:
        """As package_prober.

        Raises:
            UserError: the interpreter is not named by its absolute path.
        """
        settings = allowed.settings
        permits.require_absolute(
            settings.python,
            key=f"engines.{settings.kind}.python",
            example=f"name the interpreter of {package}'s environment, for example /opt/{settings.kind}/bin/python",
        )
        self._settings = settings
        self._permits = allowed
        self._entry = entry
        self._prober = package_prober(allowed, package, entry, needs, cache_dir)

    async def probe(self) -> EngineOffer:
        """The version, after importing the package for real; remembered until the installation changes."""
        result = await self._prober.probe()
        return probing.offer_of(self.name, self._settings.python, result, entry=self._entry)

    def served_model_name(self, request: LaunchRequest) -> str:
        """The path it was given."""
        return request.service.model

    def token_range(self, model: str) -> tuple[int, int]:
        """From the model's config.json."""
        return base.vocabulary_range(model)

    def models_ok(self, model: str, roots: tuple[str, ...]) -> str | Reason:
        """A folder with a config.json inside one of the roots; names on a hub are not downloaded."""
        return base.model_folder(model, roots)

    def _start(self) -> list[str]:
        """The beginning of its command line."""
        return [self._settings.python, *self._settings.fixed_args, "-m", self._entry]
