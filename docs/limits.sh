#!/usr/bin/env bash
# Writes docs/limits.md out of the constants in src and what their comments say.
# Run it after a constant changes; tests/tidy.rs fails while one is missing or has another value.
set -euo pipefail
cd "$(dirname "$0")/.."

python3 - >docs/limits.part <<'PYTHON'
import pathlib, re

CONSTANT = re.compile(r"^\s*(?:pub(?:\([a-z]+\))? )?const ([A-Z][A-Z0-9_]*): ([A-Za-z0-9:]+) =\s*(.*?);",
                      re.S | re.M)
KINDS = {"usize", "u8", "u16", "u32", "u64", "i32", "i64", "f32", "f64", "Duration", "std::time::Duration"}


def without_tests(text):
    """Code up to the tests, which stand last."""
    at = re.search(r"^#\[cfg\(test\)\]\s*\nmod \w+ \{", text, re.M)
    return text[:at.start()] if at else text


def reason(before):
    """The comment directly above, as one line."""
    lines = []
    for line in reversed(before.rstrip("\n").split("\n")):
        line = line.strip()
        if line.startswith("///"):
            lines.append(line[3:].strip())
        # Constants without a gap between them share the comment above the first.
        elif lines or not (line.startswith("#[") or re.match(r"(pub(\([a-z]+\))? )?const .*;$", line)):
            break
    text = " ".join(reversed(lines))
    # References to items make no sense outside of the code.
    text = re.sub(r"\[`([^`]+)`\](\([^)]*\))?", r"`\1`", text)
    return text.replace("|", "\\|")


def shown(value):
    value = re.sub(r"\s+", " ", value.strip())
    for unit, name in (("secs", "s"), ("millis", "ms"), ("micros", "µs")):
        value = re.sub(rf"(?:std::time::)?Duration::from_{unit}\(([^()]+)\)", rf"\1 {name}", value)
    return value.replace("|", "\\|")


print("""# Limits and timings

Everything that can grow has a limit, and everything that waits has an end. Each is a constant with
its reason beside it; this page is made from them by `docs/limits.sh`. What is beyond a limit is
refused or dropped, and counted.""")

for path in sorted(pathlib.Path("src").rglob("*.rs")):
    if path.name == "tests.rs" or path.name.endswith("_tests.rs") or path.name == "fake.rs":
        continue
    text = without_tests(path.read_text())
    rows = []
    for found in CONSTANT.finditer(text):
        name, kind, value = found.groups()
        why = reason(text[:found.start()].rstrip(" "))
        if kind in KINDS and why:
            rows.append((name, shown(value), why))
    if rows:
        print(f"\n## {path.as_posix()}\n\n| constant | value | what and why |\n|---|---|---|")
        for name, value, why in rows:
            print(f"| `{name}` | {value} | {why} |")
PYTHON
mv docs/limits.part docs/limits.md
