"""Every command, and the only file that prints.

A command checks nothing itself: it calls the function that does the work and shows what came back. Errors of the
family `VertinstError` become one message and exit code 2; anything else is a fault of ours and says so (exit code 1).
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from vertinst import plugins
from vertinst.errors import ConfigError, DataError, VertinstError
from vertinst.version import __version__

__all__ = ["app", "main"]

# No boxes drawn around errors and no tracebacks with local variables: these could show a patient's data.
app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Find, name and score vertebrae and implants on spine radiographs. Research software, not a medical device.",
    epilog="Any command takes --debug, which shows the traceback of an error.",
)
# Soft wrapping: paths and messages stay whole when they are copied or piped.
out = Console(soft_wrap=True, highlight=False, markup=False)
err = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Delete what the output folder holds.")]
OverwriteFile = Annotated[
    bool, typer.Option("--overwrite", help="Replace the output file, or delete what the output folder holds.")
]
AnchorOption = Annotated[
    str | None,
    typer.Option(
        "--anchor",
        help="Where to count from without a sacrum: L5=lowest, L5=highest if upside down, or L5@X,Y (a point on it).",
    ),
]
Anchors = Annotated[
    Path | None,
    typer.Option("--anchors", help='JSON with an anchor by film, {"P7_1.png": "L5@120,340"}; the report saves one.'),
]
View = Annotated[str, typer.Option("--view", help="lateral, ap, or auto: as DICOM says, else lateral.")]
PixelSpacing = Annotated[
    float | None,
    typer.Option("--pixel-spacing-mm", help="Size of a pixel of all films, instead of what DICOM headers say."),
]
Merged = Annotated[str, typer.Option("--classes", help="Merged mask: bone, bone+implants, or names with commas.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Precision = Annotated[str, typer.Option(help="auto (bf16 where the hardware gains from it), 32 or bf16.")]


class ProgressDisplay:
    """Draws progress on a terminal; elsewhere (a log file) writes a line at most every ten seconds."""

    SECONDS_BETWEEN_LINES = 10.0

    def __init__(self, bars: Progress) -> None:
        self.bars = bars
        self.task: TaskID | None = None
        self.label = ""
        self.last_line = time.monotonic()

    def __call__(self, done: int, total: int, text: str) -> None:
        """Show that `done` of `total` steps of the work called `text` (up to its first colon) are finished."""
        label = text.split(":", 1)[0]
        if self.task is None or label != self.label:
            self.task, self.label = self.bars.add_task(text, total=total), label
        self.bars.update(self.task, completed=done, total=total, description=text)
        now = time.monotonic()
        if not err.is_terminal and (now - self.last_line > self.SECONDS_BETWEEN_LINES):
            err.print(f"  {text}: {done} of {total}")
            self.last_line = now


@contextmanager
def progress_display() -> Iterator[ProgressDisplay]:
    """Progress bars on the error stream for as long as the context lasts."""
    columns = (TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, disable=not err.is_terminal) as bars:
        yield ProgressDisplay(bars)


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """Something that moves on a terminal while what takes seconds has no steps to count, such as importing torch."""
    if not err.is_terminal:
        yield
        return
    with err.status(f"  {text}"):
        yield


def main() -> None:
    """Run the command line; the console script `vertinst`."""
    debug = "--debug" in sys.argv
    arguments = [a for a in sys.argv[1:] if a != "--debug"]
    sys.exit(run(arguments, debug=debug))


def run(arguments: list[str], *, debug: bool = False) -> int:
    """Run one command.

    Args:
        arguments: As typed, without the program's name.
        debug: Let errors through with their traceback.

    Returns:
        Exit code: 0 done, 2 a fault that the user can mend, 130 interrupted, 1 a fault of vertinst.
    """
    try:
        # Without arguments click raises the help as if it were an error.
        code = app(arguments or ["--help"], prog_name="vertinst", standalone_mode=False)
    except typer.Exit as stop:
        return int(stop.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        err.print("Stopped. What was finished is kept.")
        return 130
    except Exception as error:
        if debug:
            raise
        return _explain(error)
    return int(code or 0)


def _explain(error: Exception) -> int:
    # click's own usage errors (an option that does not exist) carry their message in `format_message`.
    describe: Callable[[], str] | None = getattr(error, "format_message", None)
    if type(error).__name__ == "NoArgsIsHelpError" and describe is not None:
        # A group without a command (vertinst weights): its help is the answer. typer brings its own copy of click.
        out.print(describe())
        return 0
    if describe is not None:
        command = getattr(getattr(error, "ctx", None), "command_path", "vertinst")
        err.print(f"Error: {describe()}\nTry: {command} --help")
        return 2
    if isinstance(error, VertinstError):
        err.print(f"Error: {error}")
        return 2
    # The text of a foreign exception may quote file contents: only its kind is shown.
    err.print(f"Internal error ({type(error).__name__}). This is a fault of vertinst: run it again with --debug.")
    return 1


@app.callback(invoke_without_command=True)
def _start(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        out.print(f"vertinst {__version__}")
        raise typer.Exit


@app.command()
def phantom(
    count: Annotated[int, typer.Option(help="Number of films.")],
    out_folder: Annotated[Path, typer.Option("--out", help="New folder for images/, via_project.json, truth.json.")],
    seed: Annotated[int, typer.Option(help="The same seed gives the same films.")] = 0,
    bits: Annotated[int, typer.Option(help="8 or 16 bits per pixel.")] = 8,
    style: Annotated[
        str, typer.Option(help="standard, or portable: few quanta, much scatter, unsharp; thinner and flatter spines.")
    ] = "standard",
    shares: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            metavar="NAME=SHARE",
            help="How many patients or films have something, e.g. ap=0.2; for several, once each. Names: six_lumbar, "
            "four_lumbar, sacralised, no_sacrum, ap, slip, osteophyte, fracture, cement, narrowing, follow_up (without "
            "it none have these); metal, cage_only, cage, close_up, parallel. A name that is none explains them all.",
        ),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Make phantom films with a VIA project.

    Films of a lumbar spine in three dimensions, some with implants, and the truth about them.
    """
    from vertinst.data.phantom import make_phantoms
    from vertinst.data.phantom_style import named_style, with_shares

    drawn = with_shares(named_style(style), shares or [])
    with progress_display() as progress:
        make_phantoms(count, seed, out_folder, bits=bits, style=drawn, overwrite=overwrite, progress=progress)
    out.print(f"{count} films in {out_folder / 'images'}, annotations in {out_folder / 'via_project.json'}")


