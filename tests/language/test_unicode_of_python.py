"""What makes lists and matches does not ask the interpreter which characters are letters, digits or capitals.

The test reads the source.  A new call must go through language/characters.py, or be added to HARMLESS with the reason
why the characters that differ between versions of Python never decide.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import worldclip

SOURCES = Path(worldclip.__file__).parent
FOLDERS = ("balance", "curate", "language", "match", "metadata")
METHODS = (
    *("lower", "upper", "title", "casefold", "capitalize", "swapcase", "isalnum", "isalpha", "isdecimal", "isdigit"),
    *("isnumeric", "isprintable", "istitle", "islower", "isupper", "isidentifier"),
)
CLASSES = ("\\w", "\\W", "\\d", "\\D", "\\b", "\\B")

NAME = "the name of a file, a code or a label: ASCII"
HARMLESS = {
    "language/characters.py": {"import unicodedata": "asked only for what the table has"},
    "language/config.py": {"self.name.isprintable()": "the name of a language in a recipe, shown only"},
    "language/table.py": {
        "script.istitle()": NAME,
        "tag.casefold()": NAME,
        "code.casefold()": "of a word that a user typed, to name a code that is near",
        "tag.strip().casefold()": "of a word that a user typed, compared with names in ASCII",
    },
    "match/stage.py": {"name.upper()": NAME},
    "metadata/config.py": {"[A-Za-z][\\w.+-]+:[\\w.+-]+": NAME},
    "metadata/dump_files.py": {
        "\\w+wiki-(?P<day>\\d{8}|latest)-"
        "(?P<kind>pages-articles-multistream|pages-articles|cirrussearch-content)(?P<part>\\d*)": NAME
    },
    "metadata/entry_list.py": {"entry[0].isalnum()": "no letter or digit of any version is punctuation in the table"},
    "metadata/sources/dumps.py": {
        "path.name.lower()": NAME,
        "key.removeprefix('-').isdecimal()": "the number of a namespace: ASCII",
    },
    "metadata/sources/wikitext/read.py": {"x.lower()": "of ASCII only"},
    "metadata/sources/wordnet.py": {"wordnet.lower()": NAME, "lang.partition('-')[0].lower()": NAME},
}


def questions(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield (line, source) of each call, import and pattern whose answer depends on the interpreter's Unicode."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in METHODS:
            is_ours = isinstance(node.func.value, ast.Name) and node.func.value.id == "characters"
            if not is_ours:
                yield node.lineno, ast.unparse(node)
        elif isinstance(node, ast.Import) and any(alias.name == "unicodedata" for alias in node.names):
            yield node.lineno, "import unicodedata"
        elif isinstance(node, ast.Call) and ast.unparse(node.func).startswith("re."):
            pattern = node.args[0]
            is_ascii = any("ASCII" in ast.unparse(argument) for argument in node.args[1:])
            text = pattern.value if isinstance(pattern, ast.Constant) else ast.unparse(pattern)
            if isinstance(text, str) and not is_ascii and any(name in text for name in CLASSES):
                yield node.lineno, text


def test_lists_and_matches_ask_the_table_and_not_python() -> None:
    unknown, harmless = [], set()
    for path in sorted(path for folder in FOLDERS for path in (SOURCES / folder).rglob("*.py")):
        module = path.relative_to(SOURCES).as_posix()
        for line, source in questions(ast.parse(path.read_text(encoding="utf-8"))):
            if source in HARMLESS.get(module, {}):
                harmless.add((module, source))
            else:
                unknown.append(f"{module}:{line}: {source}")
    assert not unknown, "use language/characters.py, or say in HARMLESS why:\n" + "\n".join(unknown)
    assert harmless == {(module, source) for module, sources in HARMLESS.items() for source in sources}


def test_questions_of_every_form_are_found() -> None:
    code = """
import unicodedata
word.lower()
re.compile(r"\\\\d+")
re.sub(rf"{x}\\\\w", "", text)
re.compile(r"\\\\d+", re.ASCII)
characters.lower(word)
re.compile("[0-9]")
"""
    assert [line for line, _ in questions(ast.parse(code))] == [2, 3, 4, 5]
