//! The command line: one file per command, exit codes in [`exit`], printing in [`out`].

mod addr;
mod backup;
mod call;
mod completions;
mod demo;
mod duration;
mod encode;
mod events;
mod exit;
mod invite;
mod licenses;
mod local;
mod login;
mod node;
mod noun;
mod out;
mod passwd;
mod plan;
mod restore;
mod sessions;
mod signals;
mod status;
mod table;
mod view;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::logging;
use exit::{Exit, Failure};

/// A mesh of equal video relay servers.
///
/// Nodes join by the address of any member. Encoders and viewers are given the address of any
/// node, learn the others, and go on by themselves when a node dies.
#[derive(Debug, Parser)]
#[command(name = "roost", version, propagate_version = true, max_term_width = 100)]
pub(crate) struct Roost {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options of every command.
#[derive(Debug, clap::Args)]
struct Global {
    /// When to use colour (NO_COLOR and CLICOLOR_FORCE count, too)
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    color: out::Color,
    /// How logs look on standard error
    #[arg(
        long,
        global = true,
        value_name = "FORMAT",
        env = "ROOST_LOG_FORMAT",
        default_value = "auto"
    )]
    log_format: logging::Format,
    /// Say more (twice: everything)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Say only what went wrong
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
}

/// The commands, those for the first hour first.
#[derive(Debug, Subcommand)]
enum Command {
    /// Show live pictures on a small mesh on this machine, with buttons that kill its nodes
    Demo(demo::Demo),
    /// Run a node: found a mesh, or join one; with a verb, show and change members
    #[command(after_help = noun::kinds::NODE.help())]
    Node(Box<node::Node>),
    /// Print a string that lets nodes (or clients) in
    Invite(invite::Invite),
    /// Send a camera, a file or a test picture to the mesh
    Encode(encode::Encode),
    /// Receive a stream, and tell every gap and its cause
    View(view::View),
    /// Show members, links, encoders, homes and viewers
    Status(status::Status),
    /// Tell what would follow if nodes were lost, drained or added
    Plan(plan::Plan),
    /// Those who log in
    #[command(after_help = noun::kinds::ACCOUNT.help())]
    Account(noun::Noun),
    /// Accounts that have rights together
    #[command(after_help = noun::kinds::GROUP.help())]
    Group(noun::Noun),
    /// Tenants: nothing of one is visible to another
    #[command(after_help = noun::kinds::DOMAIN_KIND.help())]
    Domain(noun::Noun),
    /// Who may do what
    #[command(after_help = noun::kinds::RULE.help())]
    Rule(noun::Noun),
    /// Cameras, and their stream keys
    #[command(after_help = noun::kinds::ENCODER.help())]
    Encoder(noun::EncoderNoun),
    /// Encoders that share a home
    #[command(after_help = noun::kinds::ROOM.help())]
    Room(noun::Noun),
    /// Sets of nodes to prefer
    #[command(after_help = noun::kinds::POOL.help())]
    Pool(noun::Noun),
    /// When to call whom
    #[command(after_help = noun::kinds::ALARM.help())]
    Alarm(noun::Noun),
    /// What holds for the whole mesh
    #[command(after_help = noun::kinds::SETTING.help())]
    Setting(noun::Noun),
    /// Strings that let clients in
    #[command(after_help = noun::kinds::ENROLMENT.help())]
    Enrolment(noun::EnrolmentNoun),
    /// Show who changed what, where and when
    Audit(noun::audit::Audit),
    /// Log in: the other commands act for you from then on
    Login(login::Login),
    /// Forget what login keeps
    Logout(login::Logout),
    /// Give yourself another password; everything logged in to before is over
    Passwd(passwd::Passwd),
    /// Say whom commands act for
    Whoami(login::Whoami),
    /// Write accounts, rules and everything else that people decide into one file
    Backup(backup::Backup),
    /// Put such a file back into the folder of a node that does not run
    Restore(restore::Restore),
    /// Print the licences of Roost and of what it is made of
    Licenses,
    /// Print a completion script for a shell
    Completions(completions::Completions),
    /// Cleans up after a demo that was killed
    #[command(hide = true)]
    DemoJanitor,
}

