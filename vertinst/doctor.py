"""What this installation has, what it will use, what is missing, and the command that mends it."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
import warnings
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

__all__ = ["Finding", "examine"]

GIB = 1024**3


@dataclass(frozen=True)
class Finding:
    """One line of the examination.

    Attributes:
        what: What was looked at.
        found: What was there.
        mend: The command that mends it, empty when nothing is wrong.
        fatal: Whether vertinst cannot do its main job like this.
    """

    what: str
    found: str
    mend: str = ""
    fatal: bool = False


def examine() -> list[Finding]:
    """Look at Python, packages, operators, devices, precision, memory and disk; nothing is changed or fetched."""
    return [
        _python(),
        *_packages(),
        _operators(),
        _dicom(),
        *_extras(),
        *_detectron2(),
        *_devices(),
        *_room(),
        _weights(),
    ]


def _python() -> Finding:
    return Finding("Python", f"{platform.python_version()} at {sys.prefix}")


def _packages() -> list[Finding]:
    try:
        declared = [Requirement(text) for text in metadata.requires("vertinst") or []]
    except metadata.PackageNotFoundError:
        return [Finding("vertinst", "not installed", "pip install .", fatal=True)]
    needed = [r for r in declared if r.marker is None or r.marker.evaluate({"extra": ""})]
    return [_package(requirement) for requirement in needed]


def _package(requirement: Requirement) -> Finding:
    mend = f'pip install "{requirement.name}{requirement.specifier}"'
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return Finding(requirement.name, "missing", mend, fatal=True)
    if not requirement.specifier.contains(version, prereleases=True):
        return Finding(requirement.name, f"{version}, needs {requirement.specifier}", mend, fatal=True)
    return Finding(requirement.name, version)


def _extras() -> list[Finding]:
    """Packages that only some commands need; nothing is imported."""
    uses = {"onnx": "export-model --format onnx or --int8, predict --engine onnx"}
    uses["openvino"] = "export-model --format openvino, predict --engine openvino"
    return [_extra(name, use) for name, use in uses.items()]


def _extra(name: str, use: str) -> Finding:
    declared = map(Requirement, metadata.requires("vertinst") or [])
    wanted = [r for r in declared if r.marker and not r.marker.evaluate({"extra": ""})]
    found = [_package(r) for r in wanted if r.marker and r.marker.evaluate({"extra": name})]
    mend = f'pip install "vertinst[{name}]"'
    if any(finding.mend for finding in found):
        lacking = ", ".join(f"{finding.what} {finding.found}" for finding in found if finding.mend)
        return Finding(f"extra {name}", f"{lacking}: needed for {use}", mend)
    return Finding(f"extra {name}", ", ".join(f"{finding.what} {finding.found}" for finding in found))


def _detectron2() -> list[Finding]:
    """What of Detectron2 works, which the model of that name alone needs; it is on no package index."""
    try:
        import torch

        from vertinst.models._detectron2_config import INSTALL_COMMANDS, is_installed, zoo_folder
    except (ImportError, OSError):
        return []
    if not is_installed():
        return [Finding("Detectron2", "not installed: needed for the model detectron2 alone", INSTALL_COMMANDS)]
    places = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import detectron2
            from detectron2.layers.rotated_boxes import pairwise_iou_rotated

            # One of those that it compiles; its build may be for another torch, or without the GPU.
            for place in places:
                pairwise_iou_rotated(torch.ones(1, 5, device=place), torch.ones(1, 5, device=place))
            configs = sum(1 for _ in zoo_folder().rglob("*.yaml"))
            point_rend = importlib.util.find_spec("detectron2.projects.point_rend") is not None
    except (ImportError, RuntimeError, OSError) as error:
        return [Finding("Detectron2", f"does not work ({type(error).__name__}): build it again", INSTALL_COMMANDS)]
    found = f"{detectron2.__version__}, compiled operators work on {' and '.join(places)}, {configs} configs"
    return [Finding("Detectron2", f"{found}, {'with' if point_rend else 'without'} PointRend")]


def _operators() -> Finding:
    """Whether torchvision's compiled operators load: they do not beside a torch of another build."""
    mend = 'pip install --force-reinstall "torch>=2.15,<2.16" "torchvision>=0.29,<0.30"'
    try:
        import torch
        from torchvision.ops import nms

        nms(torch.zeros(1, 4), torch.ones(1), 0.5)
    except (ImportError, RuntimeError, OSError) as error:
        return Finding("torchvision operators", f"do not work ({type(error).__name__})", mend, fatal=True)
    return Finding("torchvision operators", "work")


def _dicom() -> Finding:
    """Which compressed DICOM films can be read: the decoders are parts of other libraries, and may fail to load."""
    from vertinst.data.dicom_pixels import missing_decoders

    missing = missing_decoders()
    if not missing:
        return Finding("DICOM films", "read uncompressed, and compressed as RLE, JPEG, JPEG-LS and JPEG 2000")
    packages = " ".join(dict.fromkeys(missing.values()))
    return Finding("DICOM films", f"no decoder for {', '.join(missing)}", f"pip install --force-reinstall {packages}")


def _devices() -> list[Finding]:
    try:
        import torch

        from vertinst.engine.precision import choose_precision, explain_precision
    except (ImportError, OSError):
        return []
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    device = torch.device("cuda" if gpus else "cpu")
    precision = choose_precision("auto", device)
    return [
        Finding("GPU", ", ".join(gpus) or "none that torch can use; everything runs on the CPU"),
        Finding("CPU", _cpu(os.cpu_count() or 1, torch.get_num_threads())),
        Finding("precision auto", f"{precision}: {explain_precision(device)}"),
    ]


def _cpu(cores: int, threads: int) -> str:
    return f"{cores} core{'' if cores == 1 else 's'}, torch uses {threads} thread{'' if threads == 1 else 's'}"


def _room() -> list[Finding]:
    free = shutil.disk_usage(Path.cwd()).free / GIB
    findings = [Finding("disk, this folder", f"{free:.1f} GiB free", "" if free > 1 else "free some space")]
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB
        findings.append(Finding("memory", f"{memory:.1f} GiB"))
    return findings


def _weights() -> Finding:
    """How many files of public weights are in the cache; none is read through."""
    from vertinst.engine.public_weights import cache_folder, listing

    fetched = sum(stored.path.is_file() for stored in listing() if not stored.entry.packaged)
    return Finding("public weights", f"{fetched} in {cache_folder()}")
