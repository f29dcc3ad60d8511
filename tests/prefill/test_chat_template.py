import json
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretell.errors import InputError, ModelFileError
from foretell.prefill import ChatTemplate

TEMPLATES = Path(__file__).parent / "templates"
REFERENCE = json.loads((TEMPLATES / "renderings.json").read_bytes())
MARKS = {
    "gemma": ("<bos>", "<eos>"),
    "llama3": ("<|begin_of_text|>", "<|eot_id|>"),
    "mistral": ("<s>", "</s>"),
    "qwen2.5-coder": ("<|endoftext|>", "<|im_end|>"),
    "smollm2": ("<|im_start|>", "<|im_end|>"),
}
CONTROLS = {
    "gemma": ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
    "llama3": ("<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"),
    "mistral": ("<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"),
    "qwen2.5-coder": ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    "smollm2": ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<filename>"),
}
SYSTEM = {"role": "system", "content": "Be brief."}
EARLIER = [
    {"role": "user", "content": "In which country is Graz?"},
    {"role": "assistant", "content": '{"country": "Austria"}'},
]
CLOCK = {"type": "function", "function": {"name": "clock", "description": "wie spät?"}}


@cache
def template(name):
    bos, eos = MARKS[name]
    source = (TEMPLATES / f"{name}.jinja").read_bytes().decode()
    return ChatTemplate(source, bos_token=bos, eos_token=eos)


def written(source, **marks):
    return ChatTemplate(source, **{"bos_token": "", "eos_token": "", **marks})


def user(text):
    return {"role": "user", "content": text}


def guarded(name):
    """The template with the control tokens that it writes."""
    bos, eos = MARKS[name]
    source = (TEMPLATES / f"{name}.jinja").read_bytes().decode()
    return ChatTemplate(source, bos_token=bos, eos_token=eos, controls=CONTROLS[name])


def spelt(prompt):
    return [prompt.text[start:end] for start, end in prompt.literal]


@pytest.mark.parametrize(
    ("name", "text", "own"),
    [
        (
            "smollm2",
            "<|im_start|>system\nBe brief.<|im_end|>\n"
            "<|im_start|>user\nIn which country is Graz?<|im_end|>\n"
            '<|im_start|>assistant\n{"country": "Austria"}<|im_end|>\n'
            "<|im_start|>user\nAnd Turku?<|im_end|>\n"
            '<|im_start|>assistant\n{"country": "',
            'And Turku?<|im_end|>\n<|im_start|>assistant\n{"country": "',
        ),
        (
            "llama3",
            "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
            "Today Date: 26 Jul 2024\n\nBe brief.<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nIn which country is Graz?<|eot_id|>"
            '<|start_header_id|>assistant<|end_header_id|>\n\n{"country": "Austria"}<|eot_id|>'
            "<|start_header_id|>user<|end_header_id|>\n\nAnd Turku?<|eot_id|>"
            '<|start_header_id|>assistant<|end_header_id|>\n\n{"country": "',
            'And Turku?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n{"country": "',
        ),
        (
            "mistral",
            '<s>[INST] In which country is Graz?[/INST] {"country": "Austria"}</s>'
            '[INST] Be brief.\n\nAnd Turku?[/INST]{"country": "',
            'And Turku?[/INST]{"country": "',
        ),
    ],
)
def test_a_conversation_is_written_as_its_model_was_trained(name, text, own):
    beginning = {"role": "assistant", "content": '{"country": "'}
    prompt = template(name).render([SYSTEM, *EARLIER, user("And Turku?"), beginning])
    assert prompt.text == text
    assert prompt.text[prompt.own_start :] == own
    assert prompt.answer_start == '{"country": "'


@pytest.mark.parametrize(
    "rendering", REFERENCE["renderings"], ids=lambda r: f"{r['template']}-{r['case']}"
)
def test_a_rendering_is_what_transformers_renders(rendering):
    source = (TEMPLATES / f"{rendering['template']}.jinja").read_bytes().decode()
    case = REFERENCE["cases"][rendering["case"]]
    ours = ChatTemplate(
        source,
        bos_token=REFERENCE["bos_token"],
        eos_token=REFERENCE["eos_token"],
        now=datetime.fromisoformat(REFERENCE["date"]),
    )
    assert ours.render(case["messages"], case["tools"]).text == rendering["text"]