/// Reads the arguments, runs the command, and turns its end into an exit code.
pub(crate) fn main() -> ExitCode {
    let args = match Roost::try_parse_from(noun::arguments(std::env::args_os())) {
        Ok(args) => args,
        Err(error) => {
            // Help and version go to standard output and are no errors; the rest is usage.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Done }.into();
        }
    };
    args.global.color.apply();
    match run(args) {
        Ok(()) => Exit::Done.into(),
        Err(failure) => {
            out::complain(&failure);
            failure.exit.into()
        }
    }
}

fn run(args: Roost) -> Result<(), Failure> {
    let Roost { global, command } = args;
    // The janitor must outlive everything; nothing may fail before it has its pipe.
    if let Command::DemoJanitor = command {
        return demo::janitor::run();
    }
    demo::children::die_with_the_demo()?;
    let mut log = logging::Settings {
        format: global.log_format,
        level: logging::Level::chosen(global.verbose, global.quiet),
        filter: std::env::var(logging::FILTER_VARIABLE).ok().filter(|text| !text.is_empty()),
    };
    match command {
        Command::Node(mut args) => {
            if let Some(verb) = args.verb.take() {
                start_log(&log)?;
                return block_on(noun::node(verb));
            }
            let settings = args.settle(&mut log)?;
            // Starting again with the same filter would fail again, wherever it is from.
            let configured = |failure| Failure { exit: Exit::Configuration, ..failure };
            start_log(&log).map_err(configured)?;
            block_on(node::run(settings))
        }
        Command::Demo(args) => {
            start_log(&log)?;
            // One thread, this one: the kernel ties a child's life to the thread that made it.
            demo::block_on(args)
        }
        Command::Restore(args) => {
            start_log(&log)?;
            restore::run(&args)
        }
        Command::Licenses => licenses::run(),
        Command::Completions(args) => completions::run(&args),
        command => {
            start_log(&log)?;
            block_on(asking(command))
        }
    }
}

/// The commands that ask a mesh, or send to it.
async fn asking(command: Command) -> Result<(), Failure> {
    match command {
        Command::Invite(args) => invite::run(args).await,
        Command::Encode(args) => encode::run(args).await,
        Command::View(args) => view::run(args).await,
        Command::Status(args) => status::run(args).await,
        Command::Plan(args) => plan::run(args).await,
        Command::Account(noun) => noun::run(&noun::kinds::ACCOUNT, noun).await,
        Command::Group(noun) => noun::run(&noun::kinds::GROUP, noun).await,
        Command::Domain(noun) => noun::run(&noun::kinds::DOMAIN_KIND, noun).await,
        Command::Rule(noun) => noun::run(&noun::kinds::RULE, noun).await,
        Command::Encoder(noun) => noun::encoder(noun).await,
        Command::Room(noun) => noun::run(&noun::kinds::ROOM, noun).await,
        Command::Pool(noun) => noun::run(&noun::kinds::POOL, noun).await,
        Command::Alarm(noun) => noun::run(&noun::kinds::ALARM, noun).await,
        Command::Setting(noun) => noun::run(&noun::kinds::SETTING, noun).await,
        Command::Enrolment(noun) => noun::enrolment(noun).await,
        Command::Audit(args) => noun::audit::run(args).await,
        Command::Login(args) => login::login(args).await,
        Command::Logout(args) => login::logout(args).await,
        Command::Passwd(args) => passwd::run(args).await,
        Command::Whoami(args) => login::whoami(args).await,
        Command::Backup(args) => backup::run(args).await,
        Command::Demo(_)
        | Command::Node(_)
        | Command::Restore(_)
        | Command::Licenses
        | Command::Completions(_)
        | Command::DemoJanitor => Ok(()),
    }
}

fn start_log(log: &logging::Settings) -> Result<(), Failure> {
    logging::start(log, out::stderr_in_color())
        .map_err(|why| Failure::new(Exit::Usage, "cannot start logging", why, logging::FILTER_HELP))
}

/// Runs a command on a runtime of its own, and leaves without waiting for stray blocking calls.
fn block_on(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|error| {
            Failure::new(Exit::Failed, "cannot start", error, "check the limits on threads")
        })?;
    let result = runtime.block_on(command);
    runtime.shutdown_background();
    result
}

