"""What a generative model forgets of a text that has nothing to do with its task."""

from __future__ import annotations
