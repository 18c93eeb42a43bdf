"""What holds for every test: the environment of the notebooks, and how nbval compares them."""

import os
import re
from collections.abc import Generator
from typing import TypeVar

import pytest

from chapters import ENVIRONMENT

os.environ.update(ENVIRONMENT)  # before any test imports torch, and whatever the shell says

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)


@pytest.hookimpl(wrapper=True)
def pytest_collect_file() -> Generator[None, list[pytest.Collector], list[pytest.Collector]]:
    """Let nbval pass over figures: an SVG's last digits differ between processors."""
    collectors = yield
    for collector in collectors:
        if hasattr(collector, "skip_compare"):
            collector.skip_compare += ("image/svg+xml",)
    return collectors


def strict(report: Report) -> Report:
    """On a CI server, a test that is skipped for want of a package or a browser has failed."""
    if os.environ.get("CI") == "true" and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if re.search("could not import|not installed|browser|chromium", reason, re.IGNORECASE):
            report.outcome, report.longrepr = "failed", f"in CI this may not be skipped: {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return strict((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return strict((yield))
