//! Tokens that any node signs and any node verifies: PASETO v4.public. The payload is JSON, the
//! footer the hexadecimal id of the issuing node, and the implicit assertion binds purpose and
//! mesh, so that a token of one kind or mesh is worth nothing as another. Verifying reads no
//! clock.

use pasetors::Public;
use pasetors::keys::{AsymmetricPublicKey, AsymmetricSecretKey};
use pasetors::token::UntrustedToken;
use pasetors::version4::{PublicToken, V4};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Enrolment, Keypair, Kind, LEEWAY_MS, PublicKey, Refusal, Roster};
use crate::access::{DEFAULT_DOMAIN, Principal, Rights, Who, keys};
use crate::accounts::{self, Key};
use crate::id::{AccountId, EncoderId, InviteId, MeshId, NodeId, RecordId};

/// The longest token that is looked at, in bytes; ours have about 400.
pub const TOKEN_MAX: usize = 1024;
/// Letters of a name that a redirect carries, for lists: a token stays below [`TOKEN_MAX`].
const REDIRECT_NAME_MAX: usize = 64;

/// What a client's credential says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// Which one.
    pub id: InviteId,
    /// The node that issued it.
    pub by: NodeId,
    /// The domain that it opens.
    pub domain: RecordId,
    /// Milliseconds since 1970.
    pub expires: u64,
}

/// What shows that somebody logged in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Who.
    pub account: AccountId,
    /// What stood for the account's password: see [`Rights::password_of`].
    pub password: u64,
    /// In milliseconds of mesh time since 1970.
    pub expires: u64,
}

#[derive(Serialize, Deserialize)]
struct CredentialClaims {
    id: String,
    exp: u64,
    /// The default domain if missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    domain: Option<RecordId>,
}

#[derive(Serialize, Deserialize)]
struct SessionClaims {
    account: AccountId,
    /// As text: JSON's numbers are not for 64 bits.
    password: String,
    exp: u64,
}

/// What every token says.
#[derive(Deserialize)]
struct Expiry {
    exp: u64,
}

#[derive(Serialize, Deserialize)]
struct RedirectClaims {
    target: String,
    encoder: String,
    verb: String,
    exp: u64,
    /// For whom: rights are judged again where it leads.
    principal: Principal,
}

/// A client's credential for a domain, signed by the member `by`. `id` is random; the expiry is
/// milliseconds of mesh time since 1970.
pub fn issue_credential(
    by: &Keypair,
    mesh: MeshId,
    id: InviteId,
    domain: RecordId,
    expires: u64,
) -> String {
    let domain = (domain != DEFAULT_DOMAIN).then_some(domain);
    let claims = CredentialClaims { id: id.to_string(), exp: expires, domain };
    issue(by, Kind::Credential, mesh, &claims)
}

/// A token for somebody who logged in, signed by the member `by`.
pub fn issue_session(by: &Keypair, mesh: MeshId, session: &Session) -> String {
    let claims = SessionClaims {
        account: session.account,
        password: format!("{:016x}", session.password),
        exp: session.expires,
    };
    issue(by, Kind::Session, mesh, &claims)
}

/// What `principal` was allowed, to do `verb` with `encoder` at the node `target` without showing
/// a credential there, signed by the member `by`. `expires` is milliseconds of mesh time since
/// 1970.
pub fn issue_redirect(
    by: &Keypair,
    mesh: MeshId,
    target: NodeId,
    encoder: EncoderId,
    verb: &str,
    expires: u64,
    principal: &Principal,
) -> String {
    let mut principal = principal.clone();
    principal.name = principal.name.chars().take(REDIRECT_NAME_MAX).collect();
    let claims = RedirectClaims {
        target: target.to_string(),
        encoder: encoder.to_string(),
        verb: verb.to_owned(),
        exp: expires,
        principal,
    };
    issue(by, Kind::Redirect, mesh, &claims)
}

/// Why nobody is let in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// Nothing was shown, from another machine.
    #[error(
        "a credential is needed: log in, or use an enrolment string from `roost invite --client` \
         or a stream key"
    )]
    NoCredential,
    /// What was shown is not good.
    #[error(transparent)]
    BadCredential(#[from] Refusal),
}

fn footer(token: &UntrustedToken<Public, V4>) -> Option<NodeId> {
    std::str::from_utf8(token.untrusted_footer()).ok()?.parse().ok()
}

impl Roster {
    /// Who somebody is: the one rule of every endpoint. `credential` is a token, the enrolment
    /// string that holds one, or a stream key; whoever is `local` needs none. What they may is
    /// for [`Rights`] to say.
    pub fn authenticate(
        &self,
        rights: &Rights,
        local: bool,
        credential: Option<&str>,
        mesh_ms: u64,
    ) -> Result<Principal, Denied> {
        let Some(shown) = credential else {
            return if local { Ok(Principal::local()) } else { Err(Denied::NoCredential) };
        };
        if keys::key_owner(shown).is_some() {
            return Ok(check_key(rights, shown, mesh_ms)?);
        }
        let enrolment = shown.parse::<Enrolment>();
        let token = match &enrolment {
            Ok(enrolment) => &enrolment.credential,
            // Which of the two it is only its signature tells.
            Err(_) => match self.check_session(rights, shown, mesh_ms) {
                Err(Refusal::BadSignature { .. } | Refusal::Unreadable { .. }) => shown,
                verdict => return Ok(verdict?),
            },
        };
        let credential = self.check_credential(token, mesh_ms)?;
        let who = Who::Client { id: credential.id, domain: credential.domain };
        let principal = Principal::new(who, format!("client {}", credential.id.short()));
        let principal = principal.signed_by(credential.by);
        match rights.stands(&principal, mesh_ms) {
            true => Ok(principal),
            false => Err(Refusal::Ended { what: Kind::Credential }.into()),
        }
    }

