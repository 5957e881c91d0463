"""Where every method on the page comes from: the paper, the place in it, and in what the toolkit departs from it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from probe.page.material import Material

OWN = "The toolkit's own definition."


@dataclass(frozen=True)
class Source:
    """One method. topics: what of the page it stands for (see `topics`). what: its name and columns.

    paper: authors, year, title and identifier, or `OWN`. place: section or equation, where one can be named.
    departs: every difference from the paper, or "nothing".
    """

    topics: tuple[str, ...]
    what: str
    paper: str
    place: str
    departs: str


def sources(page: Material) -> list[Source]:
    """The sources of what the page shows, in the order of `SOURCES`."""
    there = topics(page)
    return [source for source in SOURCES if there & set(source.topics)]


def topics(page: Material) -> set[str]:
    """What the page shows: metrics that some head has a value of, tasks, modes and methods, kinds of study."""
    table = page.table
    found = {name for name in table.metrics if table.frame[name].notna().any()}
    found |= {"close-ups"} if any(name.startswith("pair_query") for name in table.profiles) else set()
    found |= {"removal of retrieval heads"} if page.run is not None and len(page.run.ablation) else set()
    for study in page.studies:
        found |= {"study", f"task {study.task.name}"}
        for one in study.effects:
            found |= {f"method {one.method}", f"mode {one.mode.partition(':')[0]}"}
        found |= {"removal curve"} if study.curve is not None else set()
    for circuit in page.circuits:
        words = circuit.method.partition(" (")[0].replace("heads exact, edges ", "")
        found |= {"circuit", f"task {circuit.task}", f"edges {words}"}
    sections = {name for chapter in page.chapters for name in chapter.sections}
    return found | _kinds(sections)


def _kinds(sections: Iterable[str]) -> set[str]:
    """Kinds of study that are known by the sections that they add."""
    starts = {"tests": "circuit tests", "overlap": "overlap", "matrix": "overlap", "transfer": "transfer"}
    return {kind for name in sections for start, kind in starts.items() if name.startswith(start)}


SOURCES = (
    Source(
        ("sink_first", "sink_other", "sink_rate", "sink_learned"),
        "Attention sinks: sink_first, sink_rate, sink_other, sink_learned",
        "Xiao et al. 2023, Efficient Streaming Language Models with Attention Sinks, arXiv 2309.17453; Gu et al. "
        "2024, When Attention Sink Emerges in Language Models, arXiv 2410.10781",
        "Gu et al., section 3: α_k and ε = 0.3",
        "sink_rate is Gu's indicator of one head, averaged over sequences of any length (theirs: of 64 tokens, "
        "over all heads). sink_first leaves query 0 out, which can look nowhere else. sink_other asks that 32 "
        "queries may see a position, as means over few late queries are noise.",
    ),
    Source(
        ("induction_random", "previous_token_random", "duplicate_token_random"),
        "Previous-token, duplicate-token and induction heads: …_random",
        "Olsson et al. 2022, In-context Learning and Induction Heads, arXiv 2209.11895; Wang et al. 2022, "
        "Interpretability in the Wild, arXiv 2211.00593",
        "Olsson et al.: prefix matching on repeated random tokens",
        "R is drawn without repeats, so that there is no accidental duplicate; rows of the second copy alone; a "
        "mass, summed over all earlier copies, not the share of rows whose strongest key is one.",
    ),
    Source(
        ("induction", "previous_token", "duplicate_token"),
        "The same on the scanned text, beside the chance of uniform attention", OWN, "",
        "Which queries count does not depend on the head or its window.",
    ),
    Source(
        ("streaming_error", "streaming_mass", "local_mass"),
        "What a cache of sinks and a window would serve: streaming_error, streaming_mass, local_mass",
        "Xiao et al. 2023, arXiv 2309.17453; Xiao et al. 2024, DuoAttention, arXiv 2410.10819",
        "the streaming mask: first s keys, last w keys",
        "A measured error of the head's own output on its own inputs, where DuoAttention trains a gate a key/value "
        "head against the model's final state.",
    ),
    Source(
        ("entropy", "entropy_normalised", "max_weight", "distance", "output_norm", "output_share"),
        "How sharp, how far, how much is written: entropy, max_weight, distance, output_norm, output_share", OWN,
        "kernels/reference_metrics.py",
        "Norms are of the head's own write o_i, before any norm that follows; the output bias belongs to no head.",
    ),
    Source(
        ("retrieval", "retrieval_paper"), "Retrieval heads: retrieval, retrieval_paper",
        "Wu et al. 2024, Retrieval Head Mechanistically Explains Long-Context Factuality, arXiv 2404.15574",
        "section 2: the score |g_h ∩ k| / |k| and its threshold of 0.1",
        "retrieval is the paper's set form over the answer's distinct tokens; retrieval_paper the form of its "
        "code, in which repeats count. The needle's place is known, not searched for; generation stops at the end "
        "of text; trials that fail are counted and told; a head is one only where its interval's lower end passes.",
    ),
    Source(
        ("retrieval_forced", "retrieval_control"), "The same with the answer fed in, and its control", OWN, "",
        "retrieval_control moves the needle's span to a random stretch of equal length.",
    ),
    Source(
        ("removal of retrieval heads",), "Recall with retrieval heads removed, beside random heads",
        "Wu et al. 2024, arXiv 2404.15574", "the masking experiment",
        "A removed head writes its mean over other prompts, or zero, as told above (theirs: an even mean of "
        "values, for masked queries attend alike to all); random heads are of the same layers; it holds for the "
        "whole prompt (theirs: for the last token and those generated).",
    ),
    Source(
        ("close-ups",), "Strongest pairs and what the head copies there", OWN, "probe/closeups.py",
        "Promoted tokens are the direct path alone: W_U · norm(W_O v) of the key's value. What later layers make "
        "of it is not in it.",
    ),
    Source(
        ("study",), "Effect of removing a head: ablation_<task>",
        "Wang et al. 2022, arXiv 2211.00593; Michel et al. 2019, arXiv 1905.10650", "knock-outs",
        "Removed at every position unless the page says otherwise; sign: positive where the head helps.",
    ),
    Source(
        ("mode mean",), "Mean ablation", "Wang et al. 2022, arXiv 2211.00593", "",
        "The mean is of held-out clean prompts of the task (of the others, where none are held out), at every "
        "position and within a template; theirs is of the ABC prompts.",
    ),
    Source(
        ("mode resample",), "Resample ablation",
        "Conmy et al. 2023, Towards Automated Circuit Discovery, arXiv 2304.14997", "",
        "The head's output on the prompt's own corrupted twin.",
    ),
    Source(
        ("method gradient",), "First-order estimate of removals: attribution_<task>",
        "Nanda 2023, Attribution patching; Kramár et al. 2024, AtP*, arXiv 2403.00745", "sections 2.3 and 3.1",
        "For any ablation mode, not the corrupted twin alone; per prompt, with an interval.",
    ),
    Source(
        ("method integrated", "edges eap-ig"), "Integrated gradients: EAP-IG",
        "Hanna et al. 2024, Have Faith in Faithfulness, arXiv 2403.17806", "section 3.1",
        "Steps are midpoints of the path (the code takes its ends); the metric is summed over prompts, so that "
        "scores do not depend on the batch; positive where the task needs the part.",
    ),
    Source(
        ("edges eap",), "Edge attribution patching: EAP",
        "Syed et al. 2023, Attribution Patching Outperforms Automated Circuit Discovery, arXiv 2310.10348", "",
        "Keys and values have a port for every query head; positive where the task needs the edge.",
    ),
    Source(
        ("method hybrid",), "Hybrid: estimates for all, measured where it matters", OWN, "probe/analyses/hybrid.py",
        "Heads that may still be among the strongest, by the error of the estimate, are measured on all prompts.",
    ),
    Source(
        ("importance_michel_example", "importance_michel_token", "importance_michel_batch"),
        "Importance by gate gradients: importance_michel_…",
        "Michel, Levy and Neubig 2019, Are Sixteen Heads Really Better than One?, arXiv 1905.10650", "section 4.1",
        "Three published versions, each under its name; sums over positions and means over prompts, without the "
        "codes' division by tokens.",
    ),
    Source(
        ("importance_fluctuation", "importance_fluctuation_flap"),
        "Importance by fluctuation: importance_fluctuation…", "An et al. 2023, FLAP, arXiv 2312.11983", "section 3.2",
        "A correct variance (the released update uses the new mean twice); the task's prompts; position 0 left out.",
    ),
    Source(
        ("importance_write_l1",), "Importance by output norm: importance_write_l1", "AMP, repository c2d-usp", "",
        "Position 0 is left out.",
    ),
    Source(
        ("removal curve",), "Heads removed one after the other", "Michel et al. 2019, arXiv 1905.10650", "",
        "Ranked, reversed and random order of the same layers; areas are over equal spans.",
    ),
    Source(
        ("circuit",), "Faithfulness, CPR and CMD of a circuit",
        "Mueller et al. 2025, MIB; Wang et al. 2022, arXiv 2211.00593", "f(C) = (m(C) − m(∅)) / (m(N) − m(∅))",
        "Head circuits beside edge circuits; on prompts that did not score the parts, where there are enough; "
        "random circuits of the same layers beside each; the circuit told is the smallest that is faithful enough.",
    ),
    Source(
        ("circuit",), "Jobs of heads in a circuit",
        "Wang et al. 2022, arXiv 2211.00593; McDougall et al. 2023, arXiv 2310.04625",
        "section 3; copy scores, section 3.1",
        "Decided by measured behaviour on the task's own prompts, with thresholds of ours; one job or none.",
    ),
    Source(
        ("circuit tests",), "Completeness and minimality", "Wang et al. 2022, arXiv 2211.00593", "section 4",
        "Sets are picked on one half of the prompts and judged on the other; heads are taken away at every "
        "position.",
    ),
    Source(
        ("overlap",), "What circuits share", "Merullo et al. 2023, Circuit Component Reuse, arXiv 2310.08744", "",
        "Beside chance with the same heads per layer, and as a share of each circuit (the published 78 % is of "
        "one).",
    ),
    Source(
        ("overlap",), "Likeness of scores: rank-biased overlap, weighted Jaccard, Spearman",
        "Webber et al. 2010, A Similarity Measure for Indefinite Rankings; Ruzicka 1958", "p = 0.9",
        "Weighted Jaccard is of shares of the sum, so that units do not count.",
    ),
    Source(
        ("transfer",), "One task run on another's circuit", OWN, "probe/analyses/transfer.py", "nothing",
    ),
    Source(
        ("task ioi",), "Task ioi", "Wang et al. 2022, arXiv 2211.00593", "",
        "Templates of our own wording; no name twice where it should be once.",
    ),
    Source(
        ("task colored_objects",), "Task colored_objects", "Merullo et al. 2023, arXiv 2310.08744", "",
        "The six colours of a prompt are all different, so that the answer is not in the example.",
    ),
    Source(
        ("task greater_than",), "Task greater_than", "Hanna et al. 2023, arXiv 2305.00586", "",
        "Nouns of our own; where digits are tokens of their own, the decade's digit is asked for.",
    ),
    Source(
        ("task induction",), "Task induction", "Olsson et al. 2022, arXiv 2209.11895", "", "R without repeats.",
    ),
    Source(
        ("task mqar",), "Task mqar", "Arora et al. 2023, Zoology, arXiv 2312.04927", "",
        "Ordinary ids of the model's own vocabulary, drawn at random.",
    ),
    Source(
        ("task kv_json",), "Task kv_json", "Liu et al. 2023, Lost in the Middle, arXiv 2307.03172", "",
        "Single-token words in place of long identifiers.",
    ),
    Source(
        ("task mcq",), "Task mcq", "Lieberum et al. 2023, arXiv 2307.09458", "", "Questions of our own, and easy.",
    ),
    Source(
        ("task lm", "task lm_recall", "task lm_rest"), "Tasks lm, lm_recall, lm_rest",
        "Arora et al. 2023, Zoology, arXiv 2312.04927", "", "A recall hit completes a pair of tokens seen before.",
    ),
)  # fmt: skip

STATISTICS = (
    Source(
        (), "Intervals", "Efron and Tibshirani 1993, An Introduction to the Bootstrap", "percentile intervals",
        "2,000 resamples of whole sequences, prompts or trials, those that share a needle or template together; "
        "one seeded set for all heads, so that differences are paired.",
    ),
    Source(
        (), "p and q of effects", "Benjamini and Hochberg 1995", "",
        "p by sign flips over prompts, 10,000 of them (all, up to 13 prompts), two-sided; q over all heads of one "
        "task, mode and method.",
    ),
)  # fmt: skip
"""What every page with numbers over sequences or prompts uses."""
