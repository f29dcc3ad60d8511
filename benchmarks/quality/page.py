"""Write ``docs/quality.md`` from the committed results.

python benchmarks/quality/page.py --results benchmarks/quality/results --to docs/quality.md
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

_SHOWN = (
    "probe",
    "gain",
    "first_token_entropy",
    "embedding",
    "knn",
    "mf",
    "sw_ranking",
    "text_classifier",
    "tfidf",
    "length",
    "keyword",
    "domain",
    "random",
    "cascade",
    "answer_logprob",
)
_SEES_QUERY = ("embedding", "knn", "mf", "sw_ranking", "text_classifier", "tfidf", "length",
               "keyword", "domain")  # fmt: skip
_ORDER = (
    "qwen-0.5b/geo",
    "qwen-0.5b/snips_field",
    "qwen-0.5b/snips_intent",
    "qwen-0.5b/svamp",
    "qwen-0.5b/svamp (cross)",
    "smollm2-135m/geo",
    "smollm2-135m/snips_field",
    "smollm2-135m/snips_intent",
    "qwen-1.5b/gsm8k (cross)",
    "qwen-0.5b/mixture",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--to", type=Path, required=True)
    arguments = parser.parse_args()
    found = {
        result["set"]: result
        for path in sorted(arguments.results.glob("*--*.json"))
        if (result := json.loads(path.read_text(encoding="utf-8")))
    }
    results = {name: found[name] for name in _ORDER if name in found}
    page = "\n\n".join(
        [
            _head(results),
            _auroc_table(results),
            _middle_table(results),
            _within_table(results),
            _gap_table(results),
            _chances_table(results),
            _labels_table(results),
            _guarantee_table(results),
            _gate_table(results),
            _kinds_table(results),
            _transfer_table(results),
            _controls_table(results),
            _robustness_table(arguments.results),
            _llm_table(arguments.results),
            _reading(arguments.results),
        ]
    )
    arguments.to.write_text(page + "\n", encoding="utf-8")


def _head(results: dict[str, Any]) -> str:
    any_result = next(iter(results.values()))
    machine = any_result["machine"]
    described = ", ".join(f"{key} {value}" for key, value in machine.items())
    rows = "\n".join(
        f"| {name} | {e['train_size']:,} | {e['test_size']:,} | {_percent(e['base_rate'])} | "
        f"{_percent(e['strong_rate'])} | {e['folds']} |"
        for name, result in results.items()
        if (e := result["evaluation"])
    )
    return f"""# How good are the estimates?

Made by `benchmarks/quality/page.py` from `benchmarks/quality/results/*.json`; every number below is in one of those files, with its interval. They are made again by

    python benchmarks/quality/collect.py  --data DATA --models MODELS --to .cache/quality --tokens --weak qwen-0.5b --domains geo snips_field snips_intent svamp
    python benchmarks/quality/collect.py  --data DATA --models MODELS --to .cache/quality --strong qwen-1.5b --domains snips_field snips_intent svamp
    python benchmarks/quality/evaluate.py --data DATA --to .cache/quality --results benchmarks/quality/results --sets qwen-0.5b/geo …

(collecting takes hours on two cores, and goes on where it was interrupted). `DATA` holds SNIPS (CC0-1.0), SVAMP (MIT) and GSM8K (MIT) as JSON lines. Machine: {described}. Date: {any_result["date"]}.

A set is a weak model and a domain; the strong model is Qwen2.5-Coder-1.5B, but for GSM8K, where it is the one that is probed. Training and test queries share no group (a request with its
values taken out, a word problem with its numbers taken out). Everything that is chosen (read point, kind of probe, regularisation, calibration, bars) is chosen on training queries (exceptions at the end). Intervals are 95 %
bootstraps over groups. **Trivial signals stand beside every claim; where one of them wins, it is set in bold like any other winner.**

| set | training | test | weak right | strong right | fits |
|---|---|---|---|---|---|
{rows}

