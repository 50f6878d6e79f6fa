"""What crosses the seams: `Instances`, `Dataset`, `Spine`, and the RLE masks that they hold. No torch here."""

from vertinst.structures.dataset import Annotation, Dataset, ImageRecord, Outline
from vertinst.structures.instances import Instances
from vertinst.structures.rle import Polygon, Rle
from vertinst.structures.spine import Implant, Spine, Vertebra

__all__ = [
    "Annotation",
    "Dataset",
    "ImageRecord",
    "Implant",
    "Instances",
    "Outline",
    "Polygon",
    "Rle",
    "Spine",
    "Vertebra",
]
