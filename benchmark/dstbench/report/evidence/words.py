"""What effects and groups say, in sentences: what the data support, and what they don't."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from dstbench.report.evidence.cliques import maximal_sets
from dstbench.report.evidence.effects import Effect, Effects
from dstbench.report.evidence.experiment import Factor
from dstbench.report.evidence.groups import Groups, Need
from dstbench.report.evidence.tried import Block, Repetition
from dstbench.report.scores import joined
from dstbench.report.statistics import FEWEST
from dstbench.report.values import kind_of, show, significant
from dstbench.results.printable import counted
from dstbench.results.ranking import TOP1, Ranking

Sentence = tuple[str, str]  # what it is about, and what it says

LOW = (
    0.5  # of the best combination's metric, in per cent: what reaches less has failed to train, more or less
)


def p_text(p: float) -> str:
    """``p = 0.012`` or ``p < 0.001``."""
    text = show("p", p)
    return f"p {text[0]} {text[1:]}" if text.startswith("<") else f"p = {text}"


def within(effect: Effect, metric: Ranking = TOP1) -> str:
    """How much better, with its interval: ``6.01 points [0.67, 11.35]``, ``0.0312 nats [0.0210, 0.0414]``."""
    size = amount(effect.mean, metric)
    if effect.low is None or effect.high is None:
        return size
    return f"{size} [{_plain(effect.low, metric)}, {_plain(effect.high, metric)}]"


def amount(value: float, metric: Ranking, digits: int = 2) -> str:
    """How much better, in words: points of a metric in per cent with so many digits, else in the metric's unit."""
    return f"{_plain(value, metric, digits)} {'points' if metric.is_percent else metric.unit}".rstrip()


def _plain(value: float, metric: Ranking, digits: int = 2) -> str:
    return f"{value:.{digits}f}".replace("-", "−") if metric.is_percent else significant(value, 3)


def in_its_sense(gain: float | None, metric: Ranking) -> float | None:
    """A difference as the metric has it: of a loss, below 0 where it is better."""
    return None if gain is None else metric.sign * gain


def ends_in_its_sense(
    low: float | None, high: float | None, metric: Ranking
) -> tuple[float | None, float | None]:
    """The ends of such a difference's interval, the lower one first."""
    ends = in_its_sense(low, metric), in_its_sense(high, metric)
    return ends if metric.sign > 0 else (ends[1], ends[0])


def unit_of(metric: Ranking) -> str:
    """What differences are in: ``percent points``, ``nats per token (below 0 is better)``."""
    return metric.unit_of_differences + (" (below 0 is better)" if metric.sign < 0 else "")


def mean_text(gain: float, metric: Ranking) -> str:
    """A mean as it was measured, whichever way is better."""
    return show(kind_of(metric), metric.sign * gain)


def mean_of(metric: Ranking) -> str:
    """What means are of: ``top-1 in percent``, ``loss in nats per token (lower is better)``."""
    unit = "percent" if metric.is_percent else metric.unit
    direction = "" if metric.is_percent and metric.sign > 0 else f" ({metric.direction})"
    return f"{metric.name}{f' in {unit}' if unit else ''}{direction}"


def effect_sentences(effects: Effects) -> list[Sentence]:
    """What a factorial experiment says, a sentence for each choice and each pair of choices; then what it doesn't."""
    said = [("Tried", _tried(effects))]
    if not effects.used:
        texts = joined(effects.inestimable) or "the choices"
        return [
            *said,
            ("No effects", f"With these trials the effects of {texts} can't be told from each other."),
        ]
    said.append(("Share", _shares(effects)))
    said += [(factor.kind, _choice(effects, factor)) for factor in effects.factors]
    pairs = dict.fromkeys(effect.term for effect in effects.interactions.effects)
    said += [(term, _interplay(effects, term)) for term in pairs]
    said += [
        (
            term,
            "Can't be estimated: there is no trial for some of its pairs, or too few to tell it from others.",
        )
        for term in effects.inestimable
    ]
    return [*said, *_limits(effects)]


