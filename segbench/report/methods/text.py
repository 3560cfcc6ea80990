"""Methods as Markdown, or as LaTeX with BibTeX. Knows nothing of what is said."""

import re
from collections.abc import Callable, Iterator
from functools import partial

from markupsafe import Markup, escape

from segbench.report.methods.parts import Methods, Reference
from segbench.report.table import latex_escaped, one_line

_MARKS = re.compile(r"(`[^`]*`|\[@[^\]]*\])")  # code, and references


def markdown_methods(methods: Methods) -> str:
    """Return the methods as Markdown; references are numbered as they occur."""
    numbers = _Numbers(methods)
    text = partial(
        _written,
        plain=one_line,
        code=lambda code: f"`{code}`",
        cited=numbers.cited,
        known=methods.keys,
    )
    parts = [f"# Methods: {one_line(methods.name)}"]
    for paragraph in methods.paragraphs:
        parts += [f"## {paragraph.title}", " ".join(map(text, paragraph.sentences))]
    parts.append("## NeurIPS paper checklist, items on experiments")
    for answer in methods.answers:
        parts += [
            f"**{answer.item}.** {answer.question}",
            f"Answer: **{answer.answer}**.",
            "\n".join(f"- {point}: {text(told)}" for point, told in answer.points),
        ]
    lines = (f"{number}. {one_line(told)}" for number, told in numbers.listed())
    return "\n\n".join([*parts, "## References", "\n".join(lines)]) + "\n"


def html_methods(methods: Methods) -> Markup:
    """Return the methods as the page shows them: paragraphs, answers and references."""
    numbers = _Numbers(methods)
    text = partial(
        _written,
        plain=lambda words: str(escape(words)),
        code=lambda code: f"<code>{escape(code)}</code>",
        cited=numbers.cited,
        known=methods.keys,
    )
    parts = [
        f"<h3>{escape(paragraph.title)}</h3>\n<p>{' '.join(map(text, paragraph.sentences))}</p>"
        for paragraph in methods.paragraphs
    ]
    parts.append("<h3>NeurIPS paper checklist, items on experiments</h3>")
    for answer in methods.answers:
        points = "".join(
            f"<li>{escape(point)}: {text(told)}</li>\n" for point, told in answer.points
        )
        parts.append(
            f"<p><strong>{escape(answer.item)}.</strong> {escape(answer.question)} "
            f"Answer: <strong>{answer.answer}</strong>.</p>\n<ul>{points}</ul>"
        )
    listed = "".join(f"<li>{escape(told)}</li>\n" for _, told in numbers.listed())
    return Markup("\n".join([*parts, f"<h3>References</h3>\n<ol>{listed}</ol>"]))


class _Numbers:
    """The numbers of references, in the order in which sentences name them."""

    def __init__(self, methods: Methods) -> None:
        self._by_key = {reference.key: reference for reference in methods.references}
        self._numbers: dict[str, int] = {}

    def cited(self, keys: list[str]) -> str:
        """Return `[1, 2]`."""
        found = (self._numbers.setdefault(key, len(self._numbers) + 1) for key in keys)
        return f"[{', '.join(map(str, found))}]"

    def listed(self) -> Iterator[tuple[int, str]]:
        """Yield each number with its reference in words."""
        for key, number in self._numbers.items():
            yield number, _in_words(self._by_key[key])


def latex_methods(methods: Methods) -> str:
    """Return the methods as LaTeX; `bibtex` has the entries that it cites."""

    def cited(keys: list[str]) -> str:
        return rf"\cite{{{','.join(keys)}}}"

    text = partial(
        _written,
        plain=latex_escaped,
        code=lambda code: rf"\texttt{{{latex_escaped(code)}}}",
        cited=cited,
        known=methods.keys,
    )
    parts = [r"\section*{Methods}"]
    for paragraph in methods.paragraphs:
        told = "\n".join(map(text, paragraph.sentences))
        parts.append(f"\\paragraph{{{latex_escaped(paragraph.title)}.}}\n{told}")
    parts.append(r"\section*{NeurIPS paper checklist, items on experiments}")
    for answer in methods.answers:
        points = "\n".join(
            f"  \\item {latex_escaped(point)}: {text(told)}" for point, told in answer.points
        )
        parts.append(
            f"\\paragraph{{{latex_escaped(answer.item)}.}}\n{latex_escaped(answer.question)}\n"
            f"Answer: \\textbf{{{answer.answer}}}.\n"
            f"\\begin{{itemize}}\n{points}\n\\end{{itemize}}"
        )
    return "\n\n".join(parts) + "\n"


def bibtex(methods: Methods) -> str:
    """Return a BibTeX entry for each reference that the methods name."""
    entries = (
        f"@{reference.kind}{{{reference.key},\n"
        + "".join(
            f"  {field} = {{{_in_bibtex(field, value)}}},\n"
            for field, value in reference.fields.items()
        )
        + "}\n"
        for reference in _named(methods)
    )
    return "\n".join(entries)


def _named(methods: Methods) -> Iterator[Reference]:
    told = [sentence for paragraph in methods.paragraphs for sentence in paragraph.sentences]
    told += [sentence for answer in methods.answers for _, sentence in answer.points]
    keys = {key for sentence in told for mark in _MARKS.findall(sentence) for key in _keys(mark)}
    return (reference for reference in methods.references if reference.key in keys)


def _written(
    sentence: str,
    *,
    plain: Callable[[str], str],
    code: Callable[[str], str],
    cited: Callable[[list[str]], str],
    known: frozenset[str],
) -> str:
    """Return the sentence with its plain text, its code and its references written so.

    known: the keys of references; a note that somebody wrote may look like others.
    """
    parts = []
    for part in _MARKS.split(sentence):
        keys = _keys(part)
        if keys and known.issuperset(keys):
            parts.append(cited(keys))
        elif part.startswith("`") and part.endswith("`") and len(part) > 1:
            parts.append(code(part[1:-1]))
        else:
            words = plain(part).strip()
            before, after = part[:1].isspace(), part[-1:].isspace()  # which `plain` may take away
            parts.append(f"{' ' * before}{words}{' ' * (after and bool(words))}")
    return "".join(parts)


def _keys(mark: str) -> list[str]:
    if not mark.startswith("[@"):
        return []
    return [key.strip().removeprefix("@") for key in mark[1:-1].split(";")]


def _in_words(reference: Reference) -> str:
    fields = reference.fields
    authors = fields.get("author", "").replace(" and ", "; ")
    where = " ".join(filter(None, (fields.get("journal"), fields.get("volume"))))
    parts = (
        authors,
        fields["title"],
        where,
        fields.get("year"),
        fields.get("note"),
        fields.get("url"),
    )
    return ", ".join(filter(None, parts))


def _in_bibtex(field: str, value: str) -> str:
    return value if field == "url" else latex_escaped(value)
