"""Every widget in JupyterLab, in a real browser: each control is moved by keyboard, and the figure must follow.

`make test-browser` runs these (marker `browser`). Screenshots and measured times (key press to new figure, in
`latency.json`) are left in build/browser. Without chromium or playwright the tests are skipped, unless
FEDREVIVE_BROWSER=required, which makes that a failure.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from test_notebooks import TINY

ROOT = Path(__file__).parents[2]
OUT = ROOT / "build" / "browser"
TOKEN = "only-on-this-machine"

# Number of panels and parameters, by notebook; `TINY["..."]` of test_notebooks makes one quick that trains.
PANELS: dict[str, tuple[int, dict[str, Any]]] = {
    "01_staleness": (1, {}),  # at its defaults: 5,000 arrivals are played out per move
    "02_why_stale_hurts": (2, TINY["02_why_stale_hurts"]),
    "03_synthesis": (1, TINY["03_synthesis"]),
    "05_fedrevive": (2, TINY["05_fedrevive"]),
    "06_ablations": (2, {}),
    "12_real_clients": (3, TINY["12_real_clients"]),
}

# A median above this says that something is broken, on however busy a machine; what is promised (300 ms) is read off
# latency.json, measured on a quiet one.
BROKEN_MS = 5000

RUN_MS = 300_000  # most that a notebook may take, likewise

HARMLESS = (
    r"favicon",  # asked for by the browser, not by the page
)

SETTINGS = {
    "notebook-extension/tracker": {"windowingMode": "none"},  # all outputs are in the page, seen or not
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},  # nothing from the network
}
# What Debian's chromium needs to start as root without a display, and to ask nobody for anything.
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip

CONTROLS = ".widget-slider, .widget-checkbox"
OUT_OF_REACH = ".widget-dropdown, .widget-select, .widget-radio"  # JupyterLab takes the arrow keys away from these

pytestmark = pytest.mark.browser

DIGEST = """async panel => {
    const bytes = await (await fetch(panel.querySelector('img').src)).arrayBuffer();
    const hash = new Uint8Array(await crypto.subtle.digest('SHA-256', bytes));
    return Array.from(hash, byte => byte.toString(16).padStart(2, '0')).join('');
}"""
# Milliseconds from the next key press in the panel to the next figure that is shown; awaited after the key press.
WATCH = """panel => {
    const image = panel.querySelector('img');
    let pressed = 0;
    panel.addEventListener('keydown', () => { pressed = performance.now(); }, {capture: true, once: true});
    window.nextFigure = new Promise(resolve => {
        image.addEventListener('load', () => resolve(performance.now() - pressed), {once: true});
        setTimeout(() => resolve(null), 60000);
    });
}"""
COUNT = """panel => {
    window.figures = 0;
    panel.querySelector('img').addEventListener('load', () => { window.figures += 1; });
}"""
FINISHED = """() => {
    if (document.querySelector('[data-mime-type="application/vnd.jupyter.error"]')) return true;
    const prompts = [...document.querySelectorAll('.jp-CodeCell .jp-InputArea-prompt')].map(p => p.innerText.trim());
    const last = prompts.filter(text => text).pop() || '';
    return /^\\[\\d+\\]:$/.test(last) && !prompts.includes('[*]:');
}"""


def chromium() -> str:
    found = shutil.which("chromium")
    missing = None if importlib.util.find_spec("playwright") else "playwright is not installed: make test-browser"
    missing = missing or (None if found else "chromium is not installed: apt-get install chromium")
    if missing and os.environ.get("FEDREVIVE_BROWSER") == "required":
        pytest.fail(missing)
    if missing:
        pytest.skip(missing)
    assert found
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    executable = chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        yield running
        running.close()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, browser: Any) -> Iterator[str]:
    """Address of a JupyterLab on a copy of the notebooks, with settings and kernels of its own."""
    home = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "notebooks", home / "notebooks", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    for name, (_, parameters) in PANELS.items():
        set_parameters(home / "notebooks" / f"{name}.ipynb", parameters)
    for name, setting in SETTINGS.items():
        file = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(setting))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    places = {"CONFIG_DIR": "config", "DATA_DIR": "data", "RUNTIME_DIR": "runtime"}
    environment = {
        **os.environ,
        **{f"JUPYTER_{name}": str(home / folder) for name, folder in places.items()},
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "IPYTHONDIR": str(home / "ipython"),
        "PYTHONPATH": str(ROOT),
    }
    options = [f"--ServerApp.root_dir={home / 'notebooks'}", f"--IdentityProvider.token={TOKEN}", f"--port={port}"]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.port_retries=0"]
    with (home / "log").open("w") as log:
        server = subprocess.Popen([*command, *options], env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            wait_for(f"http://127.0.0.1:{port}/api/status?token={TOKEN}", server, home / "log")
            yield f"http://127.0.0.1:{port}/lab"
        finally:
            server.terminate()
            server.wait(30)


def wait_for(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(240):
        with contextlib.suppress(OSError):
            urllib.request.urlopen(address, timeout=5)
            return
        assert server.poll() is None, log.read_text()
        time.sleep(0.5)
    pytest.fail(f"JupyterLab does not answer:\n{log.read_text()}")


def set_parameters(path: Path, parameters: dict[str, Any]) -> None:
    notebook = nbformat.read(path, as_version=4)
    (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    cell.source = "\n".join([cell.source, *(f"{name} = {value!r}" for name, value in parameters.items())])
    nbformat.write(notebook, path)


@pytest.fixture(scope="module", params=PANELS)
def opened(request: pytest.FixtureRequest, lab: str, browser: Any) -> Iterator[tuple[str, Any, list[str]]]:
    """Name, page and console errors of a notebook of which all cells have been run."""
    name = request.param
    OUT.mkdir(parents=True, exist_ok=True)
    page = browser.new_page(viewport={"width": 1300, "height": 1000})
    page.set_default_timeout(120_000)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda said: errors.append(f"{said.text} {said.location['url']}") if said.type == "error" else 0)
    page.goto(f"{lab}/workspaces/{name}/tree/{name}.ipynb?token={TOKEN}")
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()  # before that, running asks which kernel to use
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    try:
        page.wait_for_function(FINISHED, timeout=RUN_MS)
    finally:
        page.screenshot(path=OUT / f"{name}-page.png")  # also of what went wrong
    yield name, page, errors
    page.close()


def drive(page: Any, panel: Any) -> dict[str, list[float]]:
    """Move every control of `panel` there and back by keyboard; milliseconds to each new figure, by control.

    Fails if a move does not change the figure. Buttons are left alone: what they start is a test of its own.
    """
    assert panel.locator(OUT_OF_REACH).count() == 0
    assert panel.locator("img").count() == 1
    times: dict[str, list[float]] = {}
    for control in panel.locator(CONTROLS).all():
        label = control.locator(".widget-label").first.inner_text()
        handle = control.locator(".noUi-handle, input[type=checkbox]").first
        keys = ["ArrowRight", "ArrowLeft"]
        if handle.evaluate("it => it.tagName") == "INPUT":
            keys = ["Space", "Space"]
        elif handle.get_attribute("aria-valuenow") == handle.get_attribute("aria-valuemax"):
            keys.reverse()
        times[label] = []
        for key in keys:
            before = panel.evaluate(DIGEST)
            times[label].append(press(page, panel, handle, key))
            assert panel.evaluate(DIGEST) != before, f"{key} on '{label}' changes nothing"
    return times


def press(page: Any, panel: Any, handle: Any, key: str) -> float:
    """Milliseconds from the key press on a control to the new figure."""
    panel.evaluate(WATCH)
    handle.press(key)
    waited = page.evaluate("window.nextFigure")
    if waited is None:
        page.screenshot(path=OUT / "no-new-figure.png")
        pytest.fail(f"{key} brings no new figure; the panel says: {panel.inner_text()}")
    return waited


def test_every_control_moves_its_figure(opened: tuple[str, Any, list[str]]) -> None:
    name, page, errors = opened
    failed = page.locator('[data-mime-type="application/vnd.jupyter.error"]')
    assert failed.count() == 0, failed.first.inner_text()
    panels = page.locator(".fedrevive-panel").all()
    assert len(panels) == PANELS[name][0]
    latency = {}
    for number, panel in enumerate(panels):
        times = drive(page, panel)
        every = [time for of_control in times.values() for time in of_control]
        latency[number] = {"median_ms": round(statistics.median(every)), "controls_ms": times}
        assert statistics.median(every) < BROKEN_MS
        assert "Not drawn" not in panel.inner_text()
        panel.screenshot(path=OUT / f"{name}-{number}.png")
    file = OUT / "latency.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**known, name: latency}, indent=2) + "\n")
    assert failed.count() == 0, failed.first.inner_text()
    unexpected = [error for error in errors if not any(re.search(pattern, error) for pattern in HARMLESS)]
    assert not unexpected


def test_panels_are_readable_in_the_dark(opened: tuple[str, Any, list[str]]) -> None:
    """The figure stands on white ground, and labels are far from their ground in both themes; also a screenshot."""
    name, page, _ = opened
    contrast = """panel => {
        const label = panel.querySelector('.widget-label');
        const light = colour => { const [r, g, b] = colour.match(/\\d+/g); return (+r + +g + +b) / 765; };
        let ground = label;
        while (/rgba\\(.*, 0\\)/.test(getComputedStyle(ground).backgroundColor)) ground = ground.parentElement;
        return light(getComputedStyle(label).color) - light(getComputedStyle(ground).backgroundColor);
    }"""
    panel = page.locator(".fedrevive-panel").first
    assert panel.evaluate(contrast) < -0.6
    choose_theme(page, "JupyterLab Dark")
    try:
        page.wait_for_function("document.body.dataset.jpThemeLight === 'false'")
        assert panel.evaluate(contrast) > 0.6
        panel.screenshot(path=OUT / f"{name}-dark.png")
    finally:
        choose_theme(page, "JupyterLab Light")


def choose_theme(page: Any, theme: str) -> None:
    page.get_by_role("menuitem", name="Settings", exact=True).click()
    for item in ("Theme", theme):
        page.locator(".lm-Menu-itemLabel").get_by_text(item, exact=True).click()


@pytest.mark.parametrize("opened", ["01_staleness"], indirect=True)
def test_an_error_is_shown_in_the_panel_and_the_figure_stays(opened: tuple[str, Any, list[str]]) -> None:
    _, page, _ = opened
    panel = page.locator(".fedrevive-panel").first
    before = panel.evaluate(DIGEST)
    handle = panel.locator(".widget-inline-hbox", has_text="jobs in flight K").locator(".noUi-handle")
    start = int(float(handle.get_attribute("aria-valuenow")))
    handle.press("End")
    panel.get_by_text("Not drawn: concurrency = 200 must be at most num_clients = 60").wait_for()
    assert panel.evaluate(DIGEST) == before
    panel.screenshot(path=OUT / "error.png")
    handle.press("Home")
    for _ in range(start - 1):
        handle.press("ArrowRight")
    panel.get_by_text("Not drawn").wait_for(state="detached")


@pytest.mark.parametrize("opened", ["05_fedrevive"], indirect=True)
def test_a_button_trains_and_its_branch_joins_the_figure(opened: tuple[str, Any, list[str]]) -> None:
    _, page, errors = opened
    panel = page.locator(".fedrevive-panel").last
    before = panel.evaluate(DIGEST)
    button = panel.get_by_role("button", name="Branch and train")
    button.focus()
    page.wait_for_timeout(500)  # JupyterLab may still move the focus after the menu of themes
    assert button.evaluate("it => it === document.activeElement"), "JupyterLab takes the focus away"
    panel.evaluate(WATCH)
    page.keyboard.press("Enter")
    drawn = page.evaluate("window.nextFigure")
    said = panel.inner_text()
    page.screenshot(path=OUT / "branch-page.png")
    assert drawn is not None, f"no new figure; the panel says: {said}"
    assert panel.evaluate(DIGEST) != before, f"no branch joins the figure; the panel says: {said}"
    panel.get_by_text(re.compile("^Trained: ")).wait_for()
    panel.screenshot(path=OUT / "branch.png")
    assert not [error for error in errors if not any(re.search(pattern, error) for pattern in HARMLESS)]


@pytest.mark.parametrize("opened", ["12_real_clients"], indirect=True)
def test_a_button_starts_real_processes(opened: tuple[str, Any, list[str]]) -> None:
    _, page, _ = opened
    panel = page.locator(".fedrevive-panel").first
    before = panel.evaluate(DIGEST)
    panel.get_by_role("button", name="Start 6 processes").click()
    panel.get_by_text(re.compile("of 6 are there")).wait_for()
    panel.screenshot(path=OUT / "processes.png")
    panel.get_by_text("Finished: this is your own run.").wait_for()
    assert panel.evaluate(DIGEST) != before, f"no new figure; the panel says: {panel.inner_text()}"
    panel.screenshot(path=OUT / "processes-done.png")


@pytest.mark.parametrize("opened", ["01_staleness"], indirect=True)
def test_a_key_held_down_ends_at_its_last_value(opened: tuple[str, Any, list[str]]) -> None:
    """The browser leaves out values that were overtaken, and the figure in the end is that of the last one."""
    _, page, _ = opened
    panel = page.locator(".fedrevive-panel").first
    handle = panel.locator(".widget-inline-hbox", has_text="seed").locator(".noUi-handle")
    panel.evaluate(COUNT)
    for _ in range(20):
        handle.press("ArrowRight")
    settle(page)
    held, drawn = panel.evaluate(DIGEST), page.evaluate("window.figures")
    assert 1 <= drawn <= 20
    for key in ("ArrowRight", "ArrowLeft"):
        press(page, panel, handle, key)
    assert panel.evaluate(DIGEST) == held
    (OUT / "held.json").write_text(json.dumps({"key_presses": 20, "figures": drawn}) + "\n")


def settle(page: Any) -> None:
    """Wait until nothing has been drawn for three seconds."""
    seen = None
    while (now := page.evaluate("window.figures")) != seen:
        seen = now
        page.wait_for_timeout(3000)
