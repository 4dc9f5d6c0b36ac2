"""How schemathesis speaks to a mesh: what it must not do to itself, and what it cannot know."""

import json
import os
import re

import schemathesis
from schemathesis import GenerationMode

# The account that it asks as, and the rule that lets it: changed or removed, they end the run.
OWN = set(os.environ["ROOST_OWN"].split(","))
VERSION = re.compile(r"[0-9a-f]{32}\.[0-9]{1,15}")

written = {}


@schemathesis.hook
def filter_case(_context, case):
    wanted = str((case.path_parameters or {}).get("id", ""))
    return wanted.lower() not in OWN or case.method.upper() == "GET"


@schemathesis.hook
def before_call(_context, case, **_kwargs):
    """A node waits two seconds for a write that nobody made: ask for one that was."""
    asked = (case.headers or {}).get("Roost-Min-Version")
    if asked and VERSION.fullmatch(asked) and written:
        case.headers["Roost-Min-Version"] = written["last"]


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
def filter_failure(_context, failure, case, _response):
    """Of patterns with a dot or a quote in a header the tool finds no value that fits, sends one that
    does not, and notes so: that this is refused is no fault."""
    wrong = [part.mode for part in case.meta.components.values()]
    return failure.code != "ST202" or GenerationMode.NEGATIVE not in wrong
