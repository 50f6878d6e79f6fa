"""What attributes do not say of their film is added so that it is read again."""

import pytest

from vertinst.converters._film_attributes import film_fields, untold_fields
from vertinst.converters._pieces import film_attributes
from vertinst.structures.dataset import ImageRecord

SPACING = {"pixel_spacing_mm": (0.1, 0.2), "pixel_spacing_source": "phantom"}


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"Patient": "another", "Pixel-Spacing": "3", "VIEW": ""},
        {"patient": "another", "view": "lateral", "pixel_spacing_mm": 3, "note": "x"},
        {"patient": "P1", "view": "ap", "pixel_spacing_mm": [0.1, 0.2], "pixel_spacing_source": "phantom"},
    ],
)
def test_fields_of_a_film_are_read_again_from_its_attributes(attributes):
    image = ImageRecord(1, "a.png", 9, 9, patient="P1", view="ap", attributes=attributes, **SPACING)
    fields, fault = film_fields(film_attributes(image), {})
    assert (fields, fault) == ({"patient": "P1", "view": "ap", **SPACING}, None)
    assert set(attributes) <= set(film_attributes(image))


def test_nothing_is_added_to_attributes_that_say_all():
    said = {"PatientID": "P1", "pixel_spacing": "0.1 0.2", "pixel_spacing_source": "phantom"}
    assert untold_fields(ImageRecord(1, "a.png", 9, 9, patient="P1", attributes=said, **SPACING), {}) == {}
    assert untold_fields(ImageRecord(1, "a.png", 9, 9), {}) == {}
