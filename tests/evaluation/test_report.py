"""The HTML report and the drawing in the terminal."""

import json
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretell.errors import InputError
from foretell.evaluation import (
    Interval,
    ReportContext,
    WrongCase,
    draw_curve,
    evaluate_routers,
    render_report,
)
from foretell.evaluation._confounder import Confounder
from foretell.evaluation._extras import Extras
from foretell.evaluation._gate_evidence import GateEvidence
from foretell.evaluation._guarantees import GuaranteeRow
from foretell.evaluation._learning_curve import LearningCurve, LearningPoint, RouterLearning
from foretell.evaluation._metric_columns import metric_columns
from foretell.evaluation._near_duplicates import NearDuplicate
from foretell.evaluation._oracle import oracle_curve
from foretell.evaluation._robustness import FlipRate, RobustnessRow
from foretell.evaluation._sentences import held, kinds, learning, rule, shuffled
from foretell.evaluation._svg import spread
from foretell.evaluation._transfer import Transfer, TransferRow
from foretell.evaluation._verdict import verdict
from foretell.evaluation._words import between, compact, dollars, number, percent, signed
from foretell.probes import KindRow
from foretell.records import ReadPoint
from foretell.routers import length_router

HOSTILE = '<script>alert("1")</script> & {{ 7 * 7 }} $x^2$ </svg></td>'
CONTEXT = ReportContext(
    title="Where is it?",
    asked="One place a query.",
    command="foretell evaluate -c foretell.yaml --domain places",
    strong="recorded answers of a larger model",
    created="2026-01-02 03:04 UTC",
)
VOID = {"meta", "link", "br", "hr", "img", "input", "wbr"}


def about(value, wide=0.02, n=150):
    return Interval(value=value, low=value - wide, high=value + wide, n=n)


NOTHING = Interval(value=None, n=150)


def guarantee(**changes):
    row = GuaranteeRow(
        quality=0.95,
        confidence=0.9,
        keep_at=0.7,
        by_gain=False,
        guaranteed=True,
        labels_needed=None,
        promise="holds for new queries with confidence 0.9",
        strong_share=about(0.4),
        routed_accuracy=about(0.78),
        strong_accuracy=about(0.8),
        margin=about(0.02),
        held=True,
    )
    return replace(row, **changes)


def learnt(router, values, **summary):
    return RouterLearning(
        router=router,
        points=tuple(
            LearningPoint(
                labels=labels,
                auroc=NOTHING if value is None else about(value),
                repeats=2,
                refused=2 if value is None else 0,
            )
            for labels, value in zip((25, 100, 200), values, strict=True)
        ),
        **{
            "enough": None,
            "labels_for_90_percent": None,
            "labels_for_90_percent_over_chance": None,
            **summary,
        },
    )


def every_extra(name="paraphrase", domain="moons"):
    flips = FlipRate(
        flipped=about(0.12), to_escalate=about(0.08), to_keep=about(0.04), mean_change=about(0.05)
    )
    return Extras(
        learning_curve=LearningCurve(
            routers=(
                learnt("probe", (None, 0.81, 0.815), enough=100, labels_for_90_percent=100),
                learnt("tfidf", (0.5, 0.5, 0.6)),
            ),
            train_size=200,
            test_size=150,
        ),
        transfer=Transfer(
            rows=(
                TransferRow(
                    domain=domain,
                    router="probe",
                    auroc={"own": about(0.8), "joint": about(0.79), "others": NOTHING},
                    refused={"others": "one class only"},
                ),
            ),
            mean={"probe": {"own": about(0.8), "joint": about(0.79), "others": NOTHING}},
        ),
        robustness=(RobustnessRow(kind=name, flips=flips),),
        confounder=Confounder(
            text=name,
            direction="escalate",
            p_before=0.6,
            p_after=0.2,
            escalated_before=0.3,
            escalated_after=0.9,
            evaluations=1_000,
            query_ids=frozenset({"b", "a"}),
        ),
        guarantees=(guarantee(), guarantee(quality=1.0, guaranteed=False, promise=name)),
        gate=GateEvidence(
            read_point=ReadPoint(2), asked=0.05, own=about(0.04), others={domain: about(0.97)}
        ),
    )


