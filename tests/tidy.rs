//! The rules of the house, as tests: which way imports point, what the deciding half may not
//! touch, how long a file may be, that documents and notices match the code.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Top-level modules from the bottom up. A module imports from its own layer and those below.
const LAYERS: &[&[&str]] = &[
    &["grow", "id", "time"],
    &["media", "cluster", "directory", "placement", "membership", "accounts", "access", "peering"],
    &["admission", "wire"],
    &["session"],
    &["control"],
    &["quic"],
    &["flow", "hub", "net", "store", "webrtc"],
    &["agent", "node"],
    &["http"],
    &["config", "logging", "cli", "main"],
];

/// The deciding half: no clock, no socket, no disk, no task, no thread, no hash order.
const PURE: &[&str] = &[
    "grow",
    "id",
    "time",
    "media",
    "cluster",
    "directory",
    "placement",
    "membership",
    "accounts",
    "peering",
    "access",
    "admission",
    "wire",
    "session",
    "control",
];

/// What the deciding half may not name, and why.
const BANNED: &[(&str, &str)] = &[
    ("Instant", "time comes in as `Now`"),
    ("SystemTime", "time comes in as `Now`"),
    ("jiff::", "time comes in as `Now`"),
    ("tokio", "tasks and timers belong to drivers"),
    ("quinn::", "connections belong to drivers"),
    ("quinn_proto::", "connections belong to drivers"),
    ("str0m::", "connections belong to drivers"),
    ("HashMap", "its order is hidden input: use BTreeMap"),
    ("HashSet", "its order is hidden input: use BTreeSet"),
    ("thread_rng", "randomness is passed in"),
    ("rand::rng", "randomness is passed in"),
    ("rand::random", "randomness is passed in"),
    ("OsRng", "randomness is passed in"),
    ("new_v4", "randomness is passed in"),
    ("TcpStream", "sockets belong to drivers"),
    ("TcpListener", "sockets belong to drivers"),
    ("UdpSocket", "sockets belong to drivers"),
    ("std::net::", "addresses are text to the deciding half"),
    ("std::io", "input and output belong to drivers"),
    ("redb::", "the disk belongs to drivers"),
    ("axum", "HTTP belongs to drivers"),
    ("hyper", "HTTP belongs to drivers"),
    ("chitchat", "its tasks and clock belong to drivers"),
    ("retina", "cameras belong to drivers"),
    ("std::fs", "the disk belongs to drivers"),
    ("std::env", "the environment belongs to the command line"),
    ("std::thread", "threads belong to drivers"),
    ("std::process", "processes belong to the command line"),
];

/// The longest a file may be without its tests: what fits in the head, with some slack.
const LINES_MAX: usize = 600;

/// Crates that would be a second provider of cryptography.
const FOREIGN_CRYPTO: &[&str] = &["ring", "openssl", "openssl-sys", "native-tls", "boring"];

#[test]
fn imports_point_down() {
    let mut wrong = Vec::new();
    for file in sources("src") {
        let Some(module) = top_module(&file.path) else { continue };
        let Some(own) = layer(&module) else {
            wrong.push(format!("{}: give the module `{module}` a layer", file.path.display()));
            continue;
        };
        for (number, line) in file.code_lines() {
            for target in line.match_indices("crate::").filter_map(|(at, _)| word(&line[at + 7..]))
            {
                // Capitals are items of the crate root, unknown words are items of this binary.
                if layer(target).is_some_and(|layer| layer > own) {
                    wrong.push(format!(
                        "{}:{number}: `{module}` imports `{target}`, which is above it",
                        file.path.display()
                    ));
                }
            }
        }
    }
    none_of(&wrong);
}

#[test]
fn every_module_has_a_layer() {
    let declared = read(Path::new("src/lib.rs"));
    let mut wrong = Vec::new();
    for module in declared.lines().filter_map(declared_module) {
        if layer(module).is_none() {
            wrong.push(format!("src/lib.rs: `{module}` has no layer in tests/tidy.rs"));
        }
    }
    none_of(&wrong);
}

#[test]
fn the_deciding_half_is_pure() {
    let mut wrong = Vec::new();
    for file in sources("src") {
        let pure = top_module(&file.path).is_some_and(|module| PURE.contains(&module.as_str()));
        for (number, line) in file.code_lines().filter(|_| pure) {
            for (name, why) in BANNED {
                if mentions(line, name) {
                    wrong.push(format!("{}:{number}: `{name}`: {why}", file.path.display()));
                }
            }
        }
    }
    none_of(&wrong);
}

