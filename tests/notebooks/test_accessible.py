"""In a real browser: axe-core on panels, figures and pages in both themes, and every formula set in JupyterLab.

`make test-browser` runs these (marker `browser`). Screenshots are left in build/browser.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from test_browser import OUT, TOKEN, browser, choose_theme, lab, opened  # noqa: F401 (fixtures)
from test_notebooks import FOLDER, NOTEBOOKS, TINY, cells, execute

from reproduce.reports.notebook_html import write_notebook_page

pytestmark = pytest.mark.browser

# What others leave out, and no notebook can add.
NOT_OURS = {
    "aria-input-field-name": {"enabled": False},  # ipywidgets names a slider beside its handle only
    "empty-table-header": {"enabled": False},  # the corner of a table of pandas
    "scrollable-region-focusable": {"enabled": False},  # long lines of code: browsers give these the focus themselves
}


def violations(page: Any, include: list[str] | None = None) -> list[str]:
    """What axe-core finds in the page, or in the parts that `include` selects: rule and element."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    context = {"include": [[selector] for selector in include]} if include else None
    found = axe.run(page, context, {"resultTypes": ["violations"], "rules": NOT_OURS}).response["violations"]
    return [f"{rule['id']}: {node['html'][:200]} {node['failureSummary']}" for rule in found for node in rule["nodes"]]


@pytest.mark.parametrize("theme", ["JupyterLab Light", "JupyterLab Dark"])
@pytest.mark.parametrize("opened", ["05_fedrevive"], indirect=True)
def test_panels_and_figures_have_text_and_contrast(opened: tuple[str, Any, list[str]], theme: str) -> None:  # noqa: F811
    name, page, _ = opened
    dark = theme.endswith("Dark")
    if dark:
        choose_theme(page, theme)
        page.wait_for_function("document.body.dataset.jpThemeLight === 'false'")
    try:
        figures = page.locator(".jp-OutputArea-output img[alt]")
        assert figures.count() >= 5
        assert all(len(figure.get_attribute("alt")) > 60 for figure in figures.all())
        for number, panel in enumerate(page.locator(".fedrevive-panel").all()):
            assert panel.locator("img").get_attribute("title")
            assert "simulated time (unitless), 0 to" in panel.locator("[role=status]").inner_text()
            panel.screenshot(path=OUT / f"{name}-panel-{number}-{'dark' if dark else 'light'}.png")
        for number, figure in enumerate(figures.all()):
            figure.screenshot(path=OUT / f"{name}-figure-{number}-{'dark' if dark else 'light'}.png")
        assert not violations(page, [".fedrevive-panel", ".jp-RenderedHTMLCommon img"])
    finally:
        if dark:
            choose_theme(page, "JupyterLab Light")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_formula_is_set(path: Path, lab: str, browser: Any) -> None:  # noqa: F811
    """By JupyterLab itself, with MathJax: no source of LaTeX is left on the page. The notebook is not run."""
    sources = "\n".join(cell.source for cell in cells(path, "markdown"))
    wanted = len(re.findall(r"\$\$.+?\$\$|\$(?!\$).+?\$", re.sub(r"`[^`]*`", "", sources), re.DOTALL))
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.set_default_timeout(120_000)
    try:
        page.goto(f"{lab}/workspaces/f{path.stem}/tree/{path.name}?token={TOKEN}")
        page.locator(".jp-RenderedMarkdown h1").first.wait_for()
        if wanted:
            page.wait_for_function(f"document.querySelectorAll('mjx-container').length >= {wanted}")
        shown = "\n".join(page.locator(".jp-RenderedMarkdown").all_inner_texts())
        assert not re.search(r"\\[a-zA-Z]+|\$[^$\n]+\$", shown), shown
        assert page.locator("mjx-merror, [data-mml-node=merror]").count() == 0
    finally:
        page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["01_staleness", "05_fedrevive"])
def test_pages_are_accessible_and_fit_a_phone(name: str, scheme: str, browser: Any, tmp_path: Path) -> None:  # noqa: F811
    executed = execute(FOLDER / f"{name}.ipynb", tmp_path, **TINY[name])
    write_notebook_page(nbformat.from_dict(executed), tmp_path / "page.html")
    for device, width, height in (("laptop", 1280, 800), ("phone", 390, 844)):
        page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
        page.goto((tmp_path / "page.html").as_uri())
        page.screenshot(path=OUT / f"{name}-{device}-{scheme}.png", full_page=True)
        assert not violations(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, "the page itself scrolls sideways"
        page.close()
