"""Hypothesis draws new examples on every run, except in CI, which must not fail by the draw."""

import os

from hypothesis import settings

settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")
