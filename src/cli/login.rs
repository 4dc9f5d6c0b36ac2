//! `roost login`, `logout` and `whoami`: whom the other commands act for.

use std::io::{self, IsTerminal, Write};

use roost::id::MeshId;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::addr::Addr;
use super::call::{Ask, Mesh};
use super::exit::{Exit, Failure};
use super::sessions::{self, Session};
use super::{out, table, usage};

/// Arguments of `roost login`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Every node of the mesh takes the session, also when the one that was logged \
    in at is dead. It is kept in $XDG_CONFIG_HOME/roost/sessions for this user alone.\n\n\
    Examples:\n  roost login --addr server-1.example.org --name anna\n  \
    roost login --name site1/bob --password-stdin < secret"
)]
pub(crate) struct Login {
    #[command(flatten)]
    addr: Addr,
    /// Who: NAME, or DOMAIN/NAME; asked for on a terminal
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Read the password from standard input instead of asking for it
    #[arg(long)]
    password_stdin: bool,
    /// Print who that is, and until when, as JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `roost logout`.
#[derive(Debug, clap::Args)]
pub(crate) struct Logout {
    #[command(flatten)]
    addr: Addr,
    /// Forget the sessions of every mesh
    #[arg(long)]
    all: bool,
}

/// Arguments of `roost whoami`.
#[derive(Debug, clap::Args)]
pub(crate) struct Whoami {
    #[command(flatten)]
    addr: Addr,
    /// Print the API's answer
    #[arg(long)]
    json: bool,
}

/// What a login is answered with.
#[derive(Debug, Deserialize)]
pub(super) struct LoggedIn {
    pub(super) token: String,
    pub(super) name: String,
    #[serde(flatten)]
    more: serde_json::Map<String, Value>,
}

/// Asks for a session, and keeps it.
pub(crate) async fn login(args: Login) -> Result<(), Failure> {
    const WHAT: &str = "cannot log in";
    let mesh = args.addr.as_nobody()?;
    let name = match args.name {
        Some(name) => name,
        None => prompt("Name: ", "--name")?,
    };
    let password = password(args.password_stdin, "Password: ")?;
    let ask =
        Ask::new("POST", "/api/v1/login").json(&json!({ "name": name, "password": password }));
    let answer = mesh.ask(&ask).await?.good(WHAT)?;
    let got: LoggedIn = answer.decode(WHAT)?;
    let of = match answer.mesh {
        Some(of) => of,
        None => mesh_of(&mesh).await?,
    };
    let nodes = nodes_seen(mesh, of, &got.token).await;
    let session = Session { token: got.token, name: got.name.clone(), nodes };
    let path = sessions::save(of, &session)?;
    if args.json {
        let mut shown = got.more;
        shown.insert("name".into(), json!(got.name));
        shown.insert("mesh".into(), json!(of));
        return out::json(&shown);
    }
    let until = got.more.get("expires").map(|at| format!(" until {}", table::time(at)));
    out::talk(&format!(
        "logged in to mesh {} as {}{}; kept in {}",
        of.short(),
        got.name,
        until.unwrap_or_default(),
        path.display()
    ));
    Ok(())
}

/// Which mesh a node is of whose word needs no proof: it is on this machine.
async fn mesh_of(mesh: &Mesh) -> Result<MeshId, Failure> {
    #[derive(Deserialize)]
    struct View {
        mesh: MeshId,
    }
    let view: View = mesh.get("/api/v1/cluster", "cannot tell which mesh this is").await?;
    Ok(view.mesh)
}

/// The nodes that will do when the one that was asked is gone. Without them the session is as
/// good, at the addresses that are given then.
async fn nodes_seen(mut mesh: Mesh, of: MeshId, token: &str) -> Vec<String> {
    mesh.target.credential = None;
    mesh.target.tokens = [(of, token.to_owned())].into();
    let given = mesh.target.addrs.clone();
    let mesh = Mesh::new(vec![], mesh.target);
    let more = mesh.ask(&Ask::new("GET", "/api/v1/me")).await.map(|answer| answer.nodes);
    let mut nodes = given;
    for node in more.unwrap_or_default() {
        if !nodes.contains(&node) {
            nodes.push(node);
        }
    }
    nodes
}

/// Forgets what is kept. The session itself stays good until it is over: whoever copied it still
/// has it.
pub(crate) async fn logout(args: Logout) -> Result<(), Failure> {
    let known = sessions::load()?;
    let meant: Vec<MeshId> = if args.all || known.len() < 2 {
        known.keys().copied().collect()
    } else {
        let mesh = args.addr.mesh()?;
        let here =
            |session: &Session| session.nodes.iter().any(|node| mesh.target.addrs.contains(node));
        match known.iter().find(|(_, session)| here(session)) {
            Some((of, _)) => vec![*of],
            None => {
                let of = mesh.ask(&Ask::new("GET", "/healthcheck")).await?.mesh;
                of.into_iter().collect()
            }
        }
    };
    let mut forgotten = 0;
    for of in meant {
        forgotten += usize::from(sessions::forget(of)?);
    }
    out::talk(match forgotten {
        0 => "there was no session to forget",
        _ => "logged out; if somebody else may have the session, change the password",
    });
    Ok(())
}

/// What an account may, and where.
#[derive(Debug, Serialize, Deserialize)]
struct Me {
    #[serde(default)]
    name: Option<String>,
    #[serde(flatten)]
    more: serde_json::Map<String, Value>,
}

/// Says whom commands act for.
pub(crate) async fn whoami(args: Whoami) -> Result<(), Failure> {
    const WHAT: &str = "cannot tell who you are";
    let mesh = args.addr.mesh()?;
    let me: Me = mesh.get("/api/v1/me", WHAT).await?;
    if args.json {
        return out::json(&me);
    }
    out::line(me.name.as_deref().unwrap_or("nobody"))?;
    out::line(&table::pairs(&rows(&me.more)))
}

/// What people read of it, a line for each role.
fn rows(me: &serde_json::Map<String, Value>) -> Vec<(String, String)> {
    let shown = me.iter().filter(|(_, value)| !value.is_null());
    shown
        .map(|(name, value)| {
            let text = match value.as_array().filter(|_| name == "roles") {
                Some(roles) if roles.is_empty() => "none".to_owned(),
                Some(roles) => roles.iter().map(role).collect::<Vec<_>>().join("\n"),
                None => table::value(value),
            };
            (name.clone(), text)
        })
        .collect()
}

/// `viewer in domain site1`.
fn role(role: &Value) -> String {
    let name = table::value(&role["role"]);
    let text = |field: &str| role[field].as_str();
    match (text("domain_name").or(text("domain")), text("encoder")) {
        (Some(domain), _) => format!("{name} in domain {}", table::plain(domain)),
        (None, Some(encoder)) => format!("{name} of encoder {}", table::plain(encoder)),
        (None, None) => format!("{name} of the whole mesh"),
    }
}

/// A password: from standard input, or typed unseen.
pub(crate) fn password(from_stdin: bool, ask: &str) -> Result<String, Failure> {
    let text = if from_stdin {
        let mut text = String::new();
        io::stdin().read_line(&mut text).map_err(unreadable)?;
        text
    } else {
        unseen(ask)?
    };
    let text = text.trim_end_matches(['\r', '\n']);
    if text.is_empty() {
        return Err(usage(
            "the password is empty: give one, or --password-stdin and a line with it",
        ));
    }
    Ok(text.to_owned())
}

fn prompt(ask: &str, instead: &str) -> Result<String, Failure> {
    if !io::stdin().is_terminal() {
        return Err(usage(format!("there is no terminal to ask at: give {instead}")));
    }
    let mut text = String::new();
    let _ = write!(io::stderr(), "{ask}");
    io::stdin().read_line(&mut text).map_err(unreadable)?;
    Ok(text.trim().to_owned())
}

/// Asks without showing what is typed.
fn unseen(ask: &str) -> Result<String, Failure> {
    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
    let stdin = io::stdin();
    let Ok(shown) = tcgetattr(&stdin) else {
        return Err(usage(
            "there is no terminal to ask for the password at: give --password-stdin",
        ));
    };
    let mut hidden = shown.clone();
    hidden.local_modes.remove(LocalModes::ECHO);
    hidden.local_modes.insert(LocalModes::ECHONL);
    let _ = write!(io::stderr(), "{ask}");
    let mut text = String::new();
    let set = |to| tcsetattr(&stdin, OptionalActions::Flush, to).map_err(io::Error::from);
    let read = set(&hidden).and_then(|()| io::stdin().read_line(&mut text));
    let restored = set(&shown);
    read.and(restored).map_err(unreadable)?;
    Ok(text)
}

fn unreadable(error: io::Error) -> Failure {
    Failure::new(Exit::Failed, "cannot read standard input", error, "check where it comes from")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_one_is_reads_like_this() {
        let me = json!({
            "kind": "account", "id": null,
            "roles": [
                { "role": "admin", "mesh": true },
                { "role": "viewer", "domain": "0a", "domain_name": "site1" },
                { "role": "publisher", "encoder": "0b" },
            ],
        });
        let told = table::pairs(&rows(me.as_object().expect("it is one")));
        let expected = "\
kind   account
roles  admin of the whole mesh
       viewer in domain site1
       publisher of encoder 0b";
        assert_eq!(told, expected);
    }
}
