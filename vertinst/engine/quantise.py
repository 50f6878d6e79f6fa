"""Networks in 8-bit integers: calibrated on films, and their loss in AP measured on phantoms."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from vertinst import files, plugins
from vertinst.data.phantom import make_phantoms
from vertinst.data.radiograph import Tone, find_films, read_film
from vertinst.engine.checkpoint import Checkpoint
from vertinst.engine.evaluate import evaluate
from vertinst.engine.runtimes import FILES, INPUT, Format, import_onnx, import_onnxruntime, import_openvino, quiet
from vertinst.postprocess.pipeline import build_spine
from vertinst.progress import Progress, silent, track
from vertinst.structures import Dataset

__all__ = ["PHANTOMS", "last_convolutions", "measure_loss", "save_openvino", "write"]

PHANTOMS = 24
# Two sets of patients, neither of them those of the demo's weights.
CALIBRATION_SEED, COMPARISON_SEED = 81_000_001, 81_000_002
# More films hardly move the ranges that their smallest and largest values give.
MOST_CALIBRATION_FILMS = 64


def write(
    model: nn.Module,
    checkpoint: Checkpoint,
    form: Format,
    out: Path,
    write_onnx: Callable[[nn.Module, Path], None],
    films: Path | None,
    phantoms: int,
    progress: Progress,
) -> dict[str, Any]:
    """Write a model's network with its convolutions in int8.

    Weights are scaled by output channel, activations by the range that the calibration films gave them. The last
    convolutions before the outputs stay float32. Weights use 7 of their 8 bits: processors without VNNI add pairs of
    products in 16 bits, which overflow otherwise.

    Args:
        model: Has `prepare` and `network`.
        checkpoint: Where it came from.
        form: Of what is written.
        out: The folder.
        write_onnx: Writes the float32 network.
        films: Folder of calibration films; None for phantoms.
        phantoms: How many, 1 or more.
        progress: Told after each film.

    Returns:
        How it was made, for the record.

    Raises:
        DataError: No film in `films`, or one that cannot be read.
    """
    with TemporaryDirectory(prefix="vertinst-") as name:
        folder = Path(name)
        if films is None:
            make_phantoms(phantoms, CALIBRATION_SEED, folder / "phantoms", progress=progress)
        chosen = _spread(find_films([films or folder / "phantoms" / "images"]))
        write_onnx(model, folder / "float.onnx")
        batches = (_batch(model, path) for path in track(chosen, len(chosen), "calibrating", progress))
        with quiet():
            kept = _quantise(folder / "float.onnx", folder / "int8.onnx", batches)
        if form == "onnx":
            files.write_bytes(out / FILES[form][0], (folder / "int8.onnx").read_bytes())
        else:
            network = import_openvino().Core().read_model(str(folder / "int8.onnx"))
            save_openvino(network, out / FILES[form][0])
    source = "phantoms" if films is None else "films"
    return {"calibrated_on": source, "calibration_films": len(chosen), "float32_convolutions": kept}


def _spread(paths: list[Path]) -> list[Path]:
    """At most `MOST_CALIBRATION_FILMS`, evenly over the list: neighbours are often of one patient."""
    count = min(len(paths), MOST_CALIBRATION_FILMS)
    return [paths[i * len(paths) // count] for i in range(count)]


def _batch(model: Any, path: Path) -> npt.NDArray[np.float32]:
    tone: Tone = getattr(model.options, "film_tone", "window")
    pixels = read_film(path, tone=tone).pixels
    with torch.inference_mode():
        batch, _ = model.prepare([torch.from_numpy(np.ascontiguousarray(pixels)).expand(3, -1, -1)])
    values: npt.NDArray[np.float32] = batch.contiguous().numpy()
    return values


def _quantise(source: Path, target: Path, batches: Iterator[npt.NDArray[np.float32]]) -> int:
    """Write `source` with int8 convolutions to `target`; returns how many stay in float32."""
    onnx = import_onnx()
    import_onnxruntime()
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> dict[str, npt.NDArray[np.float32]] | None:
            batch = next(batches, None)
            return None if batch is None else {INPUT: batch}

    kept = last_convolutions(onnx.load(str(source)).graph)
    quantization.quantize_static(
        str(source),
        str(target),
        Reader(),
        quant_format=quantization.QuantFormat.QDQ,
        op_types_to_quantize=["Conv"],
        nodes_to_exclude=sorted(kept),
        per_channel=True,
        reduce_range=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        calibrate_method=quantization.CalibrationMethod.MinMax,
    )
    return len(kept)


def last_convolutions(graph: Any) -> set[str]:
    """Names of the convolutions of an ONNX graph from which a path without another leads to an output."""
    maker = {name: node for node in graph.node for name in node.output}
    waiting, seen, found = [output.name for output in graph.output], set(), set()
    while waiting:
        node = maker.get(waiting.pop())
        if node is None or node.name in seen:
            continue
        seen.add(node.name)
        if node.op_type == "Conv":
            found.add(node.name)
        else:
            waiting.extend(node.input)
    return found


def save_openvino(network: Any, path: Path) -> None:
    """Write an OpenVINO network as `model.xml` and `model.bin`, weights as they are.

    Args:
        network: An `openvino.Model`.
        path: Of the XML.
    """
    openvino = import_openvino()
    with TemporaryDirectory(prefix="vertinst-", dir=path.parent) as folder:
        aside = Path(folder) / path.name
        openvino.save_model(network, str(aside), compress_to_fp16=False)
        for file in sorted(aside.parent.iterdir()):
            file.replace(path.parent / file.name)


def measure_loss(weights: Path, exported: Path, phantoms: int, progress: Progress = silent) -> dict[str, Any]:
    """AP of the trained model and of its exported form on the same phantoms, which neither was fitted to.

    Args:
        weights: The trained model.
        exported: Folder of its exported form.
        phantoms: How many films.
        progress: Told after each film.

    Returns:
        `films`; `native`, `exported` and `loss` with `mask_AP` and `box_AP` each, 0..1, None where no class of the
        model is on phantoms.
    """
    from vertinst.engine.exported import load_exported
    from vertinst.engine.predict import load_model

    with TemporaryDirectory(prefix="vertinst-") as name:
        folder = Path(name) / "phantoms"
        make_phantoms(phantoms, COMPARISON_SEED, folder, progress=progress)
        truth, _ = plugins.load("converters", "via").read([folder / "via_project.json"], folder / "images")
        native = _score(load_model(weights, precision="32", device="cpu"), truth, folder / "images", progress)
        integers = _score(load_exported(exported), truth, folder / "images", progress)
    loss = {key: _minus(native[key], integers[key]) for key in native}
    return {"films": phantoms, "seed": COMPARISON_SEED, "native": native, "exported": integers, "loss": loss}


def _score(predictor: Any, truth: Dataset, images: Path, progress: Progress) -> Mapping[str, float | None]:
    spines = {}
    for record in track(truth.images, len(truth), "comparing on phantoms", progress):
        found = predictor.predict([images / record.file_name])[0]
        spines[record.file_name] = build_spine(found, predictor.classes, measured=False)
    ap = evaluate(truth, spines)["ap"]
    return {"mask_AP": ap["mask"]["AP"], "box_AP": ap["box"]["AP"]}


def _minus(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else before - after
