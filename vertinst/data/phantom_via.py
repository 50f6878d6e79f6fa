"""The annotation of phantom films as a VIA 2 project."""

from typing import Any

from vertinst.data.phantom_truth import Region

_CLASSES = {
    "lumbar": "vertebral body, T12 and below",
    "sacral": "sacral segment, S1 or S2",
    "cage": "interbody cage",
    "screw": "pedicle screw",
    "rod": "rod",
}

FilmEntry = tuple[str, int, str, list[Region]]
"""File name, size in bytes, patient, regions."""


def via_project(films: list[FilmEntry]) -> dict[str, Any]:
    """A project that the VGG Image Annotator 2 opens beside its `images` folder.

    Args:
        films: May be empty.
    """
    return {
        "_via_settings": _settings(),
        "_via_img_metadata": {
            f"{name}{size}": _film(name, size, patient, regions) for name, size, patient, regions in films
        },
        "_via_attributes": {
            "region": {
                "class": {"type": "dropdown", "description": "", "options": _CLASSES, "default_options": {}},
                "level": {"type": "text", "description": "name of the vertebra", "default_value": ""},
            },
            "file": {
                "patient": {"type": "text", "description": "", "default_value": ""},
                "view": {"type": "text", "description": "", "default_value": ""},
            },
        },
        "_via_data_format_version": "2.0.10",
        "_via_image_id_list": [f"{name}{size}" for name, size, _, _ in films],
    }


def _film(name: str, size: int, patient: str, regions: list[Region]) -> dict[str, Any]:
    return {
        "filename": name,
        "size": size,
        "regions": [_region(region) for region in regions],
        "file_attributes": {"patient": patient, "view": "lateral"},
    }


def _region(region: Region) -> dict[str, Any]:
    shape = {
        "name": "polygon",
        "all_points_x": region.outline[:, 0].tolist(),
        "all_points_y": region.outline[:, 1].tolist(),
    }
    level = {"level": region.level} if region.level else {}
    return {"shape_attributes": shape, "region_attributes": {"class": region.category, **level}}


def _settings() -> dict[str, Any]:
    """VIA's own defaults, with the folder of the films and the class shown on every region."""
    return {
        "ui": {
            "annotation_editor_height": 25,
            "annotation_editor_fontsize": 0.8,
            "leftsidebar_width": 18,
            "image_grid": {
                "img_height": 80,
                "rshape_fill": "none",
                "rshape_fill_opacity": 0.3,
                "rshape_stroke": "yellow",
                "rshape_stroke_width": 2,
                "show_region_shape": True,
                "show_image_policy": "all",
            },
            "image": {
                "region_label": "class",
                "region_color": "class",
                "region_label_font": "10px Sans",
                "on_image_annotation_editor_placement": "NEAR_REGION",
            },
        },
        "core": {"buffer_size": 18, "filepath": {}, "default_filepath": "./images/"},
        "project": {"name": "vertinst_phantoms"},
    }
