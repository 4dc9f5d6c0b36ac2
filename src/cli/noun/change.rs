//! `add`, `set` and `rm`: read, compare, write what was seen, and again if somebody was faster.

use roost::agent::api::ApiError;
use serde_json::{Value, json};

use super::act::{Item, encode, find, is_id, path, short_id};
use super::edit::{self, Act, Edit, Wish};
use super::kinds::{self, Kind, Part, What};
use super::show::print;
use super::{Add, Output, Rm, Set, confirm};
use crate::cli::call::{Answer, Ask, Mesh};
use crate::cli::exit::{Exit, Failure};
use crate::cli::login::password;
use crate::cli::{out, table, usage};

/// How often something is read again because somebody else was faster, or a node died.
const ATTEMPTS: usize = 5;

/// Makes a record.
pub(super) async fn add(kind: &'static Kind, args: Add) -> Result<(), Failure> {
    let mesh = args.common.addr.mesh()?;
    let (domain, name) = match args.name.split_once('/') {
        Some((domain, name)) => (Some(domain.to_owned()), name.to_owned()),
        None => (args.domain, args.name),
    };
    let given = [("domain", domain), ("email", args.email)];
    let edits = with(args.edits, given.into_iter().chain(args.steer.given()))?;
    let secret = secret(kind, args.password_stdin)?;
    let wishes = wishes(&mesh, kind, &edits, None).await?;
    let mut body = edit::patch(&json!({}), &wishes);
    body.insert("name".into(), json!(name));
    let what = format!("cannot add {} {name}", kind.word);
    // An id of our own makes the request one that can be repeated.
    let id = uuid::Uuid::new_v4().simple().to_string();
    let ask = Ask::new("PUT", path(kind, &id)).header("if-none-match", "*").json(&body);
    let answer = writing(&mesh, ask, args.writing.wait, &what).await?;
    let answer = match answer.status {
        // Made by the attempt before, whose answer was lost.
        412 => mesh.ask(&Ask::new("GET", path(kind, &id))).await?,
        _ => answer,
    };
    let answer = refused(answer, &what)?;
    if let Some(secret) = secret {
        set_password(&mesh, &id, &secret).await.map_err(|failure| {
            let next = format!("roost account set {name} --password-stdin");
            let message = format!("{}; the account was made, give it one: {next}", failure.message);
            Failure { message, ..failure }
        })?;
    }
    let item = Item::of(&answer, &what)?;
    tell(&mesh, kind, &item, &answer, "added", args.common.output(), args.writing.wait).await
}

/// Changes a record.
pub(super) async fn set(kind: &'static Kind, args: Set) -> Result<(), Failure> {
    let edits = with(args.edits, args.steer.given().into_iter())?;
    if edits.is_empty() && !args.password_stdin {
        return Err(usage(format!(
            "nothing to change is given; roost {} --help lists the fields",
            kind.word
        )));
    }
    let mesh = args.common.addr.mesh()?;
    let secret = secret(kind, args.password_stdin)?;
    let seen = find(&mesh, kind, &args.which.name, args.which.domain.as_deref()).await?;
    let wishes = wishes(&mesh, kind, &edits, Some(&seen.value)).await?;
    let what = format!("cannot change {} {}", kind.word, seen.name());
    let mut now = seen.clone();
    let mut answer = None;
    let mut left = ATTEMPTS;
    loop {
        let patch = edit::patch(&now.value, &wishes);
        if patch.is_empty() {
            break;
        }
        let ask = Ask::new("PATCH", path(kind, seen.id())).header("if-match", &now.tag);
        let given = once(&mesh, ask.json(&patch), args.writing.wait).await;
        left -= 1;
        now = match given {
            Ok(got) if got.status == 412 && left > 0 => {
                again(&mesh, kind, &seen, &got, &what).await?
            }
            // It was done or not: what is there tells, and doing it twice changes nothing.
            Err(ApiError::Uncertain(_)) if left > 0 => reread(&mesh, kind, &seen, &what).await?,
            other => {
                let got = refused(other?, &what)?;
                now = match got.status {
                    204 => now,
                    _ => Item::of(&got, &what)?,
                };
                answer = Some(got);
                break;
            }
        };
        let clashes = edit::clashes(&seen.value, &now.value, &wishes);
        if !clashes.is_empty() {
            return Err(clash(&what, &now, &clashes));
        }
    }
    if let Some(secret) = &secret {
        set_password(&mesh, seen.id(), secret).await?;
    }
    match (answer, secret) {
        (Some(answer), _) => {
            let output = args.common.output();
            tell(&mesh, kind, &now, &answer, "changed", output, args.writing.wait).await
        }
        (None, secret) => {
            out::talk(&match secret {
                Some(_) => format!("the password of {} was changed", seen.name()),
                None => format!("{} {} is like that already", kind.word, seen.name()),
            });
            match args.common.output() {
                Output::Table => Ok(()),
                output => print(&mesh, kind, &now, output).await,
            }
        }
    }
}

