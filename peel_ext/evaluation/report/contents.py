"""The contents of a report: read from a run folder, whatever of it is there."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass, field
from typing import Any

import peel_ext
from peel_ext.data.item_names import read_item_names
from peel_ext.errors import RunError
from peel_ext.evaluation.plan import BLENDED_PROTOCOLS
from peel_ext.evaluation.record import KeptEvaluation, kept_evaluations
from peel_ext.evaluation.report.blocks import (
    MAX_COLUMNS,
    GroupBlocks,
    budget_steps,
    largest_groups,
    layer_names,
)
from peel_ext.evaluation.report.examples import ExampleUser, rank_examples
from peel_ext.evaluation.report.names import ItemNames
from peel_ext.evaluation.report.topics import ItemShare, Topic, describe_group, most_popular
from peel_ext.evaluation.report.training import (
    LossCurve,
    StageFacts,
    read_curves,
    read_stages,
    read_versions,
)
from peel_ext.format import Layout
from peel_ext.train.layout import layout_of
from peel_ext.train.run_folder import RunFolder
from peel_ext.train.trained_run import TrainedRun

#: Cells of all pictures together, and pictures, at most: a page has to stay small.
_CELLS, _PICTURES = 10_240, 8

_TOPICS, _TOPIC_ITEMS = 11, 6
_EXAMPLES, _EXAMPLE_ITEMS, _EXAMPLE_HISTORY = 4, 10, 8

#: Budgets of lists and bytes where none was measured, as shares of the full table.
_SHARES = (0.1, 0.05, 0.025, 0.01)


@dataclass(frozen=True, eq=False)
class BlockPictures:
    """The blocks of some user groups, for a slider over budgets.

    Attributes:
        layout: layout of the blocks.
        layers: what each layer is.
        groups: those of most users.
        budgets: budgets of the slider, bytes, ascending.
    """

    layout: Layout
    layers: list[str]
    groups: list[GroupBlocks]
    budgets: list[int]


@dataclass(eq=False)
class Report:
    """The contents of a report. Parts that are None or empty are not there; ``missing`` says why.

    Attributes:
        name: name of the run folder.
        version: version of this package.
        facts: the size of the data and the model, by what they are of.
        missing: a sentence for everything that is not there.
        evaluations: evaluations of the run as it is, by protocol.
        budgets: bytes of lists and of ``spent``, descending, with what each is called.
        full_bytes: bytes of the table in float32.
        blocks: block weights of some groups.
        popular: the items that most users have.
        topics: what the largest groups are about.
        num_groups: user groups with users.
        examples: lists of some users.
        item_names: how rows are called.
        curves: losses of the stages.
        stages: all stages.
        settings: settings of the run, by section.
        versions: versions of what it was computed with.
    """

    name: str
    version: str
    facts: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    evaluations: list[KeptEvaluation] = field(default_factory=list)
    budgets: dict[int, str] = field(default_factory=dict)
    full_bytes: int = 0
    blocks: BlockPictures | None = None
    popular: list[ItemShare] = field(default_factory=list)
    topics: list[Topic] = field(default_factory=list)
    num_groups: int = 0
    examples: list[ExampleUser] = field(default_factory=list)
    item_names: ItemNames | None = None
    curves: list[LossCurve] = field(default_factory=list)
    stages: list[StageFacts] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


def read_report(
    path: str | os.PathLike[str], item_names: str | os.PathLike[str] | None = None
) -> Report:
    """Reads what a run folder has to tell; the run need not be finished or measured.

    Args:
        path: the run folder.
        item_names: a file with names of items (:func:`peel_ext.data.item_names.read_item_names`),
            in place of those that the run has.

    Raises:
        RunError: no run there, or a file of it is not the one written.
        DataError: names that cannot be read, or are of none of the items.
    """
    folder = RunFolder(path)
    if not folder.exists:
        raise RunError(f"{folder.path} holds no run: expected a folder made by 'peel train'")
    report = Report(
        name=folder.path.resolve().name,
        version=peel_ext.__version__,
        curves=read_curves(folder),
        stages=read_stages(folder),
        settings=folder.config,
        versions=read_versions(folder),
    )
    if not report.curves:
        report.missing.append(
            "Training curves: the vectors were brought from another model."
            if folder.stages.get("pretraining", {}).get("given")
            else "Training curves: no step of training was saved."
        )
    unfinished = [stage.name for stage in report.stages if stage.seconds is None]
    if unfinished:
        report.missing.append(
            f"The stages {', '.join(unfinished)} are not finished, and all that needs them is left "
            "out: the same 'peel train' goes on from what is there."
        )
    run = TrainedRun(folder)
    report.facts = _read_facts(folder, run)
    if "clustering" in folder.stages:
        _read_topics(report, run, item_names)
    if not unfinished:
        _read_evaluations(report, folder)
        _read_blocks(report, run)
    return report


def _read_facts(folder: RunFolder, run: TrainedRun) -> dict[str, str]:
    stages, facts = folder.stages, {}
    if "data" in stages:
        data = stages["data"]
        facts["users"] = f"{data['users']:,}"
        if data["new_users"]:
            facts["users held out"] = f"{data['new_users']:,}"
        facts["items"] = f"{data['items']:,}"
        facts["training interactions"] = f"{data['train']:,}"
    if "pretraining" in stages:
        facts["values of a row"] = f"{run.item_vectors.shape[1]}"
        facts["full table in float32"] = f"{run.full_bytes:,} bytes"
    if "clustering" in stages:
        facts["user groups"] = f"{stages['clustering']['groups']:,}"
    if "pretraining" in stages:
        facts["layout"] = str(folder.config["layout"])
    return facts


def _read_evaluations(report: Report, folder: RunFolder) -> None:
    place, data = shlex.quote(str(folder.path)), folder.stages["data"]
    kept = kept_evaluations(folder)
    report.evaluations = [each for each in kept if each.is_current]
    measured = {each.summary["protocol"] for each in report.evaluations}
    for each in kept:
        if not each.is_current:
            report.missing.append(
                f"Quality under protocol {each.summary['protocol']}: measured before the run was "
                "trained anew; evaluate it again."
            )
    if not data["test"]:
        report.missing.append(
            "Quality: the run was trained on all interactions, so there is nothing to measure on."
        )
    elif not kept:
        report.missing.append(f"Quality: not measured yet: peel evaluate {place} --rivals")
    elif "offline" not in measured and data["new_users"]:
        report.missing.append(
            "Quality without a network: not measured yet: "
            f"peel evaluate {place} --protocol offline --rivals --blends"
        )
    for each in report.evaluations:
        protocol = each.summary["protocol"]
        if not each.summary["rivals"]:
            report.missing.append(f"Rivals under protocol {protocol}: measured without --rivals.")
        if protocol in BLENDED_PROTOCOLS and not any(
            "blended" in other["method"] for other in each.summary["others"]
        ):
            report.missing.append(
                f"Tables blended for each user under protocol {protocol}: measured without --blends."
            )


def _read_topics(
    report: Report, run: TrainedRun, item_names: str | os.PathLike[str] | None
) -> None:
    given = None
    if item_names is not None:
        given = read_item_names(item_names, run.items, report.missing.append)
    report.item_names = ItemNames(run, given)
    if report.item_names.are_ids:
        report.missing.append("Names of items: items are called by their ids; see --item-names.")
    train, num_items = run.train, len(run.item_vectors)
    groups = largest_groups(run.user_group, len(run.centroids), len(run.centroids))
    report.num_groups = len(groups)
    report.popular = most_popular(train, num_items, _TOPIC_ITEMS)
    report.topics = [
        describe_group(group, run.user_group, train, num_items, _TOPIC_ITEMS)
        for group, _ in groups[:_TOPICS]
    ]


def _read_blocks(report: Report, run: TrainedRun) -> None:
    embedding = run.embedding
    num_item_groups, num_layers = embedding.block_weights.shape[1:]
    num_cells = max(1, min(num_item_groups, MAX_COLUMNS) * num_layers)
    count = max(1, min(_PICTURES, _CELLS // num_cells))
    largest = largest_groups(run.user_group, len(run.centroids), max(count, _EXAMPLES))
    if not largest or num_item_groups == 0:
        report.missing.append("Blocks: the run has no users or no items.")
        return
    groups = [GroupBlocks.of_group(embedding, *each) for each in largest]
    report.full_bytes = run.full_bytes
    names = _budget_names(report, run.full_bytes)
    report.budgets = {
        budget: names[budget]
        for budget in sorted(names, reverse=True)
        if all(each.count(budget) > 0 for each in groups)
    }
    if not report.budgets:
        report.missing.append(
            f"Bytes and lists under a budget: no block fits under {', '.join(names.values())}; "
            "evaluate the run under larger budgets."
        )
    layout = layout_of(run.folder.config, embedding.embedding_dim)
    report.blocks = BlockPictures(
        layout,
        layer_names(layout, embedding.embedding_dim),
        groups[:count],
        budget_steps(groups, list(report.budgets)),
    )
    report.examples = rank_examples(
        run,
        [each.group for each in groups[:_EXAMPLES]],
        list(report.budgets),
        _EXAMPLE_ITEMS,
        _EXAMPLE_HISTORY,
    )


def _budget_names(report: Report, full_bytes: int) -> dict[int, str]:
    """Budgets that were measured, by what they were called; or usual shares of the full table."""
    found = {
        row["budget_bytes"]: row["budget"]
        for each in report.evaluations
        for row in each.summary["rows"]
        if row["budget_bytes"] is not None
    }
    return found or {int(full_bytes * share): f"{100 * share:g}%" for share in _SHARES}
