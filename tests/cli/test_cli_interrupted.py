"""Ctrl-C keeps what was done, says so, and the same command goes on from there."""

from __future__ import annotations

import time

from loopback_api import loopback_api
from toy_project import CONFIG, changed, foretell, interrupted, write_config

COLLECT = "collect --domain toy --input queries.jsonl --with-strong --max-tokens 4 --json"


def test_an_interrupted_collection_keeps_its_answers_and_goes_on(fresh_project):
    def say(_: object) -> str:
        time.sleep(0.01)  # holds up the server, so all of its callers
        return "a town"

    with loopback_api(say) as api:
        large = {"engine": "openai", "model": "big-1", "base_url": api.url}
        write_config(fresh_project, changed(CONFIG, models__large=large))
        stopped = interrupted(fresh_project, COLLECT, when=lambda: len(api.asked) >= 30)
        answered = len(api.asked)
        again = foretell(fresh_project, COLLECT).json()
        in_all = len(api.asked)

    assert stopped.code == 130
    assert stopped.out == ""
    assert "interrupted; what was done is kept" in stopped.err
    assert "Traceback" not in stopped.err
    assert again["weak"] == {"new": 0, "skipped": 180}
    assert again["strong"]["skipped"] >= 30 - 8  # at most the ones under way were lost
    assert again["strong"]["new"] == in_all - answered
    assert again["strong"]["new"] + again["strong"]["skipped"] == 180