SOURCES = {
    "via": "VIA files (JSON, CSV, projects); several are merged.",
    "labelme": "JSON files of labelme, or folders of them; several are merged.",
    "cvat": "XML files of CVAT for images 1.1, or folders of them; several are merged.",
    "yolo": "Folder with data.yaml and labels/, or label files; several are merged.",
    "masks": "Folders of mask pictures; several are merged.",
    "keypoints": "COCO files with keypoints; several are merged.",
    "labelled": "Folders made by predict; several are merged.",
    "repair": "COCO files; several are merged.",
}


def conversion(form: str) -> Callable[..., None]:
    """The command that converts one format: the same options for all of them."""

    def command(
        out_path: Annotated[
            Path, typer.Option("--out", help="COCO file to write, or with --split the folder; the audit beside it.")
        ],
        images: Annotated[Path | None, typer.Option(help="Folder of the films.")] = None,
        class_attribute: Annotated[
            str | None, typer.Option(help="Region attribute of the class, if several fit.")
        ] = None,
        class_map: Annotated[Path | None, typer.Option(help="YAML or JSON: your name -> class, null to skip.")] = None,
        instance_attribute: Annotated[
            str | None, typer.Option(help="Region attribute that joins the parts of an instance; else `instance`.")
        ] = None,
        patient_attribute: Annotated[str | None, typer.Option(help="Film attribute that names the patient.")] = None,
        patient_regex: Annotated[
            str | None, typer.Option(help="The patient in the film's name, e.g. '^([^_]+)_': first group, or all.")
        ] = None,
        line_width: Annotated[float | None, typer.Option(help="Width in px that open lines are given.")] = None,
        drop_duplicates: Annotated[
            bool, typer.Option("--drop-duplicates", help="Keep one of exactly repeated regions.")
        ] = False,
        ignore_exif: Annotated[
            bool, typer.Option("--ignore-exif", help="The films were annotated as stored, not turned as EXIF says.")
        ] = False,
        ratios: Annotated[
            str | None, typer.Option("--split", help="Shares of train, val and test by patient, e.g. 0.8,0.1,0.1.")
        ] = None,
        seed: Annotated[int, typer.Option(help="Of the split: the same seed gives the same one.")] = 0,
        strict: Annotated[bool, typer.Option("--strict", help="Fail if anything is skipped or repaired.")] = False,
        overwrite: OverwriteFile = False,
        # The help of these depends on `form`, which annotations do not see.
        sources: list[Path] = typer.Argument(help=SOURCES.get(form, "Annotation files or folders.")),
        mask_kind: str | None = typer.Option(
            None, help="Instead of by what is there: instances, classes or binary.", hidden=form != "masks"
        ),
    ) -> None:
        with waiting("starting"):
            from vertinst.convert import convert
            from vertinst.files import refuse_to_replace
            from vertinst.structures.conversion import ReadOptions

        options = ReadOptions(
            class_attribute=class_attribute,
            class_map=plugins.load("converters", "via").read_class_map(class_map) if class_map else None,
            instance_attribute=instance_attribute,
            patient_attribute=patient_attribute,
            patient_regex=patient_regex,
            line_width_px=line_width,
            drop_duplicates=drop_duplicates,
            ignore_exif=ignore_exif,
            mask_kind=mask_kind,
        )
        refuse_to_replace(out_path, [class_map])
        shares = parse_ratios(ratios, "--split", sources) if ratios is not None else None
        with progress_display() as progress:
            result = convert(
                form,
                sources,
                images,
                out_path,
                options,
                ratios=shares,
                seed=seed,
                strict=strict,
                overwrite=overwrite,
                listed=list_skips,
                progress=progress,
            )
        show_conversion(result, out_path)

    return command


def show_conversion(result: Any, out_path: Path) -> None:
    """Print what a conversion made."""
    if result.split is not None:
        show_sides(result.split)
    for sentence in result.advice:
        err.print(sentence)
    attention = result.attention
    if attention["near_identical"]:
        apart = attention["near_identical_across_sides"]
        split = f", {several(apart, 'group')} of them on two sides of the split" if apart is not None else ""
        pairs = several(attention["near_identical"], "pair")
        err.print(f"{pairs} of nearly identical films{split}: see the audit.")
    suspicious = [several(attention[f"suspicious_{kind}s"], kind) for kind in ("instance", "film")]
    found = " and ".join(words for words in suspicious if not words.startswith("0 "))
    if found:
        err.print(f"Suspicious: {found}: see the audit.")
    show_counts(result.dataset.counts(), f"{len(result.dataset)} films, written to {out_path}")
    out.print(f"Audit: {result.page}")


