//! What proves, or fails to prove, that somebody belongs.

use roost::access::keys::{StreamKey, key_hash, key_owner, key_text};
use roost::access::{DEFAULT_DOMAIN, Principal, Rights, Who};
use roost::admission::{
    Enrolment, Invitation, Invite, Keypair, Session, Statement, Statements, issue_credential,
    issue_redirect, issue_session, verify_chain,
};
use roost::id::{AccountId, Boot, EncoderId, InviteId};
use roost::wire::{Admitted, ClientHello, ClientMessage, Handshake, Hello, Join, Keep, Message};
use roost::wire::{NodeMessage, Refused, ServerHello};

use super::rehearsal::{founder, roster, second};

const WALL: u64 = 1_800_000_000_000;

/// Chains of admissions, invitations and proofs, inside the messages that carry them.
pub fn admission(data: &[u8]) {
    let mut roster = roster();
    let before = roster.len();
    let key = founder().public();
    match Handshake::decode(data) {
        Ok(Handshake::Hello(hello)) => {
            let more = &hello.more.0;
            let (learned, judged) = roster.judge(&hello.chain, more, &key, hello.mesh);
            let verified = verify_chain(Some(roster.mesh()), &hello.chain, more, &key);
            let believed = verified.is_ok() && hello.mesh == roster.mesh();
            assert!(!believed || judged.is_ok(), "a roster believes what a client does");
            roster.adopt(learned);
        }
        Ok(Handshake::Join(join)) => {
            let _ = roster.check_invite(&join.invite, &join.proof, b"statement", WALL);
        }
        Ok(Handshake::Admitted(admitted)) => {
            roster.adopt(admitted.statements.0);
        }
        _ => {}
    }
    // Nobody without a member's private key makes a member.
    assert_eq!(roster.len(), before);
    assert!(roster.members().all(|node| roster.chain(node).is_some()));
}

/// Text that people paste or programs send: invitations, enrolments, credentials, sign-ins,
/// stream keys, redirects.
pub fn strings(data: &[u8]) {
    if let Some(kept) = StreamKey::decode(data) {
        assert_eq!(kept.encode(), data);
    }
    let text = String::from_utf8_lossy(data);
    one_string(&text);
    // The same bytes behind a good checksum, which no fuzzer would guess.
    let sum = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, data);
    let body = [&sum.as_ref()[..4], data].concat();
    let body = data_encoding::BASE64URL_NOPAD.encode(&body);
    one_string(&format!("roost1-{body}"));
    one_string(&format!("roost1c-{body}"));
}

fn one_string(text: &str) {
    if let Ok(invitation) = text.parse::<Invitation>() {
        assert_eq!(invitation.to_string().parse(), Ok(invitation));
    }
    if let Ok(enrolment) = text.parse::<Enrolment>() {
        assert_eq!(enrolment.to_string().parse(), Ok(enrolment));
    }
    let roster = roster();
    let _ = roster.check_credential(text, WALL);
    let rights = Rights::default();
    let _ = roster.check_session(&rights, text, WALL);
    if let Ok(principal) = roster.authenticate(&rights, false, Some(text), WALL) {
        assert!(matches!(principal.who, Who::Client { .. }), "nobody else is known: {text}");
    }
    if key_owner(text).is_some() {
        assert_eq!(rights.check_key(text, WALL), None);
    }
    let _ = rights.places_of(&Who::Local, text);
    let _ = roster.check_redirect(text, second(), EncoderId([3; 16]), "view", WALL);
    let _ = text.parse::<EncoderId>();
    let _ = roost::id::valid_name(text);
}

/// Handshakes whose chains and proofs are good, or nearly.
pub fn chains() -> Vec<Vec<u8>> {
    handshakes()
}

fn invitation() -> Invitation {
    let addrs = vec!["192.0.2.1:9443".to_owned(), "[2001:db8::1]:9443".to_owned()];
    let (id, mesh) = (InviteId([6; 16]), roster().mesh());
    Invitation::make(&founder(), mesh, addrs, id, [8; 32], WALL + 3_600_000, 3)
}

/// One handshake message of each kind.
pub fn handshakes() -> Vec<Vec<u8>> {
    let roster = roster();
    let (mesh, me) = (roster.mesh(), founder().node());
    let chain_of = |node| roster.chain(node).unwrap_or_default();
    let invitation = invitation();
    let invite: Invite = invitation.invite.clone();
    let hello = |chain| {
        Handshake::Hello(Hello {
            mesh,
            chain,
            boot: Boot(3),
            name: "n1".into(),
            addrs: vec!["192.0.2.1:9443".into()],
            version: "0.1.0".into(),
            more: Statements(roster.statements().cloned().collect()),
            wall: WALL,
        })
    };
    let stranger = Keypair::from_seed([4; 32]);
    let forged = Statement::Admission(roster.admit(&stranger, [7; 32], &invite));
    let revoked = Statement::Revocation(roster.revoke(&stranger, me, [1; 16], "no", vec![]));
    let all = roster.statements().cloned().chain([forged, revoked]);
    let statements = Statements(all.collect());
    let members = vec![(me, vec!["192.0.2.1:9443".to_owned()])];
    let names = vec![(me, "n1".to_owned())];
    let server = ServerHello { mesh, chain: chain_of(me), more: statements.clone() };
    let credential =
        issue_credential(&founder(), mesh, InviteId([2; 16]), DEFAULT_DOMAIN, WALL + 1);
    let client = ClientHello {
        agent: "roost view".into(),
        version: "0.1.0".into(),
        credential: Some(credential),
        only_api: true,
    };
    vec![
        hello(chain_of(me)).encode(),
        hello(chain_of(second())).encode(),
        Handshake::Refused(Refused { reason: "no".into(), more: statements.clone() }).encode(),
        Handshake::Join(Join { proof: invitation.prove(b"statement"), invite }).encode(),
        Handshake::Admitted(Admitted { statements, members, names }).encode(),
        Handshake::Keep(Keep { order: 4 }).encode(),
        NodeMessage::Hello(server).encode(),
        ClientMessage::Hello(client).encode(),
    ]
}

/// Good strings of each kind, and the bytes inside.
pub fn texts() -> Vec<Vec<u8>> {
    let mesh = roster().mesh();
    let credential =
        issue_credential(&founder(), mesh, InviteId([2; 16]), DEFAULT_DOMAIN, WALL + 1);
    let encoder = EncoderId([3; 16]);
    let principal = Principal::new(Who::Encoder(encoder), "cam").with_proof(4);
    let redirect =
        issue_redirect(&founder(), mesh, second(), encoder, "view", WALL + 60_000, &principal);
    let account = AccountId([5; 16]);
    let session = Session { account, password: 3, expires: WALL + 60_000 };
    let session = issue_session(&founder(), mesh, &session);
    let key = key_text(encoder, &[9; 20]);
    let kept = StreamKey { id: [1; 4], hash: key_hash(&key), made: WALL, expires: WALL };
    let addrs = vec!["192.0.2.1:9443".to_owned()];
    let enrolment = Enrolment { addrs, mesh, credential: credential.clone() };
    vec![
        invitation().to_string().into_bytes(),
        enrolment.to_string().into_bytes(),
        credential.into_bytes(),
        redirect.into_bytes(),
        session.into_bytes(),
        key.into_bytes(),
        kept.encode(),
        postcard::to_allocvec(&invitation()).unwrap_or_default(),
        postcard::to_allocvec(&enrolment).unwrap_or_default(),
    ]
}
