import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vertinst.errors import DataError
from vertinst.metrics.confusion import binary_confusion
from vertinst.metrics.frequency_weighted_iou import frequency_weighted_iou
from vertinst.metrics.mean_accuracy import mean_accuracy
from vertinst.metrics.mean_iou import mean_iou
from vertinst.metrics.pixel_accuracy import pixel_accuracy
from vertinst.structures import rle

METRICS = (pixel_accuracy, mean_accuracy, mean_iou, frequency_weighted_iou)


def test_by_hand():
    # 100 pixels: 20 true, 30 predicted, 15 in both.
    confusion = np.array([[65, 15], [5, 15]])
    assert pixel_accuracy(confusion) == pytest.approx(0.80)
    assert mean_accuracy(confusion) == pytest.approx((65 / 80 + 15 / 20) / 2)
    assert mean_iou(confusion) == pytest.approx((65 / 85 + 15 / 35) / 2)
    assert frequency_weighted_iou(confusion) == pytest.approx(0.8 * 65 / 85 + 0.2 * 15 / 35)


def test_three_classes_by_hand():
    confusion = np.array([[4, 1, 0], [0, 2, 0], [1, 0, 0]])
    assert pixel_accuracy(confusion) == pytest.approx(6 / 8)
    assert mean_accuracy(confusion) == pytest.approx((4 / 5 + 1 + 0) / 3)
    assert mean_iou(confusion) == pytest.approx((4 / 6 + 2 / 3 + 0) / 3)
    assert frequency_weighted_iou(confusion) == pytest.approx((5 * 4 / 6 + 2 * 2 / 3) / 8)


def test_class_in_neither_is_left_out():
    confusion = np.array([[100, 0], [0, 0]])
    assert [metric(confusion) for metric in METRICS] == [1, 1, 1, 1]


def test_class_predicted_without_truth_counts_zero():
    confusion = np.array([[90, 10], [0, 0]])
    assert mean_accuracy(confusion) == pytest.approx(0.45)
    assert mean_iou(confusion) == pytest.approx(0.45)
    assert frequency_weighted_iou(confusion) == pytest.approx(0.9)


def test_no_pixel_gives_none():
    assert [metric(np.zeros((2, 2), dtype=np.int64)) for metric in METRICS] == [None] * 4


def test_sizes_must_agree():
    with pytest.raises(DataError, match="masks must have one size"):
        binary_confusion(rle.empty((2, 3)), rle.empty((3, 2)))


def slow(truth, predicted, ignore):
    """The four formulas written out over pixels and classes."""
    pairs = [
        (int(t), int(p)) for t, p, i in zip(truth.ravel(), predicted.ravel(), ignore.ravel(), strict=True) if not i
    ]
    if not pairs:
        return [None] * 4
    accuracies, ious, weighted = [], [], 0.0
    for c in (0, 1):
        true = sum(t == c for t, _ in pairs)
        hit = sum(t == p == c for t, p in pairs)
        union = sum(c in pair for pair in pairs)
        if union:
            accuracies.append(hit / true if true else 0)
            ious.append(hit / union)
            weighted += true * hit / union
    right = sum(t == p for t, p in pairs)
    mean = [sum(values) / len(values) for values in (accuracies, ious)]
    return [right / len(pairs), *mean, weighted / len(pairs)]


triples = st.tuples(st.integers(1, 5), st.integers(1, 5)).flatmap(
    lambda shape: st.tuples(*[arrays(bool, shape) for _ in range(3)])
)


@settings(max_examples=150, deadline=None)
@given(triples)
def test_against_pixels(masks):
    truth, predicted, ignore = masks
    confusion = binary_confusion(rle.encode(truth), rle.encode(predicted), ignore=rle.encode(ignore))
    assert confusion.sum() == (~ignore).sum()
    assert confusion[1, 1] == (truth & predicted & ~ignore).sum()
    assert [metric(confusion) for metric in METRICS] == pytest.approx(slow(truth, predicted, ignore))


@settings(max_examples=30, deadline=None)
@given(triples)
def test_without_ignored_pixels(masks):
    truth, predicted, _ = masks
    nothing = np.zeros_like(truth)
    confusion = binary_confusion(rle.encode(truth), rle.encode(predicted))
    assert [metric(confusion) for metric in METRICS] == pytest.approx(slow(truth, predicted, nothing))
