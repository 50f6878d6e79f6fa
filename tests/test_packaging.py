"""What is installed and what is imported: nothing forgotten, nothing undeclared, and torch only where it belongs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from importlib import metadata, resources
from pathlib import Path

import pytest
from packaging.requirements import Requirement

PACKAGES = (
    "vertinst",
    "vertinst.configs",
    "vertinst.converters",
    "vertinst.data",
    "vertinst.engine",
    "vertinst.metrics",
    "vertinst.models",
    "vertinst.postprocess",
    "vertinst.report",
    "vertinst.structures",
    "vertinst.weights",
)
TORCH = {"torch", "torchvision", "lightning_fabric", "safetensors"}
# Only inside of functions, and only where the command that needs it runs.
LAZY = {"cli.py", "doctor.py", "demo.py"}
# What extras bring is imported by these alone, inside of functions.
EXTRAS = ("onnx", "openvino")
WITH_EXTRAS = {"vertinst.engine.runtimes", "vertinst.engine.quantise"}
# On no package index, hence no dependency; who has it has built it. Imported inside of functions alone.
BUILT_FROM_SOURCE = {"detectron2"}
WITH_BUILT = {"vertinst.models.detectron2", "vertinst.models._detectron2_config", "vertinst.doctor"}
ROOT = Path(__file__).resolve().parents[1]


def modules() -> dict[str, Path]:
    """Every module of the installed package by its dotted name."""
    found = {}
    for package in PACKAGES:
        folder = Path(str(resources.files(package)))
        for path in folder.glob("*.py"):
            found[package if path.stem == "__init__" else f"{package}.{path.stem}"] = path
    return found


def imported(path: Path, *, lazy: bool) -> set[str]:
    """Top-level names of what a module imports from elsewhere; without `lazy` what it imports when it is loaded."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for child in ast.walk(node)
    }
    inner = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for child in ast.walk(node)
    }
    names = set()
    for node in ast.walk(tree):
        if id(node) in typing_only or (not lazy and id(node) in inner):
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(str(node.module).split(".")[0])
    return names


def test_the_package_has_what_it_reads_at_run_time() -> None:
    configs = {p.name for p in resources.files("vertinst.configs").iterdir()}
    assert {"yolact_lumbar.yaml", "mask_rcnn_lumbar.yaml", "yolact_demo.yaml"} <= configs
    for package, name in (
        ("vertinst", "py.typed"),
        ("vertinst.report", "labelled.schema.json"),
        ("vertinst.report", "report.html.j2"),
    ):
        assert resources.files(package).joinpath(name).is_file(), name


@pytest.mark.skipif(not (ROOT / "pyproject.toml").is_file(), reason="needs the source tree")
def test_every_folder_with_code_is_a_package_of_the_list_and_the_other_way_round() -> None:
    import tomllib

    tool = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    listed = set(tool["packages"])
    assert listed == set(PACKAGES)
    folders = {"vertinst": ROOT / "vertinst", "vertinst.converters": ROOT / "converters"}
    folders |= {"vertinst.configs": ROOT / "configs", "vertinst.weights": ROOT / "weights"}
    with_code = set()
    for package, folder in folders.items():
        for path in folder.rglob("*.py"):
            with_code.add(".".join((package, *path.parent.relative_to(folder).parts)))
            assert (path.parent / "__init__.py").is_file(), path
    assert with_code == listed
    # Data of a package that setuptools is not told of stays behind.
    for package, folder in folders.items():
        for path in (p for p in folder.rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")):
            home = ".".join((package, *path.parent.relative_to(folder).parts))
            assert any(path.match(pattern) for pattern in tool["package-data"].get(home, ())), path


def declared(*extras: str) -> set[str]:
    """Distributions that vertinst asks for, with any of the extras."""
    return {
        re.sub(r"[-_.]+", "-", requirement.name).lower()
        for requirement in map(Requirement, metadata.requires("vertinst") or ())
        if requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in ("", *extras))
    }


def test_everything_imported_is_declared_and_everything_declared_is_needed() -> None:
    always, optional = declared(), declared(*EXTRAS) - declared()
    homes = metadata.packages_distributions()
    used: set[str] = set()
    for name, path in modules().items():
        at_once = imported(path, lazy=False)
        elsewhere = imported(path, lazy=True) - set(sys.stdlib_module_names) - {"vertinst"}
        assert not elsewhere & BUILT_FROM_SOURCE or (name in WITH_BUILT and not at_once & BUILT_FROM_SOURCE), name
        for top in elsewhere - BUILT_FROM_SOURCE:
            distributions = {re.sub(r"[-_.]+", "-", d).lower() for d in homes.get(top, ())}
            allowed = always if top in at_once or name not in WITH_EXTRAS else always | optional
            assert distributions & allowed, f"{name} imports {top}, which no dependency brings"
            used |= distributions & allowed
    # pydicom itself loads the decoder when a film needs it.
    assert always - used == {"python-gdcm"}
    assert optional <= used


@pytest.mark.parametrize(
    "name", sorted(n for n in modules() if n.split(".")[1:2] not in (["data"], ["models"], ["engine"]))
)
def test_torch_stays_in_data_models_and_engine(name: str) -> None:
    path = modules()[name]
    assert not imported(path, lazy=path.name not in LAZY) & TORCH


@pytest.mark.parametrize(
    "statement",
    [
        "import vertinst, vertinst.cli, vertinst.doctor",
        "import vertinst.structures, vertinst.postprocess.pipeline, vertinst.report.html",
        "import vertinst.converters.via, vertinst.converters.coco, vertinst.data.splits",
        "import vertinst.data.radiograph, vertinst.data.phantom",
    ],
)
def test_what_needs_no_network_does_not_wait_for_torch(statement: str) -> None:
    code = f"{statement}\nimport sys\nprint(sorted({TORCH!r} & sys.modules.keys()))"
    # -P: what is installed, not what lies in the working folder.
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"
