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
use crate::access::{DEFAULT_DOMAIN, Principal, Who};
use crate::id::{EncoderId, InviteId, MeshId, NodeId};

/// The longest token that is looked at, in bytes; ours have about 400.
pub const TOKEN_MAX: usize = 1024;

/// What a client's credential says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// Which one.
    pub id: InviteId,
    /// The node that issued it.
    pub by: NodeId,
    /// Milliseconds since 1970.
    pub expires: u64,
}

#[derive(Serialize, Deserialize)]
struct CredentialClaims {
    id: String,
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
}

/// A client's credential, signed by the member `by`. `id` is random; the expiry is milliseconds
/// since 1970.
pub fn issue_credential(by: &Keypair, mesh: MeshId, id: InviteId, expires_wall_ms: u64) -> String {
    let claims = CredentialClaims { id: id.to_string(), exp: expires_wall_ms };
    issue(by, Kind::Credential, mesh, &claims)
}

/// The right to do `verb` with `encoder` at the node `target` without logging in there, signed by
/// the member `by`. `expires` is milliseconds since 1970.
pub fn issue_redirect(
    by: &Keypair,
    mesh: MeshId,
    target: NodeId,
    encoder: EncoderId,
    verb: &str,
    expires: u64,
) -> String {
    let claims = RedirectClaims {
        target: target.to_string(),
        encoder: encoder.to_string(),
        verb: verb.to_owned(),
        exp: expires,
    };
    issue(by, Kind::Redirect, mesh, &claims)
}

/// Why nobody is let in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// Nothing was shown, from another machine.
    #[error(
        "a credential is needed from anywhere but this machine; get one with `roost invite \
         --client` on a node"
    )]
    NoCredential,
    /// What was shown is not good.
    #[error(transparent)]
    BadCredential(#[from] Refusal),
}

/// The node that claims to have issued a token, or the one in an enrolment string.
pub fn issuer_of(credential: &str) -> Option<NodeId> {
    let enrolment = credential.parse::<Enrolment>();
    let token = enrolment.as_ref().map_or(credential, |enrolment| &enrolment.credential);
    footer(&UntrustedToken::<Public, V4>::try_from(token).ok()?)
}

fn footer(token: &UntrustedToken<Public, V4>) -> Option<NodeId> {
    std::str::from_utf8(token.untrusted_footer()).ok()?.parse().ok()
}

impl Roster {
    /// Who a client is: the one rule of every endpoint. `credential` is a token, or the
    /// enrolment string that holds one; this machine's own need none.
    pub fn authorise(
        &self,
        loopback: bool,
        credential: Option<&str>,
        now_ms: u64,
    ) -> Result<Principal, Denied> {
        let Some(shown) = credential else {
            return if loopback { Ok(Principal::local()) } else { Err(Denied::NoCredential) };
        };
        let enrolment = shown.parse::<Enrolment>();
        let token = enrolment.as_ref().map_or(shown, |enrolment| &enrolment.credential);
        let credential = self.check_credential(token, now_ms)?;
        let who = Who::Client { id: credential.id, domain: DEFAULT_DOMAIN };
        Ok(Principal::new(who, format!("client {}", credential.id.short())))
    }

    /// What `token` entitles to, if a member of this mesh issued it and it is not over.
    pub fn check_credential(&self, token: &str, now_ms: u64) -> Result<Credential, Refusal> {
        let what = Kind::Credential;
        let (by, claims) = self.open::<CredentialClaims>(token, what)?;
        let id = claims.id.parse().map_err(|_no_id| Refusal::Unreadable { what })?;
        not_over(claims.exp, now_ms, what)?;
        Ok(Credential { id, by, expires: claims.exp })
    }

    /// Whether `token` redirects to `target` for this `verb` and `encoder`.
    pub fn check_redirect(
        &self,
        token: &str,
        target: NodeId,
        encoder: EncoderId,
        verb: &str,
        now_ms: u64,
    ) -> Result<(), Refusal> {
        let (_by, claims) = self.open::<RedirectClaims>(token, Kind::Redirect)?;
        not_over(claims.exp, now_ms, Kind::Redirect)?;
        let fits = claims.target.parse() == Ok(target)
            && claims.encoder.parse() == Ok(encoder)
            && claims.verb == verb;
        if fits { Ok(()) } else { Err(Refusal::OtherRedirect) }
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
    };
    [label, &mesh.0].concat()
}

fn not_over(expires: u64, now_ms: u64, what: Kind) -> Result<(), Refusal> {
    if now_ms > expires.saturating_add(LEEWAY_MS) {
        return Err(Refusal::Expired { what });
    }
    Ok(())
}