/// A usage error in the words of the command line, for rules that one option cannot express.
fn usage(message: impl std::fmt::Display) -> Failure {
    let error = Roost::command().error(clap::error::ErrorKind::ValueValidation, message);
    Failure::said(Exit::Usage, error.to_string().trim_start_matches("error: ").trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Roost::command().debug_assert();
    }

    #[test]
    fn the_documented_command_lines_are_understood() {
        for line in [
            "roost demo",
            "roost demo --nodes 5 --encoders 9 --port 0 --no-open",
            "roost demo --script kill-one --json",
            "roost node --data /tmp/x --listen 127.0.0.1:0 --name n1",
            "roost node --data /tmp/x --join roost1abc --advertise a:1 --advertise b:2",
            "roost invite --uses 3 --expires 24h --addr a:1,b:2",
            "roost invite --client",
            "roost encode cam-1 --test --gop 4 --ignore-keyframe-requests --addr a:1",
            "roost encode cam-1 --rtsp rtsp://camera/1 --addr a:1",
            "roost encode cam-1 --h264 - --addr a:1",
            "roost encode cam --test --count 10000 --addr a:1",
            "roost encode cam-1 --test --key-file /run/secrets/key --addr a:1",
            "roost view cam-1 --addr a:1 --output - --json",
            "roost status --json --addr a:1",
            "roost status --check",
            "roost status --addr unix:/var/lib/roost/roost.sock",
            "roost login --addr a:1 --name site1/bob --password-stdin",
            "roost logout --all",
            "roost account add anna --email a@b --password-stdin",
            "roost account set anna description=night disabled=true --wait 2",
            "roost account list --domain site1 --output name",
            "roost account history anna --json",
            "roost group set staff +accounts=anna -accounts=bob --json",
            "roost group rm staff --yes",
            "roost rule add guards role=viewer domain=site1 +groups=staff",
            "roost encoder add gate --domain site1",
            "roost encoder key gate --overlap 24h",
            "roost encoder key gate --overlap 0",
            "roost encoder key gate --revoke ab12cd --yes",
            "roost encoder rm gate",
            "roost setting set greeting value=",
            "roost node list",
            "roost node set n2 drain=true -labels=north",
            "roost node revoke n3 --reason stolen --yes",
            "roost node key n1",
            "roost enrolment list",
            "roost enrolment rm 4c0d --yes",
            "roost node forget n2 --yes",
            "roost audit --follow --json",
            "roost node --data /tmp/x --admin-password-file /run/secrets/admin",
            "roost passwd --addr a:1",
            "roost passwd --password-stdin",
            "roost whoami --json --token-file /run/secrets/token",
            "roost backup /tmp/roost.backup",
            "roost backup /tmp/roost.backup --data /tmp/x",
            "roost restore /tmp/roost.backup --data /tmp/x --json",
            "roost licenses",
            "roost completions bash",
        ] {
            let parsed = Roost::try_parse_from(noun::arguments(line.split(' ').map(Into::into)));
            assert!(parsed.is_ok(), "{line}: {}", parsed.map(|_| ()).unwrap_err());
        }
    }

    #[test]
    fn contradictions_are_refused() {
        for line in [
            "roost",
            "roost nod",
            "roost node --frobnicate",
            "roost encode cam-1 --test --rtsp rtsp://camera/1",
            "roost encode CAM --test",
            "roost encode cam --test --count 0",
            "roost encode cam --test --count 10001",
            "roost encode cam --h264 x --count 2",
            "roost encode cam --test --count 2 --key-file x",
            "roost encode cam-1 --h264 x --gop 4",
            "roost demo --nodes 0",
            "roost demo --json",
            "roost invite --uses 0",
            "roost status -q -v",
            "roost account",
            "roost account set anna description",
            "roost account list --json --output name",
            "roost encoder key gate --list --revoke ab12cd",
            "roost node --data /tmp/x list",
            "roost node add n4",
            "roost backup",
            "roost restore /tmp/roost.backup",
            "roost backup /tmp/x --addr a:1",
        ] {
            assert!(Roost::try_parse_from(line.split(' ')).is_err(), "{line} was accepted");
        }
    }
}
