"""``peel train``: from interactions to a run folder."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import shlex
from typing import TYPE_CHECKING, Any

from peel_ext.cli.arguments import parse_count, parse_path
from peel_ext.cli.narration import Narration, suggest
from peel_ext.cli.reading import add_reading_options, reading_of
from peel_ext.cli.requirements import require_train
from peel_ext.config import DEVICES, PipelineConfig
from peel_ext.errors import DependencyError

if TYPE_CHECKING:
    from peel_ext.train.vectors import VectorPair


def add_parser(verbs: Any) -> None:
    """Adds the verb."""
    parser = verbs.add_parser("train", help="train on interactions", description=__doc__)
    parser.add_argument(
        "data",
        type=parse_path,
        nargs="+",
        help="a Parquet, csv, tsv, .inter, JSON lines, .txt (LightGCN) or .dat (MovieLens) file, several, "
        "'-' for standard input, or a folder with one, with the parts of one, or with train, valid and "
        "test files; 'synthetic' makes a small data set",
    )
    parser.add_argument("--out", type=parse_path, required=True, help="run folder")
    add_reading_options(parser)
    parser.add_argument(
        "--item-names",
        metavar="FILE[:COLUMN]",
        help="names of items, which 'peel recommend' shows: a file with ids and titles, such as "
        "movies.csv; it may be given to a finished run",
    )
    _add_model_options(parser)
    _add_split_options(parser)
    parser.add_argument(
        "--user-embeddings",
        help="vectors of another model in place of pretraining, with --item-embeddings: a .npy file "
        "or a .safetensors file with one tensor, a row for each user in ascending order of ids",
    )
    parser.add_argument("--item-embeddings", help="the same for the items")
    parser.add_argument(
        "--redo",
        action="store_true",
        help="repeat the stages that changed settings or data make invalid",
    )
    parser.add_argument("--tensorboard", metavar="FOLDER", help="write the losses there as well")
    parser.add_argument("--quiet", action="store_true", help="say nothing on the way")
    parser.set_defaults(run=run)


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of what is trained, and how."""
    parser.add_argument(
        "--preset",
        choices=("paper",),
        help="the settings of the PEEL paper, all its parts on, where the options beside it say nothing "
        "else; slower and worse than the default ones",
    )
    parser.add_argument("--groups", type=parse_count, help="user groups (default: from the users)")
    parser.add_argument(
        "--model",
        choices=("lightgcn", "matrix-factorisation"),
        help="what pretraining trains (default: lightgcn)",
    )
    parser.add_argument("--epochs", type=parse_count, help="of pretraining")
    parser.add_argument(
        "--temperature",
        type=float,
        help="of the softmax (default: chosen on held-out interactions)",
    )
    parser.add_argument(
        "--embedding-dim",
        type=functools.partial(parse_count, least=2),
        help="values of a row (default: 64, or 128 where held-out interactions say it is worth it)",
    )
    parser.add_argument(
        "--refinement-steps",
        type=functools.partial(parse_count, least=0),
        help="refine the rows of each group in so many steps (default: 0, not at all)",
    )
    parser.add_argument(
        "--controller",
        choices=("exposure", "regression", "bilevel", "mixture"),
        help="what decides which blocks a budget keeps (default: exposure)",
    )
    parser.add_argument(
        "--layout",
        choices=("planes", "columns"),
        help="how rows are cut into blocks (default: planes)",
    )
    parser.add_argument(
        "--device",
        choices=DEVICES,
        default="cpu",
        help="where to train; a run may go on on another (default: cpu)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of all draws (default: 0)")


