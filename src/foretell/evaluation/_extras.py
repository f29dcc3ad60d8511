"""What a report shows besides the comparison itself, each part only where it was measured."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from foretell.evaluation._confounder import Confounder
from foretell.evaluation._curves import Curve
from foretell.evaluation._gate_evidence import GateEvidence
from foretell.evaluation._guarantees import GuaranteeRow
from foretell.evaluation._learning_curve import LearningCurve
from foretell.evaluation._robustness import RobustnessRow
from foretell.evaluation._transfer import Transfer


@dataclass(frozen=True, slots=True, kw_only=True)
class Extras:
    """Evidence that takes more than the test queries' scores; what is absent was not measured.

    ``robustness`` is the probe's, and ``confounder`` the string behind its last row. ``oracle`` is
    what no router's curve can be above (``oracle_curve``).
    """

    learning_curve: LearningCurve | None = None
    transfer: Transfer | None = None
    robustness: tuple[RobustnessRow, ...] | None = None
    confounder: Confounder | None = None
    guarantees: tuple[GuaranteeRow, ...] = ()
    gate: GateEvidence | None = None
    oracle: Curve | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``json.dumps``, to stand beside those of the evaluation."""
        confounder = self.confounder
        return {
            "learning_curve": self.learning_curve and self.learning_curve.to_json(),
            "transfer": self.transfer and self.transfer.to_json(),
            "robustness": None
            if self.robustness is None
            else {row.kind: asdict(row.flips) for row in self.robustness},
            "confounder": confounder
            and {**asdict(confounder), "query_ids": sorted(confounder.query_ids)},
            "guarantees": [asdict(row) for row in self.guarantees],
            "gate": self.gate and self.gate.to_json(),
        }
