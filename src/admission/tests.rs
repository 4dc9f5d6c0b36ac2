use crate::access::{DEFAULT_DOMAIN, Principal, Rights, Who};
use proptest::prelude::*;

use super::*;
use crate::accounts::{self, Change, Dot, Key, Record, Stamp};
use crate::id::{AccountId, ActorId, EncoderId, NodeId, RecordId};

const WALL: u64 = 1_800_000_000_000;

fn key(number: u16) -> Keypair {
    let mut seed = [7; 32];
    seed[..2].copy_from_slice(&number.to_le_bytes());
    Keypair::from_seed(seed)
}

fn invite_id(number: u16) -> InviteId {
    let mut id = [9; 16];
    id[..2].copy_from_slice(&number.to_le_bytes());
    InviteId(id)
}

/// An invitation of this id that nobody checks.
fn offer(id: InviteId, uses: u32) -> Invite {
    let mesh = MeshId([0; 16]);
    Invitation::make(&key(0), mesh, vec![], id, [8; 32], u64::MAX, uses).invite
}

/// What is learned, if the holder of the key is let in.
fn judged(
    roster: &Roster,
    chain: &Chain,
    key: &PublicKey,
    mesh: MeshId,
) -> Result<Vec<Statement>, Refusal> {
    let (learned, verdict) = roster.judge(chain, &[], key, mesh);
    verdict.map(|_node| learned)
}

/// Key 0 founds; key i is admitted by key `parents[i - 1] % i`.
fn tree(parents: &[usize]) -> Roster {
    let mut roster = Roster::found(&key(0), [1; 16]);
    for (index, parent) in parents.iter().enumerate() {
        let child = index + 1;
        let by = key((parent % child) as u16);
        let admission = roster.admit(
            &by,
            key(child as u16).public(),
            &Invite { by: by.node(), ..offer(invite_id(child as u16), 1) },
        );
        assert_eq!(roster.adopt(vec![admission]).len(), 1);
    }
    roster
}

fn sorted(roster: &Roster) -> Vec<Admission> {
    let mut all: Vec<Admission> = roster.admissions().cloned().collect();
    all.sort();
    all
}

fn invitation(uses: u32) -> (Roster, Invitation) {
    let roster = tree(&[0]);
    let invitation = Invitation::make(
        &key(1),
        roster.mesh(),
        vec!["relay.example.org:9443".into(), "[2001:db8::1]:9443".into()],
        invite_id(77),
        [3; 32],
        WALL + 3_600_000,
        uses,
    );
    (roster, invitation)
}

#[test]
fn a_key_survives_its_seed_and_its_pkcs8() {
    let pair = key(1);
    assert_eq!(Keypair::from_seed(pair.seed()).public(), pair.public());
    let parsed =
        aws_lc_rs::signature::Ed25519KeyPair::from_pkcs8_maybe_unchecked(&pair.pkcs8()).unwrap();
    let signature = parsed.sign(b"hello");
    assert!(verify(&pair.public(), b"hello", signature.as_ref()));
    assert!(!verify(&pair.public(), b"hullo", signature.as_ref()));
    assert!(!verify(&pair.public(), b"hello", &signature.as_ref()[1..]));
}

#[test]
fn secrets_are_not_in_debug_output() {
    let pair = key(1);
    let (_roster, invitation) = invitation(1);
    let shown = format!("{pair:?} {invitation:?}");
    assert!(!shown.contains(&data_encoding::HEXLOWER.encode(&pair.seed())));
    assert!(!shown.contains("3, 3, 3"), "{shown}");
}

#[test]
fn a_member_of_a_member_is_a_member() {
    let roster = tree(&[0, 1, 2]);
    let node = key(3).node();
    let chain = roster.chain(node).unwrap();
    assert_eq!(chain.len(), 4);
    assert_eq!(
        verify_chain(Some(roster.mesh()), &chain, &[], &key(3).public()),
        Ok((roster.mesh(), node))
    );
    assert_eq!(verify_chain(None, &chain, &[], &key(3).public()), Ok((roster.mesh(), node)));
    assert_eq!(roster.member_with_key(&key(3).public()), Some(node));
    assert_eq!(roster.key_of(node), Some(key(3).public()));

    let mut founder_only = Roster::found(&key(0), [1; 16]);
    let fresh = judged(&founder_only, &chain, &key(3).public(), roster.mesh()).unwrap();
    assert_eq!(founder_only.adopt(fresh).len(), 3);
    assert_eq!(founder_only.digest(), roster.digest());
    assert_eq!(judged(&founder_only, &chain, &key(3).public(), roster.mesh()), Ok(vec![]));
}

