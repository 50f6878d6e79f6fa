"""The table of what a training took over: every tensor is in it once, with the reason."""

import json

import torch

from vertinst.engine.taken import Taken, compare


def taken() -> Taken:
    model = {
        "backbone.conv.weight": torch.zeros(2, 3),
        "backbone.bn.num_batches_tracked": torch.zeros(()),
        "backbone.bn.weight": torch.zeros(3),
        "head.weight": torch.zeros(4, 2),
        "head.bias": torch.zeros(4),
        "head.scale": torch.zeros(1),
    }
    checkpoint = {
        "backbone.conv.weight": torch.zeros(2, 3),
        "backbone.bn.weight": torch.zeros(3),
        "backbone.old.num_batches_tracked": torch.zeros(()),
        "head.weight": torch.zeros(6, 2),
        "head.bias": torch.zeros(6),
        "fc.bias": torch.zeros(9),
    }
    return compare("weights.pth", model, checkpoint)


def test_each_part_of_the_network_has_one_line() -> None:
    backbone, head, fc = taken().parts()
    assert (backbone.name, backbone.taken, backbone.anew, backbone.skipped, backbone.reasons) == (
        "backbone",
        2,
        0,
        0,
        (),
    )
    assert (head.name, head.taken, head.anew, head.skipped) == ("head", 0, 3, 0)
    assert head.reasons == (
        "head.weight must be (4, 2), got (6, 2); 1 more like it",
        "head.scale is missing",
    )
    assert (fc.name, fc.taken, fc.anew, fc.skipped) == ("fc", 0, 0, 1)
    assert fc.reasons == ("fc.bias is not part of the model",)


def test_the_record_names_every_tensor_that_was_not_taken() -> None:
    record = json.loads(json.dumps(taken().record()))
    assert record["weights"] == "weights.pth"
    assert record["not_taken"] == ["head.weight", "head.bias", "head.scale"]
    assert [part["name"] for part in record["parts"]] == ["backbone", "head", "fc"]
    assert record["tensors"][0] == {"name": "head.weight", "outcome": "anew", "reason": "must be (4, 2), got (6, 2)"}
    assert record["tensors"][-1] == {"name": "fc.bias", "outcome": "skipped", "reason": "is not part of the model"}
    assert len(record["tensors"]) == 4


def test_counters_of_batch_norm_do_not_make_a_difference() -> None:
    assert not taken().whole
    tensor = torch.zeros(3)
    assert compare("w", {"a": tensor, "bn.num_batches_tracked": torch.zeros(())}, {"a": tensor}).whole
    assert compare("w", {"a": tensor}, {"a": tensor, "bn.num_batches_tracked": torch.zeros(())}).whole
    assert compare("w", {}, {}).parts() == ()
