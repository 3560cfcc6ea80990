"""The items of the NeurIPS paper checklist on experiments and statistics, answered from the record.

Questions are quoted from the checklist of 2024 and 2025, items 6 to 8.
"""

from segbench.report.methods import inference, setting
from segbench.report.methods.parts import Answer, Known


def answers(known: Known) -> tuple[Answer, ...]:
    """Return the answers; what authors must add themselves is said."""
    return _setting(known), _significance(known), _compute(known)


def _setting(known: Known) -> Answer:
    chosen = known.record.tuned or known.record.experiment.search
    return Answer(
        "6. Experimental setting/details",
        "Does the paper specify all the training and test details (e.g., data splits, hyperparameters, "
        "how they were chosen, type of optimizer, etc.) necessary to understand the results?",
        "Yes" if chosen else "No",
        (
            ("splits and recipe", "above; whole in `run.json` and in each trial's `trial.json`"),
            (
                "how settings were chosen",
                "by a search on held-out training images"
                if chosen
                else "not on record beyond notes: say it, and answer Yes",
            ),
        ),
    )


def _significance(known: Known) -> Answer:
    several = known.fewest_seeds > 1
    factors = "training seeds (order of data, augmentation, random layers) and test images"
    return Answer(
        "7. Experiment statistical significance",
        "Does the paper report error bars suitably and correctly defined or other appropriate "
        "information about the statistical significance of the experiments?",
        "Yes" if several else "No",
        (
            (
                "factors of variability",
                factors if several else "test images alone, since some models have one seed",
            ),
            (
                "method",
                "closed form: jackknife over images, variance over seeds, Student's t; see Uncertainty",
            ),
            ("assumptions", "see Assumptions; images are " + inference.units(known)),
            (
                "standard deviation or standard error",
                "± is the standard deviation over seeds; intervals are 95 % confidence intervals"
                if several
                else "no ± is given for one seed; intervals are 95 % confidence intervals",
            ),
            (
                "asymmetric errors",
                "intervals of a figure are cut at 0 and 100 %; those of rank correlations are not symmetric",
            ),
            ("tests", "two-sided, corrected for their number after Holm [@holm1979]; see Tests"),
        ),
    )


def _compute(known: Known) -> Answer:
    measured = any(row.provenance is not None for row in known.done)
    return Answer(
        "8. Experiments compute resources",
        "For each experiment, does the paper provide sufficient information on the computer resources "
        "(type of compute workers, memory, time of execution) needed to reproduce the experiments?",
        "Yes" if measured else "No",
        (
            ("workers, memory, time", " ".join(setting.compute(known).sentences[:2])),
            ("more compute than reported", "not on record beyond this run: say it"),
        ),
    )


def not_on_record(known: Known) -> str:
    """Return what a reader may want to know and the record does not hold, in a sentence."""
    return f"Not on record: {'; '.join(setting.missing(known))}."