#[test]
fn a_chain_is_worth_nothing_to_another_key_or_mesh() {
    let roster = tree(&[0, 1]);
    let chain = roster.chain(key(2).node()).unwrap();
    assert_eq!(
        judged(&roster, &chain, &key(9).public(), roster.mesh()),
        Err(Refusal::NotYourAdmission)
    );
    let other = Roster::found(&key(0), [2; 16]);
    assert_ne!(other.mesh(), roster.mesh());
    let refused = judged(&other, &chain, &key(2).public(), other.mesh());
    assert!(matches!(refused, Err(Refusal::OtherMesh { .. })), "{refused:?}");
    assert!(matches!(
        judged(&other, &chain, &key(2).public(), roster.mesh()),
        Err(Refusal::OtherMesh { .. })
    ));
    assert!(Roster::from_statements(other.mesh(), roster.admissions().cloned()).is_empty());
}

#[test]
fn an_admission_is_bound_to_its_mesh() {
    // One founder key, two meshes: a member of the one is no member of the other.
    let one = tree(&[0]);
    let mut two = Roster::found(&key(0), [2; 16]);
    assert_eq!(two.adopt(sorted(&one)), vec![]);
    assert_eq!(two.len(), 1);
}

#[test]
fn circles_and_strangers_are_refused() {
    let roster = tree(&[0]);
    let (a, b) = (key(5), key(6));
    let sign = |by: &Keypair, of: &Keypair| roster.admit(by, of.public(), &offer(invite_id(1), 9));
    let circle = vec![sign(&b, &a), sign(&a, &b)];
    assert!(roster.clone().adopt(circle.clone()).is_empty());
    assert!(matches!(
        judged(&roster, &circle, &a.public(), roster.mesh()),
        Err(Refusal::OtherMesh { .. })
    ));
    let mut endless = Vec::new();
    while endless.len() <= CHAIN_MAX {
        endless.extend(circle.clone());
    }
    assert_eq!(verify_chain(None, &endless, &[], &a.public()), Err(Refusal::ChainTooLong));
    assert_eq!(verify_chain(None, &vec![], &[], &a.public()), Err(Refusal::NoAdmission));
    // A circle that ends in the true founder is still not signed by it.
    let founder = roster.chain(key(0).node()).unwrap();
    let mixed = [circle, founder].concat();
    assert!(matches!(
        verify_chain(None, &mixed, &[], &a.public()),
        Err(Refusal::BadAdmission { .. })
    ));
}

#[test]
fn chains_longer_than_the_limit_make_no_member() {
    let line: Vec<usize> = (0..CHAIN_MAX).collect();
    let mut roster = Roster::found(&key(0), [1; 16]);
    let batch = line
        .iter()
        .map(|i| {
            let invite = offer(invite_id(1), u32::MAX);
            roster.admit(&key(*i as u16), key(*i as u16 + 1).public(), &invite)
        })
        .collect::<Vec<_>>();
    roster.adopt(batch);
    assert_eq!(roster.len(), CHAIN_MAX);
    assert_eq!(roster.chain(key(CHAIN_MAX as u16 - 1).node()).unwrap().len(), CHAIN_MAX);
    assert_eq!(roster.chain(key(CHAIN_MAX as u16).node()), None);
}

#[test]
fn a_valid_invitation_opens_until_it_is_used_up() {
    let (mut roster, invitation) = invitation(1);
    let newcomer = key(20).public();
    let statement = crate::wire::join_statement(&[5; 32], &newcomer);
    let proof = invitation.prove(&statement);
    let check = |roster: &Roster, statement: &[u8], proof: &[u8]| {
        roster.check_invite(&invitation.invite, proof, statement, WALL)
    };
    assert_eq!(check(&roster, &statement, &proof), Ok(()));
    let admission = roster.admit(&key(0), newcomer, &invitation.invite);
    assert_eq!(roster.adopt(vec![admission.clone()]), vec![admission.clone().into()]);
    assert_eq!(roster.uses(invitation.invite.id), 1);

    // The same node again: nothing is used up, nothing is added.
    assert_eq!(check(&roster, &statement, &proof), Ok(()));
    let again = roster.admit(&key(1), newcomer, &invitation.invite);
    assert_eq!(again, admission);
    assert_eq!(roster.adopt(vec![again]), vec![]);
    assert_eq!(roster.uses(invitation.invite.id), 1);

    let other = crate::wire::join_statement(&[5; 32], &key(21).public());
    assert_eq!(check(&roster, &other, &invitation.prove(&other)), Err(Refusal::UsedUp { uses: 1 }));
}

