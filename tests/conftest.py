"""Settings every test shares."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("scoot", deadline=None)  # a deadline would be a timed assertion
settings.load_profile("scoot")
