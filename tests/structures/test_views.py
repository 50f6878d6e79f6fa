import pytest

from vertinst.structures.views import view_name


@pytest.mark.parametrize(
    ("text", "view"),
    [("LL", "lateral"), (" lateral ", "lateral"), ("Left_Lateral", "lateral"), ("pa", "ap"), ("A.P.", "ap"),
     ("LLO", None), ("RLD", None), ("", None), (None, None)],
)  # fmt: skip
def test_views_are_told_from_what_people_write(text, view):
    assert view_name(text) == view
