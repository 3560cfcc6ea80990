"""One table in all its forms."""

import csv
import io

from segbench.report.cells import Summary
from segbench.report.table import (
    Column,
    Interval,
    Link,
    Shown,
    Table,
    csv_of,
    latex,
    markdown,
    plain,
    table_of,
)

COLUMNS = (
    Column("place", "place", "r", ("first", "last")),
    Column("name", "the_name"),
    Column("miou", "mean IoU", "r", ("miou", "miou_sd")),
    Column("interval", "95 % interval", "c", ("low", "high")),
)
ROWS = (
    (
        Shown("1-2", 1, (1, 2)),
        "a|b",
        Summary(0.5602, 0.0031, 4, is_marked=True),
        Interval(55.84, 56.26),
    ),
    (Shown("1-2", 1, (1, 2)), None, Summary(0.425, None, 1), Interval(40, 45)),
    (Shown("3", 3, (3, 3)), "<c>", None, None),
)
TABLE = Table(COLUMNS, ROWS, legend="Mean ± SD in % of a_b.")


def cells_of(text: str) -> list[list[str]]:
    lines = text.replace("\\|", "/").splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_markdown_sets_what_is_marked_in_bold_and_cannot_be_broken_by_a_name():
    head, _, *rows = cells_of(markdown(TABLE))
    assert head == ["place", "the_name", "mean IoU", "95 % interval"]
    assert rows == [
        ["1-2", "a/b", "**56.02 ± 0.31**", "[55.8, 56.3]"],
        ["1-2", "-", "42.50", "[40.0, 45.0]"],
        ["3", "&lt;c&gt;", "-", "-"],
    ]


def test_csv_gives_each_part_a_column_and_leaves_what_is_missing_empty():
    head, *rows = csv.reader(io.StringIO(csv_of(TABLE)))
    assert head == ["first", "last", "name", "miou", "miou_sd", "low", "high"]
    assert rows == [
        ["1", "2", "a|b", "56.0200", "0.3100", "55.8400", "56.2600"],
        ["1", "2", "", "42.5000", "", "40.0000", "45.0000"],
        ["3", "3", "<c>", "", "", "", ""],
    ]


def test_latex_escapes_names_and_titles_alike():
    comment, begin, _, head, _, *rows = latex(TABLE, "two\nlines").splitlines()
    assert comment == "% two lines"
    assert begin == r"\begin{tabular}{rlrc}"
    assert head.strip() == r"place & the\_name & mean IoU & 95\,\% interval \\"
    assert rows[0].strip() == (
        r"1-2 & a\textbar{}b & \textbf{56.02 $\pm$ 0.31} & [55.84, 56.26] \\"
    )
    assert rows[1].strip() == r"1-2 & -- & 42.50 & [40.00, 45.00] \\"
    assert rows[-1] == r"\par\smallskip{\footnotesize Mean $\pm$ SD in\,\% of a\_b.\par}"


def test_columns_are_chosen_by_key_and_empty_ones_can_go():
    assert TABLE.only(["miou", "nothing", "name"]).keys == ["miou", "name"]
    told = table_of(["a", "b"], [["x", ""], ["y", ""]])
    assert told.without_empty("b").keys == ["a"]
    assert told.without_empty("a").keys == ["a", "b"]


def test_links_and_numbers_are_words_in_plain_text():
    told = plain(table_of(["trial", "seed"], [[Link("3f", "trials/3f"), 7]]), [None, None])
    assert told.splitlines()[-1].split() == ["3f", "7"]