def _tried(effects: Effects) -> str:
    experiment = effects.experiment
    choices = " × ".join(f"{factor.kind} ({len(factor.levels)})" for factor in effects.factors)
    finished = sum(len(values) for values in experiment.gains.values())
    return (
        f"{counted(experiment.cells, 'combination')} of {choices}, {_places(list(experiment.gains))}: "
        f"{counted(finished, 'trial')} with a {experiment.metric.name}."
    )


def _places(where: Sequence[Repetition]) -> str:
    """``at 5 seeds of small_cnn on digits at density 0.1``."""
    blocks = Counter(repetition.block for repetition in where)
    seeds = sorted(set(blocks.values()))
    many = counted(seeds[0], "seed") if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]} seeds"
    return f"at {many} of {next(iter(blocks)) if len(blocks) == 1 else f'each of {len(blocks)} blocks'}"


def _blocks(blocks: Sequence[Block]) -> str:
    return (
        str(blocks[0])
        if len(blocks) == 1
        else f"these {len(blocks)} blocks: {'; '.join(map(str, blocks[:6]))}{'; …' * (len(blocks) > 6)}"
    )


def _shares(effects: Effects) -> str:
    lines = sorted((line for line in effects.variance[:-1]), key=lambda line: -line.share)
    listed = [f"{line.term} {100 * line.share:.0f} %" for line in lines if line.share >= 0.005]
    rest = f"{100 * effects.variance[-1].share:.0f} %"
    text = (
        f"Of what differs between trials of a repetition, {joined(listed) or 'nothing'} can be laid to these choices "
        f"and pairs (type II sums of squares); {rest} is left to three and more choices at once and to chance."
    )
    if effects.explained is not None:
        share = f"{100 * effects.explained:.0f} %"
        text += f" Choices and pairs describe {share} of what differs between the means of combinations."
    return text


def _choice(effects: Effects, factor: Factor) -> str:
    differences = effects.differences.of(factor.kind)
    if not differences:
        return "Can't be told from other choices with these trials."
    if all(effect.low is None for effect in differences):
        return _without_interval(effects, max(differences, key=lambda effect: effect.mean))
    means = {effect.levels[0]: effect.mean for effect in effects.main.of(factor.kind)}
    order = sorted(factor.levels, key=lambda level: -means[level])
    metric = effects.experiment.metric
    return f"{'; '.join([*_above(order, differences, metric), *_alike(order, differences, metric)])}."


def _above(order: Sequence[str], differences: Sequence[Effect], metric: Ranking) -> Iterator[str]:
    """Which levels are better than which."""
    told = [effect for effect in differences if effect.told]
    below = {
        level: [other for other in order if any(e.levels == (level, other) for e in told)] for level in order
    }
    for losers in dict.fromkeys(tuple(names) for names in below.values() if names):
        winners = [level for level in order if tuple(below[level]) == losers]
        here = [effect for effect in told if effect.levels[0] in winners and effect.levels[1] in losers]
        sizes = sorted(effect.mean for effect in here)
        least = _plain(sizes[0], metric, 1)
        by = within(here[0], metric) if len(here) == 1 else f"{least} to {amount(sizes[-1], metric, 1)}"
        yield f"{joined(winners)} {'is' if len(winners) == 1 else 'are'} better than {joined(losers)} by {by}"


def _alike(order: Sequence[str], differences: Sequence[Effect], metric: Ranking) -> Iterator[str]:
    """Which levels can't be told apart, and how different they may still be."""
    told = {frozenset(effect.levels) for effect in differences if effect.told}
    apart = {(i, j) for j in range(len(order)) for i in range(j) if frozenset((order[i], order[j])) in told}
    for places in maximal_sets(len(order), apart):
        if len(places) > 1:
            names = [order[place] for place in places]
            limits = [e.largest for e in differences if set(e.levels) <= set(names) and e.largest is not None]
            limit = (
                f": differences of up to {amount(max(limits), metric, 1)} aren't ruled out" if limits else ""
            )
            yield f"{joined(names)} can't be told apart{limit}"


