"""What the leaderboards show: every column with its meaning and its form. Measures' columns are in their table."""

from __future__ import annotations

from dstbench.report.values import Column
from dstbench.results.measure_table import MEASURES

_COLUMNS = (
    Column("rank", "#", "Mean rank over complete blocks (model × dataset × density) of the methods that every block "
           "ranks. Never ranked: controls; the metric of one seed; speed of a masked-dense network or beside other "
           "work.", "rank"),
    Column("method", "method", "The recipe's name, or init · structure · prune · grow.", "method"),
    Column("control", "control", "What a sparse method has to beat: dense, static at the same allocation, "
           "small-dense with as many parameters."),
    Column("init", "init", "Which weights start active, and how many in each layer."),
    Column("structure", "structure", "Which masks are legal."),
    Column("prune", "prune", "Which active weights an update drops."),
    Column("grow", "grow", "Which inactive weights an update activates."),
    Column("schedule", "schedule", "When the topology is updated, and by how much.", extra=True),
    Column("model", "model", "The network."),
    Column("dataset", "dataset", "The data."),
    Column("density_requested", "density",
           "Requested share of active weights over the maskable layers in the budget.", "fraction"),
    Column("setting", "setting", "Training settings that differ from the defaults; layers left dense.", extra=True),
    Column("seeds", "n", "Seeds that finished and went into the means.", "integer"),
    Column("difference", "Δ dense",
           "Difference to the dense control, paired by seed, with its 95 % t-interval.", "points",
           interval=True),
    Column("p_holm", "p (Holm)", "Paired t-test against dense, corrected over all methods of the same model and "
           "dataset (Holm). Not given below three seeds.", "p", extra=True),
    Column("pareto", "Pareto", "On the front of the metric against training FLOPs within its model and "
           "dataset.", "flag"),
    Column("tuned", "tuned", "Settings that were chosen for this method on validation data, before its seeds ran; at "
           "the edge of the grid a better one may be beyond."),
    Column("tuning_spread", "tuning spread", "How far the metric on the validation split is apart over the settings "
           "that were tried: how much the method depends on them.", "score"),
    Column("tried", "tuning", "What each of the settings that were tried gave on the validation split.", extra=True),
    Column("tier", "verified", "How far the least verified of its seeds was: reported, its checkpoint evaluated "
           "again, its first steps retrained, or all of it by others."),
    Column("statuses", "trials", "How the trials of this row ended.", "trials"),
    Column("reason", "why missing", "Why trials failed or were skipped."),
    Column("note", "note", "What to know when reading this row.", "note"),
)  # fmt: skip

COLUMNS = {column.key: column for column in _COLUMNS} | {
    row.key: Column(row.key, row.title, row.help, row.kind, row.interval, row.extra)
    for row in MEASURES.values()
    if row.title
}
