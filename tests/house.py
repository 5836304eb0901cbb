"""Count the house: rooms, floors, arrows, lines, docstrings, comments. `python tests/house.py [CHECKOUT ...]`

A room is an entry at the top of a package, a file or a folder. An arrow is an import from one room into another,
wherever it stands in the code, also for type checkers. Floors are the rooms on the longest chain of arrows (rooms that
import each other count as one). Code lines hold a token that is neither comment nor docstring.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from functools import cache
from pathlib import Path

KEYS = ("files", "lines", "code", "comments", "bare")
LAYOUT = (tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)


def documented(node: ast.AST) -> bool:
    holders = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    return isinstance(node, holders) and ast.get_docstring(node) is not None


def count(path: Path) -> dict[str, int]:
    """Lines, code lines, comment lines, and public functions without a docstring in one file."""
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    docstrings = {
        line
        for node in ast.walk(tree)
        if documented(node)
        for line in range(node.body[0].lineno, node.body[0].end_lineno + 1)
    }
    code: set[int] = set()
    comments = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        comments += token.type == tokenize.COMMENT
        if token.type not in (tokenize.COMMENT, *LAYOUT):
            code |= set(range(token.start[0], token.end[0] + 1))
    public = [
        node
        for holder in ast.walk(tree)
        if isinstance(holder, ast.Module | ast.ClassDef) and not getattr(holder, "name", "").startswith("_")
        for node in holder.body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    ]
    bare = sum(not documented(node) for node in public)
    return {"lines": source.count("\n"), "code": len(code - docstrings), "comments": comments, "bare": bare}


def room(package: Path, path: Path) -> str:
    """The entry at the top of `package` in which `path` stands."""
    return path.relative_to(package).parts[0].removesuffix(".py")


def arrows(package: Path) -> dict[str, set[str]]:
    """Rooms that each room imports."""
    found: dict[str, set[str]] = {}
    names = {room(package, path) for path in package.rglob("*.py")}
    for path in package.rglob("*.py"):
        here = room(package, path)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == package.name:
                rest = node.module.split(".")[1:]
                targets = {rest[0]} if rest else {alias.name for alias in node.names}
                if here != "__init__":
                    found.setdefault(here, set()).update((targets & names) - {here})
    return found


def floors(edges: dict[str, set[str]]) -> int:
    """Rooms on the longest chain of arrows."""

    @cache
    def reach(name: str) -> frozenset[str]:
        seen: set[str] = set()
        waiting = [name]
        while waiting:
            new = edges.get(waiting.pop(), set()) - seen
            seen |= new
            waiting += new
        return frozenset(seen)

    @cache
    def height(name: str) -> int:
        return 1 + max((height(below) for below in edges.get(name, set()) if name not in reach(below)), default=0)

    return max(height(name) for name in edges)


def main(checkout: Path) -> None:
    print(f"{checkout}")
    for name in ("fedrevive_core", "reproduce"):
        package = checkout / name
        rooms: dict[str, dict[str, int]] = {}
        for path in sorted(package.rglob("*.py")):
            total = rooms.setdefault(room(package, path), dict.fromkeys(KEYS, 0))
            for key, value in {"files": 1, **count(path)}.items():
                total[key] += value
        edges = arrows(package)
        sums = {key: sum(total[key] for total in rooms.values()) for key in KEYS}
        circles = sorted(a for a in edges if any(a in edges.get(b, set()) for b in edges[a]))
        print(
            f"{name}: {len(set(rooms) - {'__init__', '__main__'})} rooms on {floors(edges)} floors, "
            f"{sum(map(len, edges.values()))} arrows, {sums['files']} files, {sums['lines']} lines, {sums['code']} of "
            f"code, {100 * sums['comments'] / sums['code']:.1f} comments per 100 lines of code, {sums['bare']} public "
            f"functions without docstring, rooms that import each other: {', '.join(circles) or 'none'}"
        )
        for entry, total in sorted(rooms.items(), key=lambda item: -item[1]["lines"]):
            print(f"  {entry:20} {total['files']:3} files {total['lines']:6} lines {total['code']:6} of code")


if __name__ == "__main__":
    for given in sys.argv[1:] or ["."]:
        main(Path(given).resolve())