def _without_interval(effects: Effects, largest: Effect) -> str:
    seen = (
        f"The largest difference is {amount(largest.mean, effects.experiment.metric)} ({largest.levels[0]} "
        f"better than {largest.levels[1]})"
    )
    return f"{seen}; {_why_none(effects)}."


def _why_none(effects: Effects) -> str:
    n = len(effects.used)
    if n < FEWEST:
        return f"with {counted(n, 'repetition')} nothing says whether that is more than chance"
    return "it is the same in every repetition, which gives no interval"


def _interplay(effects: Effects, term: str) -> str:
    departures = effects.interactions.of(term)
    largest, metric = max(departures, key=lambda effect: abs(effect.mean)), effects.experiment.metric
    if all(effect.low is None for effect in departures):
        departure = amount(abs(largest.mean), metric)
        return f"The largest departure from the sum of both is {departure}; {_why_none(effects)}."
    told = [effect for effect in departures if effect.told]
    limit = max(effect.largest for effect in departures if effect.largest is not None)
    if not told:
        return f"No interplay is seen; one of up to {amount(limit, metric, 1)} isn't ruled out."
    most = max(told, key=lambda effect: abs(effect.mean))
    side = "better" if most.mean > 0 else "worse"
    size = within(most if most.mean > 0 else _mirrored(most), metric)
    pair = [f"{kind} {level}" for kind, level in zip(term.split(" × "), most.levels, strict=True)]
    return f"What one gives depends on the other: {pair[0]} with {pair[1]} is {size} {side} than the sum of both."


def _mirrored(effect: Effect) -> Effect:
    low = None if effect.high is None else -effect.high
    high = None if effect.low is None else -effect.low
    return Effect(effect.term, effect.levels, -effect.mean, low, high, effect.alike)


def _limits(effects: Effects) -> Iterator[Sentence]:
    """What the numbers above don't say."""
    yield from _missing(effects)
    best = max((mean.gain for mean in effects.means if mean.gain is not None), default=0.0)
    low = [mean for mean in effects.means if mean.gain is not None and mean.gain < LOW * best]
    if low and effects.experiment.metric.is_percent and effects.experiment.metric.sign > 0:
        yield (
            "Collapsed",
            f"{len(low)} of {effects.experiment.cells} combinations reach less than half of the best one's "
            f"{effects.experiment.metric.name} ({best:.1f} %). They weigh heavily in every effect.",
        )
    where = _blocks(list(dict.fromkeys(repetition.block for repetition in effects.used)))
    yield (
        "Not said",
        f"An effect is a mean over all combinations of the other choices: where choices interact, it isn't what each "
        f"combination gains. All is about {where}, trained as here; about others it says nothing.",
    )


def _missing(effects: Effects) -> Iterator[Sentence]:
    experiment = effects.experiment
    ends = Counter(end for where in experiment.missing.values() for end in where.values())
    tried = (experiment.cells - len(experiment.empty)) * len(experiment.gains)
    if ends:
        listed = joined([f"{n} {end}" for end, n in sorted(ends.items())])
        yield (
            "Missing",
            f"{counted(ends.total(), 'trial')} of {tried:,} gave no {experiment.metric.name} ({listed}). Effects "
            "of their repetitions rest on the other trials, as if three choices never acted at once.",
        )
    if experiment.empty:
        cells = [" · ".join(cell) for cell in experiment.empty[:5]]
        more = f" and {len(experiment.empty) - 5} more" if len(experiment.empty) > 5 else ""
        yield "Never tried", f"{counted(len(experiment.empty), 'combination')}: {', '.join(cells)}{more}."
    if effects.unused:
        places = ", ".join(map(str, effects.unused[:5])) + (
            f" and {len(effects.unused) - 5} more" * (len(effects.unused) > 5)
        )
        yield "Not used", f"Too few trials for these effects: {places}."
    if experiment.aside:
        names = ", ".join(experiment.aside[:5]) + (
            f" and {len(experiment.aside) - 5} more" * (len(experiment.aside) > 5)
        )
        yield (
            "Not part of it",
            f"Methods of choices that weren't crossed with the others, or of another version of one: {names}.",
        )