/// What the simulator runs is what decides; it has drivers of its own.
#[test]
fn the_simulator_imports_the_deciding_half_alone() {
    let mut wrong = Vec::new();
    for file in sources("sim/src") {
        for (number, line) in file.code_lines() {
            for target in line.match_indices("roost::").filter_map(|(at, _)| word(&line[at + 7..]))
            {
                if layer(target).is_some() && !PURE.contains(&target) {
                    let path = file.path.display();
                    wrong.push(format!("{path}:{number}: `{target}` does not decide"));
                }
            }
        }
    }
    none_of(&wrong);
}

#[test]
fn files_fit_in_the_head() {
    let mut wrong = Vec::new();
    for file in ["src", "sim", "tests"].into_iter().flat_map(sources) {
        let lines = file.without_tests().lines().count();
        if lines > LINES_MAX {
            wrong.push(format!(
                "{}: {lines} lines without tests, at most {LINES_MAX}: split it by idea",
                file.path.display()
            ));
        }
    }
    none_of(&wrong);
}

#[test]
fn every_source_file_is_compiled() {
    let files = sources("src");
    let mut wrong = Vec::new();
    for file in &files {
        let stem = file.path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        if file.path.parent() == Some(Path::new("src")) && matches!(stem, "lib" | "main") {
            continue;
        }
        let folder = file.path.parent().expect("files are in folders");
        let (name, folder) = if stem == "mod" {
            let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            (name, folder.parent().expect("src is above"))
        } else {
            (stem, folder)
        };
        let parents = [
            folder.join("mod.rs"),
            folder.with_extension("rs"),
            folder.join("lib.rs"),
            folder.join("main.rs"),
        ];
        let declared = files
            .iter()
            .filter(|file| parents.contains(&file.path))
            .any(|file| file.text.lines().filter_map(declared_module).any(|module| module == name));
        if !declared {
            wrong.push(format!("{}: no module declares it", file.path.display()));
        }
    }
    none_of(&wrong);
}

