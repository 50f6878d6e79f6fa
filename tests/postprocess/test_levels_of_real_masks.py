"""Levels on masks of people: radiographs projected from CT with whole vertebrae, and sagittal MRI upside down."""

from pathlib import Path

import numpy as np
import pytest

from vertinst import plugins
from vertinst.postprocess.labelling import parse_anchor
from vertinst.postprocess.pipeline import build_spine
from vertinst.structures import Instances

DATA = Path(__file__).parents[3] / "shared" / "data"
CASES = [("verse_drr", "L5=lowest", 12), ("spider_mri", "L5=highest", 15)]


@pytest.mark.skipif(not DATA.is_dir(), reason="the data beside the project are not there")
@pytest.mark.parametrize(("folder", "anchor", "films"), CASES)
def test_every_level_is_right(folder, anchor, films):
    source = DATA / folder
    read = plugins.load("converters", "via").read
    dataset, _ = read([source / "via_region_data.json"], source / "images")
    assert len(dataset) == films
    for image in dataset.images:
        masks = [a.mask for a in image.annotations]
        order = np.random.default_rng(image.image_id).permutation(len(masks))
        found = Instances.from_masks(image.image_size, masks, [1] * len(masks), [0.9] * len(masks))[order]
        view = "ap" if "_AP_" in image.file_name else "lateral"
        spine = build_spine(found, ("lumbar",), anchor=parse_anchor(anchor), view=view)
        levels = {a.mask["counts"]: a.level for a in image.annotations}
        assert {v.level: levels[v.mask["counts"]] for v in spine.vertebrae} == {n: n for n in levels.values()}
        # An MRI slice of a scoliotic spine still runs from the head downwards.
        assert spine.orientation.up[1] * (1 if folder == "spider_mri" else -1) > 0.9
