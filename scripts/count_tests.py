#!/usr/bin/env python3
"""Prints what a run of the tests came to, from pytest's JUnit file: what was skipped, by reason, and the counts.

    scripts/count_tests.py JUNIT_XML

Needs Python alone. `scripts/test` ends with it.
"""

import sys
from collections import Counter
from xml.etree import ElementTree as ET


def lines(junit: str) -> list[str]:
    """The reasons, the most frequent first, and then one line of counts."""
    suites = ET.parse(junit).getroot().findall("testsuite")  # noqa: S314 - pytest wrote it a moment ago
    tests, failed, skipped = (
        sum(int(suite.get(each, "0")) for suite in suites for each in of)
        for of in (("tests",), ("failures", "errors"), ("skipped",))
    )
    reasons = Counter(
        " ".join(each.get("message", "").split()) for suite in suites for each in suite.iterfind("testcase/skipped")
    )
    told = [f"  {count:5}  {reason or 'no reason given'}" for reason, count in reasons.most_common()]
    return [
        *(["skipped, by reason:", *told] if told else []),
        f"{tests - skipped - failed} passed, {failed} failed, {skipped} skipped",
    ]


if __name__ == "__main__":
    print("\n".join(lines(sys.argv[1])))