#[test]
fn nothing_is_left_for_later() {
    // Put together here, so that this file does not find itself.
    let markers =
        [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X:"), concat!("HA", "CK:")];
    let mut wrong = Vec::new();
    let rust = ["src", "sim", "tests"].into_iter().flat_map(sources);
    for file in rust.chain(documents()).chain(texts("src", &["js", "css", "html"])) {
        for (number, line) in file.text.lines().enumerate() {
            if let Some(marker) = markers.iter().find(|marker| line.contains(**marker)) {
                wrong.push(format!("{}:{}: {marker}", file.path.display(), number + 1));
            }
        }
    }
    none_of(&wrong);
}

#[test]
fn every_link_in_the_documents_leads_somewhere() {
    let mut wrong = Vec::new();
    for document in documents() {
        for (number, target) in links(&document.text) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (path, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let file = match path {
                "" => document.path.clone(),
                path => document.path.parent().unwrap_or(Path::new("")).join(path),
            };
            let whole = root().join(&file);
            let found = whole.exists()
                && (anchor.is_empty() || !whole.is_file() || has_heading(&read(&file), anchor));
            if !found {
                wrong.push(format!("{}:{number}: `{target}`", document.path.display()));
            }
        }
    }
    none_of(&wrong);
}

#[test]
fn every_limit_is_documented() {
    let documented = read(Path::new("docs/limits.md"));
    let mut wrong = Vec::new();
    for file in sources("src") {
        for (number, line) in file.code_lines() {
            let Some((_, declared)) = line.split_once("const ") else { continue };
            let name = word(declared).unwrap_or_default();
            let limit =
                name.ends_with("_MAX") || name.ends_with("_LIMIT") || name.starts_with("MAX_");
            if limit && !documented.contains(&format!("| `{name}` |")) {
                wrong.push(format!(
                    "{}:{number}: `{name}` is not in docs/limits.md: say why it is what it is, \
                     and run docs/limits.sh",
                    file.path.display()
                ));
            }
        }
    }
    none_of(&wrong);
}

#[test]
fn the_documented_limits_are_those_of_the_code() {
    let before = read(Path::new("docs/limits.md"));
    let copy = tempfile::tempdir().expect("a temporary folder can be made");
    let docs = copy.path().join("docs");
    std::fs::create_dir(&docs).expect("it is empty");
    std::fs::copy(root().join("docs/limits.sh"), docs.join("limits.sh")).expect("it is there");
    std::os::unix::fs::symlink(root().join("src"), copy.path().join("src")).expect("it is empty");
    let ran = Command::new("bash").arg(docs.join("limits.sh")).status().expect("bash is there");
    assert!(ran.success());
    let fresh = std::fs::read_to_string(docs.join("limits.md")).expect("it was written");
    let stale: Vec<_> = fresh.lines().filter(|line| !before.contains(line)).collect();
    assert!(stale.is_empty(), "run docs/limits.sh, which adds:\n{}", stale.join("\n"));
}

#[test]
fn every_metric_is_documented() {
    let documented = read(Path::new("docs/operating.md"));
    let mut wrong = Vec::new();
    let mut found = 0;
    for file in sources("src/http") {
        let code: String = file.code_lines().map(|(_, line)| line.trim()).collect();
        for call in [
            ".gauges(\"",
            ".counters(\"",
            " add(\"",
            ";add(\"",
            "for (name, help, counter) in [(\"",
        ] {
            for (at, _) in code.match_indices(call) {
                let Some(name) = word(&code[at + call.len()..]) else { continue };
                found += 1;
                if !documented.contains(&format!("`roost_{name}")) {
                    wrong.push(format!(
                        "{}: roost_{name} is not in docs/operating.md",
                        file.path.display()
                    ));
                }
            }
        }
    }
    assert!(found > 15, "only {found} metrics were found in src/http: this rule looks wrong");
    none_of(&wrong);
}

#[test]
fn every_decision_record_says_where_it_stands() {
    let mut wrong = Vec::new();
    let mut records = 0;
    for document in documents().into_iter().filter(|file| file.path.starts_with("docs/adr")) {
        records += 1;
        let status = document.text.lines().find_map(|line| line.strip_prefix("Status: "));
        let known = ["proposed", "accepted", "superseded", "rejected"];
        if !status.is_some_and(|status| known.iter().any(|word| status.starts_with(word))) {
            wrong.push(format!("{}: no line `Status: accepted`", document.path.display()));
        }
    }
    assert!(records > 0, "docs/adr holds no decision record");
    none_of(&wrong);
}

#[test]
fn there_is_one_crypto_provider() {
    let built = built_crates();
    let names: BTreeSet<&str> = built.iter().map(|(name, _)| name.as_str()).collect();
    assert!(names.contains("aws-lc-rs"), "aws-lc-rs is not built: the list is wrong: {names:?}");
    let foreign: Vec<_> = FOREIGN_CRYPTO.iter().filter(|name| names.contains(**name)).collect();
    assert!(foreign.is_empty(), "{foreign:?} are built; find out by whom: cargo tree -i NAME");
}

#[test]
fn the_notices_name_every_crate() {
    let notices = read(Path::new("THIRD-PARTY.md"));
    let mut wrong = Vec::new();
    for (name, version) in built_crates() {
        if name != "roost" && !notices.contains(&format!("| {name} | {version} |")) {
            wrong.push(format!("{name} {version} is missing: run docs/notices.sh"));
        }
    }
    none_of(&wrong);
}

#[test]
fn the_rules_would_find_what_they_forbid() {
    assert!(mentions("let t = Instant::now();", "Instant"));
    assert!(!mentions("let t = InstantNoodles;", "Instant"));
    assert!(!mentions("let HashMapper = 1;", "HashMap"));
    assert!(layer("cli") > layer("wire") && layer("wire") > layer("id"));
    assert_eq!(links("see [a](b.md#c) and [d](e)"), [(1, "b.md#c".into()), (1, "e".into())]);
    assert!(has_heading("# One\n\n## What it's for, really\n", "what-its-for-really"));
    let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n    use tokio;\n}\nfn b() {}\n";
    let file = Source { path: "src/x.rs".into(), text: text.into() };
    let lines: Vec<_> = file.code_lines().map(|(_, line)| line).collect();
    assert_eq!(lines, ["fn a() {}", "fn b() {}"]);
    let file = Source { path: "src/x.rs".into(), text: "/// tokio\n// tokio\nx // tokio\n".into() };
    assert_eq!(file.code_lines().map(|(_, line)| line).collect::<Vec<_>>(), ["x "]);
    assert_eq!(top_module(Path::new("src/cli/demo/mod.rs")).as_deref(), Some("cli"));
    assert_eq!(top_module(Path::new("src/wire.rs")).as_deref(), Some("wire"));
}

/// One file of the project.
struct Source {
    /// Relative to the project's root.
    path: PathBuf,
    text: String,
}

