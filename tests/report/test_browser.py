"""The page in a real browser: nothing complains, nothing is fetched, tables sort by mouse and keyboard, it prints, and
it fits."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2p_dist.report.page import write_report
from p2p_dist.results.collect import read_study
from p2p_dist.scheduling.progress import titles_of
from tests.report.browser import Page, browser
from tests.synthetic import STUDY, make_study

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [pytest.mark.process, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory, data_root: Path) -> Path:
    folder = make_study(
        tmp_path_factory.mktemp("report"),
        data_root,
        STUDY.replace("model: [random:qwen3-0.6b, random:qwen3-1.7b, random:qwen3-4b]", "model: tiny"),
    )
    titles = titles_of(json.loads(folder.resolved.read_text())["runs"])
    return write_report(folder, read_study(folder, alive=False), titles)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    assert CHROMIUM
    with browser(CHROMIUM, tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.mark.parametrize("width", [1280, 400])
def test_it_fits_and_nobody_complains(page: Page, report: Path, tmp_path: Path, width: int) -> None:
    page.open(report, width)
    assert page.value("document.documentElement.scrollWidth") <= width, (
        "wide tables scroll by themselves, the page does not"
    )
    images = page.value("Array.from(document.images, image => image.complete && image.naturalWidth > 100)")
    assert len(images) >= 5
    assert all(images)
    assert page.screenshot(tmp_path / f"{width}.png")[:4] == b"\x89PNG"
    assert page.complaints() == []
    assert page.requests() == []


def column(page: Page, table: str, at: int) -> list[float]:
    cells = f"document.querySelectorAll('[aria-labelledby=\"{table}\"] tbody tr')"
    return [float(value) for value in page.value(f"Array.from({cells}, row => row.cells[{at}].dataset.sort ?? 'nan')")]


def test_tables_sort_by_mouse_and_keyboard_missing_last(page: Page, report: Path) -> None:
    """Tables sort by mouse and by keyboard and missing goes last."""
    page.open(report, 1280)
    table, at = "rates_rotten_tomatoes", 3
    heading = f'[aria-labelledby="{table}"] th[data-column="{at}"]'
    before = column(page, table, at)
    there = [value for value in before if value == value]
    assert len(there) < len(before), "clean rows have no attack success"
    page.click(f"{heading} button")
    assert page.value(f"document.querySelector('{heading}').getAttribute('aria-sort')") == "ascending"
    after = column(page, table, at)
    assert after[: len(there)] == sorted(there)
    assert all(value != value for value in after[len(there) :])
    page.value(f"document.querySelector('{heading} button').focus()")
    page.press("Enter", 13, "\r")
    assert page.value(f"document.querySelector('{heading}').getAttribute('aria-sort')") == "descending"
    assert column(page, table, at)[: len(there)] == sorted(there, reverse=True)
    assert page.complaints() == []


def test_it_prints(page: Page, report: Path) -> None:
    page.open(report, 1280)
    assert page.pdf()[:5] == b"%PDF-"
    assert page.complaints() == []


def test_the_policy_holds_against_a_script_that_got_in(page: Page, report: Path, tmp_path: Path) -> None:
    """A negative control: with markup forced into the page, the browser refuses to run or load it, and says so."""
    bad = tmp_path / "bad.html"
    forced = (
        "<script>document.title = 'run'</script><img src='http://127.0.0.1:9/x.png'><h1 onclick='x()' "
        "style='color: red'>"
    )
    bad.write_text(report.read_text().replace("<h1>", forced, 1))
    page.open(bad, 1280)
    assert page.value("document.title") != "run"
    assert len(page.complaints()) >= 3
