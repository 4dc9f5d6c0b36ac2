//! Logging in, who one is, and passwords. A login at one node is good at all, also after that
//! node's death: the token is signed, and every node knows whose passwords are the present ones.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::App;
use super::auth::{Caller, Peer};
use super::backend::{Backend, Principal};
use super::body::read_text;
use super::problem::Problem;
use crate::access::{DEFAULT_DOMAIN, Right, Rights, Scope, Who};
use crate::accounts::{Change, Expect, Key, Kind, Record, Refusal, Write};
use crate::id::{AccountId, RecordId};
use crate::node::passwords::{BadPassword, PASSWORDS_TRIED};

/// How long a sign-in is good: a wall of pictures runs for days. What ends it sooner is a changed
/// password or a disabled account.
pub const SESSION_LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);
/// Failed logins under one name in a row, and the time that gives one back: a guesser gets some
/// ten thousand a day.
pub const NAME_ATTEMPTS: u32 = 10;
/// See [`NAME_ATTEMPTS`].
pub const NAME_PAUSE: Duration = Duration::from_secs(6);
/// Failed logins from one address (of IPv6, one /64) in a row: an office may share one.
pub const ADDRESS_ATTEMPTS: u32 = 30;
/// See [`ADDRESS_ATTEMPTS`].
pub const ADDRESS_PAUSE: Duration = Duration::from_secs(2);
/// Names and addresses each that are remembered, at some 100 bytes; those that failed least are
/// forgotten first.
pub const ATTEMPTS_KEPT: usize = 4096;

/// Longest body of these requests, in bytes.
const MAX_BODY: usize = 4096;
/// Longest name of an account with its domain, in bytes.
const NAME_LENGTH: usize = 160;
/// How long a changed password may take from the disk to the index of rights.
const INDEX_WAIT: Duration = Duration::from_secs(2);
const PASSWORD_FIELD: u16 = 4;

/// What is remembered of logins, and counted.
#[derive(Debug)]
pub(super) struct Logins {
    names: Mutex<Attempts<String>>,
    addresses: Mutex<Attempts<IpAddr>>,
    /// Logins that were granted.
    pub(super) granted: AtomicU64,
    /// Wrong names or passwords.
    pub(super) refused: AtomicU64,
    /// Not tried: too many failed before.
    pub(super) throttled: AtomicU64,
    /// Not tried: too many at once.
    pub(super) busy: AtomicU64,
}

impl Default for Logins {
    fn default() -> Self {
        Self {
            names: Mutex::new(Attempts::new(NAME_ATTEMPTS, NAME_PAUSE)),
            addresses: Mutex::new(Attempts::new(ADDRESS_ATTEMPTS, ADDRESS_PAUSE)),
            granted: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            throttled: AtomicU64::new(0),
            busy: AtomicU64::new(0),
        }
    }
}

/// How often each of many may fail: each failure takes a `pause` to be forgotten.
#[derive(Debug)]
struct Attempts<K> {
    most: u32,
    pause: Duration,
    /// When all of one's failures will be forgotten.
    forgotten: BTreeMap<K, Instant>,
}

impl<K: Ord + Clone> Attempts<K> {
    fn new(most: u32, pause: Duration) -> Self {
        Self { most, pause, forgotten: BTreeMap::new() }
    }

    /// Counts an attempt as failed until it is [given back](Self::give_back). If there were too
    /// many: how long until the next one.
    fn take(&mut self, key: K, now: Instant) -> Result<(), Duration> {
        if self.forgotten.len() >= ATTEMPTS_KEPT && !self.forgotten.contains_key(&key) {
            self.forgotten.retain(|_, at| *at > now);
            if self.forgotten.len() >= ATTEMPTS_KEPT {
                let least = self.forgotten.iter().min_by_key(|(_, at)| **at);
                if let Some(least) = least.map(|(key, _)| key.clone()) {
                    self.forgotten.remove(&least);
                }
            }
        }
        let from = self.forgotten.get(&key).copied().unwrap_or(now).max(now);
        let after = from + self.pause;
        let most = now + self.pause * self.most;
        if after > most {
            return Err(after - most);
        }
        self.forgotten.insert(key, after);
        Ok(())
    }

    fn give_back(&mut self, key: &K) {
        if let Some(at) = self.forgotten.get_mut(key)
            && let Some(before) = at.checked_sub(self.pause)
        {
            *at = before;
        }
    }
}