def group_sentences(groups: Groups) -> list[Sentence]:
    """Whether methods differ, which can't be told apart, and how many seeds it would take."""
    said = [("Do any differ?", _friedman(groups)), ("Which?", _which(groups))]
    said += [("The best", _best(groups))] if groups.told else []
    said.append(("How many seeds?", _needed(groups)))
    if groups.apart:
        more = f"; and {len(groups.apart) - 5} more" if len(groups.apart) > 5 else ""
        said.append(("Not ranked", f"{'; '.join(groups.apart[:5])}{more}."))
    where = _blocks(groups.blocks)
    return [
        *said,
        ("Not said", f"That two can't be told apart doesn't make them equal. All is about {where}."),
    ]


def _friedman(groups: Groups) -> str:
    test = groups.friedman
    n = len(groups.complete)
    if test is None:
        ranked = sum(method.rank is not None for method in groups.methods)
        return (
            f"Friedman's test needs three methods and two repetitions, and methods that aren't all equal; complete "
            f"are {counted(ranked, 'method')} in {counted(n, 'repetition')}."
        )
    complete = f"{counted(n, 'complete repetition')} ({_places(groups.complete)[3:]})"
    where = f"{counted(test.methods, 'method')} over {complete}"
    verdict = "They differ" if test.p < 0.05 else f"No evidence that any of these {test.methods} differ"
    return f"{verdict}: Friedman's χ²({test.freedom}) = {test.statistic:.1f}, {p_text(test.p)}; {where}."


def _which(groups: Groups) -> str:
    tested = int((groups.pairs.n >= FEWEST).sum())
    name = "paired t-test" if groups.test == "t" else "Wilcoxon signed-rank test"
    if not tested:
        return "No two methods have three repetitions in common: nothing is tested, and their order may be chance."
    text = f"{len(groups.told):,} of {counted(tested, 'pair')} can be told apart ({name}, Holm over all)."
    if groups.test == "wilcoxon":
        most = int(groups.pairs.n.max())
        least = f"{2.0 ** (1 - most):.2g}"
        text += f" Over {counted(most, 'repetition')} its p is never below {least}, before correction."
    if groups.friedman is not None and groups.friedman.p >= 0.05:
        text += " Where Friedman's test sees no difference, no two of its methods are."
    if groups.pairs.equal:
        text += (
            f" Of {counted(groups.pairs.equal, 'pair')} every repetition has the same difference: no p value."
        )
    return text


def _best(groups: Groups) -> str:
    apart = {second for first, second in groups.told if first == 0} | {f for f, s in groups.told if s == 0}
    alike = len(groups.methods) - 1 - len(apart)
    others = f"{counted(alike, 'other')} can't be told from it" if alike else "all others are told from it"
    return f"{groups.methods[0].name} ranks first; {others}."


def _needed(groups: Groups) -> str:
    if groups.deviation is None:
        return "How much seeds vary isn't known here, so neither is how many it would take."
    needs = [f"{_seeds(need)} for {need.what}{_of(need)}" for need in groups.needs]
    among = f"the {groups.shown} best" if groups.shown < len(groups.methods) else "all methods"
    text = (
        f"To see a difference of {_small(groups)} on one block with 80 % power it takes {joined(needs)}, "
        f"at a paired standard deviation of {amount(groups.deviation, groups.metric)} (pooled over "
        f"pairs of {among} on seeds of a block)."
    )
    hardest = groups.needs[0]
    if hardest.critical_t is not None:
        n = counted(len(groups.complete), "repetition")
        text += f" With the {n} here, Holm over {counted(hardest.comparisons, 'comparison')} first asks for |t| > "
        text += f"{hardest.critical_t:.1f}."
    return text


def _small(groups: Groups) -> str:
    return (
        f"{groups.difference:g} points"
        if groups.metric.is_percent
        else amount(groups.difference, groups.metric)
    )


def _seeds(need: Need) -> str:
    return "more than 100,000 seeds" if need.seeds is None else counted(need.seeds, "seed")


def _of(need: Need) -> str:
    return f" ({need.comparisons:,} comparisons)" if need.comparisons > 1 else ""
