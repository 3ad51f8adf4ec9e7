"""The command line.

``partnas demo | search | derive | train | evaluate | experiment | roots | mupots | predict | flops | bench | data | info | report``.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from partnas.errors import PartnasError

app = typer.Typer(
    help="Search, train and run part-aware networks for monocular 3D human pose.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(help="Make and check data sets.", no_args_is_help=True)
app.add_typer(data_app, name="data")

Out = Annotated[Path, typer.Option("--out", "-o", help="The run's folder.")]
Preset = Annotated[str | None, typer.Option(help="mini, search, small or large.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="YAML file of settings; wins over the preset.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="One setting, such as network.channels=8.")
]
Data = Annotated[
    list[str] | None,
    typer.Option(
        "--data",
        metavar="[NAME[,NAME]=]DIR",
        help="Folder of Human3.6M, or of NAME: human36m, muco, mpii, coco (or mupots to evaluate); or the folder above. "
        "Several are mixed. The embedded sample where left out.",
    ),
]
SkipBroken = Annotated[
    bool, typer.Option("--skip-broken", help="Leave out people whose annotation or image is broken, and list them.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the run's checkpoint.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else on standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")]
Epochs = Annotated[int | None, typer.Option(help="Epochs.")]
BatchSize = Annotated[int | None, typer.Option(help="Images of a step, over all processes.")]
Seed = Annotated[int | None, typer.Option(help="Seed of weights, order and augmentation.")]
Threads = Annotated[int | None, typer.Option(help="CPU threads.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu or cuda.")]
GenotypeFile = Annotated[Path, typer.Argument(metavar="GENOTYPE", help="genotype.json, or the folder of a search.")]
Protocol = Annotated[
    int | None, typer.Option(min=1, max=2, help="Human3.6M protocol; that of the run's training where left out.")
]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A training run's folder, or its checkpoint.pt.")]


def given(**settings: Any) -> dict[str, Any]:
    """The settings that were given on the command line."""
    return {name: value for name, value in settings.items() if value is not None}


def data_settings(data: list[str] | None, skip_broken: bool = False) -> dict[str, Any]:
    """What ``--data`` and ``--skip-broken`` say, as fields of ``DataConfig``."""
    from partnas.config import parse_data

    return (parse_data(data) if data else {}) | ({"skip_broken": True} if skip_broken else {})


def measured_data(
    data: list[str] | None, skip_broken: bool, protocol: int, stride: int | None, split: str = "test", **more: Any
):
    """The data that a trained network is run on."""
    from partnas.config import data_config

    more[f"{split}_stride"] = stride
    return data_config({**data_settings(data, skip_broken), "protocol": protocol, **given(**more)})


def list_skipped(lines: Sequence[str]) -> None:
    """Each annotation or image that was left out as broken, on stderr, for commands that write no file that lists them."""
    for line in lines:
        typer.echo(f"left out: {line}", err=True)


def refuse_with_mupots(**flags: Any) -> None:
    """Refuse options that choose among Human3.6M's frames where MuPoTS-3D is measured."""
    for name in given(**flags):
        raise PartnasError(
            f"--{name}: is of Human3.6M, and MuPoTS-3D is read whole; leave it out with --data mupots=DIR"
        )


def job_config(
    job: str, preset: str | None, file: Path | None, settings: list[str] | None, data: dict[str, Any], **flags: Any
):
    from partnas.config import load_config, merge, parse_settings

    over = merge({"data": data, **given(**flags)}, parse_settings(settings or []))
    return load_config(job, preset, file, over)


@app.command()
def search(
    out: Out,
    preset: Preset = "search",
    config: ConfigFile = None,
    setting: Settings = None,
    data: Data = None,
    skip_broken: SkipBroken = False,
    order: Annotated[str | None, typer.Option(help="first or second: the order of the architecture gradient.")] = None,
    cuda_graph: Annotated[
        bool | None, typer.Option("--cuda-graph/--no-cuda-graph", help="Record steps as CUDA graphs on a GPU.")
    ] = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    seed: Seed = None,
    threads: Threads = None,
    device: Device = None,
    resume: Resume = False,
    quiet: Quiet = False,
) -> None:
    """Search an architecture; writes genotype.json and report.html."""
    from partnas.distributed import leave
    from partnas.search import search as run_search

    flags = {
        "order": order, "epochs": epochs, "batch_size": batch_size, "seed": seed, "threads": threads, "device": device,
        "cuda_graph": cuda_graph,
    }  # fmt: skip
    source = data_settings(data, skip_broken)
    genotype = run_search(job_config("search", preset, config, setting, source, **flags), out, resume, not quiet)
    finish(out, genotype.to_json())
    leave()