def several(count: int | None, word: str) -> str:
    """A number with its noun; None counts as 0."""
    return f"{count or 0} {word}{'' if count == 1 else 's'}"


ABOUT = {
    "via": "VGG Image Annotator, any version; the same as convert-via.",
    "labelme": "labelme: one JSON file per film.",
    "cvat": "CVAT for images 1.1: XML.",
    "yolo": "YOLO segmentation: one text file per film.",
    "masks": "Mask pictures: label maps, one per instance, binary.",
    "keypoints": "Corner points in COCO's keypoint form.",
    "labelled": "Our own predictions.",
    "repair": "Mend COCO files that other tools broke.",
}
converts = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
for name in plugins.names("converters"):
    if name != "coco":
        about = ABOUT.get(name, f"{name} annotations.")
        converts.command(name, help=about)(conversion(name))
app.add_typer(converts, name="convert", help="Convert annotations of any format to COCO, with an audit.")
app.command(
    "convert-via",
    help="Convert VIA annotations to COCO, with an audit.\n\n"
    "Whatever is skipped or repaired is listed with film, region and reason. The same as `vertinst convert via`.",
)(conversion("via"))


@app.command()
def export(
    source: Annotated[Path, typer.Argument(help="COCO file, or folder made by predict.")],
    form: Annotated[
        str, typer.Option("--format", help="via, labelme, cvat, yolo, masks, coco, or csv (of predictions).")
    ],
    out_path: Annotated[
        Path, typer.Option("--out", help="File to write (via, coco, cvat), or folder (labelme, yolo, masks, csv).")
    ],
    images: Annotated[
        Path | None, typer.Option(help="Folder of the films; with it VIA projects know the films' sizes in bytes.")
    ] = None,
    pictures: Annotated[
        Path | None,
        typer.Option(
            help="New folder for the films as PNG, for VIA, which shows no DICOM and no TIFF; needs --images."
        ),
    ] = None,
    film_path: Annotated[
        str | None, typer.Option(help="VIA: folder or URL that VIA puts before the films' names.")
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            metavar="PX", help="VIA: how far outlines of masks may move, to have fewer points; 0 draws every pixel."
        ),
    ] = None,
    kind: Annotated[str | None, typer.Option(help="masks: label-map, instances or binary.")] = None,
    overwrite: OverwriteFile = False,
) -> None:
    """Write a data set or predictions in another format.

    For example predictions as a VIA project, to correct them there and convert them back; or as tables for
    statistics (csv): a row a vertebra, a disc, a film and an implant.
    """
    with waiting("starting"):
        from vertinst.convert import export as run_export

    settings = {"film_path": film_path, "tolerance_px": tolerance, "kind": kind}
    with progress_display() as progress:
        dataset, losses = run_export(
            source, form, out_path, images, pictures=pictures, overwrite=overwrite, progress=progress, **settings
        )
    list_skips(losses)
    show_counts(dataset.counts(), f"{len(dataset)} films, written to {out_path}")
    if pictures is not None:
        out.print(f"Films as PNG: {pictures}. Convert the corrections with --images {pictures}")


def list_skips(skips: Iterable[Any], most: int = 20) -> None:
    """Print what was skipped or repaired, in at most `most` lines: what happened several times once, with some places.

    "Note" stands for all that was kept, because some of it was repaired and some of it is only to be known.
    """
    groups: dict[tuple[str, str], list[str]] = {}
    for row in skips:
        region = "" if row.region is None else f", region {row.region}"
        places = groups.setdefault(("note" if row.repaired else "skipped", row.reason), [])
        places.append(f"{row.image or row.file}{region}")
    for (kind, reason), places in list(groups.items())[:most]:
        if len(places) == 1:
            err.print(f"{kind}: {places[0]}: {reason}")
        else:
            more = "; ..." if len(places) > 3 else ""
            err.print(f"{kind}, {len(places)} times: {reason} ({'; '.join(places[:3])}{more})")
    if len(groups) > most:
        err.print(f"... and {sum(map(len, list(groups.values())[most:]))} more")


def show_counts(counts: dict[str, int], title: str) -> None:
    """Print annotated instances per class."""
    table = Table("class", "annotated", title=title, title_justify="left")
    for name, number in counts.items():
        table.add_row(name, str(number))
    out.print(table)