With 5 fits every query is a test query once (cross-evaluation): the set is small. Queries whose answer was cut off could not be judged and are left out."""


def _auroc_table(results: dict[str, Any]) -> str:
    lines = [
        "## AUROC of foretelling the weak model's success",
        "",
        "Before the line: what can be known before answering. Below it, for reference, what needs the weak model's whole answer.",
        "",
        "| router | " + " | ".join(results) + " |",
        "|---|" + "---|" * len(results),
    ]
    best = {
        name: max(
            (leaf["value"], router)
            for router, leaf in result["evaluation"]["auroc"].items()
            if leaf["value"] is not None and router not in ("cascade", "answer_logprob", "gain")
        )[1]
        for name, result in results.items()
    }
    for router in _SHOWN:
        if router == "gain" or not any(
            router in r["evaluation"]["auroc"] for r in results.values()
        ):
            continue
        cells = [
            _cell(result["evaluation"]["auroc"].get(router), bold=best[name] == router)
            for name, result in results.items()
        ]
        after = router in ("cascade", "answer_logprob")
        lines.append(
            f"| {router}{' (after the answer)' if after else ''} | " + " | ".join(cells) + " |"
        )
    leads = [
        "| lead over the best of the query | "
        + " | ".join(
            _signed(result["evaluation"]["differences"].get(_best_outside(result), {}).get("auroc"))
            + f" ({_best_outside(result)})"
            for result in results.values()
        )
        + " |"
    ]
    return "\n".join([*lines, *leads])


def _middle_table(results: dict[str, Any]) -> str:
    lines = [
        "## The middle third by the embedding router's score",
        "",
        "The slice was defined before looking: the third of the test queries about which the embedding router is least sure. Then the two outer thirds, probe against embedding.",
        "",
        "| set | n | probe | first-token entropy | embedding | TF-IDF | probe − embedding | lower third: probe / embedding | upper third: probe / embedding |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, result in results.items():
        slices = result["evaluation"]["slices"]
        if "middle third" not in slices:
            continue
        middle, low, high = (slices[f"{which} third"] for which in ("middle", "lower", "upper"))
        value = {router: leaf["value"] for router, leaf in middle["auroc"].items()}
        lead = None
        if value["probe"] is not None and value["embedding"] is not None:
            lead = value["probe"] - value["embedding"]
        lines.append(
            f"| {name} | {middle['n']} | {_cell(middle['auroc']['probe'])} | "
            f"{_number(value.get('first_token_entropy'))} | {_number(value['embedding'])} | "
            f"{_number(value.get('tfidf'))} | {_number(lead, signed=True)} | "
            + " | ".join(
                f"{_number(s['auroc']['probe']['value'])} / {_number(s['auroc']['embedding']['value'])}"
                for s in (low, high)
            )
            + " |"
        )
    return "\n".join(lines)


def _within_table(results: dict[str, Any]) -> str:
    lines = [
        "## Within a field, an intent, a domain",
        "",
        "Only pairs of queries with the same value are compared, so that knowing *which field was asked* is worth nothing.",
        "",
        "| set | within | probe | best of the query | lead |",
        "|---|---|---|---|---|",
    ]
    for name, result in results.items():
        within = result["evaluation"]["auroc_within"]
        for attribute in within["probe"]:
            values = {
                router: leaves[attribute]["value"]
                for router, leaves in within.items()
                if router in _SEES_QUERY and leaves[attribute]["value"] is not None
            }
            if not values:
                continue
            best = max(values, key=lambda router: values[router])
            ours = within["probe"][attribute]["value"]
            lines.append(
                f"| {name} | {attribute} | {_cell(within['probe'][attribute])} | "
                f"{_number(values[best])} ({best}) | {_number(ours - values[best], signed=True)} |"
            )
    return "\n".join(lines)


def _gap_table(results: dict[str, Any]) -> str:
    lines = [
        "## The gap between the models",
        "",
        "APGR (1: all of the gap for nothing; what the oracle reaches is beside it), CPT50 and CPT80 (least strong-call share that wins back so much), and the saving at equal quality against",
        "always-strong with prices of 1 to 125, bars found on the test queries for all routers alike. *gain* ranks by foretold gain (`p_success − p_strong`), *probe* by `p_success` alone.",
        "",
        "| set | n | APGR gain | APGR probe | APGR best of the query | CPT50 gain | CPT80 gain | saving: gain | saving: probe | saving: best of the query | saving: oracle |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, result in results.items():
        e = result["evaluation"]
        if e["apgr"]["probe"]["value"] is None:
            continue
        outside = {
            r: e["apgr"][r]["value"] for r in _SEES_QUERY if e["apgr"].get(r, {}).get("value")
        }
        best = max(outside, key=lambda r: outside[r]) if outside else None
        saving = e["saving_at_equal_quality"]
        lines.append(
            f"| {name} | {e['apgr']['probe']['n']} | {_cell(e['apgr'].get('gain'))} | "
            f"{_cell(e['apgr']['probe'])} | {_number(outside.get(best))} ({best}) | "
            f"{_percent(_value(e['cpt50'].get('gain')))} | {_percent(_value(e['cpt80'].get('gain')))} | "
            f"{_percent(_value(saving['by_router'].get('gain')))} | "
            f"{_percent(saving['probe']['value'])} | {_percent(saving['simple']['value'])} "
            f"({saving['simple_router']}) | {_percent(saving['oracle']['value'])} |"
        )
    return "\n".join(lines)


def _chances_table(results: dict[str, Any]) -> str:
    lines = [
        "## Are the chances true to their word?",
        "",
        "ECE in 15 bins of equal mass. An ECE of so few queries is never 0: the column beside it is what *perfect* chances would show on average (outcomes drawn from the chances themselves).",
        "",
        "| set | calibration | ECE | ECE if perfect | Brier | log loss | base rate alone: Brier |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, result in results.items():
        e = result["evaluation"]
        calibration = result.get("probe", {}).get("calibration", "–")
        rate = e["base_rate"]
        lines.append(
            f"| {name} | {calibration} | {_number(e['ece']['value'])} | "
            f"{_number(result.get('ece_if_perfect'))} | {_number(e['brier']['probe']['value'])} | "
            f"{_number(e['log_loss']['probe']['value'])} | {_number(rate * (1 - rate))} |"
        )
    return "\n".join(lines)


def _labels_table(results: dict[str, Any]) -> str:
    lines = [
        "## How many labels",
        "",
        "AUROC of a linear probe (the read point was chosen on all training queries) by number of labels, on the test queries; several draws at small sizes.",
        "",
    ]
    curves = {
        name: result["learning_curve"]["routers"]["probe"]
        for name, result in results.items()
        if result.get("learning_curve")
    }
    sizes = sorted({p["labels"] for curve in curves.values() for p in curve["points"]})
    common = [size for size in sizes if size <= 800]
    lines += [
        "| set | "
        + " | ".join(map(str, common))
        + " | all | 90 % of it takes | more stop paying at |",
        "|---|" + "---|" * (len(common) + 3),
    ]
    for name, curve in curves.items():
        at = {p["labels"]: p["auroc"]["value"] for p in curve["points"]}
        lines.append(
            f"| {name} | "
            + " | ".join(_number(at.get(size)) for size in common)
            + f" | {_number(at[max(at)])} ({max(at):,}) | {curve['labels_for_90_percent'] or '–'} | "
            f"{curve['enough'] or 'not yet'} |"
        )
    return "\n".join(lines)


def _guarantee_table(results: dict[str, Any]) -> str:
    lines = [
        "## Goals with a guarantee",
        "",
        "The bar is chosen on the training queries' held-out chances so that routed accuracy is at least `quality` × the strong model's with 90 % confidence, then tried on the test queries.",
        "",
        "| set | quality | promised | strong share on test | routed ÷ strong on test | held on test |",
        "|---|---|---|---|---|---|",
    ]
    for name, result in results.items():
        for row in result.get("guarantees", ()):
            routed, strong = row["routed_accuracy"]["value"], row["strong_accuracy"]["value"]
            ratio = routed / strong if strong else None
            promise = (
                ("by gain" if row["by_gain"] else "by chance")
                if row["guaranteed"]
                else (f"not possible, {row['labels_needed'] or 'no number of'} labels would do")
            )
            lines.append(
                f"| {name} | {row['quality']:g} | {promise} | "
                f"{_percent(row['strong_share']['value'])} | {_number(ratio)} | "
                f"{'yes' if row['held'] else 'no'} |"
            )
    return "\n".join(lines)


def _gate_table(results: dict[str, Any]) -> str:
    lines = [
        "## Gate: what is declined",
        "",
        "Share of queries that the gate calls unlike its training, at 5 % nominal false alarms: of the domain's own test queries, and of every other domain's.",
        "",
        "| gate of | own (false alarms) | other domains |",
        "|---|---|---|",
    ]
    for name, result in results.items():
        gate = result.get("gate")
        if gate:
            others = ", ".join(f"{d} {_percent(s['value'])}" for d, s in gate["others"].items())
            lines.append(f"| {name} | {_percent(gate['own']['value'])} | {others} |")
    return "\n".join(lines)


def _kinds_table(results: dict[str, Any]) -> str:
    lines = [
        "## Kinds of probe",
        "",
        "Cross-validated AUROC (log loss) on training queries, in the same folds. A richer kind is chosen only when its log loss is better by more than one standard error; *fusion* wraps the best of the others.",
        "",
        "| set | linear at | linear | several | mix | mlp | attention | fusion | chosen | calibration |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, result in results.items():
        facts = result.get("probe")
        if not facts:
            continue
        tried = {row["kind"]: row for row in facts["kinds_tried"]}
        cells = [
            f"{_number(tried[kind]['auroc'])} ({_number(tried[kind]['log_loss'])})"
            if kind in tried and tried[kind]["auroc"] is not None
            else "–"
            for kind in ("linear", "several", "mix", "mlp", "attention", "fusion")
        ]
        lines.append(
            f"| {name} | {facts['best_linear']} | "
            + " | ".join(cells)
            + f" | {facts['kind']} | {facts['calibration']} |"
        )
    return "\n".join(lines)


def _transfer_table(results: dict[str, Any]) -> str:
    transfer = next((r["transfer"] for r in results.values() if r.get("transfer")), None)
    if transfer is None:
        return ""
    lines = [
        "## Across domains",
        "",
        "Test AUROC in each domain of a linear probe trained on that domain alone, on all together, and on the *others* only (leave one domain out).",
        "",
        "| domain | router | own | joint | others only |",
        "|---|---|---|---|---|",
    ]
    rows = [(row["domain"], row["router"], row["auroc"]) for row in transfer["rows"]]
    rows += [("*mean*", router, auroc) for router, auroc in transfer["mean"].items()]
    lines += [
        f"| {domain} | {router} | "
        + " | ".join(_cell(auroc.get(trained)) for trained in ("own", "joint", "others"))
        + " |"
        for domain, router, auroc in rows
    ]
    return "\n".join(lines)


def _controls_table(results: dict[str, Any]) -> str:
    lines = [
        "## Controls",
        "",
        "Labels shuffled before training (must give 0.5), near-duplicates of training queries among the test queries, and AUROC among queries of about the same length.",
        "",
        "| set | shuffled | near-duplicates | probe, length held | best of the query, length held |",
        "|---|---|---|---|---|",
    ]
    for name, result in results.items():
        controls = result["evaluation"]["controls"]
        held = controls["length_residualised"]
        values = {
            r: leaf["value"] for r, leaf in held.items() if r in _SEES_QUERY and leaf["value"]
        }
        best = max(values, key=lambda r: values[r]) if values else None
        shuffled = controls.get("shuffled")
        lines.append(
            f"| {name} | {_cell(shuffled) if shuffled else '–'} | {controls['near_duplicates']} | "
            f"{_number(_value(held.get('probe')))} | {_number(values.get(best))} ({best}) |"
        )
    return "\n".join(lines)


def _robustness_table(folder: Path) -> str:
    path = folder / "robustness.json"
    if not path.is_file():
        return ""
    result = json.loads(path.read_text(encoding="utf-8"))
    lines = [
        "## Robustness",
        "",
        f"`{result['command']}`: share of decisions that change when the query does, bars at the median chance. The confounder is a string optimised against each router on "
        f'{result["attacked"]} other queries ({result["budget"]} scored prompts, "escalate"), appended to every query (arXiv 2501.01818).',
        "",
        "| set | change | " + " | ".join(result["routers"]) + " |",
        "|---|---|" + "---|" * len(result["routers"]),
    ]
    for name, by_router in result["sets"].items():
        kinds = list(next(iter(by_router.values())))
        lines += [
            f"| {name} | {kind} | "
            + " | ".join(_cell_percent(by_router[router][kind]) for router in result["routers"])
            + " |"
            for kind in kinds
        ]
    return "\n".join(lines)


def _llm_table(folder: Path) -> str:
    results = [json.loads(p.read_text(encoding="utf-8")) for p in sorted(folder.glob("llm-*.json"))]
    if not results:
        return ""
    lines = [
        "## LLM as classifier",
        "",
        f"`{results[-1]['command']}`: a model is asked for the difficulty of each query from 1 to 10, then calibrated on labelled queries it was asked about. One call a query, so it is tried on part of the test queries.",
        "",
        "| asked | set | test queries | AUROC | replies without a number | seconds a call |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {result['asked']} | {name} | {row['auroc']['n']} | {_cell(row['auroc'])} | "
        f"{row['counts']['unparsable']} | {row['seconds_per_call']:.2f} |"
        for result in results
        for name, row in result["sets"].items()
    ]
    return "\n".join(lines)


def _reading(folder: Path) -> str:
    path = folder / "reading.md"
    return path.read_text(encoding="utf-8").rstrip() if path.is_file() else ""


def _best_outside(result: dict[str, Any]) -> str:
    values = {
        router: leaf["value"]
        for router, leaf in result["evaluation"]["auroc"].items()
        if router in _SEES_QUERY and leaf["value"] is not None
    }
    return max(values, key=lambda router: values[router])


def _value(leaf: dict[str, Any] | None) -> float | None:
    return None if leaf is None else leaf["value"]


def _cell(leaf: dict[str, Any] | None, *, bold: bool = False) -> str:
    if leaf is None or leaf["value"] is None:
        return "–"
    text = f"**{leaf['value']:.3f}**" if bold else f"{leaf['value']:.3f}"
    if leaf.get("low") is not None:
        text += f" [{leaf['low']:.2f}, {leaf['high']:.2f}]"
    return text


def _cell_percent(leaf: dict[str, Any]) -> str:
    text = _percent(leaf["value"])
    if leaf.get("low") is not None:
        text += f" [{leaf['low']:.0%}, {leaf['high']:.0%}]"
    return text


def _signed(leaf: dict[str, Any] | None) -> str:
    if leaf is None or leaf["value"] is None:
        return "–"
    return f"{leaf['value']:+.3f} [{leaf['low']:+.2f}, {leaf['high']:+.2f}]"


def _number(value: float | None, *, signed: bool = False) -> str:
    if value is None:
        return "–"
    return f"{value:+.3f}" if signed else f"{value:.3f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


if __name__ == "__main__":
    main()
