"""Names of COCO's 80 classes of things, in the order that published weights have."""

__all__ = ["COCO_CLASSES", "coco_names"]

_COCO = (
    "person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,stop sign,parking meter,"
    "bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,backpack,umbrella,handbag,tie,suitcase,frisbee,"
    "skis,snowboard,sports ball,kite,baseball bat,baseball glove,skateboard,surfboard,tennis racket,bottle,wine glass,"
    "cup,fork,knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,"
    "potted plant,bed,dining table,toilet,tv,laptop,mouse,remote,keyboard,cell phone,microwave,oven,toaster,sink,"
    "refrigerator,book,clock,vase,scissors,teddy bear,hair drier,toothbrush"
)
COCO_CLASSES = tuple(_COCO.split(","))


def coco_names(classes: int) -> tuple[str, ...]:
    """COCO's names for 80 classes, else `class 1`, `class 2` ...: weights files do not say them."""
    if classes == len(COCO_CLASSES):
        return COCO_CLASSES
    return tuple(f"class {number}" for number in range(1, classes + 1))
