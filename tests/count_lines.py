"""Count the lines of code of the product: no docstrings, comments or blank lines.

python tests/count_lines.py
"""

import ast
import io
import sys
import tokenize
from pathlib import Path

ROOMS = ("losses", "metrics", "training", "ngram", "vision", "scripts")
NOT_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}


def code_lines(source: str) -> int:
    """Return how many lines of `source` hold code."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in NOT_CODE | {tokenize.ENDMARKER}:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(
            node
        ):
            lines -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return len(lines)


if __name__ == "__main__":
    root = Path(__file__).parent.parent if len(sys.argv) < 2 else Path(sys.argv[1])
    total = 0
    for room in ROOMS:
        files = {
            f: code_lines(f.read_text(encoding="utf-8"))
            for f in sorted((root / room).rglob("*.py"))
        }
        total += sum(files.values())
        print(
            f"{room:10} {sum(files.values()):6,}",
            "  ".join(f"{f.relative_to(root / room)} {n}" for f, n in files.items())
            if len(sys.argv) > 1
            else "",
        )
    print(f"{'total':10} {total:6,}")
