//! `roost account|group|domain|rule|encoder|room|pool|alarm|setting|node` with verbs, and
//! `roost audit`: what is known of whom, and changing it, for all kinds alike.

mod act;
pub(crate) mod audit;
mod change;
mod edit;
#[cfg(test)]
mod fake;
pub(crate) mod kinds;
mod show;
mod special;
mod steer;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::addr::Addr;
use super::exit::Failure;
use super::{duration, out};
use edit::Edit;
use kinds::Kind;

const SYNTAX: &str = "FIELD=VALUE sets a field, FIELD= empties it; +SET=A,B adds to a set, -SET=A \
    takes out of it. Names of other things may be DOMAIN/NAME, or ids.\n\n\
    Somebody else may have changed the same: then nothing is written, the difference is told, and \
    the exit code is 4. A field that has several values since a partition (show tells them) is \
    settled by setting it.";

/// A noun with the verbs that every kind has.
#[derive(Debug, Args)]
pub(crate) struct Noun {
    #[command(subcommand)]
    verb: Verb,
}

/// Encoders have keys, too.
#[derive(Debug, Args)]
pub(crate) struct EncoderNoun {
    #[command(subcommand)]
    verb: EncoderVerb,
}

/// What every kind has.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Show all, or those whose name contains a text
    #[command(visible_alias = "ls")]
    List(List),
    /// Show one, with conflicts and who changed it last
    Show(One),
    /// Make a new one
    #[command(after_help = SYNTAX)]
    Add(Add),
    /// Change one
    #[command(after_help = SYNTAX)]
    Set(Set),
    /// Remove one
    Rm(Rm),
    /// Show who changed what, where and when
    History(One),
}

/// What encoders have.
#[derive(Debug, Subcommand)]
enum EncoderVerb {
    #[command(flatten)]
    Common(Verb),
    /// Make a stream key, shown once; or list or revoke keys
    Key(special::StreamKeys),
    /// Send one to another node, without a gap
    Move(steer::Move),
    /// Tell why one is where it is
    Why(One),
}

/// What strings for clients have.
#[derive(Debug, Args)]
pub(crate) struct EnrolmentNoun {
    #[command(subcommand)]
    verb: EnrolmentVerb,
}

/// They are made by `roost invite --client`.
#[derive(Debug, Subcommand)]
enum EnrolmentVerb {
    /// Show all, or those whose name contains a text
    #[command(visible_alias = "ls")]
    List(List),
    /// Show one, with who made it
    Show(One),
    /// Give one a name or a description
    #[command(after_help = SYNTAX)]
    Set(Set),
    /// End one
    Rm(Rm),
    /// Show who changed what, where and when
    History(One),
}

/// What nodes have.
#[derive(Debug, Subcommand)]
pub(crate) enum NodeVerb {
    /// Show all members, or those whose name contains a text
    #[command(visible_alias = "ls")]
    List(List),
    /// Show one, with conflicts and who changed it last
    Show(One),
    /// Change one
    #[command(after_help = SYNTAX)]
    Set(Set),
    /// Show who changed what, where and when
    History(One),
    /// Empty a node: move its encoders to others, and take none
    Drain(steer::Drain),
    /// Let a drained node take encoders again
    Undrain(One),
    /// Keep a node from new encoders; what is there stays
    Cordon(One),
    /// Let a cordoned node take encoders again
    Uncordon(One),
    /// Remove what is known of a node that is no member
    Forget(Rm),
    /// Put a member out for good
    Revoke(special::Revoke),
    /// Let a revoked member back in
    Readmit(special::Readmit),
    /// Give a node a new key, without downtime
    Key(special::NodeKey),
}

/// How an answer is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    #[default]
    Table,
    /// The API's fields.
    Json,
    /// Names alone, DOMAIN/NAME where there are domains.
    Name,
}

