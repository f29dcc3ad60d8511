"""What the gateway's page tells a reader to do, done."""

import re
from pathlib import Path

import pytest
from serving import ESCALATED, gateway_config, serving, upstream

from foretell.config import load_config
from foretell.gateway._metrics import CAUSES

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "gateway.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, flags=re.DOTALL)


def block(language: str) -> str:
    return next(text for name, text in BLOCKS if name == language)


def test_the_configuration_is_valid(tmp_path):
    (tmp_path / "foretell.yaml").write_text(block("yaml"), encoding="utf-8")
    config = load_config(tmp_path / "foretell.yaml")
    assert config.server.admin is not None
    assert list(config.routes) == ["auto"]


def test_the_official_client_does_what_the_page_shows(toy, capsys):
    code = block("python").replace("In which country is Lyon?", ESCALATED[0]["content"])
    with upstream() as server, serving(gateway_config(toy, server.url)) as served:
        exec(code.replace("http://127.0.0.1:8400", served.url), {})  # noqa: S102 - our own page
    assert "escalate p_success" in capsys.readouterr().out


@pytest.mark.parametrize("path", ["README.md", "docs/gateway.md"])
def test_every_page_that_is_linked_to_is_there(path):
    page = ROOT / path
    for link in re.findall(r"\]\((?!http)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), link


def test_every_path_of_the_api_is_on_the_page(toy):
    with serving(gateway_config(toy, "http://127.0.0.1:9/v1")) as served:
        paths = served.openai().get("/../openapi.json", cast_to=object)["paths"]
    for path in paths:
        assert path.removeprefix("/v1") in PAGE or path == "/v1/models/{model}", path


def test_causes_on_the_page_are_counted_under_their_name():
    told = PAGE.split("Causes: ")[1].split("and so on")[0]
    named = set(re.findall(r"`([a-z_]+)`", told))
    assert {"probe_slow", "tools", "context"} <= named
    assert named <= CAUSES
