"""What a reader did not take over as it stood: one record each, so that nothing is skipped in silence."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Skip"]


@dataclass(frozen=True)
class Skip:
    """One region (or film) that was skipped or repaired.

    Attributes:
        file: The annotation file, as the user gave it.
        image: Name of the film in that file.
        region: Number of the region in that file, from 0; None if the whole film is meant.
        reason: What was wrong and what was done about it. Holds no attribute but the class.
        repaired: The region was kept, changed as `reason` says; false if it was left out.
    """

    file: str
    image: str
    region: int | None
    reason: str
    repaired: bool = False
