"""A report as a reader meets it, in Debian's Chromium: `.ci/check_report` installs what this needs."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from report_runs import HOSTILE_NAMES, QUICK, keep_evaluations, write_names
from shop_runs import write_shop

from peel_ext.config import SplitConfig
from peel_ext.evaluation.report import Report, read_report, render_page
from peel_ext.train.pipeline import run_pipeline

CHROMIUM = shutil.which("chromium")
if CHROMIUM is None:
    pytest.skip("needs chromium: run .ci/check_report", allow_module_level=True)
playwright = pytest.importorskip("playwright.sync_api", reason="run .ci/check_report")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="run .ci/check_report")

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]

PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, Path, Any]:
    """A report with everything in it and hostile names, its page, and what was measured."""
    folder = tmp_path_factory.mktemp("report")
    place = folder / "run <b>"
    config = dataclasses.replace(QUICK, split=SplitConfig(new_user_share=0.2))
    run = run_pipeline(write_shop(folder / "shop.csv"), place, config)
    summaries = keep_evaluations(place, "known", rivals=False)
    summaries |= keep_evaluations(place, "offline")
    report = read_report(place, write_names(folder / "names.csv", run.items.ids.tolist()))
    (folder / "report.html").write_bytes(render_page(report).encode())
    return report, folder / "report.html", summaries


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser: Any, told: tuple[Report, Path, Any]) -> Iterator[Any]:
    """Opens the page in a window of some size and colours; whatever goes wrong in it is told of."""
    wrong: list[str] = []
    contexts = []

    def opened(viewport: dict[str, int], colours: str = "light") -> Any:
        context = browser.new_context(viewport=viewport, color_scheme=colours, offline=True)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
        page.on(
            "request",
            lambda asked: None if asked.url.startswith("file:") else wrong.append(asked.url),
        )
        page.goto(told[1].as_uri())
        page.wait_for_selector("html[data-drawn]")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert wrong == []


@pytest.mark.parametrize(
    ("viewport", "colours"), [(PHONE, "light"), (DESK, "dark")], ids=["phone", "desk"]
)
def test_everybody_can_read_it(open_page: Any, viewport: dict[str, int], colours: str) -> None:
    page = open_page(viewport, colours)
    for details in page.query_selector_all("details"):
        details.evaluate("each => { each.open = true }")
    options = {"resultTypes": ["violations"]}  # the others take as long again to describe
    found = axe.Axe().run(page, options=options).response["violations"]
    assert [(each["id"], each["nodes"][0]["html"]) for each in found] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
    charts = page.query_selector_all(".chart")
    # Both metrics of both protocols, leads over rivals, bytes, blocks and losses.
    assert len(charts) == 2 * 2 + 1 + 1 + 1 + 1
    for chart in charts:
        svg = chart.query_selector("svg")
        assert svg.query_selector_all("path")
        assert svg.bounding_box()["width"] > 0.6 * chart.bounding_box()["width"]
        assert svg.bounding_box()["width"] <= chart.bounding_box()["width"] + 1


def test_the_numbers_are_those_of_the_evaluation(open_page: Any, told: Any) -> None:
    page = open_page(DESK)
    for protocol, summary in told[2].items():
        floor = [] if summary["floor"] is None else [summary["floor"]]
        measured = [*summary["rows"], *floor, *summary["others"], *summary["rivals"]]
        shown = page.query_selector_all(f"#protocol-{protocol} tr[data-method]")
        assert len(shown) == len(measured)
        for line, row in zip(shown, measured, strict=True):
            assert line.get_attribute("data-method") == row["method"]
            assert line.get_attribute("data-budget") == row["budget"]
            for metric in ("recall", "ndcg"):
                text = line.query_selector(f".{metric}").text_content()
                low, high = row[f"{metric}_interval"]
                assert text == f"{row[metric]:.4f} {low:.4f}–{high:.4f}"  # noqa: RUF001
    data = json.loads(page.text_content("#data"))
    plotted = data["charts"]["quality-offline-ndcg"]["datasets"]
    values = [row["value"] for rows in plotted.values() for row in rows if "method" in row]
    summary = told[2]["offline"]
    expected = [
        row["ndcg"] for row in (*summary["rows"][1:], *summary["others"], *summary["rivals"])
    ]
    assert values == expected


def test_the_slider_moves_what_is_kept(open_page: Any, told: Any) -> None:
    page, pictures = open_page(PHONE), told[0].blocks
    for number, group in enumerate(pictures.groups[:2]):
        page.select_option("#group", str(number))
        for at in (0, len(pictures.budgets) // 2, len(pictures.budgets) - 1):
            page.locator("#budget").fill(str(at))
            held = group.held(pictures.budgets[at])
            page.wait_for_function(
                "count => document.querySelector('[data-held=blocks]').textContent === count",
                arg=f"{held['blocks']:,}",
            )
            for name in ("bytes", "rows", "values", "ids", "scales", "directory", "padding"):
                assert page.text_content(f"[data-held={name}]") == f"{held[name]:,}"
            told_budget = page.get_attribute("#budget", "aria-valuetext")
            assert told_budget.startswith(f"{pictures.budgets[at]:,} bytes, ")
            bright = "#blocks .mark-rect.role-mark path[opacity='1']"
            page.wait_for_function(
                "([css, count]) => document.querySelectorAll(css).length === count",
                arg=[bright, held["blocks"]],
            )


def test_colours_follow_the_system(open_page: Any) -> None:
    page = open_page(DESK, "light")
    ink = "getComputedStyle(document.querySelector('#bytes text')).fill"
    before = page.evaluate(ink)
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(f"before => {ink} !== before", arg=before)


def test_names_are_text(open_page: Any) -> None:
    page = open_page(DESK)
    shown = {each.text_content() for each in page.query_selector_all("bdi")}
    assert "run <b>" in shown
    for name in HOSTILE_NAMES[:3]:
        assert name in shown
    assert page.query_selector("main img, main script, main b") is None