impl Source {
    /// Lines with their numbers, without comments, without test modules.
    fn code_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let skipped = self.test_lines();
        self.text.lines().enumerate().filter_map(move |(index, line)| {
            if skipped.contains(&index) || line.trim_start().starts_with("//") {
                return None;
            }
            // A comment behind code; an address in a string is no comment.
            let code = line.split_once(" // ").map_or(line, |(code, _)| &line[..=code.len()]);
            Some((index + 1, code))
        })
    }

    fn without_tests(&self) -> String {
        let skipped = self.test_lines();
        let lines = self.text.lines().enumerate().filter(|(index, _)| !skipped.contains(index));
        lines.fold(String::new(), |mut text, (_, line)| {
            let _ = writeln!(text, "{line}");
            text
        })
    }

    /// Indices of the lines of every `#[cfg(test)]` item, and of whole files of tests.
    fn test_lines(&self) -> BTreeSet<usize> {
        let of_tests = self.path.starts_with("src")
            && self.path.components().any(|part| {
                let part = part.as_os_str().to_str().unwrap_or_default();
                matches!(part, "tests" | "tests.rs") || part.ends_with("_tests.rs")
            });
        let lines: Vec<&str> = self.text.lines().collect();
        if of_tests {
            return (0..lines.len()).collect();
        }
        let mut skipped = BTreeSet::new();
        let mut index = 0;
        while index < lines.len() {
            if !lines[index].trim_start().starts_with("#[cfg(test)]") {
                index += 1;
                continue;
            }
            let indent = lines[index].len() - lines[index].trim_start().len();
            // rustfmt puts the closing brace of an item under its first letter.
            let closes = |line: &str| {
                line.len() - line.trim_start().len() == indent
                    && (line.trim_start().starts_with('}') || line.trim_end().ends_with(';'))
            };
            let start = index;
            index += 1;
            while index < lines.len() && !closes(lines[index]) {
                index += 1;
            }
            index += 1;
            skipped.extend(start..index.min(lines.len()));
        }
        skipped
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(root().join(path))
        .unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
}

fn sources(folder: &str) -> Vec<Source> {
    texts(folder, &["rs"])
}

/// Every Markdown file that is written by hand.
fn documents() -> Vec<Source> {
    let mut found = texts("docs", &["md"]);
    found.push(Source { path: "README.md".into(), text: read(Path::new("README.md")) });
    found
}

fn texts(folder: &str, extensions: &[&str]) -> Vec<Source> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from(folder)];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(root().join(&folder)) else { continue };
        for entry in entries.flatten() {
            let path = folder.join(entry.file_name());
            let name = entry.file_name();
            if entry.path().is_dir() {
                if name != "target" && name != "node_modules" && name != "corpus" {
                    folders.push(path);
                }
            } else if path
                .extension()
                .is_some_and(|extension| extensions.iter().any(|wanted| extension == *wanted))
            {
                found.push(Source { text: read(&path), path });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// The top-level module a file belongs to; `None` for the crate roots.
fn top_module(path: &Path) -> Option<String> {
    let part = path.strip_prefix("src").ok()?.components().next()?.as_os_str().to_str()?;
    let module = part.strip_suffix(".rs").unwrap_or(part);
    (module != "lib").then(|| module.to_owned())
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// The name in `mod name;`, however visible.
fn declared_module(line: &str) -> Option<&str> {
    let line = line.trim();
    let line =
        line.strip_prefix("pub(crate) ").or(line.strip_prefix("pub(super) ")).unwrap_or(line);
    let line = line.strip_prefix("pub ").unwrap_or(line);
    line.strip_prefix("mod ")?.strip_suffix(';')
}

fn word(text: &str) -> Option<&str> {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    (end > 0).then(|| &text[..end])
}

/// Whether `name` stands in `line` as a word of its own.
fn mentions(line: &str, name: &str) -> bool {
    let joins = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(name).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + name.len()..].chars().next();
        let open_end = name.ends_with(':');
        !before.is_some_and(joins) && (open_end || !after.is_some_and(joins))
    })
}

/// Targets of Markdown links with their line numbers, code blocks left out.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut in_code = false;
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code {
            continue;
        }
        for (at, _) in line.match_indices("](") {
            let rest = &line[at + 2..];
            if let Some(end) = rest.find(')') {
                found.push((index + 1, rest[..end].to_owned()));
            }
        }
    }
    found
}

fn has_heading(text: &str, anchor: &str) -> bool {
    text.lines().filter(|line| line.starts_with('#')).any(|line| {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        let slug: String = title
            .chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
            .map(|c| if c == ' ' { '-' } else { c })
            .collect();
        slug == anchor
    })
}

/// Name and version of every crate in the executable.
fn built_crates() -> BTreeSet<(String, String)> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--locked", "-p", "roost", "-e", "normal"])
        .args(["--prefix", "none", "--format", "{p}"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    let listing = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "cargo tree: {}", String::from_utf8_lossy(&output.stderr));
    let crates = listing.lines().filter_map(|line| {
        let mut words = line.split(' ');
        Some((words.next()?.to_owned(), words.next()?.strip_prefix('v')?.to_owned()))
    });
    crates.collect()
}

#[track_caller]
fn none_of(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}
