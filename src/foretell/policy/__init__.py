"""Estimate, prices and limits in, decision out; nothing else."""

from foretell.policy._bound_state import has_bound_state, without_bound_state
from foretell.policy._budget import BudgetPacer, Reservation
from foretell.policy._capabilities import Abilities, Needs, missing
from foretell.policy._conversation_states import (
    ConversationState,
    ConversationStates,
    after_turn,
    thread_of,
)
from foretell.policy._conversations import (
    Conversation,
    ConversationSource,
    conversation_id,
    prefix_chain,
)
from foretell.policy._deadlines import PrefillDeadlines
from foretell.policy._decide import decide
from foretell.policy._exploration import Exploration, exploration_rate, nearness
from foretell.policy._gate import EarlyExitGate, GateReading, GateStage, Vectors, early_exit_gate
from foretell.policy._pool import (
    BudgetGoal,
    CheapestGoal,
    Choice,
    PoolGoal,
    ShareGoal,
    choose_from_pool,
    decide_in_pool,
)
from foretell.policy._share import ShareController
from foretell.policy._turns import TurnFacts, TurnRule, leaving_usd, next_turn, turn_facts

__all__ = [
    "Abilities",
    "BudgetGoal",
    "BudgetPacer",
    "CheapestGoal",
    "Choice",
    "Conversation",
    "ConversationSource",
    "ConversationState",
    "ConversationStates",
    "EarlyExitGate",
    "Exploration",
    "GateReading",
    "GateStage",
    "Needs",
    "PoolGoal",
    "PrefillDeadlines",
    "Reservation",
    "ShareController",
    "ShareGoal",
    "TurnFacts",
    "TurnRule",
    "Vectors",
    "after_turn",
    "choose_from_pool",
    "conversation_id",
    "decide",
    "decide_in_pool",
    "early_exit_gate",
    "exploration_rate",
    "has_bound_state",
    "leaving_usd",
    "missing",
    "nearness",
    "next_turn",
    "prefix_chain",
    "thread_of",
    "turn_facts",
    "without_bound_state",
]