/// What is given by options, too.
fn with(
    mut edits: Vec<Edit>,
    given: impl Iterator<Item = (&'static str, Option<String>)>,
) -> Result<Vec<Edit>, Failure> {
    for (field, value) in given.filter_map(|(field, value)| Some((field, value?))) {
        if edits.iter().any(|edit| edit.name == field) {
            return Err(usage(format!("{field} is given twice")));
        }
        edits.insert(0, Edit { name: field.to_owned(), act: Act::Set(value) });
    }
    Ok(edits)
}

/// Removes a record.
pub(super) async fn rm(kind: &'static Kind, args: Rm) -> Result<(), Failure> {
    let mesh = args.common.addr.mesh()?;
    let seen = find(&mesh, kind, &args.which.name, args.which.domain.as_deref()).await?;
    let consequence = format!(
        "{} {} ({}) will be removed: {}",
        kind.word,
        seen.name(),
        short_id(seen.id()),
        kind.end()
    );
    confirm(args.yes, &consequence)?;
    let what = format!("cannot remove {} {}", kind.word, seen.name());
    let mut now = seen.clone();
    let mut left = ATTEMPTS;
    let mut uncertain = false;
    let answer = loop {
        let ask = Ask::new("DELETE", path(kind, seen.id())).header("if-match", &now.tag);
        let given = once(&mesh, ask, args.writing.wait).await;
        left -= 1;
        match given {
            Ok(got) if got.status == 412 && left > 0 => {
                now = again(&mesh, kind, &seen, &got, &what).await?;
                let changed = changed(kind, &seen.value, &now.value);
                if !changed.is_empty() {
                    return Err(clash(&what, &now, &changed));
                }
            }
            Err(ApiError::Uncertain(_)) if left > 0 => uncertain = true,
            Ok(got) if uncertain && matches!(got.status, 404 | 410) => break got,
            other => break refused(other?, &what)?,
        }
    };
    if args.common.output() == Output::Json {
        out::json(&json!({ "id": seen.id(), "name": seen.name(), "removed": true }))?;
    }
    told(&format!("{} {} was removed", kind.word, seen.name()), &answer, args.writing.wait)
}

/// Fields of which somebody else made something else meanwhile.
fn changed(kind: &Kind, seen: &Value, now: &Value) -> Vec<String> {
    let parts = kind.fields.iter().chain(kind.sets);
    let differ = parts.filter(|part| seen[part.name] != now[part.name]);
    let words = differ.map(|part| {
        let (before, after) = (table::value(&seen[part.name]), table::value(&now[part.name]));
        format!("{} was {before} and is {after} now", part.name)
    });
    words.collect()
}

fn clash(what: &str, now: &Item, words: &[String]) -> Failure {
    let at = table::time(&now.value["changed"]["at"]);
    Failure::new(
        Exit::Conflict,
        what,
        format!("somebody else changed it at {at}: {}", words.join("; ")),
        "look at it, and repeat the command if that is still what you want",
    )
}

/// The password to set, if one is.
fn secret(kind: &Kind, from_stdin: bool) -> Result<Option<String>, Failure> {
    if !from_stdin {
        return Ok(None);
    }
    if kind.word != kinds::ACCOUNT.word {
        return Err(usage(format!("--password-stdin is for accounts, not for {}", kind.plural)));
    }
    password(true, "").map(Some)
}

async fn set_password(mesh: &Mesh, id: &str, secret: &str) -> Result<(), Failure> {
    let what = "cannot set the password";
    let path = format!("/api/v1/accounts/{}/password", encode(id));
    let ask = Ask::new("PUT", path).json(&json!({ "password": secret }));
    refused(mesh.ask(&ask).await?, what).map(|_| ())
}

/// One attempt.
async fn once(mesh: &Mesh, ask: Ask, wait: Option<u32>) -> Result<Answer, ApiError> {
    let ask = match wait {
        Some(nodes) => ask.header("roost-wait", nodes.to_string()),
        None => ask,
    };
    mesh.ask(&ask).await
}

/// A request that may be repeated until somebody has answered it.
async fn writing(mesh: &Mesh, ask: Ask, wait: Option<u32>, what: &str) -> Result<Answer, Failure> {
    for _ in 1..ATTEMPTS {
        match once(mesh, ask.clone(), wait).await {
            Err(ApiError::Uncertain(_)) => {}
            other => return Ok(other?),
        }
    }
    once(mesh, ask, wait).await.map_err(|error| {
        let failure = Failure::from(error);
        Failure { message: format!("{what}: {}", failure.message), ..failure }
    })
}

/// What is there after a 412: the answer says, or it is read.
async fn again(
    mesh: &Mesh,
    kind: &Kind,
    seen: &Item,
    answer: &Answer,
    what: &str,
) -> Result<Item, Failure> {
    let problem: Value = answer.decode(what)?;
    match (problem.get("current"), answer.header("etag")) {
        (Some(current), Some(tag)) => Ok(Item { value: current.clone(), tag: tag.to_owned() }),
        _ => reread(mesh, kind, seen, what).await,
    }
}

async fn reread(mesh: &Mesh, kind: &Kind, seen: &Item, what: &str) -> Result<Item, Failure> {
    let answer = mesh.ask(&Ask::new("GET", path(kind, seen.id()))).await?;
    Item::of(&answer.good(what)?, what)
}

/// The answer, unless it is a refusal: with what is wrong in each field.
pub(super) fn refused(answer: Answer, what: &str) -> Result<Answer, Failure> {
    let problem: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let errors = problem["errors"].as_array().into_iter().flatten();
    let details: Vec<String> = errors
        .filter_map(|error| {
            let pointer = error["pointer"].as_str()?.trim_start_matches('/');
            Some(format!("{pointer}: {}", error["detail"].as_str()?))
        })
        .collect();
    answer.good(what).map_err(|failure| match details.is_empty() {
        true => failure,
        false => Failure { message: format!("{what}: {}", details.join("; ")), ..failure },
    })
}

/// Wishes with ids for names.
async fn wishes(
    mesh: &Mesh,
    kind: &'static Kind,
    edits: &[Edit],
    item: Option<&Value>,
) -> Result<Vec<(String, Wish)>, Failure> {
    // Names of other things are looked for in the domain that it is in, or will be in.
    let said = edits.iter().find(|edit| edit.name == "domain").map(|edit| &edit.act);
    let near = match (said, item.map(|item| &item["domain"])) {
        (Some(Act::Set(domain)), _) => Some(domain.clone()).filter(|domain| !domain.is_empty()),
        (_, Some(id)) if kind.has_domain() && id.is_string() => {
            Some(super::act::Names::new(mesh).of(&kinds::DOMAIN_KIND, id).await)
        }
        _ => None,
    };
    let near = near.as_deref().filter(|near| !is_id(near));
    let mut out = Vec::new();
    for edit in edits {
        let (part, is_set) = edit::check(kind, edit).map_err(usage)?;
        let wish = match &edit.act {
            Act::Set(text) if is_set => {
                let texts: Vec<String> =
                    text.split(',').filter(|text| !text.is_empty()).map(str::to_owned).collect();
                Wish::Set(json!(elements(mesh, part, &texts, near).await?))
            }
            Act::Set(text) if matches!(part.what, What::Many(_)) => {
                let texts: Vec<String> =
                    text.split(',').map(|text| text.trim().to_owned()).collect();
                let texts: Vec<String> =
                    texts.into_iter().filter(|text| !text.is_empty()).collect();
                Wish::List(elements(mesh, part, &texts, near).await?)
            }
            Act::Set(text) => match edit::value(part, text).map_err(usage)? {
                Value::String(text) => Wish::Set(element(mesh, part, &text, near).await?),
                value => Wish::Set(value),
            },
            Act::Add(texts) => {
                let add = elements(mesh, part, texts, near).await?;
                Wish::Change { add, remove: vec![] }
            }
            Act::Remove(texts) => {
                let remove = elements(mesh, part, texts, near).await?;
                Wish::Change { add: vec![], remove }
            }
        };
        out.push((edit.name.clone(), wish));
    }
    Ok(out)
}

async fn elements(
    mesh: &Mesh,
    part: &Part,
    texts: &[String],
    near: Option<&str>,
) -> Result<Vec<Value>, Failure> {
    let mut out = Vec::new();
    for text in texts {
        out.push(element(mesh, part, text, near).await?);
    }
    Ok(out)
}

/// A text as it is, or the id of what is called so: in the same domain, or anywhere.
async fn element(
    mesh: &Mesh,
    part: &Part,
    text: &str,
    near: Option<&str>,
) -> Result<Value, Failure> {
    let (What::One(of) | What::Many(of)) = part.what else { return Ok(json!(text)) };
    let Some(kind) = Kind::named(of).filter(|_| !is_id(text)) else { return Ok(json!(text)) };
    if let Some(domain) = near.filter(|_| kind.has_domain() && !text.contains('/')) {
        let answer = mesh.ask(&Ask::new("GET", path(kind, &format!("{domain}/{text}")))).await?;
        if answer.status == 200 {
            return Ok(json!(Item::of(&answer, "")?.id()));
        }
    }
    Ok(json!(find(mesh, kind, text, None).await?.id()))
}

/// Says what was done; standard output has what was asked for.
async fn tell(
    mesh: &Mesh,
    kind: &'static Kind,
    item: &Item,
    answer: &Answer,
    done: &str,
    output: Output,
    wait: Option<u32>,
) -> Result<(), Failure> {
    if output != Output::Table {
        print(mesh, kind, item, output).await?;
    }
    let words = format!("{} {} was {done} ({})", kind.word, item.name(), short_id(item.id()));
    told(&words, answer, wait)
}

/// Says what was done, and where it is; fails if it is to be at more nodes than it came to in time.
pub(super) fn told(words: &str, answer: &Answer, wait: Option<u32>) -> Result<(), Failure> {
    let nodes: Option<u32> = answer.header("roost-nodes").and_then(|text| text.parse().ok());
    let at = match nodes {
        None => String::new(),
        Some(1) => "; it is on the disk of 1 node, and on its way to all".to_owned(),
        Some(nodes) => format!("; it is on the disks of {nodes} nodes"),
    };
    match (wait, nodes) {
        (Some(wait), Some(nodes)) if nodes < wait => Err(Failure::said(
            Exit::DeadlinePassed,
            format!("{words}{at}, and not yet of {wait}; it goes on, nothing has to be repeated"),
        )),
        _ => {
            out::talk(&format!("{words}{at}"));
            Ok(())
        }
    }
}
