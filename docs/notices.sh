#!/usr/bin/env bash
# Writes THIRD-PARTY.md: every crate that ends up in the executable, with its licence.
# Run it after Cargo.lock changes; tests/tidy.rs fails while a crate is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo metadata --format-version 1 --locked --filter-platform x86_64-unknown-linux-gnu |
python3 -c '
import json, pathlib, re, subprocess, sys

metadata = json.load(sys.stdin)
tree = subprocess.run(
    ["cargo", "tree", "--locked", "-p", "roost", "-e", "normal", "--prefix", "none",
     "--format", "{p}", "--target", "x86_64-unknown-linux-gnu"],
    check=True, capture_output=True, text=True).stdout
built = {tuple(line.split()[:2]) for line in tree.splitlines() if line.strip()}

rows = []
notices = {}
for package in metadata["packages"]:
    key = (package["name"], "v" + package["version"])
    if key in built and package["source"]:
        licence = package["license"] or "see its licence file"
        rows.append((package["name"], package["version"], licence, package["repository"] or ""))
        folder = pathlib.Path(package["manifest_path"]).parent
        lines = set()
        for file in sorted(folder.iterdir()):
            if re.match(r"(?i)(license|licence|copying|copyright|notice)", file.name) and file.is_file():
                for line in file.read_text(errors="replace").splitlines():
                    line = line.strip().strip("/*#").strip()
                    if re.match(r"(?i)(copyright\s+(\(c\)|©|\d|the|20)|\(c\)\s)", line) and "[yyyy]" not in line and len(line) < 200:
                        lines.add(line)
        notices[package["name"]] = sorted(lines)
rows.sort()

print("""# Licences

Roost itself is licensed under either of MIT (`LICENSE-MIT`) or Apache License, Version 2.0
(`LICENSE-APACHE`), at your option.

The executable contains the crates below, each under its own terms; where a crate offers a choice
that includes MIT or Apache-2.0, Roost uses it under that. Their sources, with the full licence
texts and copyright notices, are on crates.io under the name and version given here.

## Notice on foca (MPL-2.0)

The executable contains foca, which is licensed under the Mozilla Public License 2.0
(https://mozilla.org/MPL/2.0/). Roost uses it unmodified; its source code form is available at no
charge from https://crates.io/crates/foca in the version named below.

## Crates

| crate | version | licence | source |
|---|---|---|---|""")
for row in rows:
    print("| " + " | ".join(row) + " |")

print("\n## Copyright notices\n")
for name, lines in sorted(notices.items()):
    if lines:
        print(f"- {name}: " + "; ".join(lines))
' >THIRD-PARTY.part
mv THIRD-PARTY.part THIRD-PARTY.md