impl Logins {
    /// Counts an attempt, or says that there were too many.
    fn take(&self, name: &str, from: Option<IpAddr>) -> Result<(), Problem> {
        let now = Instant::now();
        let mut wait = lock(&self.names).take(name.to_owned(), now).err();
        if let Some(from) = from.map(network) {
            let address = lock(&self.addresses).take(from, now).err();
            wait = wait.max(address);
        }
        let Some(wait) = wait else { return Ok(()) };
        self.throttled.fetch_add(1, Ordering::Relaxed);
        let seconds = u32::try_from(wait.as_secs() + 1).unwrap_or(u32::MAX);
        let detail = format!("too many logins failed; try again in {seconds} s");
        Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, detail).retry_after(seconds))
    }

    fn give_back(&self, name: &str, from: Option<IpAddr>) {
        lock(&self.names).give_back(&name.to_owned());
        if let Some(from) = from.map(network) {
            lock(&self.addresses).give_back(&from);
        }
    }

    /// What became of logins, by name.
    pub(super) fn rows(&self) -> [(&'static str, u64); 4] {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        [
            ("granted", read(&self.granted)),
            ("refused", read(&self.refused)),
            ("throttled", read(&self.throttled)),
            ("busy", read(&self.busy)),
        ]
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What one person is given: an IPv4 address, or the upper half of an IPv6 one.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(six) => Ipv6Addr::from_bits(six.to_bits() >> 64 << 64).into(),
        four => four,
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Login {
    name: String,
    password: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewPassword {
    old: String,
    new: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Given {
    password: String,
}

/// `POST /api/v1/login`.
pub(super) async fn login(
    State(app): State<App>,
    request: Request,
) -> Result<Json<Value>, Problem> {
    let (parts, body) = request.into_parts();
    let from = parts.extensions.get::<Peer>().map(|peer| peer.address.ip());
    let Login { name, password } = read(body).await?;
    if name.len() > NAME_LENGTH {
        return Err(wrong());
    }
    app.logins.take(&name, from)?;
    let known = accounts_named(&app.backend.rights(), &name);
    let account = check(&app, &known, password).await?;
    let Some((account, token)) =
        account.and_then(|account| Some((account, token(&*app.backend, account)?)))
    else {
        app.logins.refused.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(
            event = "login.refused",
            remote = from.map(tracing::field::display),
            "wrong name or password"
        );
        return Err(wrong());
    };
    app.logins.give_back(&name, from);
    app.logins.granted.fetch_add(1, Ordering::Relaxed);
    tracing::info!(
        event = "login.granted", account = %account, remote = from.map(tracing::field::display),
        "somebody logged in"
    );
    Ok(Json(token))
}

/// `GET /api/v1/me`: who I am here, and what I may.
pub(super) async fn me(State(app): State<App>, caller: Caller) -> Json<Value> {
    let rights = app.backend.rights();
    let who = &caller.principal.who;
    let domain_name = |domain: RecordId| rights.domain_name(domain).map(str::to_owned);
    let (kind, id, domain) = match who {
        Who::Nobody => ("nobody", None, None),
        Who::Local => ("local", None, None),
        Who::Account(account) => ("account", Some(account.to_string()), rights.confines(*account)),
        Who::Client { id, domain } => ("client", Some(id.to_string()), Some(*domain)),
        Who::Encoder(id) => ("encoder", Some(id.to_string()), rights.domain_of(*id)),
    };
    let roles = rights.roles(who).into_iter().map(|(right, scope)| match scope {
        Scope::Mesh => json!({ "role": right.role(), "mesh": true }),
        Scope::Domain(domain) => json!({
            "role": right.role(), "domain": domain, "domain_name": domain_name(domain),
        }),
        Scope::Encoder(encoder) => json!({ "role": right.role(), "encoder": encoder }),
    });
    Json(json!({
        "kind": kind,
        "id": id,
        "name": caller.principal.name,
        "domain": domain,
        "domain_name": domain.and_then(domain_name),
        "roles": roles.collect::<Vec<_>>(),
    }))
}

/// `POST /api/v1/me/password`: another one, for whoever knows the present one. All sign-ins before
/// are over; the answer is a new one.
pub(super) async fn change(
    State(app): State<App>,
    caller: Caller,
    request: Request,
) -> Result<Json<Value>, Problem> {
    let Who::Account(account) = caller.principal.who else {
        return Err(Problem::new(
            StatusCode::FORBIDDEN,
            "only somebody who logged in has a password",
        ));
    };
    let from = caller.peer.map(|peer| peer.address.ip());
    let NewPassword { old, new } = read(request.into_body()).await?;
    let name = account.to_string();
    app.logins.take(&name, from)?;
    if check(&app, &[account], old).await?.is_none() {
        app.logins.refused.fetch_add(1, Ordering::Relaxed);
        return Err(Problem::new(StatusCode::FORBIDDEN, "the old password is another one"));
    }
    app.logins.give_back(&name, from);
    store(&app, &caller.principal, account, new).await?;
    token(&*app.backend, account).map(Json).ok_or_else(wrong)
}

/// `PUT /api/v1/accounts/{id}/password`: by whoever administers the account.
pub(super) async fn set(
    State(app): State<App>,
    Path(wanted): Path<String>,
    caller: Caller,
    request: Request,
) -> Result<StatusCode, Problem> {
    let account = {
        let rights = app.backend.rights();
        let found = account_for(&rights, &wanted);
        let scope = |account| rights.confines(account).map_or(Scope::Mesh, Scope::Domain);
        let own = |account| caller.principal.who == Who::Account(account);
        match found {
            Some(account)
                if rights.may(&caller.principal.who, Right::Administer, scope(account)) =>
            {
                account
            }
            Some(account) if own(account) => {
                return Err(Problem::new(
                    StatusCode::FORBIDDEN,
                    "this takes the role admin; change your own password at /api/v1/me/password",
                ));
            }
            // Whoever may not read it learns nothing of it.
            _ => return Err(Problem::new(StatusCode::NOT_FOUND, Refusal::Missing.to_string())),
        }
    };
    let Given { password } = read(request.into_body()).await?;
    store(&app, &caller.principal, account, password).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Reads a body. What it says is in no error: it may be a password.
async fn read<T: DeserializeOwned>(body: axum::body::Body) -> Result<T, Problem> {
    let text = read_text(body, MAX_BODY).await?;
    serde_json::from_str(&text).map_err(|_shape| {
        Problem::new(StatusCode::BAD_REQUEST, "the body is not the JSON that this takes")
    })
}

/// The same for unknown names, wrong passwords and accounts that may not log in.
fn wrong() -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, "wrong name or password")
}

/// The active accounts of this name: `name` is one of the mesh or the default domain,
/// `domain/name` one of that domain.
fn accounts_named(rights: &Rights, text: &str) -> Vec<AccountId> {
    let (domains, name) = match text.split_once('/') {
        Some((domain, name)) => match rights.domain_named(domain) {
            Some(domain) => (vec![Some(domain)], name),
            None => (vec![], name),
        },
        None => (vec![None, Some(DEFAULT_DOMAIN)], text),
    };
    let named = domains.into_iter().flat_map(|of| rights.named(Kind::ACCOUNT, of, name));
    let accounts = named.map(|id| AccountId(id.0));
    accounts.filter(|account| rights.is_active(*account)).take(PASSWORDS_TRIED).collect()
}

/// The account with this id or name, in use or not.
fn account_for(rights: &Rights, text: &str) -> Option<AccountId> {
    if let Ok(id) = text.parse::<AccountId>() {
        let key = Key { kind: Kind::ACCOUNT, id: RecordId(id.0) };
        return rights.filed(key).map(|_filed| id);
    }
    let (domains, name) = match text.split_once('/') {
        Some((domain, name)) => (vec![rights.domain_named(domain)], name),
        None => (vec![None, Some(DEFAULT_DOMAIN)], text),
    };
    let mut named = domains.into_iter().flat_map(|of| rights.named(Kind::ACCOUNT, of, name));
    named.next().map(|id| AccountId(id.0))
}

/// Which of these accounts has this password. It takes as long if there is none.
async fn check(
    app: &App,
    accounts: &[AccountId],
    password: String,
) -> Result<Option<AccountId>, Problem> {
    let mut owners = Vec::new();
    let mut stored = Vec::new();
    // An unknown one is looked for, too.
    let nobody = [AccountId([0; 16])];
    for account in if accounts.is_empty() { &nobody } else { accounts } {
        let key = Key { kind: Kind::ACCOUNT, id: RecordId(account.0) };
        let record = app.backend.record(key).await.filter(Record::exists).unwrap_or_default();
        for sibling in record.values(PASSWORD_FIELD) {
            if let Ok(text) = std::str::from_utf8(sibling.value) {
                owners.push(*account);
                stored.push(text.to_owned());
            }
        }
    }
    let found = app.backend.passwords().verify(password, stored).await.map_err(|bad| {
        app.logins.busy.fetch_add(1, Ordering::Relaxed);
        refused(bad)
    })?;
    Ok(found.and_then(|index| owners.get(index).copied()))
}

/// Writes a new password down; when this returns, this node judges by it.
async fn store(
    app: &App,
    by: &Principal,
    account: AccountId,
    password: String,
) -> Result<(), Problem> {
    let hash = app.backend.passwords().hash(password).await.map_err(refused)?;
    let mut changes = app.backend.rights_changes();
    let before = app.backend.rights().password_of(account);
    let author = match by.who {
        Who::Account(author) => author,
        _ => AccountId([0; 16]),
    };
    let write = Write {
        key: Key { kind: Kind::ACCOUNT, id: RecordId(account.0) },
        changes: vec![Change::Set(PASSWORD_FIELD, hash.into_bytes())],
        account: author,
        expect: Expect::Present,
        wait: 0,
        patience: Duration::ZERO,
    };
    app.backend.write(write).await.map_err(|refusal| {
        let status = match refusal {
            Refusal::Missing | Refusal::Gone => StatusCode::NOT_FOUND,
            Refusal::Busy => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INSUFFICIENT_STORAGE,
        };
        Problem::new(status, refusal.to_string())
    })?;
    tracing::info!(event = "password.changed", account = %account, by = %by.name, "a password was changed");
    let deadline = tokio::time::Instant::now() + INDEX_WAIT;
    while app.backend.rights().password_of(account) == before
        && app.backend.rights().is_active(account)
    {
        if !matches!(tokio::time::timeout_at(deadline, changes.changed()).await, Ok(Ok(()))) {
            break;
        }
    }
    Ok(())
}

fn refused(bad: BadPassword) -> Problem {
    match bad {
        BadPassword::Short | BadPassword::Long => {
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, bad.to_string())
        }
        BadPassword::Busy | BadPassword::Failed => {
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, bad.to_string()).retry_after(2)
        }
    }
}

