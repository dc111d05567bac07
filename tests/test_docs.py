"""The pages point at what is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), *sorted(ROOT.glob("*.md"))]
FOLDERS = ("src", "conf", "docs", "scripts", "tests", "benchmarks")
HISTORY = ("log.md", "CHANGELOG.md")
"""They name what was there."""


def each(pages: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("page", pages, ids=lambda page: page.name)


def anchors(page: Path) -> set[str]:
    """Of its headings, as GitHub makes them."""
    found = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in found}


@each(PAGES)
def test_links_lead_somewhere(page):
    for address in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if address.startswith(("http://", "https://")):
            continue
        name, _, anchor = address.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), address
        assert not anchor or anchor in anchors(target), address


@each([page for page in PAGES if page.name not in HISTORY])
def test_paths_in_the_text_exist(page):
    text = re.sub(r"https?://\S+", "", page.read_text())
    paths = re.findall(rf"(?<![\w./-])(?:{'|'.join(FOLDERS)})/[\w./-]*\w", text)
    missing = [path for path in paths if not (ROOT / path).exists() and not re.search(r"[A-Z]{4}|mine", path)]
    rooms = re.findall(r"`((?:data|swinmim|pretrain|finetune)/[\w./]*\w\.py)`", text)
    missing += [path for path in rooms if not (ROOT / "src" / path).exists()]
    assert missing == []


def test_every_page_is_in_the_readme():
    readme = (ROOT / "README.md").read_text()
    assert [page.name for page in (ROOT / "docs").glob("*.md") if f"(docs/{page.name})" not in readme] == []


def test_code_names_pages_that_exist():
    files = [
        path for folder in ("src", "scripts", "conf", "benchmarks", "tests") for path in (ROOT / folder).rglob("*")
    ]
    texts = {path: path.read_text() for path in files if path.suffix in (".py", ".yaml", ".sh", ".sbatch", ".md")}
    named = {(path.name, page) for path, text in texts.items() for page in re.findall(r"docs/(\w+\.md)", text)}
    assert len(named) > 3
    assert {(file, page) for file, page in named if not (ROOT / "docs" / page).is_file()} == set()
