import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretell.errors import InputError
from foretell.policy import (
    Conversation,
    ConversationStates,
    after_turn,
    conversation_id,
    prefix_chain,
    thread_of,
)

TTL_S = 60.0

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)
messages = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant", "tool"]), "content": json_values}
    ),
    max_size=6,
)


class Clock:
    def __init__(self, now=0.0):
        self.now = now

    def __call__(self):
        return self.now


def said(*texts):
    """A user's and an assistant's messages in turn."""
    return [
        {"role": "assistant" if position % 2 else "user", "content": text}
        for position, text in enumerate(texts)
    ]


class Chats:
    """Serves requests, and remembers who answered."""

    def __init__(self, *, limit=100):
        self.clock = Clock()
        self.states = ConversationStates(limit=limit, ttl_s=TTL_S, clock=self.clock)

    def serve(self, history, model, *, tenant="t", header=None, previous=None, response_id=None):
        """The state that was found; then ``model`` answers."""
        conversation = Conversation.of(history, header=header, previous=previous)
        found = self.states.find(tenant, conversation)
        state = after_turn(
            found,
            conversation,
            model=model,
            role="strong",
            prompt_tokens=10,
            at=self.clock(),
        )
        self.states.remember(tenant, conversation, state, response_id=response_id)
        return found


@given(messages, messages)
def test_chains_are_equal_up_to_a_message_iff_the_histories_are(one, other):
    def same(a, b):
        return prefix_chain([a]) == prefix_chain([b])

    shared = prefix_chain(one), prefix_chain(other)
    for length in range(1, min(len(one), len(other)) + 1):
        equal = all(map(same, one[:length], other[:length]))
        assert (shared[0][length - 1] == shared[1][length - 1]) == equal


@given(messages, messages)
def test_a_chain_goes_on_where_the_history_does(history, more):
    assert prefix_chain(history + more)[: len(history)] == prefix_chain(history)


def test_what_clients_write_differently_from_turn_to_turn_does_not_matter():
    plain = {"role": "user", "content": "hi"}
    for other in (
        {"content": "hi", "role": "user"},
        {"role": "user", "content": "hi", "name": None},
        {"role": "user", "content": [{"type": "text", "text": "hi"}]},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}},
            ],
        },
    ):
        assert prefix_chain([other]) == prefix_chain([plain])
    assert prefix_chain([{"role": "system", "content": "hi"}]) != prefix_chain([plain])
    assert prefix_chain(said("ab")) != prefix_chain([*said("a"), *said("b")])


def test_a_header_wins_then_the_previous_response_then_the_opening():
    hello = said("hi")
    assert conversation_id("s", "resp_1", hello) == ("s", "header")
    assert conversation_id(None, "resp_1", hello) == ("resp_1", "previous")
    assert conversation_id(None, None, hello)[1] == "opening"


@given(messages, messages)
def test_the_opening_stays_the_same_from_turn_to_turn(system, later):
    system = [message for message in system if message["role"] != "user"]
    opening = [*system, {"role": "user", "content": "hi"}]
    assert conversation_id(None, None, opening) == conversation_id(None, None, opening + later)


def test_openings_without_a_user_have_a_name_too():
    assert conversation_id(None, None, [])[0]
    system = [{"role": "system", "content": "you are"}]
    assert conversation_id(None, None, system) != conversation_id(None, None, [])


@pytest.mark.parametrize("header", ["", "x" * 257])
def test_a_session_name_that_is_empty_or_endless_is_refused(header):
    with pytest.raises(InputError, match="wanted 1 to 256"):
        conversation_id(header, None, said("hi"))


def test_a_named_conversation_is_found_by_its_name():
    chats = Chats()
    assert chats.serve(said("hi"), "large", header="s") is None
    found = chats.serve(said("something else"), "large", header="s")
    assert (found.session, found.model, found.turns) == ("s", "large", 1)
    assert chats.serve(said("third"), "large", header="s").turns == 2
    assert chats.serve(said("hi"), "large", header="other") is None