def _add_split_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of what is trained on, and what is kept to measure on."""
    parser.add_argument(
        "--target",
        choices=("test", "validation"),
        default="test",
        help="what 'peel evaluate' will measure on; validation is carved from the training data",
    )
    parser.add_argument(
        "--split",
        choices=("random", "last", "time"),
        default="random",
        help="which interactions are the target: random ones or the last of each user, or all after "
        "one moment; a given test file is taken as it is, less what it repeats of the training file",
    )
    parser.add_argument(
        "--test-share",
        type=float,
        default=0.2,
        help="share of the interactions that are carved off as the target where no test file is given; "
        "with --split last one near 0 leaves one of each user out; 0 trains on everything there is, to "
        "serve and not to measure (default: 0.2)",
    )
    parser.add_argument(
        "--new-user-share",
        type=float,
        default=0.0,
        help="share of the users to hold out of training, for 'peel evaluate --protocol offline' "
        "and 'new' (for example 0.1)",
    )
    parser.add_argument(
        "--k-core", type=int, default=0, help="leave out users and items of fewer interactions"
    )


def run(options: argparse.Namespace) -> int:
    """Runs the verb."""
    require_train()
    from peel_ext.scale.collectives import is_first_process
    from peel_ext.train.vectors import VectorPair, read_vectors

    paths = (options.user_embeddings, options.item_embeddings)
    if (paths[0] is None) != (paths[1] is None):
        raise ValueError("--user-embeddings and --item-embeddings must be given together")
    for option in ("epochs", "embedding_dim"):
        if paths[0] is not None and getattr(options, option) is not None:
            name = option.replace("_", "-")
            raise ValueError(f"--{name} is of pretraining, in whose place --user-embeddings comes")
    if options.weight_scale != "log" and options.weight_column is None:
        raise ValueError("--weight-scale needs --weight-column: nothing else has weights")
    vectors = None
    if paths[0] is not None and is_first_process():  # which deals them out
        vectors = VectorPair(*map(read_vectors, paths))
    with Narration(options.quiet) as narration, LossWriter(options.tensorboard) as losses:
        try:
            _train(options, narration, losses, vectors)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("the same command goes on from what is finished") from None
    if not is_first_process():
        return 0
    print(options.out)
    folder = shlex.quote(options.out)
    if options.test_share > 0:
        suggest(f"peel evaluate {folder} --rivals", options.quiet)
    else:
        suggest(
            f"peel export {folder} --out {shlex.quote(options.out + '/devices')}", options.quiet
        )
    return 0


def _train(
    options: argparse.Namespace,
    narration: Narration,
    losses: LossWriter,
    vectors: VectorPair | None,
) -> None:
    """Trains in this process, or together with the others that torchrun has started."""
    from peel_ext.scale.collectives import num_processes
    from peel_ext.train.pipeline import run_pipeline
    from peel_ext.train.sharded.pipeline import Listeners, run_sharded_pipeline

    def on_remark(remark: str) -> None:
        narration.stage("remark", 1, 1, remark)

    data = options.data[0] if len(options.data) == 1 else options.data
    shared: Any = {"item_names": options.item_names, "redo": options.redo}
    if num_processes() == 1:
        run_pipeline(
            data, options.out, config_of(options), narration.stage, vectors=vectors,
            on_loss=losses.write, on_remark=on_remark, **shared,
        )  # fmt: skip
        return
    listeners = Listeners(narration.stage, losses.write, on_remark)
    run_sharded_pipeline(
        data, options.out, config_of(options), listeners, vectors=vectors, **shared
    )


def config_of(options: argparse.Namespace) -> PipelineConfig:
    """The settings that the options change."""
    base = PipelineConfig.paper() if options.preset == "paper" else PipelineConfig()
    seed = options.seed
    return PipelineConfig(
        reading=reading_of(options),
        split=_changed(
            base.split,
            method=options.split,
            test_share=options.test_share,
            target=options.target,
            new_user_share=options.new_user_share,
            k_core=options.k_core,
            seed=seed,
        ),
        tuning=_changed(base.tuning, seed=seed),
        pretraining=_changed(
            base.pretraining,
            embedding_dim=options.embedding_dim,
            num_layers=0 if options.model == "matrix-factorisation" else None,
            epochs=options.epochs,
            temperature=options.temperature,
            weight_scale=options.weight_scale,
            seed=seed,
        ),
        clustering=_changed(base.clustering, num_groups=options.groups, seed=seed),
        exposure=base.exposure,
        refinement=_changed(base.refinement, steps=options.refinement_steps),
        control=_changed(base.control, controller=options.controller, seed=seed),
        layout=options.layout or base.layout,
        columns=base.columns,
        device=options.device,
    )


def _changed(section: Any, **given: Any) -> Any:
    """A section of the settings with the values that were given, not None, in place of its own."""
    return dataclasses.replace(
        section, **{name: value for name, value in given.items() if value is not None}
    )


class LossWriter:
    """Writes losses for TensorBoard, or nowhere; a context manager.

    Args:
        folder: for TensorBoard; None writes nothing.

    Raises:
        DependencyError: TensorBoard is wanted and not installed.
    """

    def __init__(self, folder: str | None) -> None:
        self._writer: Any = None
        if folder is None:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise DependencyError(
                "--tensorboard needs tensorboard: install it with pip install tensorboard"
            ) from error
        self._writer = SummaryWriter(folder)

    def __enter__(self) -> LossWriter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def write(self, stage: str, step: int, loss: float) -> None:
        """Notes the loss of a step."""
        if self._writer is not None:
            self._writer.add_scalar(f"{stage}/loss", loss, step)