@app.command()
def train(
    out: Out,
    genotype: Annotated[
        Path | None,
        typer.Option(help="genotype.json, the folder of a search, or reference; not for --kind resnet50 and rootnet."),
    ] = None,
    kind: Annotated[str | None, typer.Option(help="partnet, resnet50, deconv (searched backbone) or rootnet.")] = None,
    preset: Preset = "small",
    config: ConfigFile = None,
    setting: Settings = None,
    data: Data = None,
    skip_broken: SkipBroken = False,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    seed: Seed = None,
    threads: Threads = None,
    device: Device = None,
    resume: Resume = False,
    quiet: Quiet = False,
) -> None:
    """Train a derived network, a baseline or a root network from scratch."""
    from partnas.distributed import leave
    from partnas.train import train as run_train

    flags = {
        "genotype": str(genotype) if genotype else None, "kind": kind, "epochs": epochs, "batch_size": batch_size,
        "seed": seed, "threads": threads, "device": device,
    }  # fmt: skip
    source = data_settings(data, skip_broken)
    run_train(job_config("train", preset, config, setting, source, **flags), out, resume, not quiet)
    finish(out, f"{out}: trained; `partnas evaluate {out}` measures it\n")
    leave()


def finish(out: Path, message: str) -> None:
    """The main process writes the report and has the last word."""
    from partnas.distributed import current_rank
    from partnas.viz.report import write_report

    if current_rank() == 0:
        write_report(out)
        typer.echo(message, nl=False)


@app.command()
def derive(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A search's folder, or its checkpoint.pt.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write the genotype here as well.")] = None,
) -> None:
    """Print the genotype that a search's checkpoint stands for."""
    from partnas.files import require_writable_file
    from partnas.networks import load_supernet
    from partnas.run import write_text

    if out is not None:
        require_writable_file(out)
    text = load_supernet(run).genotype().to_json()
    if out is not None:
        write_text(out, text)
    typer.echo(text, nl=False)


@app.command()
def evaluate(
    run: RunFolder,
    data: Data = None,
    skip_broken: SkipBroken = False,
    roots: Annotated[
        Path | None,
        typer.Option(help="Boxes and root positions in a file such as RootNet writes; else the annotation's."),
    ] = None,
    protocol: Protocol = None,
    stride: Annotated[
        int | None, typer.Option(help="Keep frames with frame_idx % stride == 0; 64 with --data, else 1.")
    ] = None,
    flip_test: Annotated[bool, typer.Option("--flip-test", help="Average with the mirrored image.")] = False,
    batch_size: Annotated[int, typer.Option(min=1)] = 32,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder to write to; the run's where left out.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    as_json: Json = False,
) -> None:
    """Measure MPJPE and PA-MPJPE on the test subjects (of a root network MRPE), or with --data mupots=DIR 3DPCK on MuPoTS-3D.

    Writes evaluation.json, report.html, and the paper's Table 5, 6 or 7 with a row of this run.
    """
    from partnas import evaluate as poses
    from partnas import mupots as people
    from partnas.protocols import own_protocol
    from partnas.viz.report import write_report

    folder = out or (run if run.is_dir() else run.parent)
    options = {"flip_test": flip_test, "batch_size": batch_size, "device": device, "progress": not as_json}
    mupots_root = people.root_named(data or [])
    if mupots_root is not None:
        refuse_with_mupots(protocol=protocol, stride=stride)
        result = people.evaluate_mupots(run, mupots_root, folder, roots, skip_broken, **options)
        write_report(folder)
        typer.echo(json.dumps(result, indent=1) if as_json else people.table(result))
        return
    protocol = protocol or own_protocol(run)
    source = measured_data(data, skip_broken, protocol, stride, roots=str(roots) if roots else None)
    result = poses.evaluate(run, source, folder, **options)
    write_report(folder)
    typer.echo(json.dumps(result, indent=1) if as_json else poses.table(result))


