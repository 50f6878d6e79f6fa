"""ONNX Runtime and OpenVINO behind one call: a batch of films in, the network's four outputs out.

Both are extras. They are imported in functions alone, by the commands that were asked for them.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Protocol, TypeAlias, cast, get_args

import torch
from torch import Tensor

from vertinst.engine.precision import choose_precision
from vertinst.errors import CheckpointError, ConfigError

__all__ = [
    "FILES",
    "FORMATS",
    "INPUT",
    "OUTPUTS",
    "Format",
    "Runtime",
    "check_format",
    "import_onnx",
    "import_onnxruntime",
    "import_openvino",
    "open_runtime",
    "quiet",
]

Format: TypeAlias = Literal["onnx", "openvino"]
FORMATS: tuple[Format, ...] = get_args(Format)
FILES: Mapping[Format, tuple[str, ...]] = {"onnx": ("model.onnx",), "openvino": ("model.xml", "model.bin")}
"""What each format consists of; the first is opened."""

INPUT = "film"
OUTPUTS = ("deltas", "logits", "coefficients", "prototypes")

AGAIN = "Export it again with `vertinst export-model`, or copy the whole folder again."


class Runtime(Protocol):
    """A network that a runtime has loaded.

    Attributes:
        name: `onnx` or `openvino`.
        versions: Of the runtime.
        precision: Of its floating point layers: `32` or `bf16`.
    """

    name: Format
    versions: dict[str, str]
    precision: str

    def __call__(self, batch: Tensor) -> tuple[Tensor, ...]:
        """Outputs in the order of `OUTPUTS` for a float32 batch (1, 3, h, w) on the CPU."""


def check_format(name: str, option: str, *, others: tuple[str, ...] = ()) -> Format:
    """A format by its name.

    Args:
        name: As typed.
        option: Where it was typed.
        others: What else could have been, for the message.

    Raises:
        ConfigError: There is no such format.
    """
    if name in FORMATS:
        return name
    known = " or ".join((*others, *FORMATS))
    raise ConfigError(f"{option} must be {known}, got {name!r}", fix="Choose one of these.")


def import_openvino() -> ModuleType:
    """OpenVINO, kept from reporting its use: it would send an event to its maker's statistics at import.

    Raises:
        ConfigError: It is not installed.
    """
    if "openvino" not in sys.modules:
        # With this entry the module that sends cannot be imported, and OpenVINO takes a stub of its own in its place.
        sys.modules.setdefault("openvino_telemetry", cast(ModuleType, None))
    try:
        import openvino
    except ImportError as error:
        raise _missing("OpenVINO", "openvino") from error
    module: ModuleType = openvino
    return module


def import_onnxruntime() -> ModuleType:
    """ONNX Runtime.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise _missing("ONNX Runtime", "onnx") from error
    module: ModuleType = onnxruntime
    return module


def import_onnx() -> ModuleType:
    """ONNX, with the package that torch writes it with.

    Raises:
        ConfigError: One of the two is not installed.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401 - torch's exporter imports it
    except ImportError as error:
        raise _missing("ONNX", "onnx") from error
    return onnx


def _missing(what: str, extra: str) -> ConfigError:
    return ConfigError(f"{what} is not installed", fix=f'It is an extra: pip install "vertinst[{extra}]"')


@contextmanager
def quiet() -> Iterator[None]:
    """Silence of exporters, which warn about what their own next releases will change."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def open_runtime(form: Format, folder: Path, precision: str) -> Runtime:
    """Load the network of an exported folder.

    Args:
        form: What the folder holds.
        folder: Where; nothing outside of it is opened.
        precision: `auto`, `32` or `bf16`, of the layers that are not int8.

    Raises:
        CheckpointError: The file is no network of this kind.
        ConfigError: The runtime is not installed, or has no such precision.
    """
    return OpenVinoRuntime(folder, precision) if form == "openvino" else OnnxRuntime(folder, precision)


class OnnxRuntime:
    """A `model.onnx` in ONNX Runtime, on the processor; see `Runtime`.

    ONNX Runtime itself refuses weights outside of the model's folder, and operators it does not know: libraries of
    operators are never registered here.
    """

    name: Format = "onnx"
    precision: str = "32"

    def __init__(self, folder: Path, precision: str) -> None:
        if choose_precision(precision, torch.device("cpu")) == "bf16" and precision != "auto":
            raise ConfigError(
                "precision must be auto or 32 with ONNX Runtime, which computes in float32, got 'bf16'",
                fix="Export with --format openvino for bf16, or with --int8.",
            )
        onnxruntime = import_onnxruntime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.inter_op_num_threads = 1
        # Only errors: its warnings are about the graph, which the user cannot change.
        options.log_severity_level = 3
        # Threads that spin between two calls would take the processor from what finds instances and reads films.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        path = folder / FILES["onnx"][0]
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            # Its exceptions have no common base.
            raise _unreadable(path, error) from error
        names = [value.name for value in self._session.get_inputs()], [v.name for v in self._session.get_outputs()]
        _check_names(*names, path)
        self.versions = {"onnxruntime": str(onnxruntime.__version__)}

    def __call__(self, batch: Tensor) -> tuple[Tensor, ...]:
        """See `Runtime`."""
        outputs = self._session.run(list(OUTPUTS), {INPUT: batch.contiguous().numpy()})
        return tuple(torch.from_numpy(output) for output in outputs)


class OpenVinoRuntime:
    """A `model.xml` with its `model.bin` in OpenVINO, on the processor; see `Runtime`.

    OpenVINO's reader expands no entities of the XML, checks that constants lie within `model.bin`, and refuses
    operators that it does not know: extensions are never added here.
    """

    name: Format = "openvino"

    def __init__(self, folder: Path, precision: str) -> None:
        chosen = choose_precision(precision, torch.device("cpu"))
        openvino = import_openvino()
        xml, weights = (folder / name for name in FILES["openvino"])
        settings = {
            # It would take bf16 by itself where the processor has it.
            "INFERENCE_PRECISION_HINT": "bf16" if chosen == "bf16" else "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
            # Its cores are ours to share: other processes on the machine are not known to it.
            "ENABLE_CPU_PINNING": False,
        }
        try:
            core = openvino.Core()
            network = core.read_model(str(xml), str(weights))
            _check_names(_names(network.inputs), _names(network.outputs), xml)
            self._compiled = core.compile_model(network, "CPU", settings)
        except RuntimeError as error:
            raise _unreadable(xml, error) from error
        # What it makes of the wish: where the processor cannot, float32.
        got = str(self._compiled.get_property("INFERENCE_PRECISION_HINT"))
        self.precision = "bf16" if "bf16" in got or "bfloat16" in got else "32"
        self.versions = {"openvino": str(openvino.__version__)}

    def __call__(self, batch: Tensor) -> tuple[Tensor, ...]:
        """See `Runtime`."""
        outputs: Any = self._compiled({INPUT: batch.contiguous().numpy()})
        return tuple(torch.from_numpy(outputs[name].copy()) for name in OUTPUTS)


def _names(ports: Iterable[Any]) -> list[str]:
    return [name for port in ports for name in port.get_names()]


def _check_names(inputs: list[str], outputs: list[str], path: Path) -> None:
    if inputs != [INPUT] or sorted(outputs) != sorted(OUTPUTS):
        raise CheckpointError(
            f"network must take {INPUT} and give {', '.join(OUTPUTS)}, "
            f"got {len(inputs)} inputs and {len(outputs)} outputs of other names",
            where=path,
            fix=AGAIN,
        )


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"cannot be loaded as a network ({type(error).__name__})", where=path, fix=AGAIN)
