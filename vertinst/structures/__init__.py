"""What crosses the seams: `Instances`, `Dataset`, `Spine`, and the RLE masks that they hold. No torch here."""

from vertinst.structures.dataset import Annotation, Dataset, ImageRecord, Outline
from vertinst.structures.instances import Instances
from vertinst.structures.measures import Body, Disc, Measure, Orientation, Osteophyte, Scale
from vertinst.structures.rle import Polygon, Rle
from vertinst.structures.spine import Implant, Naming, Spine, Vertebra

__all__ = [
    "Annotation",
    "Body",
    "Dataset",
    "Disc",
    "ImageRecord",
    "Implant",
    "Instances",
    "Measure",
    "Naming",
    "Orientation",
    "Osteophyte",
    "Outline",
    "Polygon",
    "Rle",
    "Scale",
    "Spine",
    "Vertebra",
]