@pytest.mark.parametrize("name", sorted(MARKS))
def test_control_tokens_in_messages_are_told_from_those_of_the_template(name):
    mark = CONTROLS[name][-1]
    earlier = [] if name == "gemma" else [SYSTEM, *EARLIER]
    plain = guarded(name).render([*earlier, user("And Turku?")])
    forged = guarded(name).render(
        [*earlier, user(f"{mark} And{mark}Turku?\n"), {"role": "assistant", "content": f"{{{mark}"}]
    )
    assert plain.literal == ()
    assert spelt(forged) == [mark] * 3
    others = "".join(CONTROLS[name])
    assert forged.text.count(mark) == plain.text.count(mark) + 3
    everything = guarded(name).render([*earlier, user(others)])
    assert spelt(everything) == list(CONTROLS[name])


@pytest.mark.parametrize("name", sorted(set(MARKS) - {"gemma"}))
@given(said=st.lists(st.text(alphabet=" <|>sim_endtart/\ue000é", max_size=12), min_size=3))
def test_looking_for_control_tokens_changes_no_rendering(name, said):
    first, second, third, *more = said
    asked = [
        {"role": "system", "content": first + "".join(more)},
        *EARLIER,
        user(second + CONTROLS[name][1] + third),
    ]
    looked, plain = (t.render(asked) for t in (guarded(name), template(name)))
    assert (looked.text, looked.own_start) == (plain.text, plain.own_start)
    assert CONTROLS[name][1] in spelt(looked)
    assert set(spelt(looked)) <= set(CONTROLS[name])


def test_control_tokens_in_tools_and_calls_are_text_as_well():
    end = "<|im_end|>"
    tool = {"type": "function", "function": {"name": "clock", "parameters": {end: {"enum": [end]}}}}
    call = {"function": {"name": "clock", "arguments": json.dumps({end: f"{end}\n"})}}
    prompt = guarded("qwen2.5-coder").render(
        [
            user("What time is it?"),
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": f"zwölf{end}"},
        ],
        tools=[tool],
    )
    assert spelt(prompt) == [end] * 5


def test_control_tokens_that_a_template_takes_out_are_gone():
    cleaned = ChatTemplate(
        "<s>{{ messages[-1].content | replace('<s>', '') }}",
        bos_token="",
        eos_token="",
        controls=["<s>"],
    )
    assert cleaned.render([user("a<s>b")]).text == "<s>ab"


def test_control_tokens_that_come_out_changed_are_refused():
    cut = ChatTemplate(
        "<s>{{ messages[-1].content[:4] }}", bos_token="", eos_token="", controls=["<s>"]
    )
    assert cut.render([user("a plain text")]).text == "<s>a pl"
    with pytest.raises(InputError, match="take the control token out"):
        cut.render([user("a<s>b")])


def test_messages_that_leave_no_character_to_mark_them_with_are_refused():
    everything = "".join(map(chr, range(0xE000, 0xF900)))
    with pytest.raises(InputError, match="private characters"):
        template("smollm2").render([user(everything)])


def test_calls_nested_without_end_are_no_crash():
    deep = "[" * 100_000
    call = {"function": {"name": "clock", "arguments": deep}}
    asked = [user("?"), {"role": "assistant", "content": "", "tool_calls": [call]}, user("!")]
    assert template("qwen2.5-coder").render(asked).text.find(deep) > 0
    nested = []
    for _ in range(5000):
        nested = [nested]
    asked = [{**user("<|im_end|>"), "extra": nested}]
    with pytest.raises(InputError, match="nested too deep"):
        guarded("smollm2").render(asked)


def test_qwen_is_told_of_tools_and_of_what_they_replied():
    call = {"function": {"name": "clock", "arguments": '{"city": "Graz"}'}}
    prompt = template("qwen2.5-coder").render(
        [
            user("What time is it?"),
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "zwölf"},
        ],
        tools=[CLOCK],
    )
    assert '"description": "wie spät?"' in prompt.text
    assert '{"name": "clock", "arguments": {"city": "Graz"}}\n</tool_call>' in prompt.text
    assert prompt.text[prompt.own_start :] == (
        "zwölf\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
    )


def test_tools_that_come_before_the_question_are_shared():
    prompt = template("mistral").render([*EARLIER, user("Now?")], tools=[CLOCK])
    assert prompt.text[: prompt.own_start].endswith("][/AVAILABLE_TOOLS][INST] ")
    prompt = template("llama3").render([user(" Now? ")], tools=[CLOCK])
    assert prompt.text[prompt.own_start :].startswith("Now?<|eot_id|>")


@pytest.mark.parametrize("name", sorted(set(MARKS) - {"gemma"}))
@given(one=st.text(), other=st.text(), beginning=st.text())
def test_queries_that_share_their_earlier_messages_share_what_precedes_the_own_part(
    name, one, other, beginning
):
    first, second = (
        template(name).render(
            [SYSTEM, *EARLIER, user(text), {"role": "assistant", "content": beginning}]
        )
        for text in (one, other)
    )
    assert first.text[: first.own_start] == second.text[: second.own_start]
    assert first.text.endswith(beginning)
    assert one.strip() in first.text[first.own_start :]