#[test]
fn every_fault_of_an_invitation_has_its_own_refusal() {
    let (roster, good) = invitation(2);
    let statement = crate::wire::join_statement(&[5; 32], &key(20).public());
    let proof = good.prove(&statement);
    let check = |invite: &Invite, wall| roster.check_invite(invite, &proof, &statement, wall);

    let other_mesh = Invite { mesh: MeshId([0; 16]), ..good.invite.clone() };
    assert!(matches!(check(&other_mesh, WALL), Err(Refusal::OtherMesh { .. })));
    let unknown = Invite { by: NodeId([0; 16]), ..good.invite.clone() };
    assert!(matches!(check(&unknown, WALL), Err(Refusal::UnknownIssuer { .. })));
    let more_uses = Invite { uses: 99, ..good.invite.clone() };
    assert_eq!(check(&more_uses, WALL), Err(Refusal::BadSignature { what: Kind::Invitation }));
    assert_eq!(check(&good.invite, good.invite.expires + LEEWAY_MS), Ok(()));
    assert_eq!(
        check(&good.invite, good.invite.expires + LEEWAY_MS + 1),
        Err(Refusal::Expired { what: Kind::Invitation })
    );
    let other_session = crate::wire::join_statement(&[6; 32], &key(20).public());
    assert_eq!(
        roster.check_invite(&good.invite, &proof, &other_session, WALL),
        Err(Refusal::BadProof)
    );
}

#[test]
fn strings_survive_a_terminal_and_name_their_kind() {
    let (roster, invitation) = invitation(1);
    let enrolment = Enrolment {
        addrs: invitation.addrs.clone(),
        mesh: roster.mesh(),
        credential: issue_credential(&key(1), roster.mesh(), invite_id(5), DEFAULT_DOMAIN, WALL),
    };
    let (node_text, client_text) = (invitation.to_string(), enrolment.to_string());
    assert!(node_text.starts_with("roost1-"), "{node_text}");
    assert!(client_text.starts_with("roost1c-"), "{client_text}");
    let wrapped = format!("  {}\n{} \n", &node_text[..80], &node_text[80..]);
    assert_eq!(wrapped.parse(), Ok(invitation.clone()));
    assert_eq!(client_text.parse(), Ok(enrolment));
    assert_eq!(client_text.parse::<Invitation>(), Err(BadString::ForClients));
    assert_eq!(node_text.parse::<Enrolment>(), Err(BadString::ForNodes));
    assert_eq!("10.0.0.1:9443".parse::<Invitation>(), Err(BadString::NotOurs));
    assert_eq!("roost2-abcd".parse::<Invitation>(), Err(BadString::Newer));
    assert_eq!("".parse::<Invitation>(), Err(BadString::NotOurs));
    let long = format!("roost1-{}", "A".repeat(STRING_MAX));
    assert_eq!(long.parse::<Invitation>(), Err(BadString::TooLong));
    for end in "roost1-".len()..node_text.len() {
        assert_eq!(node_text[..end].parse::<Invitation>(), Err(BadString::Damaged), "{end}");
    }
}

#[test]
fn one_rule_says_who_a_client_is() {
    let roster = tree(&[0]);
    let by = key(0);
    let token = issue_credential(&by, roster.mesh(), InviteId([9; 16]), DEFAULT_DOMAIN, WALL + 1);
    let enrolment =
        Enrolment { addrs: vec!["a:1".into()], mesh: roster.mesh(), credential: token.clone() };
    let rights = Rights::default();
    let who = Who::Client { id: InviteId([9; 16]), domain: DEFAULT_DOMAIN };
    let client = Principal::new(who, format!("client {}", InviteId([9; 16]).short()));
    let client = client.signed_by(by.node());
    for shown in [&token, &enrolment.to_string()] {
        for loopback in [false, true] {
            let found = roster.authenticate(&rights, loopback, Some(shown), WALL);
            assert_eq!(found.as_ref(), Ok(&client));
        }
    }
    assert_eq!(roster.authenticate(&rights, true, None, WALL), Ok(Principal::local()));
    assert_eq!(roster.authenticate(&rights, false, None, WALL), Err(Denied::NoCredential));
    let bad = roster.authenticate(&rights, true, Some("nonsense"), WALL);
    assert!(matches!(bad, Err(Denied::BadCredential(_))), "{bad:?}");
}

