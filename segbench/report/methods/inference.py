"""What was estimated, how sure it is, and what that rests on: the statistics of a run in sentences."""

from collections.abc import Iterator

from segbench.claims.cells import metric_in_words
from segbench.claims.kinds import is_count, kind_of
from segbench.claims.rules import RULES
from segbench.errors import counted
from segbench.report.methods.parts import Known, Paragraph, Reference, between, joined
from segbench.runs.registration import warnings_of
from segbench.schema.claims import MeasuredClaim
from segbench.schema.groups import counted_groups
from segbench.statistics.inference import LEVEL, MIN_GROUPS, MIN_SEEDS
from segbench.statistics.power import ALPHA

REFERENCES = (
    Reference(
        "everingham2010",
        "article",
        {
            "author": "Everingham, Mark and Van Gool, Luc and Williams, Christopher K. I. and Winn, John "
            "and Zisserman, Andrew",
            "title": "The Pascal Visual Object Classes (VOC) Challenge",
            "journal": "International Journal of Computer Vision",
            "volume": "88",
            "number": "2",
            "pages": "303--338",
            "year": "2010",
        },
    ),
    Reference(
        "efron1981",
        "article",
        {
            "author": "Efron, Bradley and Stein, Charles",
            "title": "The Jackknife Estimate of Variance",
            "journal": "The Annals of Statistics",
            "volume": "9",
            "number": "3",
            "pages": "586--596",
            "year": "1981",
        },
    ),
    Reference(
        "welch1947",
        "article",
        {
            "author": "Welch, B. L.",
            "title": "The Generalization of `Student's' Problem when Several Different Population "
            "Variances are Involved",
            "journal": "Biometrika",
            "volume": "34",
            "number": "1--2",
            "pages": "28--35",
            "year": "1947",
        },
    ),
    Reference(
        "satterthwaite1946",
        "article",
        {
            "author": "Satterthwaite, F. E.",
            "title": "An Approximate Distribution of Estimates of Variance Components",
            "journal": "Biometrics Bulletin",
            "volume": "2",
            "number": "6",
            "pages": "110--114",
            "year": "1946",
        },
    ),
    Reference(
        "holm1979",
        "article",
        {
            "author": "Holm, Sture",
            "title": "A Simple Sequentially Rejective Multiple Test Procedure",
            "journal": "Scandinavian Journal of Statistics",
            "volume": "6",
            "number": "2",
            "pages": "65--70",
            "year": "1979",
        },
    ),
)


def estimands(known: Known) -> Paragraph:
    """Return which quantities were estimated."""
    metrics = [
        metric
        for verdict in known.verdicts
        if (metric := kind_of(verdict.claim).metric(verdict.claim)) is not None
    ]
    others = [metric_in_words(metric) for metric in metrics if metric != "mean_iou"]
    return Paragraph(
        "Estimands",
        (
            "The figure of a model is its mean intersection over union (mean IoU) [@everingham2010]: the "
            "counts of all images of a split are summed, the IoU of each class is read off the sums, "
            "and its mean over the classes is averaged over training seeds.",
            *([f"Claims also ask for {joined(others)}."] if others else []),
            "Effects are differences of such figures, in percentage points.",
            "They speak of models that are trained again with new seeds and tested on new images like "
            "these.",
            *_otherwise_asked(known),
        ),
    )


def _otherwise_asked(known: Known) -> Iterator[str]:
    """Yield which claims ask of these very images, or of something else than means over seeds."""
    measured = [v.claim for v in known.verdicts if isinstance(v.claim, MeasuredClaim)]
    if here := [claim.says for claim in measured if claim.on == "these_images"]:
        yield f"Of these very images, retrained, {counted(len(here), 'claim')}: {'; '.join(here)}."
    for target in sorted({claim.target for claim in measured} - {"mean"}):
        word = {"median": "median", "iqm": "interquartile mean"}[target]
        says = "; ".join(claim.says for claim in measured if claim.target == target)
        yield f"In place of the mean over seeds the {word} is taken for: {says}."