def test_a_conversation_goes_on_from_the_response_it_names():
    chats = Chats()
    chats.serve(said("hi"), "large", response_id="resp_1")
    found = chats.serve(said("more"), "small", previous="resp_1", response_id="resp_2")
    third = chats.serve(said("and more"), "small", previous="resp_2", response_id="resp_3")
    assert (found.model, third.model) == ("large", "small")
    assert third.turns == 2
    assert third.session == conversation_id(None, None, said("hi"))[0]
    # Going on from an older response is another branch.
    assert chats.serve(said("instead"), "small", previous="resp_1").turns == 1
    assert chats.serve(said("who?"), "small", previous="resp_x") is None


def test_a_nameless_conversation_is_found_by_what_of_it_was_served_before():
    chats = Chats()
    assert chats.serve(said("hi"), "a") is None
    assert chats.serve(said("hi", "hello", "more"), "b").model == "a"
    assert chats.serve(said("hi", "hello", "more", "well", "go on"), "c").model == "b"


def test_a_fresh_chat_never_takes_over_the_state_of_one_that_opened_alike():
    chats = Chats()
    chats.serve(said("hi"), "a")
    assert chats.serve(said("hi"), "b") is None


def test_chats_that_opened_alike_are_told_apart_once_they_have_diverged():
    chats = Chats()
    chats.serve(said("hi"), "a")
    chats.serve(said("hi"), "b")
    chats.serve(said("hi", "hello", "one"), "a")
    chats.serve(said("hi", "good day", "two"), "b")
    assert chats.serve(said("hi", "hello", "one", "1", "go on"), "a").model == "a"
    assert chats.serve(said("hi", "good day", "two", "2", "go on"), "b").model == "b"


def test_an_edited_history_goes_on_from_where_it_was_still_the_same():
    chats = Chats()
    chats.serve(said("hi"), "a")
    chats.serve(said("hi", "hello", "one"), "b")
    found = chats.serve(said("hi", "hello", "instead"), "c")
    assert (found.model, found.turns) == ("a", 1)


def test_the_same_request_again_finds_what_the_first_one_found():
    chats = Chats()
    chats.serve(said("hi"), "a")
    chats.serve(said("hi", "hello", "one"), "b")
    assert chats.serve(said("hi", "hello", "one"), "c").model == "a"


@given(st.sampled_from(["header", "previous", "opening"]))
def test_no_tenant_finds_what_another_one_said(source):
    chats = Chats()
    named = {"header": "s"} if source == "header" else {}
    chats.serve(said("hi"), "a", tenant="one", response_id="resp_1", **named)
    if source == "previous":
        named = {"previous": "resp_1"}
    more = said("hi", "hello", "more")
    assert chats.serve(more, "b", tenant="another", **named) is None
    assert chats.serve(more, "b", tenant="one", **named).model == "a"


def test_a_name_is_not_taken_for_a_response_nor_for_a_hash():
    chats = Chats()
    chats.serve(said("hi"), "a", header="x")
    assert chats.serve(said("hi"), "a", previous="x") is None
    assert chats.serve(said("hi"), "a", header=prefix_chain(said("hi"))[-1]) is None


def test_a_silent_conversation_is_forgotten():
    chats = Chats()
    chats.serve(said("hi"), "a", header="s")
    chats.clock.now += TTL_S
    assert chats.serve(said("hi"), "a", header="s") is not None
    chats.clock.now += TTL_S + 0.1
    assert chats.serve(said("hi"), "a", header="s") is None


def test_the_least_recently_used_goes_first():
    chats = Chats(limit=2)
    chats.serve(said("hi"), "a", header="one")
    chats.serve(said("hi"), "a", header="two")
    chats.serve(said("hi"), "a", header="one")
    chats.serve(said("hi"), "a", header="three")
    assert len(chats.states) == 2
    assert chats.serve(said("hi"), "a", header="one") is not None
    assert chats.serve(said("hi"), "a", header="two") is None