@app.command()
def mupots(
    results: Annotated[
        Path, typer.Argument(metavar="RESULTS", help="Folder of preds_2d_kpt_mupots.mat and preds_3d_kpt_mupots.mat.")
    ],
    data: Annotated[Path, typer.Option("--data", help="Folder of MuPoTS-3D, or the one above.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write evaluation.json and the paper's Table 7 here.")
    ] = None,
    skip_broken: SkipBroken = False,
    as_json: Json = False,
) -> None:
    """3DPCK on MuPoTS-3D from result files of `partnas evaluate`, or of another program (needs the extra `mupots`)."""
    from partnas.mupots import root_named, score, table

    result = score(results, root_named([f"mupots={data}"]), out, skip_broken)
    typer.echo(json.dumps(result, indent=1) if as_json else table(result))
    list_skipped(result["skipped"])


@app.command()
def roots(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="The folder of a `train --kind rootnet`, or its checkpoint.pt.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="JSON file to write.")],
    data: Data = None,
    skip_broken: SkipBroken = False,
    protocol: Protocol = None,
    split: Annotated[str, typer.Option(help="test or train.")] = "test",
    stride: Annotated[
        int | None,
        typer.Option(help="Keep frames with frame_idx % stride == 0; with --data 64 of test, 5 of train; else 1."),
    ] = None,
    flip_test: Annotated[bool, typer.Option("--flip-test", help="Average with the mirrored image.")] = False,
    batch_size: Annotated[int, typer.Option(min=1)] = 32,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    quiet: Quiet = False,
) -> None:
    """Write the people's extended boxes and roots in camera millimetres, in the layout of the public RootNet's files."""
    from partnas import datasets
    from partnas.data import read_mupots
    from partnas.mupots import root_named
    from partnas.protocols import own_protocol, require_unseen, trained_on
    from partnas.roots import write_roots

    if split not in ("test", "train"):
        raise PartnasError(f"--split {split}: not known; use test or train")
    mupots_root = root_named(data or [])
    if mupots_root is not None:
        refuse_with_mupots(protocol=protocol, stride=stride, split=None if split == "test" else split)
        people = read_mupots(mupots_root, skip_broken=skip_broken)
    else:
        source = measured_data(data, skip_broken, protocol or own_protocol(run), stride, split)
        if split == "test":
            require_unseen(run, trained_on(run), source)
        people = datasets.frames(source, split)
    entries = write_roots(run, people, out, flip_test, batch_size, device, progress=not quiet)
    typer.echo(f"{out}: {len(entries)} roots")
    list_skipped(people.skipped)


