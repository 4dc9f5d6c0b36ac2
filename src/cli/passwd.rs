//! `roost passwd`: another password for oneself.

use serde_json::json;

use super::addr::Addr;
use super::call::{Ask, Mesh, problem};
use super::exit::{Exit, Failure};
use super::login::{LoggedIn, password};
use super::sessions::{self, Session};
use super::{out, usage};

/// Arguments of `roost passwd`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Everything that was logged in to with the password before is over, at every node \
    that hears of it; this user's own session goes on with the new one. Without a terminal, two \
    lines are read: the password as it is, and the new one.\n\nExamples:\n  \
    roost passwd --addr server-1.example.org\n  roost passwd --password-stdin < two-lines"
)]
pub(crate) struct Passwd {
    #[command(flatten)]
    addr: Addr,
    /// Read both from standard input instead of asking for them
    #[arg(long)]
    password_stdin: bool,
}

/// Changes it, and keeps the new session in place of the old one.
pub(crate) async fn run(args: Passwd) -> Result<(), Failure> {
    const WHAT: &str = "cannot change the password";
    // Over the socket one is the node's own user, who has none.
    let mesh = Mesh::new(vec![], args.addr.mesh()?.target);
    if mesh.target.addrs.is_empty() {
        return Err(usage("a node's socket knows nobody by a password: give --addr HOST:PORT"));
    }
    let given = mesh.target.credential.is_some();
    let old = password(args.password_stdin, "Password as it is: ")?;
    let new = password(args.password_stdin, "New password: ")?;
    if !args.password_stdin && password(false, "New password again: ")? != new {
        return Err(usage("the two new passwords differ: nothing was changed"));
    }
    let ask = Ask::new("POST", "/api/v1/me/password").json(&json!({ "old": old, "new": new }));
    let answer = mesh.ask(&ask).await?;
    if answer.status == 403 {
        let why = problem(answer.status, &answer.body);
        return Err(Failure::new(Exit::NotAllowed, WHAT, why, "give the one that you log in with"));
    }
    let answer = answer.good(WHAT)?;
    let got: LoggedIn = answer.decode(WHAT)?;
    let kept = match answer.mesh.filter(|_| !given) {
        Some(of) => sessions::load()?.remove(&of).map(|session| (of, session.nodes)),
        None => None,
    };
    let next = match kept {
        Some((of, nodes)) => {
            sessions::save(of, &Session { token: got.token, name: got.name.clone(), nodes })?;
            "this session goes on"
        }
        None => "log in again: roost login",
    };
    out::talk(&format!(
        "{} has another password; what was logged in to before is over, {next}",
        got.name
    ));
    Ok(())
}