@given(st.lists(st.tuples(st.integers(0, 9), st.floats(0, TTL_S)), max_size=60))
def test_there_are_never_more_states_than_the_limit(steps):
    chats = Chats(limit=4)
    for name, pause in steps:
        chats.clock.now += pause
        chats.serve(said("hi"), "a", header=str(name), response_id=f"resp_{name}")
        assert len(chats.states) <= 4


def test_states_that_are_over_are_dropped_before_the_limit_is_reached():
    chats = Chats()
    for name in range(10):
        chats.serve(said("hi"), "a", header=str(name))
    chats.clock.now += TTL_S + 1
    chats.serve(said("hi"), "a", header="new")
    assert len(chats.states) == 1


def test_a_turn_that_ended_too_long_ago_is_not_remembered():
    clock = Clock(TTL_S + 1)
    states = ConversationStates(limit=1, ttl_s=TTL_S, clock=clock)
    conversation = Conversation.of(said("hi"))
    state = after_turn(None, conversation, model="a", role="weak", prompt_tokens=1, at=0.0)
    states.remember("t", conversation, state)
    assert len(states) == 0


def test_room_for_nothing_is_refused():
    with pytest.raises(InputError, match="limit is 0"):
        ConversationStates(limit=0, ttl_s=1, clock=Clock())


# What the turns of a conversation have in common


def thread(chats, history, **named):
    """The thread of a request that is then served."""
    found = chats.states.find("t", Conversation.of(history, **named))
    told = thread_of(Conversation.of(history, **named), found)
    chats.serve(history, "large", **named)
    return told


def test_later_turns_share_a_thread_that_the_first_one_cannot_know():
    chats = Chats()
    assert thread(chats, said("hi")) is None
    second = thread(chats, said("hi", "hello", "my bill"))
    assert second is not None
    assert thread(chats, said("hi", "hello", "my bill", "which?", "of May")) == second


def test_chats_that_open_alike_are_threads_of_their_own():
    chats = Chats()
    chats.serve(said("hi"), "large")
    threads = {
        thread(chats, said("hi", *rest))
        for rest in (("hello", "my bill"), ("hello", "my router"), ("good day", "my bill"))
    }
    assert len(threads) == 3
    assert None not in threads


def test_an_example_of_a_prompt_that_was_asked_by_itself_makes_no_thread_of_all_that_hold_it():
    chats = Chats()
    chats.serve(said("Lyon?"), "large")
    examples = said("Lyon?", "France", "Osaka?", "Japan")
    assert thread(chats, [*examples, *said("Bergen?")]) is None
    assert (
        thread(chats, [*examples, *said("Accra?"), {"role": "assistant", "content": "{"}]) is None
    )
    # and what goes on from one of these is a thread, not of those that begin alike
    bergen = thread(chats, [*examples, *said("Bergen?", "Norway", "And Oslo?")])
    assert (
        thread(chats, [*examples, *said("Bergen?", "Norway", "And Oslo?", "Too", "Ny?")]) == bergen
    )
    chats.serve([*examples, *said("Turku?")], "large")
    turku = thread(chats, [*examples, *said("Turku?", "Finland", "And Oslo?")])
    assert len({None, bergen, turku}) == 3


def test_a_tool_loop_is_of_its_conversations_thread():
    chats = Chats()
    tool = {"role": "tool", "content": "42"}
    call = {"role": "assistant", "content": "calling"}
    chats.serve(said("how many?"), "large")
    loop = thread(chats, [*said("how many?"), call, call, tool, tool])
    assert loop is not None
    later = [*said("how many?"), call, call, tool, tool, *said("of what?", "x", "y")[1:]]
    assert thread(chats, later) == loop


def test_a_thread_that_its_caller_names_is_that_name():
    chats = Chats()
    assert thread(chats, said("hi"), header="chat-1") is None
    assert thread(chats, said("something else"), header="chat-1") == "chat-1"