@app.command()
def split(
    coco_file: Annotated[Path, typer.Argument(help="COCO file to split.")],
    out_folder: Annotated[Path, typer.Option("--out", help="New folder for train.json, val.json, test.json.")],
    ratios: Annotated[str, typer.Option(help="Shares of train, validation and test.")] = "0.8,0.1,0.1",
    seed: Annotated[int, typer.Option(help="The same seed gives the same split.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Split a COCO file by patient.

    No patient is on two sides. Films that name no patient count as one patient each.
    """
    from vertinst.data.splits import split_by_patient, write_split
    from vertinst.files import keep_inputs

    shares = parse_ratios(ratios, "--ratios")
    parts = split_by_patient(plugins.load("converters", "coco").read(coco_file), shares, seed)
    if overwrite:
        keep_inputs(out_folder, [coco_file])
    write_split(parts, out_folder, overwrite=overwrite)
    show_sides(parts)


def parse_ratios(text: str, option: str, files: Iterable[Path] = ()) -> list[float]:
    """Numbers parted by commas.

    Args:
        text: As typed.
        option: Its name.
        files: What was taken for files, in which the other numbers stand if they were parted by blanks.

    Raises:
        ConfigError: They are none.
    """
    strays = [str(path) for path in files if re.fullmatch(r"[0-9.,]+", str(path)) and not path.exists()]
    if strays:
        shares = ",".join([text.strip(","), *(stray.strip(",") for stray in strays)])
        raise ConfigError("shares must be written without blanks", fix=f"Write {option} {shares}")
    try:
        return [float(r) for r in text.split(",")]
    except ValueError:
        raise ConfigError(
            f"{option} must be numbers like 0.8,0.1,0.1, got {text!r}", fix="Write three numbers."
        ) from None


UNKNOWN_PATIENTS = (
    "Films that name no patient were each taken as a patient of their own. Films of one patient may be apart."
)


def show_sides(split: Any) -> None:
    """Print how many films and patients each side of a split has."""
    if not split.grouped:
        err.print(UNKNOWN_PATIENTS)
    for side, part in split.sides.items():
        patients = len({i.patient or i.file_name for i in part.images})
        out.print(f"{side}: films {len(part)}, patients {patients}")


@app.command()
def train(
    config: Annotated[str, typer.Option(help="Packaged name (yolact_lumbar.yaml) or a path.")],
    data: Annotated[Path, typer.Option(help="Folder with train.json and val.json, or one COCO file.")],
    images: Annotated[Path, typer.Option(help="Folder of the films.")],
    out_folder: Annotated[Path, typer.Option("--out", help="New folder for the run.")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="key=value, e.g. optim.lr=0.005; repeatable.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on after the last finished epoch.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Train a model."""
    with waiting("loading PyTorch"):
        from vertinst.config import load_config
        from vertinst.engine.run_folder import waiting_hint
        from vertinst.engine.train import train as run_training
        from vertinst.files import keep_inputs

    if overwrite:
        keep_inputs(out_folder, [data, Path(config)])
    run_config = load_config(config, settings or [])
    train_set, val_set = load_split(data, run_config.seed)
    with progress_display() as progress:
        best = run_training(
            run_config,
            train_set,
            val_set,
            images,
            out_folder,
            resume=resume,
            overwrite=overwrite,
            listed=show_taken,
            noted=err.print,
            progress=progress,
        )
    hint = waiting_hint(out_folder, run_config.data.workers)
    if hint is not None:
        err.print(hint)
    out.print(f"Best weights: {best}\nNext: vertinst predict --weights {out_folder} FILMS --out predictions")


def show_taken(taken: Any) -> None:
    """Print what of the weights that a training starts from was taken over."""
    if taken.whole:
        err.print(f"Started from {taken.weights}: everything fitted.")
        return
    table = Table("part", "taken", "anew", "skipped", title=f"Started from {taken.weights}", title_justify="left")
    table.add_column("why", overflow="fold")
    for part in taken.parts():
        counts = (part.taken, part.anew, part.skipped)
        table.add_row(part.name, *map(str, counts), "\n".join(part.reasons))
    err.print(table)


def load_split(data: Path, seed: int) -> tuple[Any, Any]:
    """Training and validation sets of a folder made by `vertinst split`, or of one file split here by patient."""
    from vertinst.data.splits import check_apart, split_by_patient
    from vertinst.structures import Dataset

    coco = plugins.load("converters", "coco")
    if not data.is_dir():
        dataset = coco.read(data)
        if len({(i.patient, i.patient or i.file_name) for i in dataset.images}) < 2:
            raise DataError(
                "one file is split into training and validation by patient, and must hold films of at least two",
                where=data,
                fix="Add another patient's films; or train without validation: name the file train.json and give its "
                "folder as --data.",
            )
        parts = split_by_patient(dataset, [0.85, 0.15], seed)
        err.print(f"One file given: {len(parts.train)} films to train, {len(parts.val)} to validate, split by patient.")
        if not parts.grouped:
            err.print(f"{UNKNOWN_PATIENTS} Convert with --patient-regex, if their names tell the patients.")
        return parts.train, parts.val
    train_set = coco.read(data / "train.json")
    if (data / "val.json").exists():
        val_set = coco.read(data / "val.json")
        check_apart({"train.json": train_set, "val.json": val_set})
        return train_set, val_set
    err.print(f"No val.json in {data}: nothing to compare epochs on, so the last one is kept as the best.")
    return train_set, Dataset(train_set.categories)


@app.command()
def predict(
    films: Annotated[list[Path], typer.Argument(help="Films or folders of films.")],
    weights: Annotated[Path, typer.Option(help="Folder of a run or of an exported model, or a weights file.")],
    out_folder: Annotated[Path, typer.Option("--out", help="New folder for JSON, overlays and masks.")],
    anchor: AnchorOption = None,
    anchors: Anchors = None,
    view: View = "auto",
    pixel_spacing_mm: PixelSpacing = None,
    score: Annotated[float, typer.Option(help="Lowest score of an instance.")] = 0.5,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="key=value of `postprocess`, e.g. suppression.join_fragments=false; repeatable."),
    ] = None,
    classes: Merged = "bone",
    class_masks: Annotated[bool, typer.Option("--class-masks", help="Also write a mask of each class.")] = False,
    images: Annotated[
        Path | None, typer.Option(help="Folder that file names are relative to, as for convert-via.")
    ] = None,
    precision: Precision = "auto",
    device: Device = "auto",
    engine: Annotated[
        str, typer.Option(help="auto (what an exported folder is for, else torch), torch, onnx or openvino.")
    ] = "auto",
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Films that are predicted at once: 1 on a processor, 8 on a GPU if unset.")
    ] = None,
    compile: Annotated[
        bool, typer.Option("--compile", help="torch.compile: minutes before the first film, less time for each after.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Find and name vertebrae and implants on films."""
    with waiting("loading PyTorch"):
        from vertinst.data.radiograph import find_films
        from vertinst.engine.predict import load_model, predict_films
        from vertinst.files import keep_inputs
        from vertinst.postprocess.pipeline import SpineOptions
        from vertinst.postprocess.stated import stated
        from vertinst.settings import check_settings, read_overrides

    tally = Tally()
    said = stated(anchor=anchor, anchors=anchors, view=view, pixel_spacing_mm=pixel_spacing_mm)
    chosen = {"score_threshold": score, **read_overrides(settings or [])}
    options = check_settings(SpineOptions, chosen, "--set" if settings else "--score")
    paths = find_films(films)
    if overwrite:
        keep_inputs(out_folder, [weights, *films, *([anchors] if anchors else [])])
    with waiting("loading the network"):
        model = load_model(weights, precision=precision, device=device, engine=engine, compile=compile, noted=err.print)
    with progress_display() as progress:
        predict_films(
            model,
            paths,
            out_folder,
            options=options,
            stated=said,
            overwrite=overwrite,
            progress=progress,
            root=images,
            merged=merged_choice(classes),
            class_masks=class_masks,
            batch_size=batch_size,
            told=tally,
        )
    out.print(f"{tally}: labelled JSON in {out_folder}, pictures in {out_folder / 'overlays'}")
    tally.show_doubts(out_folder)


class Tally:
    """Counts what was found on films, as each is done, and which of them a person must look at."""

    def __init__(self) -> None:
        self.films = self.vertebrae = 0
        self.empty: list[str] = []
        self.open: list[str] = []
        self.missed: list[str] = []

    def __call__(self, name: str, spine: Any) -> None:
        from vertinst.postprocess.stated import needs_anchor

        self.films += 1
        self.vertebrae += len(spine.vertebrae)
        for names, holds in (
            (self.empty, not spine.vertebrae),
            (self.open, needs_anchor(spine)),
            (self.missed, "anchor_missed" in spine.flags),
        ):
            names += [name] if holds else []

    def __str__(self) -> str:
        vertebrae = "1 vertebra" if self.vertebrae == 1 else f"{self.vertebrae} vertebrae"
        return f"{several(self.films, 'film')} with {vertebrae}"

    def show_doubts(self, folder: Path) -> None:
        """Print which films need a person, and how to help them."""
        list_films(self.empty, "film shows no vertebra", "films show no vertebra")
        list_films(self.missed, "anchor lies on no vertebra", "anchors lie on no vertebra")
        list_films(self.open, "film needs an anchor", "films need an anchor")
        if self.open:
            err.print(
                f"Name a vertebra of each in the report (vertinst report {folder} --out report.html), save anchors.json"
                f" there, and run: vertinst measure {folder} --anchors anchors.json --out relabelled"
            )


@app.command()
def measure(
    source: Annotated[Path, typer.Argument(help="Folder made by predict, or COCO file of annotations.")],
    out_folder: Annotated[Path, typer.Option("--out", help="New folder for JSON, overlays and masks.")],
    anchor: AnchorOption = None,
    anchors: Anchors = None,
    view: Annotated[str, typer.Option("--view", help="lateral, ap, or auto: as before, or as annotated.")] = "auto",
    pixel_spacing_mm: PixelSpacing = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder of the films, to draw overlays on; else on the folder's small copies.")
    ] = None,
    classes: Merged = "bone",
    overwrite: Overwrite = False,
) -> None:
    """Name and measure vertebrae anew, without the network.

    Predictions with an anchor, a view or a scale given afterwards (a film's earlier anchor holds unless it gets a new
    one), or people's annotations, counted from their lowest annotated level.
    """
    with waiting("starting"):
        from vertinst.files import keep_inputs
        from vertinst.measure import measure as run_measure
        from vertinst.postprocess.stated import stated

    said = stated(anchor=anchor, anchors=anchors, view=view, pixel_spacing_mm=pixel_spacing_mm)
    if overwrite and anchors:
        keep_inputs(out_folder, [anchors])
    with progress_display() as progress:
        spines = run_measure(
            source,
            out_folder,
            stated=said,
            images=images,
            merged=merged_choice(classes),
            overwrite=overwrite,
            progress=progress,
        )
    tally = Tally()
    for name, spine in spines.items():
        tally(name, spine)
    out.print(f"{tally}: labelled JSON in {out_folder}")
    tally.show_doubts(out_folder)


@app.command("export-model")
def export_model(
    weights: Annotated[Path, typer.Option(help="Folder of a run, or a weights file.")],
    form: Annotated[str, typer.Option("--format", help="onnx, openvino or detectron2.")],
    out_folder: Annotated[Path, typer.Option("--out", help="New folder for what is exported.")],
    int8: Annotated[
        bool, typer.Option("--int8", help="8-bit integers; what that costs in AP on phantoms is measured.")
    ] = False,
    films: Annotated[
        Path | None, typer.Option(help="Folder of films to calibrate int8 with; phantoms are drawn if left away.")
    ] = None,
    phantoms: Annotated[int, typer.Option(help="Phantoms to calibrate int8 with, and to measure its loss on.")] = 24,
    overwrite: Overwrite = False,
) -> None:
    """Export a trained network to ONNX, OpenVINO or Detectron2.

    The folder of the first two is what `predict --weights` takes, and computes faster than PyTorch on processors.
    Detectron2's has the model_final.pth and config.yaml that its DefaultPredictor runs.
    """
    if form == "detectron2":
        if int8 or films is not None:
            raise ConfigError("--int8 and --films are not for Detectron2", fix="Leave them away.")
        export_to_detectron2(weights, out_folder, overwrite=overwrite)
        return
    with waiting("loading PyTorch"):
        from vertinst.engine.export import export_model as run_export

    with progress_display() as progress:
        result = run_export(
            weights,
            form,
            out_folder,
            int8=int8,
            films=films,
            phantoms=phantoms,
            overwrite=overwrite,
            noted=err.print,
            progress=progress,
        )
    show_export(result)
    out.print(f"Next: vertinst predict --weights {out_folder} FILMS --out predictions")


def export_to_detectron2(weights: Path, out_folder: Path, *, overwrite: bool) -> None:
    """Write a trained network as Detectron2 has it, and print how it is run there."""
    with waiting("loading PyTorch"):
        from vertinst.engine import checkpoint as checkpoints
        from vertinst.engine.detectron2_files import CONFIG, WEIGHTS, write_detectron2

    checkpoint = checkpoints.read(weights)
    if checkpoint.foreign:
        err.print(checkpoint.taken_for())
    write_detectron2(checkpoint, out_folder, overwrite=overwrite)
    out.print(f"{WEIGHTS} and {CONFIG} for Detectron2 in {out_folder}. There:")
    out.print(f"  cfg = get_cfg(); cfg.merge_from_file({str(out_folder / CONFIG)!r})")
    out.print(f"  cfg.MODEL.WEIGHTS = {str(out_folder / WEIGHTS)!r}; cfg.MODEL.DEVICE = 'cpu'  # or 'cuda'")
    out.print("  DefaultPredictor(cfg)(film)  # (H, W, 3), BGR, grey values 0 to 255 as this network was trained with")


def show_export(result: Any) -> None:
    """Print what was exported, and what int8 costs."""
    record = result.record
    size = sum(facts.bytes for facts in record.files.values()) / 1e6
    out.print(f"{record.model} for {record.format} in {result.folder}, {size:.1f} MB")
    if record.int8 is None:
        out.print(f"Largest difference to PyTorch's outputs on a trial film: {record.largest_difference:.1g} of them")
        return
    loss = record.int8["phantoms"]
    title = f"AP on {loss['films']} phantoms that neither was fitted to"
    table = Table("", "PyTorch, float32", "int8", "loss", title=title, title_justify="left")
    for key, name in (("mask_AP", "mask AP"), ("box_AP", "box AP")):
        table.add_row(name, *(as_text(loss[column][key]) for column in ("native", "exported", "loss")))
    out.print(table)


@app.command()
def evaluate(
    gt: Annotated[Path, typer.Option(help="COCO file of the truth.")],
    pred: Annotated[Path, typer.Option(help="Folder made by predict, or a COCO results file.")],
    out_file: Annotated[Path, typer.Option("--out", help="JSON file for the numbers.")],
    classes: Merged = "bone",
    levels: Annotated[
        str, typer.Option(help="all, or annotated: vertebrae beyond the annotated ones don't count.")
    ] = "all",
    iou: Annotated[float, typer.Option(help="Overlap from which a vertebra counts as found.")] = 0.5,
    anchor: AnchorOption = None,
) -> None:
    """Score predictions against the truth."""
    with waiting("starting"):
        from vertinst.config import check_settings
        from vertinst.engine.evaluate import EvaluateOptions, spines_from_coco_results, write_metrics
        from vertinst.engine.evaluate import evaluate as score_predictions
        from vertinst.files import refuse_to_replace
        from vertinst.postprocess.labelling import parse_anchor
        from vertinst.report.results import read_folder

    settings = {"merged": merged_choice(classes), "level_range": levels, "iou_threshold": iou}
    options = check_settings(EvaluateOptions, settings, "evaluate")
    refuse_to_replace(out_file, [gt, pred])
    dataset = plugins.load("converters", "coco").read(gt)
    if pred.is_dir() and anchor:
        raise ConfigError("--anchor is for COCO results", fix="Give it to vertinst predict, which names the levels.")
    where = parse_anchor(anchor) if anchor else None
    spines = read_folder(pred) if pred.is_dir() else spines_from_coco_results(pred, dataset, anchor=where, gt=gt)
    with progress_display() as progress:
        metrics = score_predictions(dataset, spines, options=options, progress=progress)
    write_metrics(metrics, out_file)
    show_metrics(metrics)
    out.print(f"Written to {out_file}")


def merged_choice(classes: str) -> str | list[str]:
    """`--classes` as the functions take it: a group's name, or a list of names."""
    return classes if classes in ("bone", "bone+implants") else [name.strip() for name in classes.split(",")]


def show_metrics(metrics: dict[str, Any]) -> None:
    """Print the summary of an evaluation."""
    summary, vertebrae, ap = metrics["summary"], metrics["summary"]["vertebrae"], metrics["ap"]
    table = Table("measure", "value", title=f"{len(metrics['images'])} films", title_justify="left")
    for key, name in (
        ("pixel_accuracy", "pixel accuracy"),
        ("mean_accuracy", "mean accuracy"),
        ("mean_iou", "mean IoU, merged mask and background"),
        ("frequency_weighted_iou", "frequency-weighted IoU"),
    ):
        table.add_row(name, as_text(summary[key]))
    table.add_row("vertebrae found", share(vertebrae["found"], vertebrae["annotated"]))
    table.add_row("vertebrae found and rightly named", share(vertebrae["labelled"], vertebrae["with_level"]))
    table.add_row("false vertebrae", str(vertebrae["false"]))
    contours = summary["contours"]
    table.add_row("boundary IoU of vertebrae found", as_text(contours["boundary_iou"]))
    table.add_row("95 % Hausdorff distance of these", as_pixels(contours["hd95_px"]))
    for kind in ("mask", "box"):
        table.add_row(f"{kind} AP, AP50", f"{as_text(ap[kind]['AP'])}, {as_text(ap[kind]['AP50'])}")
    out.print(table)
    list_films(
        metrics["missing"],
        "annotated film has no prediction and counts as empty",
        "annotated films have no prediction and count as empty",
    )
    list_films(
        metrics["unknown"],
        "predicted film is not annotated and was left out",
        "predicted films are not annotated and were left out",
    )


def list_films(names: list[str], one: str, more_than_one: str, most: int = 5) -> None:
    """Print how many films something holds for, with the names of the first."""
    if names:
        more = ", ..." if len(names) > most else ""
        what = one if len(names) == 1 else more_than_one
        err.print(f"{len(names)} {what}: {', '.join(names[:most])}{more}")


def in_a_sentence(metrics: dict[str, Any]) -> str:
    """The main numbers of an evaluation."""
    vertebrae = metrics["summary"]["vertebrae"]
    return (
        f"On {len(metrics['images'])} held-out films: mean IoU of bone and background "
        f"{as_text(metrics['summary']['mean_iou'])}; vertebrae found and rightly named: "
        f"{share(vertebrae['labelled'], vertebrae['with_level'])}."
    )


def as_text(value: float | None) -> str:
    """A share with three decimals, `n/a` where it is not defined."""
    return "n/a" if value is None else f"{value:.3f}"


def as_pixels(length: float | None) -> str:
    """A length with one decimal, `n/a` where there is none."""
    return "n/a" if length is None else f"{length:.1f} px"


def share(part: int | None, whole: int) -> str:
    """`part` of `whole` in words and per cent."""
    if part is None or whole == 0:
        return "n/a"
    return f"{part} of {whole} ({100 * part / whole:.1f} %)"


@app.command()
def report(
    source: Annotated[Path, typer.Argument(help="Folder of a run or of predictions.")],
    out_file: Annotated[Path, typer.Option("--out", help="HTML file to write.")],
    pred: Annotated[Path | None, typer.Option(help="Folder of predictions to show instead of the run's own.")] = None,
    metrics: Annotated[Path | None, typer.Option(help="Numbers written by evaluate.")] = None,
) -> None:
    """Write a report as one HTML page.

    Numbers, training curves, and films with their labelled overlays; no link to any other host.
    """
    with waiting("writing the report"):
        from vertinst.files import refuse_to_replace
        from vertinst.report.html import write_report

        refuse_to_replace(out_file, [metrics])
        write_report(source, out_file, predictions=pred, metrics=metrics)
    out.print(f"Report: {out_file.resolve()}")


@app.command("follow-up")
def follow_up(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="BEFORE.json AFTER.json | RESULTS",
            help="Two labelled JSON files of one patient, or one results folder with --patient-regex.",
        ),
    ],
    out_folder: Annotated[Path, typer.Option("--out", help="New folder for follow_up.html, .csv and .json.")],
    patient_regex: Annotated[
        str | None,
        typer.Option(
            help="The patient in a film's name, e.g. '^([^_]+)_': films of one patient in the order of their names."
        ),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Compare two dates of one patient, level by level.

    Angles, heights, slips and implants, and which changes exceed the measurement's own uncertainty.
    """
    with waiting("starting"):
        from vertinst.report.follow_up import pairs_of, read_pair, write_follow_up

    left_out: list[str] = []
    if patient_regex is not None and len(sources) == 1:
        pairs, left_out = pairs_of(sources[0], patient_regex)
    elif patient_regex is None and len(sources) == 2:
        pairs = [read_pair(*sources)]
    else:
        raise ConfigError(
            "must be two labelled JSON files, or one results folder with --patient-regex",
            fix="For example: vertinst follow-up pred/P7_2023.json pred/P7_2024.json --out follow-up",
        )
    with progress_display() as progress:
        page = write_follow_up(pairs, out_folder, overwrite=overwrite, progress=progress)
    list_films(left_out, "film has no other date and was left out", "films have no other date and were left out")
    for pair in pairs:
        beyond = sum(bool(change.beyond) for _, change in pair.found.changes)
        flags = f"; {', '.join(pair.found.flags)}" if pair.found.flags else ""
        out.print(
            f"{pair.before.file_name} to {pair.after.file_name}: "
            f"{beyond} of {several(len(pair.found.changes), 'measure')} changed beyond the uncertainty{flags}"
        )
    out.print(f"Page: {page.resolve()}")


@app.command()
def demo(
    out_folder: Annotated[Path, typer.Option("--out", help="New folder for everything the demo makes.")] = Path(
        "vertinst-demo"
    ),
    seed: Annotated[int, typer.Option(help="Another seed, other films.")] = 0,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Start from random weights: more films, ten minutes of training.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Go the whole way on phantom films.

    From a VIA file through training to a labelled report.
    """
    from vertinst.demo import FROM_SCRATCH, SHORT, run_demo

    plan = FROM_SCRATCH if from_scratch else SHORT
    start = time.monotonic()
    with progress_display() as progress:
        result = run_demo(out_folder, seed, overwrite=overwrite, plan=plan, say=err.print, progress=progress)
    show_metrics(result.metrics)
    out.print(in_a_sentence(result.metrics))
    out.print(f"Time: {(time.monotonic() - start) / 60:.1f} minutes")
    out.print(f"Report: {result.report.resolve()}")


public = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.add_typer(public, name="weights", help="Public weights to start from: list, fetch and verify them.")


@public.command("list")
def list_weights(
    as_json: Annotated[bool, typer.Option("--json", help="Everything that is known, for programs.")] = False,
) -> None:
    """Show what can be loaded by name, under which licence, and whether it is on this machine."""
    from vertinst.engine.public_weights import cache_folder, listing

    found = listing()
    if as_json:
        known = [s.entry.model_dump(mode="json") | {"path": str(s.path), "state": s.state} for s in found]
        out.print(json.dumps(known, indent=1, ensure_ascii=False))
        return
    out.print(f"Cache: {cache_folder()}\n")
    for line in listed_weights(found, wide=out.width >= ONE_LINE_WIDTH):
        out.print(line)
    out.print("\ncode ...: none is stated for the weights; this is their code's. Sources: --json")
    out.print("Fetch: vertinst weights fetch NAME. Use: --set init.weights=NAME, --weights NAME")


# From here on `listed_weights` gives every entry one line; below, two.
ONE_LINE_WIDTH = 100


def listed_weights(found: Sequence[Any], *, wide: bool) -> Iterator[str]:
    """Lines about public weights, under a heading; where there is no room for all in one, the network has its own."""
    rows = [("name", "network", "classes", "licence", "state"), *map(_listed, found)]
    shown = (0, 1, 2, 3, 4) if wide else (0, 3, 4)
    widths = {column: max(len(row[column]) for row in rows) for column in shown}
    for row, stored in zip(rows, (None, *found), strict=True):
        yield "  ".join(f"{row[column]:<{widths[column]}}" for column in shown).rstrip()
        if stored and not wide:
            entry = stored.entry
            facts = (entry.architecture, entry.classes, as_megabytes(entry.size, entry.size_mib))
            yield f"  {'; '.join(filter(None, facts))}; for {', '.join(entry.models)}"


def _listed(stored: Any) -> tuple[str, str, str, str, str]:
    """What the list shows of public weights, the licence and the state in few words."""
    entry = stored.entry
    licence = entry.licence.removeprefix("none stated (").removesuffix(")")
    return entry.name, entry.architecture, entry.classes, licence, re.split("[,:]", stored.state)[0]


def as_megabytes(size: int | None, size_mib: float | None) -> str:
    """A file's size in MB, from bytes or from what its publisher says in MiB; empty if unknown."""
    known = size if size is not None else size_mib and size_mib * 2**20
    return f"{known / 1e6:.0f} MB" if known else ""


@public.command("fetch")
def fetch_weights(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="As `vertinst weights list` has them.")],
) -> None:
    """Download public weights into the cache, checked by hash.

    A download that was cut goes on where it was. Using a name elsewhere downloads nothing.
    """
    from vertinst.engine.public_weights import RECORDED, fetch
    from vertinst.engine.weights_manifest import packaged_manifest

    for entry in map(packaged_manifest().named, names):
        with progress_display() as progress:
            stored = fetch(entry.name, progress=progress)
        out.print(f"{entry.name}: {stored.state}: {stored.path}\n  Licence: {entry.licence} ({entry.licence_source})")
        if stored.state == RECORDED:
            err.print(
                f"{entry.name}: its publisher names no hash: what came is taken as it is, and checked from now on."
            )


@public.command("verify")
def verify_weights(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="As `vertinst weights list` has them.")
    ] = None,
) -> None:
    """Read public weights through and compare them with their hashes: those named, or all that are there."""
    from vertinst.engine.public_weights import verify

    with progress_display() as progress:
        found = verify(names or [], progress=progress)
    for stored in found:
        out.print(f"{stored.entry.name}: {stored.state}: {stored.path}")
    wrong = [stored for stored in found if stored.problem is not None]
    for stored in wrong:
        err.print(f"Error: {stored.problem}")
    if wrong:
        raise typer.Exit(2)


@app.command()
def doctor() -> None:
    """Tell what is there and what is missing.

    Versions, devices, the precision chosen, and the command that mends what is missing.
    """
    with waiting("looking"):
        from vertinst.doctor import examine

        findings = examine()
    # Whole: it is there to be copied.
    mend = Column("mend", overflow="fold")
    table = Table("what", "found", mend, title=f"vertinst {__version__}", title_justify="left")
    for finding in findings:
        table.add_row(finding.what, finding.found, finding.mend)
    out.print(table)
    if any(finding.fatal for finding in findings):
        raise typer.Exit(2)
    out.print("Everything that vertinst needs is there.")