/// An account with this password in the records.
fn account_with(account: AccountId, password: &str) -> Rights {
    let mut record = Record::default();
    let dot = Dot { actor: ActorId([1; 16]), seq: 1, nonce: [0; 4] };
    let by = Stamp { account, node: NodeId([1; 16]), wall: 1 };
    let set = |field, text: &str| Change::Set(field, text.as_bytes().to_vec());
    record.apply(dot, by, &[set(1, "anna"), set(4, password)]).unwrap();
    let key = Key { kind: accounts::Kind::ACCOUNT, id: RecordId(account.0) };
    Rights::of([(key, record)])
}

#[test]
fn a_sign_in_is_good_at_any_member_until_its_end_or_another_password() {
    let roster = tree(&[0, 1]);
    let account = AccountId([5; 16]);
    let rights = account_with(account, "first");
    let password = rights.password_of(account).unwrap();
    let session = Session { account, password, expires: WALL };
    let token = issue_session(&key(2), roster.mesh(), &session);
    assert!(token.len() < TOKEN_MAX, "{}", token.len());
    let anna = Principal::new(Who::Account(account), "anna").with_proof(password);
    let anna = anna.signed_by(key(2).node());
    let ask = |rights: &Rights, now| roster.authenticate(rights, false, Some(&token), now);
    assert_eq!(ask(&rights, WALL), Ok(anna));
    let what = Kind::Session;
    let refused = |refusal| Err(Denied::BadCredential(refusal));
    assert_eq!(ask(&rights, WALL + LEEWAY_MS + 1), refused(Refusal::Expired { what }));
    let ended = refused(Refusal::Ended { what });
    assert_eq!(ask(&account_with(account, "second"), WALL), ended);
    assert_eq!(ask(&Rights::default(), WALL), ended, "an unknown account is no other case");
    // Neither kind passes for the other.
    assert_eq!(
        roster.check_credential(&token, WALL),
        Err(Refusal::BadSignature { what: Kind::Credential })
    );
    let stranger = Keypair::from_seed([99; 32]);
    let forged = issue_session(&stranger, roster.mesh(), &session);
    let verdict = roster.authenticate(&rights, true, Some(&forged), WALL);
    assert_eq!(verdict, refused(Refusal::UnknownIssuer { what, by: stranger.node() }));
}

#[test]
fn what_was_begun_with_a_sign_in_goes_on_after_its_end_until_the_right_is_taken_away() {
    let roster = tree(&[0, 1]);
    let account = AccountId([5; 16]);
    let mut rights = account_with(account, "first");
    let set = |field, value: &[u8]| Change::Set(field, value.to_vec());
    let mut rule = Record::default();
    let by = Stamp { account, node: NodeId([1; 16]), wall: 1 };
    let mut write = |rights: &mut Rights, seq, changes: &[Change]| {
        rule.apply(Dot { actor: ActorId([2; 16]), seq, nonce: [0; 4] }, by, changes).unwrap();
        let key = Key { kind: accounts::Kind::RULE, id: RecordId([6; 16]) };
        rights.changed(key, Some(&rule));
    };
    let whom = Change::Add(2, account.0.to_vec());
    write(&mut rights, 1, &[set(1, b"guard"), set(4, b"viewer"), set(5, &[1]), whom]);
    let password = rights.password_of(account).unwrap();
    let token =
        issue_session(&key(2), roster.mesh(), &Session { account, password, expires: WALL });
    let anna = roster.authenticate(&rights, false, Some(&token), WALL).unwrap();
    let late = WALL + LEEWAY_MS + 1;
    let again = roster.authenticate(&rights, false, Some(&token), late);
    assert_eq!(
        again,
        Err(Denied::BadCredential(Refusal::Expired { what: Kind::Session })),
        "nothing new is begun with it"
    );
    let stays = |rights: &Rights| {
        rights.permits(&anna, crate::access::Right::View, EncoderId([4; 16]), late)
    };
    assert!(stays(&rights), "a stream that runs, runs on");
    write(&mut rights, 2, &[Change::Disable]);
    assert!(!stays(&rights), "until the right is gone");
}