/// What somebody gets who logged in.
fn token(backend: &dyn Backend, account: AccountId) -> Option<Value> {
    let (token, expires) = backend.session_token(account, SESSION_LIFETIME)?;
    let rights = backend.rights();
    let name = rights.name_of(Key { kind: Kind::ACCOUNT, id: RecordId(account.0) });
    let domain = rights.confines(account);
    Some(json!({
        "token": token,
        "expires": expires,
        "account": account,
        "name": name,
        "domain": domain,
        "domain_name": domain.and_then(|domain| rights.domain_name(domain)),
    }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn whoever_fails_too_often_waits_and_is_let_in_again() {
        let mut attempts = Attempts::new(3, Duration::from_secs(6));
        let mut now = Instant::now();
        for _ in 0..3 {
            assert_eq!(attempts.take("anna", now), Ok(()));
        }
        assert_eq!(attempts.take("anna", now), Err(Duration::from_secs(6)));
        assert_eq!(attempts.take("berta", now), Ok(()), "others are not concerned");
        now += Duration::from_secs(6);
        assert_eq!(attempts.take("anna", now), Ok(()));
        assert!(attempts.take("anna", now).is_err());
        attempts.give_back(&"anna");
        assert_eq!(attempts.take("anna", now), Ok(()), "one that was right does not count");
        now += Duration::from_secs(60);
        for _ in 0..3 {
            assert_eq!(attempts.take("anna", now), Ok(()));
        }
        assert!(attempts.take("anna", now).is_err(), "time gives no more than there was");
    }

    #[test]
    fn the_table_of_failures_does_not_grow_and_keeps_those_that_failed_most() {
        let mut attempts = Attempts::new(3, Duration::from_secs(6));
        let now = Instant::now();
        for _ in 0..3 {
            attempts.take(0, now).unwrap();
        }
        for key in 1..3 * ATTEMPTS_KEPT {
            attempts.take(key, now).unwrap();
        }
        assert_eq!(attempts.forgotten.len(), ATTEMPTS_KEPT);
        assert!(attempts.take(0, now).is_err(), "a flood of names makes nobody forget");
    }

    #[test]
    fn an_address_is_what_one_person_is_given() {
        for (one, other, same) in [
            ("192.0.2.1", "192.0.2.2", false),
            ("192.0.2.1", "::ffff:192.0.2.1", true),
            ("2001:db8::1", "2001:db8::ffff:1", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
        ] {
            let (one, other) = (one.parse().unwrap(), other.parse().unwrap());
            assert_eq!(network(one) == network(other), same, "{one} {other}");
        }
    }

    proptest! {
        #[test]
        fn no_attempts_ever_exceed_the_rate(gaps in proptest::collection::vec(0..20_000u64, 1..200)) {
            let (most, pause) = (5, Duration::from_secs(6));
            let mut attempts = Attempts::new(most, pause);
            let begin = Instant::now();
            let mut now = begin;
            let mut granted = 0u32;
            for gap in gaps {
                now += Duration::from_millis(gap);
                granted += u32::from(attempts.take((), now).is_ok());
                let passed = u32::try_from((now - begin).as_secs() / pause.as_secs()).unwrap();
                prop_assert!(granted <= most + passed);
            }
        }
    }
}
