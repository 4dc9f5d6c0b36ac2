//! The configuration file of a node: this node's facts, never the mesh's.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::logging;

/// What the file may say. Everything is optional; a key that is not here is an error.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct File {
    /// What people call the node.
    pub(crate) name: Option<String>,
    /// Address and port it listens on, UDP and TCP.
    pub(crate) listen: Option<SocketAddr>,
    /// How others reach it.
    pub(crate) advertise: Vec<String>,
    /// Members to find the mesh by, or one invitation.
    pub(crate) seeds: Vec<String>,
    /// Folder of its key and state.
    pub(crate) data: Option<PathBuf>,
    /// Web certificate.
    pub(crate) tls: Tls,
    /// Logs.
    pub(crate) log: Log,
}

/// `[tls]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Tls {
    /// Certificate chain, PEM.
    pub(crate) cert_file: Option<PathBuf>,
    /// Its key, PEM.
    pub(crate) key_file: Option<PathBuf>,
}

impl Tls {
    /// Both files, or none.
    pub(crate) fn pair(self) -> Result<Option<(PathBuf, PathBuf)>, String> {
        match (self.cert_file, self.key_file) {
            (Some(cert), Some(key)) => Ok(Some((cert, key))),
            (None, None) => Ok(None),
            (Some(_), None) => Err("tls.cert_file is set without tls.key_file".to_owned()),
            (None, Some(_)) => Err("tls.key_file is set without tls.cert_file".to_owned()),
        }
    }
}

/// `[log]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Log {
    /// How logs look.
    pub(crate) format: Option<logging::Format>,
    /// What is logged, as in ROOST_LOG.
    pub(crate) filter: Option<String>,
}

impl File {
    /// Reads the file; an error names the line and what was probably meant.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            format!("cannot read {}: {error}; check the path given with --config", path.display())
        })?;
        Self::parse(&text).map_err(|problem| format!("{}:{problem}", path.display()))
    }

    /// Keys that another reading of the file has changed and that only a start takes up. What is
    /// not among them, the certificate and the filter of the log, is taken up at once.
    pub(crate) fn needs_restart(&self, new: &Self) -> Vec<&'static str> {
        let changed = [
            ("name", self.name != new.name),
            ("listen", self.listen != new.listen),
            ("advertise", self.advertise != new.advertise),
            ("seeds", self.seeds != new.seeds),
            ("data", self.data != new.data),
            ("log.format", self.log.format != new.log.format),
        ];
        changed.into_iter().filter(|(_, changed)| *changed).map(|(key, _)| key).collect()
    }

    fn parse(text: &str) -> Result<Self, String> {
        toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
            let message = error.message();
            let next = suggestion(message).map_or_else(
                || "correct this line".to_owned(),
                |key| format!("did you mean `{key}`?"),
            );
            format!("{line}: {message}; {next}")
        })
    }
}

/// The known key nearest to the unknown one, out of the parser's own words:
/// ``unknown field `x`, expected one of `a`, `b` ``.
fn suggestion(message: &str) -> Option<&str> {
    let mut quoted = message.strip_prefix("unknown field ")?.split('`').skip(1).step_by(2);
    let unknown = quoted.next()?;
    quoted
        .map(|known| (edits(unknown, known), known))
        .filter(|(distance, known)| *distance <= 1 + known.len() / 3)
        .min()
        .map(|(_, known)| known)
}

/// Levenshtein distance: how many letters to change, add or remove.
fn edits(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, b) in row.iter_mut().skip(1).zip(to.bytes()) {
            let change = diagonal + usize::from(a != b);
            diagonal = *cell;
            left = change.min(diagonal + 1).min(left + 1);
            *cell = left;
        }
        row[0] = i + 1;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_file_is_understood() {
        let file = File::parse(
            "name = \"n1\"\nlisten = \"0.0.0.0:9443\"\nadvertise = [\"a:1\"]\nseeds = [\"b:2\"]\n\
             data = \"/var/lib/roost\"\n[tls]\ncert_file = \"c\"\nkey_file = \"k\"\n\
             [log]\nformat = \"json\"\nfilter = \"debug\"\n",
        )
        .unwrap();
        assert_eq!(file.name.as_deref(), Some("n1"));
        assert_eq!(file.log.format, Some(logging::Format::Json));
        assert_eq!(file.tls.pair(), Ok(Some(("c".into(), "k".into()))));
    }

    #[test]
    fn an_unknown_key_names_its_line_and_the_likely_one() {
        let error = File::parse("name = \"n1\"\nlisten_on = \"x\"\n").unwrap_err();
        assert!(error.starts_with("2: unknown field `listen_on`"), "{error}");
        let error = File::parse("nmae = \"n1\"").unwrap_err();
        assert!(error.ends_with("did you mean `name`?"), "{error}");
        let error = File::parse("[tls]\ncert = \"x\"\ncert_fil = \"y\"").unwrap_err();
        assert!(error.starts_with("2: "), "{error}");
    }

    #[test]
    fn a_bad_value_names_its_line() {
        let error = File::parse("\n\nlisten = \"here\"").unwrap_err();
        assert!(error.starts_with("3: "), "{error}");
    }

    #[test]
    fn a_changed_file_names_the_keys_that_need_a_restart() {
        let old = File::parse("name = \"n1\"\n[log]\nfilter = \"info\"").unwrap();
        let new = File::parse(
            "name = \"n1\"\nlisten = \"0.0.0.0:1\"\n[log]\nformat = \"json\"\nfilter = \"debug\"\n\
             [tls]\ncert_file = \"c\"\nkey_file = \"k\"",
        )
        .unwrap();
        assert_eq!(old.needs_restart(&new), ["listen", "log.format"]);
        assert!(old.needs_restart(&old).is_empty());
    }

    #[test]
    fn half_a_certificate_is_refused() {
        let file = File::parse("[tls]\ncert_file = \"c\"").unwrap();
        assert!(file.tls.pair().is_err());
    }

    #[test]
    fn distance_counts_letters() {
        assert_eq!(edits("nmae", "name"), 2);
        assert_eq!(edits("", "abc"), 3);
        assert_eq!(edits("listen", "listen"), 0);
    }
}