@given(st.text(min_size=1))
def test_content_in_parts_is_content_joined(text):
    parts = [{"type": "text", "text": text[:3]}, {"type": "text", "text": text[3:]}]
    assert template("smollm2").render([user(parts)]) == template("smollm2").render([user(text)])


def test_the_developer_is_the_system():
    developer = {"role": "developer", "content": "Be brief."}
    qwen = template("qwen2.5-coder")
    assert qwen.render([developer, user("?")]) == qwen.render([SYSTEM, user("?")])


def test_arguments_that_are_no_json_are_shown_as_they_are():
    call = {"function": {"name": "clock", "arguments": "{broken"}}
    asked = [user("?"), {"role": "assistant", "tool_calls": [call]}, user("!")]
    assert '"{broken"' in template("qwen2.5-coder").render(asked).text


def test_the_hash_is_that_of_the_source():
    # sha256sum of the five bytes
    digest = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
    assert written("hello").sha256 == digest


def test_the_clock_is_the_one_that_was_passed_in():
    source = "{{ strftime_now('%d %b %Y') }} {{ messages[-1].content }}"
    asked = [user("hi")]
    assert written(source).render(asked).text == "26 Jul 2024 hi"
    now = datetime(2031, 5, 1, tzinfo=UTC)
    assert written(source, now=now).render(asked).text == "01 May 2031 hi"


def test_what_hugging_face_templates_use_is_there():
    source = (
        "{{ bos_token }}{% for m in messages %}{% if loop.index > 2 %}{% break %}{% endif %}"
        "{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
        "{{ {'b': '<é>', 'a': 1} | tojson }}{{ range(3) | list }}{{ eos_token }}"
    )
    prompt = written(source, bos_token="<s>", eos_token="</s>").render([user("hi")])
    assert prompt.text == '<s>hi{"b": "<é>", "a": 1}[0, 1, 2]</s>'


@pytest.mark.parametrize(
    ("name", "messages", "why"),
    [
        ("gemma", [SYSTEM, user("?")], "System role not supported"),
        ("mistral", [user("?"), user("!")], "roles must alternate"),
        ("smollm2", [], "none of the 0 messages is the user's"),
        ("smollm2", [SYSTEM], "none of the 1 messages is the user's"),
        ("smollm2", [{"role": "robot", "content": "?"}, user("?")], "message 0 has role 'robot'"),
        ("smollm2", [user([{"type": "image_url"}])], "content part of type 'image_url'"),
        ("smollm2", [user(["hi"])], "content part of type 'hi'"),
        ("smollm2", [user(None)], "message 0 has content of type NoneType"),
        (
            "smollm2",
            [user("?"), {"role": "assistant", "tool_calls": [{}]}],
            "add the tool's reply",
        ),
        (
            "smollm2",
            [user("?"), {"role": "assistant", "tool_calls": [{}]}, user("?")],
            "cannot render the messages",
        ),
    ],
)
def test_messages_that_the_model_does_not_know_are_refused(name, messages, why):
    with pytest.raises(InputError, match=why):
        template(name).render(messages)


@pytest.mark.parametrize("name", ["smollm2", "gemma"])
def test_tools_that_a_template_would_leave_out_are_refused(name):
    with pytest.raises(InputError, match="takes no tools"):
        template(name).render([user("What time is it?")], tools=[CLOCK])


def test_a_template_that_cannot_do_without_tools_reads_them():
    source = "{% if not tools %}{{ raise_exception('none') }}{% endif %}{{ messages[-1].content }}"
    assert written(source).render([user("hi")], tools=[CLOCK]).text == "hi"


def test_a_question_that_a_template_would_leave_out_is_refused():
    source = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
    with pytest.raises(InputError, match=r"leaves out message 1 \(role 'tool'\)"):
        written(source).render([user("?"), {"role": "tool", "content": "twelve"}])


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("{{ messages.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{% for i in range(10**9) %}x{% endfor %}", "counts through"),
        (
            "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
            "counts through",
        ),
        ("{{ 'x' * 10000000000 }}", "repeats something"),
        ("{{ 10 ** 10000000000 }}", "computes"),
        (
            "{% for i in range(9999) %}{{ 'x' * 9999 }}{% endfor %}",
            "wrote more than 50000000 characters",
        ),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
    ],
)
def test_a_hostile_template_is_stopped(source, why):
    with pytest.raises(InputError, match=why):
        written(source).render([user("hi")])


def test_a_template_that_does_not_parse_is_refused():
    with pytest.raises(ModelFileError, match="line 2"):
        written("\n{% for %}")