#[test]
fn an_enrolment_string_names_its_domain_and_an_older_one_is_of_the_default() {
    let roster = tree(&[0]);
    let domain = RecordId([4; 16]);
    for domain in [domain, DEFAULT_DOMAIN] {
        let token = issue_credential(&key(0), roster.mesh(), invite_id(5), domain, WALL);
        let client = roster.authenticate(&Rights::default(), false, Some(&token), WALL).unwrap();
        assert_eq!(client.who, Who::Client { id: invite_id(5), domain });
    }
}

#[test]
fn credentials_are_verified_by_any_member() {
    let roster = tree(&[0, 1]);
    let token = issue_credential(&key(2), roster.mesh(), invite_id(5), DEFAULT_DOMAIN, WALL);
    let good =
        Credential { id: invite_id(5), by: key(2).node(), domain: DEFAULT_DOMAIN, expires: WALL };
    assert_eq!(roster.check_credential(&token, WALL), Ok(good.clone()));
    assert_eq!(roster.check_credential(&token, WALL + LEEWAY_MS), Ok(good));
    let what = Kind::Credential;
    assert_eq!(
        roster.check_credential(&token, WALL + LEEWAY_MS + 1),
        Err(Refusal::Expired { what })
    );
    assert_eq!(
        tree(&[0]).check_credential(&token, WALL),
        Err(Refusal::UnknownIssuer { what, by: key(2).node() })
    );
    assert_eq!(roster.check_credential("x", WALL), Err(Refusal::Unreadable { what }));
    let other_mesh = issue_credential(&key(2), MeshId([8; 16]), invite_id(5), DEFAULT_DOMAIN, WALL);
    assert_eq!(roster.check_credential(&other_mesh, WALL), Err(Refusal::BadSignature { what }));
    assert!(token.len() < TOKEN_MAX, "{}", token.len());
}

