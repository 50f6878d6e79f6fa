"""vertinst: find, name and score vertebrae and implants on spine radiographs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vertinst.version import __version__

if TYPE_CHECKING:
    from vertinst.engine.predict import Predictor, load_model

__all__ = ["Predictor", "__version__", "load_model"]


def __getattr__(name: str) -> Any:
    # torch takes seconds to import: commands and converters that do not need it must not wait for it.
    if name in ("Predictor", "load_model"):
        from vertinst.engine import predict

        return getattr(predict, name)
    raise AttributeError(f"module 'vertinst' has no attribute {name!r}")
