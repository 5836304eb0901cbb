"""An executed notebook as one HTML file that needs nothing else: no scripts, no fonts, no network.

Notebook viewers typeset formulas with a script from the network. Here every formula is drawn once, as a small vector
image with its source as alternative text, so that it can be read wherever the file is opened. Widgets live in
JupyterLab only; a sentence stands in their place, below the figure that says the same.
"""

from __future__ import annotations

import base64
import io
import re
from html import escape, unescape
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.mathtext import MathTextParser
from nbconvert.filters import Highlight2HTML, ansi2html, markdown2html
from pygments.formatters import HtmlFormatter

from reproduce.reports.html import document

POINTS = 12.0  # size at which formulas are drawn; the page scales them with its text
FORMULA = re.compile(
    r"\$\$(?P<display>.+?)\$\$|(?<![\\$])\$(?=\S)(?P<inline>[^$<]+?)(?<=\S)\$(?!\d)"
    r"|(?P<environment>\\begin\{(?P<kind>align\*?|aligned|equation\*?)\}.+?\\end\{(?P=kind)\})",
    re.DOTALL,
)
# What mathtext calls otherwise, or has no room for; environments become one line each.
SPELLINGS = (
    (r"\\[lr]Vert(?![A-Za-z])", r"\\Vert "),
    (r"\\[lr]vert(?![A-Za-z])", r"\\vert "),
    (r"\\[dt]frac(?![A-Za-z])", r"\\frac"),
    (r"\\[Bb]ig+[lrm]?(?![A-Za-z])", ""),
    (r"\\(begin|end)\{[a-z]+\*?\}|&", ""),
    (r"\\le(?![A-Za-z])", r"\\leq "),
    (r"\\ge(?![A-Za-z])", r"\\geq "),
    (r"\\ne(?![A-Za-z])", r"\\neq "),
    (r"\\(label|tag)\{[^}]*\}", ""),
    (r"\s+", " "),
)
STYLE = f"""
.cell {{ margin: 1.1rem 0; }}
.cell p, .cell li {{ font-size: 1.0625rem; }}
.cell h1 {{ margin-top: 0; }} .cell h2, .cell h3 {{ margin-top: 2.2rem; }}
.anchor-link {{ display: none; }}
code {{ padding: 0.1em 0.3em; border-radius: 0.25rem; background: var(--code); font-size: 0.9em; }}
pre code {{ padding: 0; }}
.highlight pre {{ margin: 0; font-size: 0.875rem; }}
.output {{ margin: 0.7rem 0 0; overflow-x: auto; }}
.output pre, .stderr pre {{ margin: 0; padding: 0.3rem 1.1rem; border: 0; background: none; font-size: 0.875rem; }}
.stderr, .note {{ color: var(--soft); font-size: 0.9375rem; }}
.error pre {{ border-left: 3px solid #c4302b; }}
.output table {{ width: auto; border: 0; }}
.output th, .output td {{ border: 0; border-bottom: 1px solid var(--line); padding: 0.35rem 0.8rem;
  text-align: left; }}
.output .dataframe th, .output .dataframe td {{ text-align: right; }}
.output table:not(.dataframe) td:first-child {{ min-width: 9rem; }}
.output thead th {{ border-bottom: 2px solid var(--ink); }}
.verdict {{ padding: 0.6rem 1rem; border-left: 3px solid var(--line); background: var(--code); }}
details {{ margin: 0.6rem 0; }} summary {{ cursor: pointer; color: var(--accent); }}
.display {{ display: block; margin: 1rem auto; max-width: 100%; }}
.line {{ display: block; }}
{HtmlFormatter(style="default").get_style_defs(".highlight")}
.highlight {{ background: none; }} .highlight .c1 {{ color: #2f6464; }} .highlight .ow {{ color: #8a1fd1; }}
@media (prefers-color-scheme: dark) {{
{HtmlFormatter(style="github-dark").get_style_defs(".highlight")}
.highlight {{ background: none; }}
.math {{ filter: invert(0.9); }}
}}
"""


def write_notebook_page(notebook: Any, path: Path) -> None:
    """Write `notebook`, an executed nbformat notebook, as the page `path`. Solutions are folded."""
    cells = "\n".join(
        f'<section class="cell">{to_html(cell.source) if cell.cell_type == "markdown" else _code(cell)}</section>'
        for cell in notebook.cells
    )
    path.write_text(document(title(notebook) or path.stem, cells, STYLE), encoding="utf-8")