#[test]
fn a_redirect_is_good_for_one_thing_at_one_node() {
    let roster = tree(&[0, 1]);
    let (target, encoder) = (key(1).node(), EncoderId([4; 16]));
    let who = Who::Account(AccountId([6; 16]));
    let anna = Principal::new(who, "anna").with_proof(7).signed_by(key(0).node());
    let token = issue_redirect(&key(2), roster.mesh(), target, encoder, "whep", WALL, &anna);
    let wordy = Principal::new(Who::Local, "\u{1F600}".repeat(4000));
    let long = issue_redirect(&key(2), roster.mesh(), target, encoder, "whep", WALL, &wordy);
    assert!(long.len() <= TOKEN_MAX, "{}", long.len());
    let check = |target, encoder, verb| roster.check_redirect(&token, target, encoder, verb, WALL);
    assert_eq!(check(target, encoder, "whep"), Ok(anna.clone()), "it says for whom");
    let unsigned =
        issue_redirect(&key(2), roster.mesh(), target, encoder, "whep", WALL, &Principal::local());
    let vouched = roster.check_redirect(&unsigned, target, encoder, "whep", WALL);
    assert_eq!(vouched, Ok(Principal::local().signed_by(key(2).node())), "on whose word");
    assert_eq!(check(key(0).node(), encoder, "whep"), Err(Refusal::OtherRedirect));
    assert_eq!(check(target, EncoderId([5; 16]), "whep"), Err(Refusal::OtherRedirect));
    assert_eq!(check(target, encoder, "whip"), Err(Refusal::OtherRedirect));
    // Neither kind passes for the other.
    let what = Kind::Credential;
    assert_eq!(roster.check_credential(&token, WALL), Err(Refusal::BadSignature { what }));
    let credential = issue_credential(&key(2), roster.mesh(), invite_id(5), DEFAULT_DOMAIN, WALL);
    assert_eq!(
        roster.check_redirect(&credential, target, encoder, "whep", WALL),
        Err(Refusal::BadSignature { what: Kind::Redirect })
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_order_of_adoption_does_not_matter(
        parents in prop::collection::vec(0usize..32, 1..12),
        shuffle in any::<u64>(),
        cut in any::<prop::sample::Index>(),
    ) {
        use rand::{SeedableRng as _, seq::SliceRandom as _};
        let whole = tree(&parents);
        let mut batch = sorted(&whole);
        batch.shuffle(&mut rand_chacha::ChaCha8Rng::seed_from_u64(shuffle));

        let at_once = Roster::from_statements(whole.mesh(), batch.clone());
        prop_assert_eq!(sorted(&at_once), sorted(&whole));
        prop_assert_eq!(at_once.digest(), whole.digest());

        // By chains, in either order, some of them twice.
        let chains: Vec<Chain> = batch.iter().filter_map(|a| whole.chain(a.node)).collect();
        let (first, second) = chains.split_at(cut.index(chains.len()));
        let mut ab = Roster::from_statements(whole.mesh(), Vec::<Statement>::new());
        let mut ba = ab.clone();
        for chain in first.iter().chain(second).chain(first) {
            ab.adopt(chain.clone());
        }
        for chain in second.iter().chain(first).chain(second) {
            ba.adopt(chain.clone());
        }
        prop_assert_eq!(sorted(&ab), sorted(&ba));
        prop_assert_eq!(ab.digest(), ba.digest());
        prop_assert_eq!(sorted(&ab), sorted(&whole));
        prop_assert_eq!(ab.adopt(batch), vec![]);
    }

    #[test]
    fn a_changed_chain_is_never_accepted(
        parents in prop::collection::vec(0usize..32, 1..8),
        victim in any::<prop::sample::Index>(),
        field in 0u8..9,
        flip in any::<prop::sample::Index>(),
        bit in 0u8..8,
    ) {
        let roster = tree(&parents);
        let leaf = key(parents.len() as u16);
        let mut chain = roster.chain(leaf.node()).unwrap();
        let index = victim.index(chain.len());
        let length = chain.len();
        let target = &mut chain[index];
        let hit = |bytes: &mut [u8]| {
            if let Some(byte) = bytes.get_mut(flip.index(bytes.len().max(1))) {
                *byte ^= 1 << bit;
            }
        };
        match field {
            0 => hit(&mut target.node.0),
            1 => hit(&mut target.key),
            2 => hit(&mut target.by.0),
            3 => hit(&mut target.nonce),
            4 => hit(&mut target.signature),
            5 => target.invite = Some(InviteId([bit; 16])),
            6 => target.invite = None,
            7 => target.signature.truncate(flip.index(64)),
            _ => { chain.remove(index); }
        }
        prop_assume!(chain != roster.chain(leaf.node()).unwrap());
        // The mesh is pinned, as everyone does who knows it.
        let verified = verify_chain(Some(roster.mesh()), &chain, &[], &leaf.public());
        prop_assert!(verified.is_err(), "field {} of {} in {}", field, index, length);
        let mut stranger = Roster::from_statements(roster.mesh(), Vec::<Statement>::new());
        prop_assert!(judged(&stranger, &chain, &leaf.public(), roster.mesh()).is_err());
        let adopted = stranger.adopt(chain);
        let known = |it: &Statement| roster.has(it);
        prop_assert!(adopted.iter().all(known));
    }

    #[test]
    fn arbitrary_admissions_never_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..600),
    ) {
        let mut roster = tree(&[0]);
        if let Ok(chain) = postcard::from_bytes::<Chain>(&bytes) {
            prop_assert!(judged(&roster, &chain, &[0; 32], roster.mesh()).is_err());
            prop_assert!(roster.adopt(chain).is_empty());
        }
    }

    #[test]
    fn any_text_parses_or_errs(text in ".{0,200}", body in "[A-Za-z0-9_-]{0,200}") {
        let roster = tree(&[]);
        for text in [text.clone(), format!("roost1-{body}"), format!("roost1c-{text}"),
                     format!("v4.public.{body}"), format!("v4.public.{body}.{body}")] {
            prop_assert!(text.parse::<Invitation>().is_err());
            prop_assert!(text.parse::<Enrolment>().is_err());
            prop_assert!(roster.check_credential(&text, 0).is_err());
        }
    }

    #[test]
    fn a_mistyped_character_is_called_damage(at in any::<prop::sample::Index>(), to in 33u8..127) {
        let text = invitation(1).1.to_string();
        let at = 7 + at.index(text.len() - 7);
        let mut bytes = text.clone().into_bytes();
        prop_assume!(bytes[at] != to);
        bytes[at] = to;
        let parsed = String::from_utf8(bytes).unwrap().parse::<Invitation>();
        prop_assert_eq!(parsed, Err(BadString::Damaged));
    }
}