class Outline(HTMLParser):
    """Tags, their attributes and the text, with a check that tags close in order."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.links, self.text, self.pictures = [], [], [], "", []

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [v for k, v in attrs if k in {"src", "href", "xlink:href"}]
        self.pictures += [v for k, v in attrs if tag == "svg" and k == "aria-label"]

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


@pytest.fixture(scope="module")
def page(evaluation, test_set):
    """All there is to show."""
    extras = replace(every_extra(), oracle=oracle_curve(test_set))
    return render_report(evaluation, CONTEXT, extras=extras)


def test_the_report_is_whole_in_itself(page):
    found = outline(page)
    assert not {"script", "link", "img", "iframe"} & set(found.tags)
    assert all(link.startswith("#") for link in found.links)
    assert "url(http" not in page
    assert "@import" not in page
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in found.links} <= set(ids)


def test_the_report_says_what_was_asked_found_and_run(evaluation, page):
    text = outline(page).text
    probe = evaluation.router("probe")
    for said in (
        CONTEXT.title, CONTEXT.asked, CONTEXT.command, CONTEXT.strong, CONTEXT.created,
        str(evaluation.model), f"{probe.auroc.value:.3f}", f"{probe.auroc.low:.3f}",
        "Middle third", evaluation.most_wrong[0].text, evaluation.most_wrong[9].id, "embedding",
    ):  # fmt: skip
        assert said in text


def test_the_parts_come_in_the_order_of_their_questions(page):
    places = [
        page.index(f'id="{part}"')
        for part in (
            "verdict", "routers", "curves", "chances", "layers", "labels", "slices", "guarantees",
            "gate", "controls", "robustness", "wrong", "costs", "made",
        )
    ]  # fmt: skip
    assert places == sorted(places)


def test_every_picture_says_its_finding_in_words(evaluation, page):
    labels = outline(page).pictures
    assert len(labels) == len(set(labels)) == page.count("<svg")
    assert all(re.search(r"\d", label) for label in labels)
    chosen = evaluation.fitted["probe"].selection.probe.read_points[0]
    assert any(f"chosen: {chosen}" in label for label in labels)
    assert any("oracle" in label for label in labels)


def test_what_was_measured_besides_is_shown(page):
    text = outline(page).text
    for said in (
        "more labels stop paying at about 100", "2 of 2 fits impossible", "one class only",
        "another domain: moons", "asked in another way", "yes, as everything is escalated",
        "from 30 % to 90 %".replace(" %", "\N{NARROW NO-BREAK SPACE}%"),
    ):  # fmt: skip
        assert said in " ".join(text.split(" "))
    assert "Not measured" not in text


def test_what_was_not_measured_is_left_out_and_said(evaluation):
    bare = outline(render_report(replace(evaluation, sweep=(), fitted={}), CONTEXT))
    assert "the learning curve, guarantees, the gate" in bare.text
    assert "What another label is worth" not in bare.text
    assert "oracle 1" not in "".join(bare.pictures)


def test_hostile_text_is_text(evaluation):
    case = WrongCase(id=HOSTILE, text=HOSTILE, p_success=0.9, weak=0.0, strong=None)
    pair = NearDuplicate(
        test_id=HOSTILE, train_id=HOSTILE, test_text=HOSTILE, train_text=HOSTILE, similarity=0.9
    )
    results = tuple(
        replace(result, name=HOSTILE) if result.name == "random" else result
        for result in evaluation.routers
    )
    slices = tuple(
        replace(third, name=HOSTILE, auroc={**third.auroc, HOSTILE: third.auroc["random"]})
        for third in evaluation.slices
    )
    hostile = replace(
        evaluation,
        most_wrong=(case,),
        routers=results,
        domains=(HOSTILE,),
        slices=slices,
        attribute_slices=slices,
        controls=replace(evaluation.controls, near_duplicate_pairs=(pair,)),
    )
    context = ReportContext(
        title=HOSTILE, asked=HOSTILE, command=HOSTILE, strong=HOSTILE, created=HOSTILE
    )
    found = outline(render_report(hostile, context, extras=every_extra(HOSTILE, HOSTILE)))
    assert "script" not in found.tags
    assert found.text.count(HOSTILE) >= 20


def test_a_long_query_is_cut_and_the_rest_stays_as_it_was(evaluation, page):
    case = WrongCase(id="long", text="x" * 5_000, p_success=0.9, weak=0.0, strong=1.0)
    cut = render_report(replace(evaluation, most_wrong=(case,)), CONTEXT)
    assert "x" * 400 + "…" in cut
    assert "x" * 401 not in cut
    # The same evaluation gives the same pictures.
    of = re.compile(r'<svg role="img" aria-label="Share of successes.*?</svg>', re.DOTALL)
    assert of.search(cut)[0] == of.search(page)[0]


def test_what_is_undefined_says_so_with_the_reason(train, test_set):
    found = evaluate_routers(
        train, replace(test_set, strong=np.empty(0)), [length_router()], np.random.default_rng(0)
    )
    page = outline(render_report(found, CONTEXT))
    assert "undefined" in page.text
    assert "no test query has an outcome of the strong model" in page.text
    assert "No probe took part" in page.text
    assert "None" not in page.text
    assert "nan" not in page.text
    assert draw_curve(found, 80).startswith("no cost-quality curve")


def test_the_verdict_has_the_numbers_of_the_evaluation(evaluation):
    said = " ".join(verdict(evaluation).sentences)
    probe = evaluation.router("probe")
    row = next(r for r in evaluation.differences if r.against == evaluation.best_baseline)
    for value in (probe.auroc, evaluation.gap_closed["saving"].of_probe):
        assert value.value is not None
    for part in (
        number(probe.auroc.value, 2),
        number(probe.auroc.low, 2),
        signed(row.auroc.high, 2),
    ):
        assert part in said
    assert percent(evaluation.gap_closed["saving"].of_probe.value, 0) in said


@pytest.mark.parametrize(
    ("low", "high", "headline"),
    [
        (0.05, 0.15, "The probe tells more than the query's text does"),
        (-0.05, 0.15, "The probe is not clearly better than TF-IDF"),
        (-0.15, -0.05, "TF-IDF wins"),
    ],
)
def test_the_verdict_calls_the_winner_only_beyond_chance(evaluation, low, high, headline):
    ahead = Interval(value=(low + high) / 2, low=low, high=high, n=150)
    differences = tuple(
        replace(row, auroc=ahead) if row.against == "tfidf" else row
        for row in evaluation.differences
    )
    found = verdict(replace(evaluation, best_baseline="tfidf", differences=differences))
    assert found.headline.startswith(headline)


def test_an_undefined_share_of_the_gap_says_why(evaluation):
    gap = replace(evaluation.gap_closed["saving"], share=NOTHING, reason="there is no gap")
    found = verdict(replace(evaluation, gap_closed={"saving": gap}))
    assert "undefined: there is no gap" in found.sentences[1]
    nothing = verdict(replace(evaluation, gap_closed={"saving": replace(gap, of_probe=NOTHING)}))
    assert "is undefined: there is no gap" in nothing.sentences[1]


def test_the_best_of_a_column_is_no_reference_and_ties_share_the_mark(evaluation):
    first, second, third, *rest = evaluation.routers
    reference = replace(first, sees="answer", auroc=about(0.99))
    tied = [replace(second, auroc=about(0.9)), replace(third, auroc=about(0.9001))]
    column = metric_columns(replace(evaluation, routers=(reference, *tied, *rest)))[0]
    assert column.label == "AUROC"
    assert [cell.best for cell in column.cells] == [False, True, True, *(False for _ in rest)]


def test_less_is_best_where_less_is_better(evaluation):
    for column in metric_columns(evaluation):
        values = [float(cell.shown) for cell in column.cells if cell.shown.startswith("0.")
                  and "%" not in cell.shown]  # fmt: skip
        best = [float(cell.shown) for cell in column.cells if cell.best and "%" not in cell.shown]
        if best and len(values) == len(column.cells):
            assert set(best) == {(max if column.better == "higher" else min)(values)}


def test_goals_say_how_they_ended():
    assert held(guarantee()) == "yes, with 2.0 points to spare"
    short = guarantee(margin=about(-0.01), held=False)
    assert held(short) == "no, 1.0 points are missing, which may be chance"
    assert held(guarantee(margin=about(-0.1), held=False)) == "no, 10.0 points are missing"
    assert held(guarantee(margin=NOTHING, held=None)).startswith("yes") is False
    assert rule(guarantee(guaranteed=False)) == "escalate everything"
    assert rule(guarantee(by_gain=True, keep_at=0.75)).endswith("more than 0.25 on")


def test_learning_says_where_labels_stop_paying():
    curve = every_extra().learning_curve
    assert "stop paying at about 100" in learning(curve, curve.routers[0])
    assert "more labels still pay" in learning(curve, curve.routers[1])
    assert "undefined" in learning(curve, learnt("probe", (None, None, None)))


def test_the_kind_that_won_is_explained():
    linear = KindRow(kind="linear", auroc=0.8, auroc_sd=0.01, log_loss=0.5, chosen=True)
    mix = replace(linear, kind="mix", log_loss=0.49, chosen=False)
    assert "only kind" in kinds([linear])
    assert "the simpler linear won" in kinds([linear, mix])
    assert "mix won" in kinds([replace(linear, chosen=False), replace(mix, chosen=True)])


def test_a_shuffle_far_from_chance_is_called_a_leak(evaluation):
    leaking = replace(evaluation.controls, shuffled=about(0.7))
    assert "something leaks" in shuffled(leaking)
    assert "as it must" in shuffled(replace(leaking, shuffled=about(0.5)))
    assert "Not checked" in shuffled(replace(leaking, shuffled=NOTHING))


def test_extras_are_plain_json_without_nan():
    extras = every_extra()
    plain = json.loads(json.dumps(extras.to_json(), allow_nan=False))
    assert set(plain) == {
        "learning_curve", "transfer", "robustness", "confounder", "guarantees", "gate",
    }  # fmt: skip
    assert plain["gate"]["read_point"] == "layer2_last"
    assert plain["confounder"]["query_ids"] == ["a", "b"]
    assert plain["robustness"]["paraphrase"]["flipped"]["value"] == 0.12
    assert Extras().to_json() == {**dict.fromkeys(plain), "guarantees": []}


def test_numbers_read_well():
    assert number(-0.1234) == "\N{MINUS SIGN}0.123"
    assert number(None) == percent(None) == signed(None) == dollars(None) == "undefined"
    assert signed(0.0801, 2) == "+0.08"
    assert signed(-0.0001, 2) == "0.00"
    assert percent(0.431) == "43.1\N{NARROW NO-BREAK SPACE}%"
    assert (dollars(0.00254), dollars(12.345)) == ("0.0025", "12.35")
    assert between(about(0.5)) == "0.480 to 0.520"
    assert compact(about(0.5), percent) == "48.0–52.0\N{NARROW NO-BREAK SPACE}%"
    assert "to" in compact(about(0.0), number)
    assert between(Interval(value=0.5, n=3)) == ""


@given(st.lists(st.floats(0, 1), max_size=8), st.floats(0.01, 0.3))
def test_spread_labels_keep_their_order_and_their_distance(places, gap):
    moved = spread(places, gap)
    order = sorted(range(len(places)), key=lambda i: places[i])
    steps = np.diff([moved[i] for i in order])
    assert (steps >= gap - 1e-9).all()
    assert np.mean(moved) == pytest.approx(np.mean(places)) if places else moved == []


def test_no_router_is_above_the_oracle(evaluation, test_set):
    oracle = oracle_curve(test_set)
    share = np.linspace(0, 1, 50)
    for router in evaluation.routers:
        assert (router.curve.quality_at(share) <= oracle.quality_at(share) + 1e-9).all()
    assert oracle_curve(replace(test_set, strong=np.empty(0))) is None


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
