"""How often films with rare classes are shown in an epoch: repeat-factor sampling."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vertinst.structures import Dataset

__all__ = ["Repeats", "draw_repeats", "repeats"]


@dataclass(frozen=True, eq=False)
class Repeats:
    """What repeat-factor sampling does to a set of films.

    Attributes:
        factors: (N,) float64, 1 or more: how often a film is shown in an epoch, on average.
        films: How many films have the class, for every class that is annotated at all, rarest first.
        classes: Repeat factor of the same classes.
    """

    factors: npt.NDArray[np.float64]
    films: dict[str, int]
    classes: dict[str, float]

    def in_words(self) -> str:
        """What the user is told before training."""
        count, shown = len(self.factors), float(self.factors.sum())
        repeated = {name: factor for name, factor in self.classes.items() if factor > 1}
        if not repeated:
            return f"No class is rare enough in the {count} training films: none of them is repeated."
        parts = [f"with {n} (in {self.films[n]} of {count}) {f:.2g} times" for n, f in repeated.items()]
        epoch = f"{round(shown, 1):g} films an epoch"
        return f"Films are shown more often for their rare classes: {', '.join(parts)}; {epoch}."


def repeats(dataset: Dataset, threshold: float) -> Repeats:
    """Repeat factors of films (Gupta et al. 2019, LVIS, arXiv 1908.03195, section 4.2).

    With f the share of films that have a class, the class's factor is max(1, sqrt(threshold / f)), and a film's the
    largest of its classes' factors. Annotations marked `ignore` do not count.

    Args:
        dataset: N films, 1 or more.
        threshold: Share of films, 0..1: classes that fewer films have are rare. At equality a class is not; 0 repeats
            nothing.

    Returns:
        Factors; 1 for a film without any object.
    """
    found = [{a.category for a in image.annotations if not a.ignore} for image in dataset.images]
    counts = Counter(name for names in found for name in names)
    films = dict(sorted(counts.items(), key=lambda item: (item[1], item[0])))
    classes = {name: max(1.0, float(np.sqrt(threshold * len(found) / number))) for name, number in films.items()}
    factors = np.array([max((classes[name] for name in names), default=1.0) for names in found])
    return Repeats(factors, films, classes)


def draw_repeats(factors: npt.NDArray[np.float64], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """How often each film is shown in one epoch.

    The whole part of its factor, and once more with the probability of the rest: drawn systematically along a random
    order, so that the number of films in an epoch is the sum of the factors, rounded up or down.

    Args:
        factors: (N,) 1 or more.
        rng: Drawn from.

    Returns:
        (N,) 1 or more.
    """
    whole = np.floor(factors)
    order = rng.permutation(len(factors))
    passed = np.floor(np.cumsum((factors - whole)[order]) + rng.random())
    times = whole.astype(np.int64)
    times[order] += np.diff(passed, prepend=0.0).astype(np.int64)
    return times
