"""The words that stand below the fields of a job's records: what each means, with an example."""

import ast
import inspect
import re
import textwrap
from dataclasses import dataclass
from itertools import pairwise

ABOUT = re.compile(r"(?P<meaning>.*?)\.? Example: `(?P<example>.*)`\.", re.DOTALL)


@dataclass(frozen=True, slots=True)
class About:
    """What a field means, and a value that it may have, as YAML."""

    meaning: str
    example: str


def field_docs(record: type) -> dict[str, About]:
    """Return what stands below the fields of a record in its source."""
    docs: dict[str, About] = {}
    for parent in reversed(record.__mro__[:-1]):
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(parent))).body
        assert isinstance(tree, ast.ClassDef)
        for field, below in pairwise(tree.body):
            if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
                continue
            if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                text = " ".join(str(below.value.value).split())
                match = ABOUT.fullmatch(text)
                assert match is not None, (record, field.target.id, text)
                docs[field.target.id] = About(match["meaning"], match["example"])
    return docs
