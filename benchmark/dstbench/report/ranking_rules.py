"""By which rules boards are ranked, as one short text: a page carries that of the code that made it."""

from __future__ import annotations

import hashlib

from dstbench.report.boards import BOARDS, CLOSE
from dstbench.report.statistics import CONFIDENCE, EVIDENCE, FEWEST
from dstbench.results.measure_table import MEASURES
from dstbench.results.record import canonical
from dstbench.results.rules import EVALUATION

RANKING = 1
"""Of how rows are grouped, averaged, kept apart and ranked. A change of what the same records come to, where none of
the figures below says it, is a new number here."""


def rules_digest() -> str:
    """Eight hexadecimal digits of what decides an order: by what each board ranks and which way, how measures are
    averaged over seeds, the rules of the evaluation, and what counts as evidence."""
    rules = {
        "ranking": RANKING,
        "evaluation": EVALUATION,
        "statistics": [CONFIDENCE, EVIDENCE, FEWEST, CLOSE],
        "boards": [[board.name, board.by, board.by_metric] for board in BOARDS],
        "measures": {
            board.by: [MEASURES[board.by].better, MEASURES[board.by].over_seeds] for board in BOARDS
        },
    }
    return hashlib.sha256(canonical(rules).encode()).hexdigest()[:8]
