"""What run.json says of where and when."""

from __future__ import annotations

import json
import re

from probe.machine import machine, now


def test_the_machine_is_json_and_names_its_threads():
    found = machine()
    assert json.loads(json.dumps(found)) == found
    assert found["threads"] >= 1
    assert found["torch"].startswith("2.")


def test_times_are_utc_to_the_second():
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", now())
