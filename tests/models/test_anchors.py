import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vertinst.models._anchors import anchor_boxes, decode_boxes, encode_boxes

CPU = torch.device("cpu")
coordinate = st.floats(-500, 1500, width=32)
side = st.floats(1, 900, width=32)
box = st.tuples(coordinate, coordinate, side, side).map(lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]])


@given(st.lists(st.tuples(box, box), min_size=1, max_size=8))
def test_decode_is_the_inverse_of_encode(pairs: list[tuple[list[float], list[float]]]) -> None:
    # An anchor a thousand times smaller than the box lies outside what decoding allows: keep the ratio below 62.
    boxes = torch.tensor([pair[0] for pair in pairs])
    anchors = torch.tensor([pair[1] for pair in pairs])
    grown = ((boxes[:, 2:] - boxes[:, :2]) / (anchors[:, 2:] - anchors[:, :2])).amax(dim=1) < 60
    decoded = decode_boxes(encode_boxes(boxes, anchors), anchors)
    assert torch.allclose(decoded[grown], boxes[grown], atol=0.02, rtol=1e-4)


def test_encoding_by_hand() -> None:
    anchor = torch.tensor([[0.0, 0.0, 10.0, 20.0]])
    moved = torch.tensor([[5.0, 0.0, 25.0, 20.0]])
    expected = torch.tensor([[10.0, 0.0, torch.log(torch.tensor(2.0)) / 0.2, 0.0]])
    assert torch.allclose(encode_boxes(moved, anchor), expected, atol=1e-5)


def test_decoding_cannot_overflow() -> None:
    decoded = decode_boxes(torch.tensor([[0.0, 0.0, 1e6, 1e6]]), torch.tensor([[0.0, 0.0, 2.0, 2.0]]))
    assert torch.allclose(decoded, torch.tensor([[-61.5, -61.5, 63.5, 63.5]]), atol=1e-2)


def test_anchors_are_centred_in_cells_with_the_ratio_and_area_asked_for() -> None:
    anchors = anchor_boxes((64, 32), ((8, 4), (4, 2)), (12.0, 24.0), (1.0, 2.0), (0.25, 1.0, 4.0), CPU)
    assert anchors.shape == ((8 * 4 + 4 * 2) * 6, 4)
    sides = anchors[:, 2:] - anchors[:, :2]
    assert torch.allclose((anchors[:6, :2] + anchors[:6, 2:]) / 2, torch.full((6, 2), 4.0))
    assert sides[0].tolist() == pytest.approx([6.0, 24.0])
    assert sides[2].tolist() == pytest.approx([24.0, 6.0])
    assert sides[3].tolist() == pytest.approx([12.0, 48.0])
    assert sides[8 * 4 * 6 + 1].tolist() == pytest.approx([24.0, 24.0])


def test_anchors_cached_in_inference_mode_serve_training() -> None:
    with torch.inference_mode():
        anchors = anchor_boxes((96, 96), ((3, 3),), (17.0,), (1.0,), (1.0,), CPU)
    assert not anchors.is_inference()