    /// Who logged in, if a member of this mesh issued the token, it is not over, and the account
    /// still has the password that was shown then.
    pub fn check_session(
        &self,
        rights: &Rights,
        token: &str,
        mesh_ms: u64,
    ) -> Result<Principal, Refusal> {
        let what = Kind::Session;
        let (by, claims) = self.open::<SessionClaims>(token, what)?;
        not_over(claims.exp, mesh_ms, what)?;
        let shown = u64::from_str_radix(&claims.password, 16);
        let password = rights.password_of(claims.account).filter(|now| Ok(*now) == shown);
        let password = password.ok_or(Refusal::Ended { what })?;
        let key = Key { kind: accounts::Kind::ACCOUNT, id: RecordId(claims.account.0) };
        let name = rights.name_of(key).filter(|name| !name.is_empty());
        let name = name.map_or_else(|| claims.account.short(), str::to_owned);
        let principal = Principal::new(Who::Account(claims.account), name);
        Ok(principal.with_proof(password).signed_by(by))
    }

    /// What `token` entitles to, if a member of this mesh issued it and it is not over.
    pub fn check_credential(&self, token: &str, mesh_ms: u64) -> Result<Credential, Refusal> {
        let what = Kind::Credential;
        let (by, claims) = self.open::<CredentialClaims>(token, what)?;
        let id = claims.id.parse().map_err(|_no_id| Refusal::Unreadable { what })?;
        not_over(claims.exp, mesh_ms, what)?;
        let domain = claims.domain.unwrap_or(DEFAULT_DOMAIN);
        Ok(Credential { id, by, domain, expires: claims.exp })
    }

    /// For whom `token` redirects to `target`, with this `verb` and `encoder`. What they may is
    /// judged anew.
    pub fn check_redirect(
        &self,
        token: &str,
        target: NodeId,
        encoder: EncoderId,
        verb: &str,
        mesh_ms: u64,
    ) -> Result<Principal, Refusal> {
        let (by, claims) = self.open::<RedirectClaims>(token, Kind::Redirect)?;
        not_over(claims.exp, mesh_ms, Kind::Redirect)?;
        let fits = claims.target.parse() == Ok(target)
            && claims.encoder.parse() == Ok(encoder)
            && claims.verb == verb;
        let principal = claims.principal;
        let issuer = principal.issuer.or(Some(by));
        if fits { Ok(Principal { issuer, ..principal }) } else { Err(Refusal::OtherRedirect) }
    }

    fn open<T: DeserializeOwned>(&self, token: &str, what: Kind) -> Result<(NodeId, T), Refusal> {
        let unreadable = Refusal::Unreadable { what };
        if token.len() > TOKEN_MAX {
            return Err(unreadable);
        }
        let Ok(untrusted) = UntrustedToken::<Public, V4>::try_from(token) else {
            return Err(unreadable);
        };
        let by = footer(&untrusted).ok_or(unreadable)?;
        // The date is read before the signature is known to be good, and used only to choose keys.
        let expires = serde_json::from_slice::<Expiry>(untrusted.untrusted_payload());
        let issuers = self.issuer(what, by, expires.map_or(u64::MAX, |claims| claims.exp))?;
        let opened = |key: &PublicKey| {
            let key = AsymmetricPublicKey::<V4>::from(key).ok()?;
            let purpose = purpose(what, self.mesh());
            PublicToken::verify(&key, &untrusted, None, Some(&purpose)).ok()
        };
        let trusted = issuers.iter().find_map(opened).ok_or(Refusal::BadSignature { what })?;
        let claims = serde_json::from_str(trusted.payload())
            .map_err(|_shape| Refusal::Unreadable { what })?;
        Ok((by, claims))
    }
}

/// The encoder that a stream key speaks for. Unknown encoders and wrong keys are told apart by
/// nothing.
fn check_key(rights: &Rights, text: &str, mesh_ms: u64) -> Result<Principal, Refusal> {
    let what = Kind::StreamKey;
    let (encoder, proof) = rights.check_key(text, mesh_ms).ok_or(Refusal::Ended { what })?;
    let record = Key { kind: accounts::Kind::ENCODER, id: RecordId(encoder.0) };
    let name = rights.name_of(record).filter(|name| !name.is_empty());
    let name = name.map_or_else(|| encoder.short(), str::to_owned);
    Ok(Principal::new(Who::Encoder(encoder), name).with_proof(proof))
}

fn issue<T: Serialize>(by: &Keypair, what: Kind, mesh: MeshId, claims: &T) -> String {
    let sign = || {
        let payload = serde_json::to_vec(claims).ok()?;
        let secret = AsymmetricSecretKey::<V4>::from(&[by.seed(), by.public()].concat()).ok()?;
        let footer = by.node().to_string();
        PublicToken::sign(&secret, &payload, Some(footer.as_bytes()), Some(&purpose(what, mesh)))
            .ok()
    };
    sign().expect("a valid key signs any payload that is not empty")
}

fn purpose(what: Kind, mesh: MeshId) -> Vec<u8> {
    let label: &[u8] = match what {
        Kind::Invitation => b"roost invitation 1",
        Kind::Credential => b"roost credential 1",
        Kind::Redirect => b"roost redirect 1",
        Kind::Session => b"roost session 1",
        Kind::StreamKey => b"roost stream key 1",
    };
    [label, &mesh.0].concat()
}

fn not_over(expires: u64, mesh_ms: u64, what: Kind) -> Result<(), Refusal> {
    if mesh_ms > expires.saturating_add(LEEWAY_MS) {
        return Err(Refusal::Expired { what });
    }
    Ok(())
}