def uncertainty(known: Known) -> Paragraph:
    """Return how errors and intervals were computed."""
    alone = known.fewest_seeds == 1
    return Paragraph(
        "Uncertainty",
        (
            "An effect has two sources of error, the training seeds and the test images.",
            "The variance over seeds is that of the mean over seeds, for each side of a comparison; sides "
            "are paired seed by seed where a test is called paired, and independent elsewhere.",
            "The variance over images is that of the jackknife [@efron1981]: each image is left out "
            "once, with the same images for all models, and what the seeds show of it already is "
            "subtracted.",
            *_groups(known),
            f"Both variances are added; {100 * LEVEL:g} % confidence intervals and p values are those of "
            "Student's t with degrees of freedom after Welch and Satterthwaite "
            "[@welch1947; @satterthwaite1946].",
            "A value written a ± s is a mean over seeds and the standard deviation over seeds, not the "
            "standard error.",
            *(["Models with one seed have intervals over images alone."] * alone),
        ),
    )


def _groups(known: Known) -> Iterator[str]:
    """Yield how groups of images were taken into account, for each data set that was scored."""
    scored = list(dict.fromkeys((board.dataset, board.protocol.split) for board in known.boards))
    independent = [dataset for dataset, _ in scored if dataset not in known.record.groups]
    for dataset, split in scored:
        if dataset not in known.record.groups:
            continue
        noted = known.record.groups[dataset]
        part = noted.splits.get(split)
        if part is not None:
            groups = counted_groups(part.num_groups, noted.groups.noun)
            yield (
                f"The {part.num_images} images of the split `{split}` of {dataset} come from {groups}; "
                "images of one group are not independent, so influences are summed over a group, and "
                "groups count in place of images."
            )
            if part.num_groups < MIN_GROUPS:
                yield (
                    f"Fewer than {MIN_GROUPS} groups do not show how groups differ: nothing is said of "
                    f"new images of {dataset}, only of these."
                )
    if independent:
        names = joined(independent)
        yield f"Images of {names} are taken as independent: its record names no groups among them."


def tests(known: Known) -> Paragraph:
    """Return what was tested, at which level, and how it was corrected."""
    return Paragraph(
        "Tests",
        (
            f"Models of a table are compared in pairs, two-sided at {100 * ALPHA:g} %, corrected over all "
            f"pairs of the table [@holm1979], where each has at least {MIN_SEEDS} seeds.",
            *(_of_claims(known) if known.verdicts else ()),
        ),
    )


def _of_claims(known: Known) -> Iterator[str]:
    """Yield how claims were judged, and whether they or the runs were changed after a look."""
    record, verdicts = known.record, known.verdicts
    rule = RULES[record.rule]
    tested = [verdict for verdict in verdicts if not is_count(verdict.claim)]
    bands = sum(any(rule.is_one_sided(p.region) for p in v.parts) for v in tested)
    one_sided = f" ({bands} about a band, one-sided at each of its ends)" * bool(bands)
    yield (
        f"{counted(len(verdicts), 'claim')} stood in the experiment file, {len(tested)} of them about "
        f"quantities with chance; these were tested two-sided at {100 * verdicts[0].alpha:.3g} %"
        f"{one_sided}, corrected for their number [@holm1979], by rule {rule.number} of segbench, which "
        "was fixed when they were registered."
    )
    if seeds := {rule.seeds_needed(verdict.claim) for verdict in tested}:
        yield f"A verdict takes at least {between(seeds)} seeds a side."
    if names := {part.test for verdict in tested for part in verdict.parts}:
        yield f"Tests of these claims: {joined(sorted(names))}."
    yield (
        "A claim over several combinations holds only if it holds in each of them; an undecided claim is "
        "no evidence of equality."
    )
    if record.looks > 1:
        yield (
            f"Seeds were added by a rule fixed beforehand: {record.looks} looks at "
            f"{joined(map(str, record.schedule))} seeds, which share {100 * ALPHA:g} %."
        )
    yield from warnings_of(record) or (
        "The record shows no claim, cell or seed that was changed or added after a first verdict.",
    )


def assumptions(known: Known) -> Paragraph:
    """Return what intervals and p values rest on."""
    return Paragraph(
        "Assumptions",
        (
            "Seeds are independent draws, and means over seeds are near to normal; a rare failure of "
            "training that did not occur here is not covered.",
            f"Test images are {units(known)}, from the population that is meant; nothing is said of "
            "images of another kind.",
            "The split into training and test images, the recipe and the classes are fixed: how they were "
            "chosen adds no error to the intervals.",
        ),
    )


def units(known: Known) -> str:
    """Return what is drawn independently: images, or groups of them."""
    datasets = list(dict.fromkeys(board.dataset for board in known.boards))
    grouped = [name for name in datasets if name in known.record.groups]
    if not grouped:
        return "independent draws"
    if len(grouped) == len(datasets):
        return "independent draws of whole groups"
    return f"independent draws, those of {joined(grouped)} of whole groups"