/// Options of every verb.
#[derive(Debug, Args)]
pub(crate) struct Common {
    #[command(flatten)]
    addr: Addr,
    /// How to print
    #[arg(long, value_name = "HOW", default_value = "table")]
    output: Output,
    /// Print the API's fields; the same as --output json
    #[arg(long, conflicts_with = "output")]
    json: bool,
}

impl Common {
    pub(crate) fn output(&self) -> Output {
        if self.json { Output::Json } else { self.output }
    }
}

/// Options of what writes.
#[derive(Debug, Args)]
pub(crate) struct Writing {
    /// Wait until so many nodes have it on disk, 5 s at most; exit with 7 if fewer have by then
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    wait: Option<u32>,
}

#[derive(Debug, Args)]
pub(crate) struct List {
    /// Part of the name
    text: Option<String>,
    /// Only what is in this domain
    #[arg(long, value_name = "DOMAIN")]
    domain: Option<String>,
    /// Show so many at most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    #[command(flatten)]
    common: Common,
}

/// Which one.
#[derive(Debug, Args)]
pub(crate) struct Which {
    /// NAME, DOMAIN/NAME, an id, or the beginning of an id
    name: String,
    /// The domain in which the name is looked for
    #[arg(long, value_name = "DOMAIN")]
    domain: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct One {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
pub(crate) struct Add {
    /// What to call it: NAME, or DOMAIN/NAME
    name: String,
    /// FIELD=VALUE, +SET=ELEMENT
    #[arg(value_name = "CHANGE", value_parser = edit::parse)]
    edits: Vec<Edit>,
    /// The same as domain=DOMAIN
    #[arg(long, value_name = "DOMAIN")]
    domain: Option<String>,
    /// The same as email=ADDRESS
    #[arg(long, value_name = "ADDRESS", hide = true)]
    email: Option<String>,
    /// Of an account: read its password from standard input
    #[arg(long)]
    password_stdin: bool,
    #[command(flatten)]
    steer: Steer,
    #[command(flatten)]
    writing: Writing,
    #[command(flatten)]
    common: Common,
}

/// Where encoders should be.
#[derive(Debug, Args)]
pub(crate) struct Steer {
    /// The same as pools=POOLS: with commas, the most liked first; of encoders, rooms, groups and
    /// domains
    #[arg(long, value_name = "POOLS")]
    pools: Option<String>,
    /// The same as placement=PLACEMENT: prefer, or only
    #[arg(long, value_name = "PLACEMENT")]
    placement: Option<String>,
}

impl Steer {
    fn given(&self) -> [(&'static str, Option<String>); 2] {
        [("pools", self.pools.clone()), ("placement", self.placement.clone())]
    }
}

#[derive(Debug, Args)]
pub(crate) struct Set {
    #[command(flatten)]
    which: Which,
    /// FIELD=VALUE, +SET=ELEMENT, -SET=ELEMENT
    #[arg(value_name = "CHANGE", value_parser = edit::parse)]
    edits: Vec<Edit>,
    /// Of an account: read its new password from standard input; its sessions end
    #[arg(long)]
    password_stdin: bool,
    #[command(flatten)]
    steer: Steer,
    #[command(flatten)]
    writing: Writing,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
pub(crate) struct Rm {
    #[command(flatten)]
    which: Which,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    writing: Writing,
    #[command(flatten)]
    common: Common,
}

/// Does what a noun with a verb says.
pub(crate) async fn run(kind: &'static Kind, noun: Noun) -> Result<(), Failure> {
    common(kind, noun.verb).await
}

async fn common(kind: &'static Kind, verb: Verb) -> Result<(), Failure> {
    match verb {
        Verb::List(args) => show::list(kind, args).await,
        Verb::Show(args) => show::one(kind, args).await,
        Verb::Add(args) => change::add(kind, args).await,
        Verb::Set(args) => change::set(kind, args).await,
        Verb::Rm(args) => change::rm(kind, args).await,
        Verb::History(args) => audit::history(kind, args).await,
    }
}

/// The same for encoders.
pub(crate) async fn encoder(noun: EncoderNoun) -> Result<(), Failure> {
    match noun.verb {
        EncoderVerb::Common(verb) => common(&kinds::ENCODER, verb).await,
        EncoderVerb::Key(args) => special::stream_keys(args).await,
        EncoderVerb::Move(args) => steer::move_encoder(args).await,
        EncoderVerb::Why(args) => steer::why(args).await,
    }
}

/// The same for strings for clients.
pub(crate) async fn enrolment(noun: EnrolmentNoun) -> Result<(), Failure> {
    let kind = &kinds::ENROLMENT;
    match noun.verb {
        EnrolmentVerb::List(args) => show::list(kind, args).await,
        EnrolmentVerb::Show(args) => show::one(kind, args).await,
        EnrolmentVerb::Set(args) => change::set(kind, args).await,
        EnrolmentVerb::Rm(args) => change::rm(kind, args).await,
        EnrolmentVerb::History(args) => audit::history(kind, args).await,
    }
}

/// The same for nodes.
pub(crate) async fn node(verb: NodeVerb) -> Result<(), Failure> {
    let kind = &kinds::NODE;
    match verb {
        NodeVerb::List(args) => show::list(kind, args).await,
        NodeVerb::Show(args) => show::one(kind, args).await,
        NodeVerb::Set(args) => change::set(kind, args).await,
        NodeVerb::History(args) => audit::history(kind, args).await,
        NodeVerb::Drain(args) => steer::drain(args).await,
        NodeVerb::Undrain(args) => steer::wish(args, "drain", false).await,
        NodeVerb::Cordon(args) => steer::wish(args, "cordon", true).await,
        NodeVerb::Uncordon(args) => steer::wish(args, "cordon", false).await,
        NodeVerb::Forget(args) => change::rm(kind, args).await,
        NodeVerb::Revoke(args) => special::revoke(args).await,
        NodeVerb::Readmit(args) => special::readmit(args).await,
        NodeVerb::Key(args) => special::node_key(args).await,
    }
}

/// Arguments as `clap` takes them: `-accounts=bob` is no bundle of options.
pub(crate) fn arguments(given: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let minus = |arg: OsString| -> OsString {
        let text = arg.to_str().and_then(|text| text.strip_prefix('-'));
        match text.and_then(|text| text.split_once('=')) {
            Some((name, value)) if kinds::is_set(name) => {
                format!("{}{name}={value}", edit::MINUS).into()
            }
            _ => arg,
        }
    };
    given.into_iter().map(minus).collect()
}

/// For `clap`: a duration, or 0.
fn overlap(text: &str) -> Result<Duration, String> {
    if text == "0" { Ok(Duration::ZERO) } else { duration::parse(text) }
}

/// Asks before something that cannot be taken back; `consequence` is a sentence.
fn confirm(yes: bool, consequence: &str) -> Result<(), Failure> {
    use std::io::{IsTerminal, Write};

    use super::exit::Exit;
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        let next = "say --yes if that is what you want";
        return Err(Failure::new(Exit::Usage, "not done", consequence, next));
    }
    let _ = write!(std::io::stderr(), "{consequence}\nGo on? [y/N] ");
    let mut answer = String::new();
    let read = std::io::stdin().read_line(&mut answer);
    if read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes") {
        return Ok(());
    }
    out::talk("nothing was done");
    Err(Failure::silent(Exit::Usage))
}

#[cfg(test)]
mod arguments_tests {
    use super::*;

    #[test]
    fn taking_out_of_a_set_is_told_from_options() {
        let given = ["roost", "group", "set", "x", "-accounts=a", "--json", "-v", "-x=y"];
        let taken = arguments(given.map(OsString::from));
        let expected = ["roost", "group", "set", "x", "\u{2212}accounts=a", "--json", "-v", "-x=y"];
        assert_eq!(taken, expected.map(OsString::from));
    }
}