@app.command()
def predict(
    run: RunFolder,
    images: Annotated[Path, typer.Argument(help="An image, or a folder of images.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for predictions.json, overlays and 3D views.")],
    boxes: Annotated[
        Path | None,
        typer.Option(
            help="JSON: image name to a list of [xmin, ymin, width, height], or what `roots` writes; else the whole image."
        ),
    ] = None,
    camera: Annotated[
        Path | None, typer.Option(help="JSON: f [2] and c [2] in pixels; else f = 1500 and c = the image's centre.")
    ] = None,
    root_net: Annotated[
        Path | None, typer.Option(help="The run of a root network, for absolute depths; else from the boxes' areas.")
    ] = None,
    flip_test: Annotated[bool, typer.Option("--flip-test", help="Average with the mirrored image.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    as_json: Json = False,
) -> None:
    """3D poses of the people in images: JSON, an overlay picture and a rotatable view for each."""
    from partnas.predict import predict as run_prediction

    result = run_prediction(run, images, out, boxes, camera, root_net, flip_test, device, progress=not as_json)
    typer.echo(json.dumps(result) if as_json else f"{out}: {len(result['images'])} image(s); see predictions.json")


@app.command()
def flops(
    network: Annotated[str, typer.Argument(help="genotype.json, a search's folder, reference, resnet50 or rootnet.")],
    kind: Annotated[str, typer.Option(help="partnet or deconv.")] = "partnet",
    preset: Preset = "small",
    cells: Annotated[int | None, typer.Option(help="N_c.")] = None,
    fusion_nodes: Annotated[int | None, typer.Option(help="N_i.")] = None,
    setting: Settings = None,
    as_json: Json = False,
) -> None:
    """Parameters and FLOPs (multiply-adds), in every counting convention."""
    from partnas.config import load_config, merge, parse_settings
    from partnas.flops import count, published_counts, table
    from partnas.networks import build
    from partnas.train import load_genotype, network_spec

    over = merge({"network": given(cells=cells, fusion_nodes=fusion_nodes)}, parse_settings(setting or []))
    if network in ("resnet50", "rootnet"):
        genotype, kind = None, network
    else:
        genotype = load_genotype(network)
        if fusion_nodes is None:
            over = merge({"network": {"fusion_nodes": len(genotype.fusion)}}, over)
    config = load_config("train", preset, None, merge(over, {"kind": kind}))
    result = count(build(network_spec(config, genotype)), config.space().input_size)
    if as_json:
        typer.echo(json.dumps(result))
        return
    typer.echo(table(result))
    if network == "reference" and kind == "partnet" and (paper := published_counts(config.space().cells)):
        typer.echo(paper)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
) -> None:
    """Write RUN/report.html from what the run's folder holds."""
    from partnas.viz.report import write_report

    typer.echo(write_report(run))


@app.command()
def info(as_json: Json = False) -> None:
    """What was built, and which backend serves each operator."""
    from partnas.ops.backend import describe

    facts = describe()
    if as_json:
        typer.echo(json.dumps(facts, indent=1))
        return
    for name, value in facts.items():
        if isinstance(value, dict):
            typer.echo(f"{name}:")
            for key, entry in value.items():
                typer.echo(f"  {key:<16} {entry}")
        else:
            typer.echo(f"{name:<18} {value}")


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def bench(
    context: typer.Context,
    name: Annotated[
        str | None, typer.Argument(help="An operator or job, such as soft_argmax_3d; all for the device if left out.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Run the benchmarks of a source checkout; further options go to the benchmark."""
    import subprocess

    folder = Path(__file__).resolve().parent.parent / "bench"
    available = sorted(path.stem.removeprefix("bench_") for path in folder.glob("bench_*.py"))
    if not available:
        raise PartnasError("bench: the benchmarks are in the source checkout; clone it and use pip install -e .")
    if name is not None and name not in available:
        raise PartnasError(f"bench: {name!r} is not known; use one of {', '.join(available)}")
    # The data sets' benches know no GPU.
    those = [each for each in available if device == "cpu" or each not in ("annotations", "loader")]
    for chosen in [name] if name else those:
        command = [sys.executable, str(folder / f"bench_{chosen}.py"), "--device", device, *context.args]
        code = subprocess.run(command).returncode
        if code:
            raise typer.Exit(code)


@app.command()
def experiment(
    name: Annotated[str, typer.Argument(help="table1, table2, table3, table4 or science.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The experiment's folder; one that is there is gone on with.")
    ],
    preset: Annotated[
        str, typer.Option(help="paper (presets search and small) or mini, for CPUs: the same budget for every row.")
    ] = "paper",
    seeds: Annotated[int, typer.Option(min=1, help="How many: 0, 1 and so on.")] = 3,
    row: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Only this row; may be repeated.")] = None,
    data: Data = None,
    skip_broken: SkipBroken = False,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="JOB.NAME=VALUE", help="For every row, such as train.epochs=2."),
    ] = None,
    threads: Threads = None,
    device: Device = None,
    quiet: Quiet = False,
) -> None:
    """Run a whole table of the paper: for each row and seed search, train, evaluate. Killed, it goes on where it was.

    As in the paper the search is on Human3.6M; other sets of --data are trained on.
    """
    from partnas.config import merge, parse_settings
    from partnas.experiments import Plan, run_experiment

    settings = parse_settings(setting or [])
    trained = data_settings(data, skip_broken)
    if trained:
        searched = dict(trained)
        if trained.get("sets"):
            searched["sets"] = [chosen for chosen in trained["sets"] if chosen["name"] == "human36m"]
            if not searched["sets"]:
                raise PartnasError("--data: an experiment searches on Human3.6M; name it too, as human36m=DIR")
        settings = merge({"search": {"data": searched}, "train": {"data": trained}}, settings)
    plan = Plan(name, out, preset, settings, given(threads=threads, device=device))
    for path in run_experiment(plan, seeds, row or [], not quiet):
        typer.echo(path)


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the demo's run.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Seed of everything.")] = 0,
    threads: Threads = None,
    resume: Resume = False,
) -> None:
    """Search, derive, train, evaluate, predict and report on the embedded sample, in minutes on two cores."""
    from partnas.demo import demo as run_demo

    run_demo(out, seed, threads, resume)


@data_app.command()
def synthesize(
    out: Annotated[Path, typer.Argument(help="Folder to make.")],
    images: Annotated[int, typer.Option(min=1, help="How many images.")] = 2000,
    seed: Annotated[int, typer.Option(help="The same seed gives the same files.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 2,
    size: Annotated[int, typer.Option(min=64, help="Side of an image in pixels.")] = 256,
    quality: Annotated[int, typer.Option(min=1, max=100, help="Of the JPEG files.")] = 90,
) -> None:
    """Render real motion capture on a body model, in the Human3.6M layout (needs the extra `synth`)."""
    from partnas.data.synth import synthesize as run_synthesis

    run_synthesis(out, images, seed=seed, workers=workers, size=size, quality=quality)


@data_app.command()
def check(
    root: Annotated[
        Path | None,
        typer.Argument(help="A data set, or the folder above several; the embedded sample where left out."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Read every annotation and image and list what is missing, broken or out of range; exits 1 where anything is."""
    from partnas.data import check as run_check
    from partnas.data import embedded_root
    from partnas.mupots import check_annotations

    root = root or embedded_root()
    report = run_check(root)
    try:
        report.problems += check_annotations(root)
    except PartnasError as error:
        report.parts.append(f"annot.mat: not read; {error}")
    lines = [*report.parts, *(report.problems or ["no problems found"])]
    typer.echo(json.dumps(asdict(report), indent=1) if as_json else "\n".join(lines))
    if report.problems:
        raise typer.Exit(1)


@data_app.command()
def show(
    root: Annotated[
        Path | None,
        typer.Argument(help="A data set, or the folder above several; the embedded sample where left out."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The picture to write.")] = Path("grid.png"),
    count: Annotated[int, typer.Option(min=1, help="People of each set.")] = 24,
    seed: Annotated[int, typer.Option(min=0, help="Of the choice and of the augmentation.")] = 0,
    augmentation: Annotated[bool, typer.Option(help="Show crops as training varies them, or plain ones.")] = True,
    one_by_one: Annotated[
        bool, typer.Option("--one-by-one", help="The same people in rows, one for each augmentation of the paper.")
    ] = False,
    occluders: Annotated[
        str | None, typer.Option(help="Folder of objects to paste, or Pascal VOC 2012; rendered ones where left out.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Draw crops as training sees them, with their joints: every set of a folder, in one picture."""
    from partnas.data import Augmentation, embedded_root
    from partnas.show import show as run_show

    chosen = Augmentation(occluders=occluders) if augmentation else None
    found = run_show(root or embedded_root(), out, count, seed, chosen, one_by_one, progress=not quiet)
    typer.echo(f"{out}: {', '.join(f'{name} ({people:,} people)' for name, people in found.items())}")


@data_app.command()
def occluders(
    voc: Annotated[
        Path, typer.Argument(metavar="VOC_DIR", help="Pascal VOC 2012: the folder VOC2012, or the one above it.")
    ],
    out: Annotated[Path, typer.Argument(help="Folder to make; training reads it by --set augmentation.occluders=OUT.")],
    quiet: Quiet = False,
) -> None:
    """Cut out the objects of Pascal VOC 2012 that the paper pastes over training images."""
    from partnas.data.occluders import cut_out_voc

    typer.echo(f"{cut_out_voc(voc, out, progress=not quiet)} objects in {out}")


@data_app.command()
def render_objects(
    out: Annotated[Path, typer.Argument(help="Folder to make.")],
    count: Annotated[int, typer.Option(min=1, help="How many objects.")] = 90,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same objects.")] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 2,
    quiet: Quiet = False,
) -> None:
    """Render everyday objects to paste over training images; 90 of them ship with the package."""
    from partnas.data.synth.object_set import render_objects as run_rendering

    run_rendering(out, count, seed, workers, progress=not quiet)


def main() -> None:
    """Entry point: a user's mistake is one line on standard error and exit status 1; Ctrl-C is 130."""
    try:
        app()
    except PartnasError as error:
        print(f"partnas: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
