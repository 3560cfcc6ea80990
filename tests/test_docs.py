"""What README and docs say is true: commands parse, links lead somewhere, every command has help."""

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from segbench.cli import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += sorted((ROOT / "results").glob("*.md"))
GROUP = get_command(app)


def commands() -> list[tuple[str, str]]:
    """Every `segbench ...` of the pages: lines of code blocks, and words in backquotes."""
    found = []
    for page in PAGES:
        text = page.read_text().replace("\\\n", " ")
        blocks = re.findall(r"```\w*\n(.*?)```", text, flags=re.DOTALL)
        lines = [line.strip() for block in blocks for line in block.splitlines()]
        inline = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
        for line in [*lines, *inline]:
            line = re.sub(r"^(\$ |python -m )", "", line).split("  #")[0].split(" | ")[0]
            if line.startswith("segbench ") and "..." not in line:
                found.append((page.name, line))
    return sorted(set(found))


def test_the_pages_hold_commands_at_all():
    assert len(commands()) > 10


@pytest.mark.parametrize(("page", "line"), commands())
def test_every_command_in_the_pages_parses(page, line):
    words = shlex.split(line, comments=True)[1:]
    if words[0].startswith("-"):
        GROUP.make_context("segbench", words, resilient_parsing=True)
        return
    command = GROUP.commands[words[0]]  # pyright: ignore[reportAttributeAccessIssue]
    if "--help" in words or len(words) == 1:
        return  # a command that is only named must exist, and does
    command.make_context(words[0], words[1:])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        if "://" not in target and not target.startswith("mailto:"):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_command_has_a_sentence_of_help():
    for name, command in GROUP.commands.items():  # pyright: ignore[reportAttributeAccessIssue]
        assert command.help and command.help.strip().endswith((".", ")")), name
        for parameter in command.params:
            assert getattr(parameter, "help", None), f"{name} {parameter.name} has no help"


def test_the_readmes_example_cards_are_sound(tmp_path):
    from segbench.commands.listing import checked

    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    cards = [block for block in blocks if block.startswith("name: ")]
    assert len(cards) == 2
    for block in cards:
        kind = "backbones" if "builder:" in block else "datasets"
        name = block.splitlines()[0].removeprefix("name: ")
        (tmp_path / kind).mkdir()
        path = tmp_path / kind / f"{name}.yaml"
        path.write_text(block)
        assert checked(path, ()).problems == []
