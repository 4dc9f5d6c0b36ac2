"""How schemathesis speaks to a mesh: what it must not do to itself, and what it cannot know."""

import json
import os
import re

import schemathesis
from schemathesis import GenerationMode

# The account that it asks as, and the rule that lets it: changed or removed, they end the run.
OWN = set(os.environ["ROOST_OWN"].split(","))
ID = re.compile(r"[0-9a-f]{32}")
UNSAID = re.compile("there is no such|bytes; it may have|only clients are invited")
VERSION = re.compile(r"[0-9a-f]{32}\.[0-9]{1,15}")

written = {}


@schemathesis.hook
def filter_case(_context, case):
    wanted = str((case.path_parameters or {}).get("id", ""))
    return wanted.lower() not in OWN or case.method.upper() == "GET"


@schemathesis.hook
def map_path_parameters(_context, path_parameters):
    """Ids drawn at random never meet: these are made, changed and removed again and again."""
    wanted = path_parameters and str(path_parameters.get("id", ""))
    if wanted and ID.fullmatch(wanted):
        path_parameters["id"] = f"{0x50 + int(wanted[-1], 16) % 6:032x}"
    return path_parameters


@schemathesis.hook
def before_call(_context, case, **_kwargs):
    """A node waits two seconds for a write that nobody made: ask for one that was."""
    headers = case.headers or {}
    asked = headers.get("Roost-Min-Version")
    if asked and VERSION.fullmatch(asked) and written:
        headers["Roost-Min-Version"] = written["last"]
    # Likewise five seconds for more nodes than there are.
    wait = headers.get("Roost-Wait")
    if wait and wait.isdecimal() and int(wait) <= 1000:
        headers["Roost-Wait"] = str(int(wait) % 4)


@schemathesis.hook
def after_call(_context, _case, response):
    version = response.headers.get("roost-version")
    if version:
        written["last"] = version[0]


@schemathesis.serializer("application/sdp", "application/trickle-ice-sdpfrag")
def text(_context, value):
    if not isinstance(value, bytes):
        value = value if isinstance(value, str) else json.dumps(value)
        value = value.encode("utf-8", "replace")
    return {"data": value}


@schemathesis.hook
def filter_failure(_context, failure, case, response):
    """What was sent as right may be wrong after all."""
    if failure.code != "ST202":
        return True
    # Of patterns with a dot or a quote in a header the tool finds no value that fits, sends one that
    # does not, and notes so.
    wrong = [part.mode for part in case.meta.components.values()]
    if GenerationMode.NEGATIVE in wrong:
        return False
    # Of a session description no schema says what it is.
    if case.media_type == "application/sdp" and response.status_code == 400:
        return False
    if response.status_code != 422:
        return True
    # No schema says which records are there to be named, counts bytes, or makes one field depend on
    # another.
    said = response.json()
    reasons = [fault["detail"] for fault in said.get("errors", [])] or [said["detail"]]
    return not all(UNSAID.search(reason) for reason in reasons)
