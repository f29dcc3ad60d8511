"""The HTML report and the drawing in the terminal."""

import re
import sys
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from foretell.errors import InputError
from foretell.evaluation import (
    ReportContext,
    WrongCase,
    draw_curve,
    evaluate_routers,
    render_report,
)
from foretell.routers import length_router

HOSTILE = '<script>alert("1")</script> & {{ 7 * 7 }} $x^2$ </svg></td>'
CONTEXT = ReportContext(
    title="Where is it?",
    asked="One place a query.",
    command="foretell evaluate -c foretell.yaml --domain places",
    strong="recorded answers of a larger model",
    created="2026-01-02 03:04 UTC",
)
VOID = {"meta", "link", "br", "hr", "img", "input"}


class Outline(HTMLParser):
    """Tags, their attributes and the text, with a check that tags close in order."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.links, self.text = [], [], [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [v for k, v in attrs if k in {"src", "href", "xlink:href"}]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [v for k, v in attrs if k in {"src", "href", "xlink:href"}]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def outline(page):
    parser = Outline()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    return parser


def test_the_report_is_whole_in_itself(evaluation):
    page = render_report(evaluation, CONTEXT)
    found = outline(page)
    assert found.tags.count("svg") == 4
    assert not {"script", "link", "img", "iframe"} & set(found.tags)
    assert all(link.startswith("#") for link in found.links)
    assert "url(http" not in page
    assert "@import" not in page
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_the_report_says_what_was_asked_found_and_run(evaluation):
    text = outline(render_report(evaluation, CONTEXT)).text
    probe = evaluation.router("probe")
    for said in (
        CONTEXT.title, CONTEXT.asked, CONTEXT.command, CONTEXT.strong, CONTEXT.created,
        str(evaluation.model), f"{probe.auroc.value:.3f}", f"{probe.auroc.low:.3f}",
        "Middle third", evaluation.most_wrong[0].text, evaluation.most_wrong[9].id, "embedding",
    ):  # fmt: skip
        assert said in text


def test_hostile_text_is_text(evaluation):
    case = WrongCase(id=HOSTILE, text=HOSTILE, p_success=0.9, weak=0.0, strong=None)
    results = tuple(
        replace(result, name=HOSTILE) if result.name == "random" else result
        for result in evaluation.routers
    )
    slices = tuple(
        replace(third, auroc={**third.auroc, HOSTILE: third.auroc["random"]})
        for third in evaluation.slices
    )
    hostile = replace(
        evaluation, most_wrong=(case,), routers=results, domains=(HOSTILE,), slices=slices
    )
    context = ReportContext(
        title=HOSTILE, asked=HOSTILE, command=HOSTILE, strong=HOSTILE, created=HOSTILE
    )
    found = outline(render_report(hostile, context))
    assert "script" not in found.tags
    assert found.text.count(HOSTILE) >= 8


def test_a_long_query_is_cut(evaluation):
    case = WrongCase(id="long", text="x" * 5_000, p_success=0.9, weak=0.0, strong=1.0)
    page = render_report(replace(evaluation, most_wrong=(case,)), CONTEXT)
    assert "x" * 400 + "…" in page
    assert "x" * 401 not in page


def test_the_same_evaluation_gives_the_same_report(evaluation):
    assert render_report(evaluation, CONTEXT) == render_report(evaluation, CONTEXT)


def test_what_is_undefined_is_a_dash_and_its_picture_is_absent(train, test_set):
    found = evaluate_routers(
        train, replace(test_set, strong=np.empty(0)), [length_router()], np.random.default_rng(0)
    )
    page = outline(render_report(found, CONTEXT))
    assert page.tags.count("svg") == 1
    assert "\N{EN DASH}" in page.text
    assert "None" not in page.text
    assert "nan" not in page.text
    assert draw_curve(found, 80).startswith("no cost-quality curve")


@pytest.mark.parametrize("width", [50, 76])
def test_the_curve_in_the_terminal_fits_its_width(evaluation, width, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    lines = draw_curve(evaluation, width).splitlines()
    assert max(map(len, lines)) <= width
    assert len(lines) == 18
    assert "probe" in "".join(lines)
    assert "at random" in "".join(lines)


def test_the_curve_has_colour_unless_that_is_unwanted(evaluation, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    coloured = draw_curve(evaluation, 70)
    monkeypatch.setenv("NO_COLOR", "1")
    plain = draw_curve(evaluation, 70)
    assert "\x1b[" in coloured
    assert "\x1b" not in plain
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == plain


@pytest.mark.parametrize(
    ("library", "show"),
    [
        ("matplotlib", lambda found: render_report(found, CONTEXT)),
        ("plotext", lambda found: draw_curve(found, 60)),
    ],
)
def test_a_library_that_is_absent_is_named_with_its_extra(evaluation, monkeypatch, library, show):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(InputError, match=rf"{library}.* pip install 'foretell\[report\]'"):
        show(evaluation)


def test_drawing_twice_draws_the_same(evaluation):
    assert draw_curve(evaluation, 60) == draw_curve(evaluation, 60)