def title(notebook: Any) -> str:
    """The first heading, without its marks; empty without one."""
    texts = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    found = re.search(r"^# +(.+)$", texts, flags=re.MULTILINE)
    return found[1].strip() if found else ""


def _code(cell: Any) -> str:
    code = str(Highlight2HTML(pygments_lexer="python")(cell.source)) if cell.source.strip() else ""
    tags = cell.metadata.get("tags", [])
    if "solution" in tags:
        code = f"<details><summary>Solution</summary>{code}</details>"
    elif "injected-parameters" in tags:
        code = f'<p class="note">Parameters given to this run:</p>{code}'
    return code + "".join(map(_output, cell.outputs))


def _output(output: Any) -> str:
    if output.output_type == "stream":
        return f'<div class="output {output.name}"><pre>{ansi2html(output.text)}</pre></div>'
    if output.output_type == "error":
        return f'<div class="output error"><pre>{ansi2html(chr(10).join(output.traceback))}</pre></div>'
    data = output.data
    if "application/vnd.jupyter.widget-view+json" in data:
        shown = '<p class="note">In JupyterLab, controls to explore this stand here.</p>'
    elif "text/html" in data:  # tables, and figures, which bring their text
        shown = data["text/html"]
    elif "image/svg+xml" in data:
        shown = f'<div class="card">{_image("image/svg+xml", data["image/svg+xml"].encode())}</div>'
    elif "image/png" in data:
        size = output.metadata.get("image/png", {})
        uri = f"data:image/png;base64,{data['image/png'].strip()}"
        width = f' width="{size["width"]}"' if "width" in size else ""
        shown = f'<div class="card"><img src="{uri}" alt="{escape(size.get("alt", "figure"))}"{width}></div>'
    elif "text/markdown" in data:
        shown = to_html(data["text/markdown"])
    else:
        shown = f"<pre>{escape(data.get('text/plain', ''))}</pre>"
    return f'<div class="output">{shown}</div>'


def to_html(markdown: str) -> str:
    """Markdown as HTML, with every formula drawn."""
    return with_formulas(str(markdown2html(markdown)))


def with_formulas(text: str) -> str:
    """HTML with every formula drawn; what stands in code is left alone."""
    parts = re.split(r"(<pre\b.*?</pre>|<code\b.*?</code>)", text, flags=re.DOTALL)
    return "".join(part if number % 2 else FORMULA.sub(_formula, part) for number, part in enumerate(parts))


def _formula(found: re.Match[str]) -> str:
    source = unescape(found["inline"] or found["display"] or found["environment"]).strip()
    try:
        if found["inline"]:
            return draw_formula(source)
        lines = [line for line in re.split(r"\\\\(?:\[[^\]]*\])?", source) if line.strip(" &")]
        return "".join(draw_formula(line, display=True) for line in lines)
    except ValueError:  # not in the subset that mathtext knows: then the source is what can be read
        return f"<code>{escape(source)}</code>"


def draw_formula(source: str, *, display: bool = False) -> str:
    """LaTeX `source` as an image that sits on the line of text. Raises ValueError if mathtext cannot set it."""
    text = source
    for pattern, plain in SPELLINGS:
        text = re.sub(pattern, plain, text)
    text = f"${text.strip()}$"
    with mpl.rc_context({"mathtext.fontset": "cm", "svg.fonttype": "path", "svg.hashsalt": "formula"}):
        font = FontProperties(size=POINTS)
        width, height, depth, *_ = MathTextParser("path").parse(text, dpi=72, prop=font)
        width, height = width + 1, height + 1  # room for the edges of strokes
        figure = Figure(figsize=(width / 72, height / 72))
        figure.patch.set_alpha(0)
        figure.text(0.5 / width, (depth + 0.5) / height, text, fontproperties=font)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    em = 1.1 / POINTS  # Computer Modern is small beside the page's font
    style = f"height:{height * em:.3f}em;vertical-align:{-(depth + 0.5) * em:.3f}em"
    return _image("image/svg+xml", buffer.getvalue(), "math display" if display else "math", style, source)


def _image(kind: str, data: bytes, css: str = "", style: str = "", alt: str = "figure") -> str:
    uri = f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"
    return f'<img class="{css}" style="{style}" alt="{escape(" ".join(alt.split()))}" src="{uri}">'
