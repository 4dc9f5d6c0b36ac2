use crdts::CvRDT as _;

use super::*;
use crate::access::Principal;
use crate::accounts::{Change, Dot, Stamp};
use crate::id::{ActorId, NodeId};
use crate::placement::plan::Wish;

const SITE: RecordId = RecordId([1; 16]);
const OTHER: RecordId = RecordId([2; 16]);
const ANNA: AccountId = AccountId([3; 16]);
const GATE: EncoderId = EncoderId([4; 16]);
const DOCK: EncoderId = EncoderId([5; 16]);

#[derive(Default)]
struct Book {
    rights: Rights,
    records: BTreeMap<Key, Record>,
    writes: u64,
}

impl Book {
    fn write(&mut self, kind: Kind, id: [u8; 16], changes: &[Change]) {
        self.writes += 1;
        let key = Key { kind, id: RecordId(id) };
        let record = self.records.entry(key).or_default();
        wrote(record, self.writes, changes);
        self.rights.changed(key, Some(record));
    }

    fn may(&self, right: Right, scope: Scope) -> bool {
        self.rights.may(&Who::Account(ANNA), right, scope)
    }
}

fn wrote(record: &mut Record, write: u64, changes: &[Change]) {
    let dot = Dot { actor: ActorId([9; 16]), seq: write, nonce: [0; 4] };
    let by = Stamp { account: ANNA, node: NodeId([8; 16]), wall: write };
    record.apply(dot, by, changes).unwrap();
}

fn set(field: u16, value: impl AsRef<[u8]>) -> Change {
    Change::Set(field, value.as_ref().to_vec())
}

/// Two sites with a camera each, and Anna, who guards the first.
fn book() -> Book {
    let mut book = Book::default();
    book.write(Kind::DOMAIN, SITE.0, &[set(1, "site")]);
    book.write(Kind::DOMAIN, OTHER.0, &[set(1, "other")]);
    book.write(Kind::ACCOUNT, ANNA.0, &[set(1, "anna")]);
    book.write(Kind::ENCODER, GATE.0, &[set(1, "gate"), set(3, SITE.0)]);
    book.write(Kind::ENCODER, DOCK.0, &[set(1, "dock"), set(3, OTHER.0)]);
    book.write(Kind::GROUP, [6; 16], &[set(1, "guards"), Change::Add(2, ANNA.0.to_vec())]);
    let rule = [set(3, SITE.0), set(4, "publisher"), set(5, [1]), Change::Add(3, vec![6; 16])];
    book.write(Kind::RULE, [7; 16], &rule);
    book
}

#[test]
fn a_rule_gives_its_group_what_its_role_says_in_its_domain_and_nowhere_else() {
    let book = book();
    assert!(book.may(Right::View, Scope::Encoder(GATE)));
    assert!(book.may(Right::Publish, Scope::Domain(SITE)));
    assert!(!book.may(Right::Operate, Scope::Domain(SITE)));
    assert!(!book.may(Right::View, Scope::Encoder(DOCK)));
    assert!(!book.may(Right::View, Scope::Mesh));
    assert!(book.rights.sees(&Who::Account(ANNA), SITE));
    assert!(!book.rights.sees(&Who::Account(ANNA), OTHER));
}

/// Three nodes, pools north (by name: the first) and edge (by label: the second), and an encoder
/// of a room and two groups.
fn steered() -> Book {
    let mut book = book();
    let label = |label: &str| Change::Add(4, label.as_bytes().to_vec());
    book.write(Kind::NODE, [21; 16], &[set(1, "n1")]);
    book.write(Kind::NODE, [22; 16], &[set(1, "n2"), label("edge")]);
    book.write(Kind::NODE, [23; 16], &[set(1, "n3"), label("core")]);
    book.write(Kind::POOL, [31; 16], &[set(1, "north"), Change::Add(2, vec![21; 16])]);
    book.write(Kind::POOL, [32; 16], &[set(1, "edge"), Change::Add(3, b"edge".to_vec())]);
    book.write(Kind::ROOM, [41; 16], &[set(1, "hall"), set(3, SITE.0)]);
    for (id, name) in [([52; 16], "b"), ([51; 16], "c")] {
        book.write(Kind::GROUP, id, &[set(1, name), set(3, SITE.0)]);
    }
    let member = [set(4, [41; 16]), Change::Add(5, vec![51; 16]), Change::Add(5, vec![52; 16])];
    book.write(Kind::ENCODER, GATE.0, &member);
    book
}

fn names(wish: &Wish) -> Vec<&str> {
    wish.pools.iter().map(|pool| pool.name.as_str()).collect()
}

#[test]
fn the_room_is_heard_before_the_encoder_its_groups_by_name_its_domain_and_the_mesh() {
    let mut book = steered();
    let (north, edge) = (vec![31; 16], vec![32; 16]);
    assert_eq!((book.rights.guide(GATE), book.rights.wish(GATE)), (None, Wish::default()));
    let name = set(1, POOLS_SETTING);
    book.write(Kind::SETTING, [61; 16], &[name, set(2, "edge, nowhere,north")]);
    assert_eq!(book.rights.guide(GATE), Some(Guide::Mesh));
    let wish = book.rights.wish(GATE);
    assert_eq!((names(&wish), wish.only), (vec!["edge", "nowhere", "north"], false));
    assert_eq!(wish.pools[0].nodes, BTreeSet::from([NodeId([22; 16])]));
    assert!(wish.pools[1].nodes.is_empty(), "a pool that nobody made has no nodes");
    let steps = [
        (Kind::DOMAIN, SITE.0, 4),
        (Kind::GROUP, [51; 16], 4),
        (Kind::GROUP, [52; 16], 4),
        (Kind::ENCODER, GATE.0, 5),
        (Kind::ROOM, [41; 16], 4),
    ];
    for (kind, id, field) in steps {
        let before = book.rights.steering();
        book.write(kind, id, &[set(field, [&edge[..], &north[..]].concat())]);
        assert!(book.rights.steering() > before);
        let key = Key { kind, id: RecordId(id) };
        assert_eq!(book.rights.guide(GATE), Some(Guide::Record(key)));
        assert_eq!(names(&book.rights.wish(GATE)), ["edge", "north"]);
    }
    for (kind, id, field) in steps.into_iter().rev() {
        book.write(kind, id, &[Change::Clear(field)]);
    }
    assert_eq!(book.rights.guide(GATE), Some(Guide::Mesh));
    let placement = set(1, PLACEMENT_SETTING);
    book.write(Kind::SETTING, [62; 16], &[placement, set(2, "only")]);
    assert!(book.rights.wish(GATE).only);
    book.write(Kind::SETTING, [61; 16], &[Change::Delete]);
    assert_eq!(book.rights.guide(GATE), None, "bound to no pool is not bound");
}

#[test]
fn labels_and_members_of_a_pool_count_as_they_change_and_a_removed_pool_has_no_nodes() {
    let mut book = steered();
    book.write(Kind::ENCODER, DOCK.0, &[set(5, [32; 16]), set(7, "only")]);
    let nodes = |book: &Book| book.rights.wish(DOCK).pools[0].nodes.clone();
    assert_eq!(nodes(&book), BTreeSet::from([NodeId([22; 16])]));
    let before = book.rights.steering();
    book.write(Kind::NODE, [23; 16], &[Change::Add(4, b"edge".to_vec())]);
    book.write(Kind::NODE, [22; 16], &[Change::Remove(4, b"edge".to_vec())]);
    assert_eq!(nodes(&book), BTreeSet::from([NodeId([23; 16])]));
    assert!(book.rights.steering() >= before + 2);
    book.write(Kind::POOL, [32; 16], &[Change::Add(2, vec![21; 16])]);
    assert_eq!(nodes(&book).len(), 2);
    book.write(Kind::POOL, [32; 16], &[Change::Delete]);
    assert_eq!((nodes(&book).len(), book.rights.wish(DOCK).only), (0, true), "only means only");
    let before = book.rights.steering();
    book.write(Kind::NODE, [21; 16], &[set(2, "in the cellar")]);
    assert_eq!(book.rights.steering(), before, "what has nothing to do with it is no news");
}

#[test]
fn of_values_in_conflict_one_order_holds_and_only_wins() {
    let mut book = steered();
    book.write(Kind::ENCODER, DOCK.0, &[set(5, [31; 16]), set(7, "prefer")]);
    let key = Key { kind: Kind::ENCODER, id: RecordId(DOCK.0) };
    let record = book.records.get(&key).unwrap().clone();
    let (mut here, mut there) = (record.clone(), record);
    wrote(&mut here, 1_000, &[set(5, [31; 16]), set(7, "prefer")]);
    let dot = Dot { actor: ActorId([10; 16]), seq: 1, nonce: [0; 4] };
    let by = Stamp { account: ANNA, node: NodeId([8; 16]), wall: 10 };
    there.apply(dot, by, &[set(5, [32; 16]), set(7, "only")]).unwrap();
    let mut merged = here.clone();
    merged.merge(there.clone());
    let mut turned = there;
    turned.merge(here);
    let wish = |record: &Record| {
        let mut rights = book.rights.clone();
        rights.changed(key, Some(record));
        rights.wish(DOCK)
    };
    assert_eq!(wish(&merged), wish(&turned));
    assert_eq!(merged.values(5).len(), 2, "shown as a conflict");
    let wish = wish(&merged);
    assert_eq!((names(&wish), wish.only), (vec!["north"], true));
}

#[test]
fn a_rule_about_some_encoders_is_about_no_other_also_once_none_is_left() {
    let mut book = book();
    let only = [Change::Clear(5), Change::Add(4, GATE.0.to_vec())];
    book.write(Kind::RULE, [7; 16], &only);
    assert!(book.may(Right::View, Scope::Encoder(GATE)));
    assert!(!book.may(Right::View, Scope::Domain(SITE)));
    assert!(book.rights.sees(&Who::Account(ANNA), SITE), "its name is told with the encoder's");
    book.write(Kind::RULE, [7; 16], &[Change::Remove(4, GATE.0.to_vec())]);
    assert!(!book.may(Right::View, Scope::Encoder(GATE)));
    assert!(!book.rights.sees(&Who::Account(ANNA), SITE));
}

#[test]
fn an_account_of_a_domain_has_nothing_outside_it_whatever_rules_say() {
    let mut book = book();
    book.write(Kind::RULE, [7; 16], &[Change::Clear(3), set(4, "admin")]);
    assert!(book.may(Right::Administer, Scope::Mesh));
    book.write(Kind::ACCOUNT, ANNA.0, &[set(3, SITE.0)]);
    assert!(book.may(Right::Administer, Scope::Domain(SITE)));
    assert!(!book.may(Right::View, Scope::Mesh));
    assert!(!book.may(Right::View, Scope::Encoder(DOCK)));
    assert!(!book.rights.sees(&Who::Account(ANNA), OTHER));
}

#[test]
fn whoever_leaves_a_group_or_is_disabled_or_whose_rule_is_removed_has_nothing_more() {
    let may = |book: &Book| book.may(Right::View, Scope::Encoder(GATE));
    for act in [
        (Kind::GROUP, [6; 16], Change::Remove(2, ANNA.0.to_vec())),
        (Kind::GROUP, [6; 16], Change::Delete),
        (Kind::RULE, [7; 16], Change::Disable),
        (Kind::RULE, [7; 16], Change::Delete),
        (Kind::ACCOUNT, ANNA.0, Change::Disable),
        (Kind::ACCOUNT, ANNA.0, Change::Delete),
        (Kind::DOMAIN, SITE.0, Change::Delete),
    ] {
        let mut book = book();
        assert!(may(&book));
        book.write(act.0, act.1, std::slice::from_ref(&act.2));
        assert!(!may(&book), "{act:?}");
    }
}

#[test]
fn a_disabled_encoder_is_neither_watched_nor_sent_by_anybody() {
    let mut book = book();
    let key = Who::Encoder(GATE);
    assert!(book.rights.may_stream(&key, Right::Publish, GATE));
    assert!(!book.rights.may_stream(&key, Right::Publish, DOCK));
    book.write(Kind::ENCODER, GATE.0, &[Change::Disable]);
    for who in [Who::Account(ANNA), key, Who::Local] {
        assert!(!book.rights.may_stream(&who, Right::View, GATE));
        assert!(!book.rights.may_stream(&who, Right::Publish, GATE));
    }
}

#[test]
fn a_conflict_gives_the_least_and_one_about_a_domain_gives_nothing() {
    let mut book = book();
    let forked = |book: &mut Book, kind, id: [u8; 16], change: Change| {
        let key = Key { kind, id: RecordId(id) };
        let mut fork = book.records[&key].clone();
        book.writes += 1;
        wrote(&mut fork, book.writes, &[change]);
        fork
    };
    let merge = |book: &mut Book, kind, id, mine: Change, theirs: Change| {
        let fork = forked(book, kind, id, theirs);
        book.write(kind, id, &[mine]);
        let key = Key { kind, id: RecordId(id) };
        let record = book.records.get_mut(&key).unwrap();
        record.merge(fork);
        book.rights.changed(key, Some(&*record));
    };
    merge(&mut book, Kind::RULE, [7; 16], set(4, "admin"), set(4, "viewer"));
    assert!(book.may(Right::View, Scope::Domain(SITE)));
    assert!(!book.may(Right::Publish, Scope::Domain(SITE)));
    merge(&mut book, Kind::ENCODER, GATE.0, set(3, SITE.0), set(3, OTHER.0));
    assert!(!book.may(Right::View, Scope::Encoder(GATE)), "nobody knows whose it is");
    assert!(book.rights.may(&Who::Local, Right::View, Scope::Mesh));
    merge(&mut book, Kind::RULE, [7; 16], set(3, SITE.0), set(3, OTHER.0));
    assert!(!book.may(Right::View, Scope::Domain(SITE)));
}

#[test]
fn an_enrolment_string_opens_its_domain_and_whoever_says_nothing_gets_nothing() {
    let book = book();
    let client = Who::Client { id: crate::id::InviteId([1; 16]), domain: DEFAULT_DOMAIN };
    let unknown = EncoderId([99; 16]);
    assert!(
        book.rights.may_stream(&client, Right::Publish, unknown),
        "it is in the default domain"
    );
    assert!(!book.rights.may_stream(&client, Right::View, GATE));
    assert!(!book.rights.may(&client, Right::Operate, Scope::Domain(DEFAULT_DOMAIN)));
    assert!(!book.rights.may_stream(&Who::Nobody, Right::View, unknown));
    assert!(!book.rights.may_stream(&Who::Encoder(unknown), Right::Publish, unknown));
}

#[test]
fn names_are_found_in_their_domain_and_follow_their_records() {
    let mut book = book();
    let named = |book: &Book, domain, name| {
        book.rights.named(Kind::ENCODER, domain, name).collect::<Vec<_>>()
    };
    assert_eq!(named(&book, Some(SITE), "gate"), [RecordId(GATE.0)]);
    assert_eq!(named(&book, Some(OTHER), "gate"), []);
    book.write(Kind::ENCODER, GATE.0, &[set(1, "north"), Change::Clear(3)]);
    assert_eq!(named(&book, Some(SITE), "gate"), []);
    assert_eq!(named(&book, Some(DEFAULT_DOMAIN), "north"), [RecordId(GATE.0)]);
    book.write(Kind::ENCODER, GATE.0, &[Change::Delete]);
    assert_eq!(named(&book, Some(DEFAULT_DOMAIN), "north"), []);
    assert_eq!(book.rights.domain_named("site"), Some(SITE));
    assert_eq!(book.rights.domain_named("default"), Some(DEFAULT_DOMAIN));
}

/// The index after any changes is the one of the records as they are in the end.
#[test]
fn the_index_does_not_depend_on_how_it_came_to_be() {
    let mut book = book();
    book.write(Kind::GROUP, [6; 16], &[Change::Remove(2, ANNA.0.to_vec())]);
    book.write(Kind::RULE, [7; 16], &[Change::Add(2, ANNA.0.to_vec()), Change::Disable]);
    book.write(Kind::RULE, [7; 16], &[Change::Enable]);
    book.write(Kind::DOMAIN, OTHER.0, &[Change::Delete]);
    let anew = Rights::of(book.records.clone());
    for right in [Right::View, Right::Publish, Right::Operate, Right::Administer] {
        for scope in [
            Scope::Mesh,
            Scope::Domain(SITE),
            Scope::Domain(OTHER),
            Scope::Encoder(GATE),
            Scope::Encoder(DOCK),
        ] {
            let who = Who::Account(ANNA);
            assert_eq!(anew.may(&who, right, scope), book.rights.may(&who, right, scope));
        }
    }
}

fn anna(book: &Book) -> Principal {
    let proof = book.rights.password_of(ANNA).unwrap_or_default();
    Principal::new(Who::Account(ANNA), "anna").with_proof(proof)
}

#[test]
fn what_a_node_signed_is_no_good_while_it_is_shut_out() {
    let mut book = book();
    book.write(Kind::ACCOUNT, ANNA.0, &[set(4, "first")]);
    let (one, two) = (NodeId([1; 16]), NodeId([2; 16]));
    let (here, there) = (anna(&book).signed_by(one), anna(&book).signed_by(two));
    let version = book.rights.version();
    assert!(book.rights.distrust([one].into()) && !book.rights.distrust([one].into()));
    assert!(book.rights.version() > version, "whoever follows rights is told");
    let may = |book: &Book, who: &Principal| book.rights.permits(who, Right::View, GATE, 0);
    let unsigned = anna(&book);
    assert!(!may(&book, &here) && may(&book, &there) && may(&book, &unsigned));
    assert!(book.rights.distrust(BTreeSet::new()) && may(&book, &here));
}

#[test]
fn whoever_logged_in_stands_until_the_password_is_another_or_the_account_is_out_of_use() {
    let mut book = book();
    assert_eq!(book.rights.password_of(ANNA), None, "nobody logs in without one");
    assert!(!book.rights.stands(&anna(&book), 0), "nor is a proof of nothing one");
    book.write(Kind::ACCOUNT, ANNA.0, &[set(4, "first")]);
    let before = anna(&book);
    assert!(book.rights.stands(&before, 0));
    book.write(Kind::ACCOUNT, ANNA.0, &[set(2, "guards the gate")]);
    assert!(book.rights.stands(&before, 0), "what else changes is no matter");
    book.write(Kind::ACCOUNT, ANNA.0, &[set(4, "second")]);
    assert!(!book.rights.stands(&before, 0));
    let now = anna(&book);
    assert!(book.rights.permits(&now, Right::Publish, GATE, 0));
    for (off, on) in [(Change::Disable, Change::Enable), (Change::Delete, Change::Restore)] {
        book.write(Kind::ACCOUNT, ANNA.0, &[off]);
        assert!(!book.rights.stands(&now, 0));
        book.write(Kind::ACCOUNT, ANNA.0, &[on, set(4, "second"), set(1, "anna")]);
        assert!(book.rights.stands(&now, 0));
    }
    book.write(Kind::ACCOUNT, ANNA.0, &[set(5, [9])]);
    assert!(!book.rights.stands(&now, 0), "nothing of before that moment counts");
}

#[test]
fn of_two_passwords_set_at_once_neither_keeps_what_only_one_opened() {
    let mut book = book();
    let key = Key { kind: Kind::ACCOUNT, id: RecordId(ANNA.0) };
    let mut other = book.records[&key].clone();
    book.write(Kind::ACCOUNT, ANNA.0, &[set(4, "here")]);
    let here = anna(&book);
    wrote(&mut other, 99, &[set(4, "there")]);
    let record = book.records.get_mut(&key).unwrap();
    record.merge(other);
    book.rights.changed(key, Some(record));
    assert!(!book.rights.stands(&here, 0));
    assert!(book.rights.stands(&anna(&book), 0), "with either of them a new one begins");
}

#[test]
fn a_stream_key_speaks_for_its_own_encoder_until_it_is_out() {
    use crate::access::keys::{StreamKey, add_key, key_hash, key_text, revoke_key};
    let mut book = book();
    let (one, two) = (key_text(GATE, &[1; 20]), key_text(GATE, &[2; 20]));
    let kept =
        |n: u8, text: &str, made| StreamKey { id: [n; 4], hash: key_hash(text), made, expires: 0 };
    let key = Key { kind: Kind::ENCODER, id: RecordId(GATE.0) };
    let changes = add_key(&book.records[&key], kept(1, &one, 1), None);
    book.write(Kind::ENCODER, GATE.0, &changes);
    let who = |book: &Book, text: &str, now| {
        let (encoder, proof) = book.rights.check_key(text, now)?;
        Some(Principal::new(Who::Encoder(encoder), "gate").with_proof(proof))
    };
    let first = who(&book, &one, 5).unwrap();
    assert!(book.rights.permits(&first, Right::Publish, GATE, 5));
    assert!(!book.rights.permits(&first, Right::View, DOCK, 5));
    assert_eq!(who(&book, &two, 5), None);
    assert_eq!(who(&book, &key_text(DOCK, &[1; 20]), 5), None, "the same secret for another");
    // Another one; the first is good for a while.
    let changes = add_key(&book.records[&key], kept(2, &two, 10), Some(20));
    book.write(Kind::ENCODER, GATE.0, &changes);
    assert!(book.rights.stands(&first, 19) && who(&book, &two, 19).is_some());
    assert!(!book.rights.stands(&first, 20) && who(&book, &one, 20).is_none());
    let second = who(&book, &two, 20).unwrap();
    let changes = revoke_key(&book.records[&key], [2; 4]);
    book.write(Kind::ENCODER, GATE.0, &changes);
    assert!(!book.rights.stands(&second, 20) && who(&book, &two, 20).is_none());
    let changes = add_key(&book.records[&key], kept(3, &one, 30), None);
    book.write(Kind::ENCODER, GATE.0, &changes);
    assert!(book.rights.stands(&first, 31));
    book.write(Kind::ENCODER, GATE.0, &[Change::Disable]);
    assert!(!book.rights.stands(&first, 31));
}

#[test]
fn names_without_a_domain_are_looked_for_at_home_and_none_where_nothing_is_seen() {
    let mut book = book();
    book.write(Kind::ACCOUNT, ANNA.0, &[set(3, SITE.0)]);
    let who = Who::Account(ANNA);
    assert_eq!(book.rights.places_of(&who, "gate"), (vec![SITE], "gate"));
    assert_eq!(book.rights.places_of(&who, "site/gate"), (vec![SITE], "gate"));
    assert_eq!(book.rights.places_of(&who, "other/dock"), (vec![], "dock"));
    assert_eq!(book.rights.places_of(&Who::Local, "gate"), (vec![DEFAULT_DOMAIN], "gate"));
    assert_eq!(book.rights.places_of(&Who::Nobody, "gate"), (vec![], "gate"));
    assert_eq!(book.rights.full_name(GATE, "gate"), "site/gate");
    assert_eq!(book.rights.full_name(EncoderId([77; 16]), "cam"), "cam");
}

#[test]
fn roles_are_told_as_far_as_they_count() {
    let mut book = book();
    let who = Who::Account(ANNA);
    assert_eq!(book.rights.roles(&who), [(Right::Publish, Scope::Domain(SITE))]);
    book.write(
        Kind::RULE,
        [8; 16],
        &[set(4, "viewer"), Change::Add(4, DOCK.0.to_vec()), Change::Add(2, ANNA.0.to_vec())],
    );
    let both = [(Right::Publish, Scope::Domain(SITE)), (Right::View, Scope::Encoder(DOCK))];
    assert_eq!(book.rights.roles(&who), both);
    // Once she is of the other domain, the one rule is about nothing of hers.
    book.write(Kind::ACCOUNT, ANNA.0, &[set(3, OTHER.0)]);
    assert_eq!(book.rights.roles(&who), [(Right::View, Scope::Encoder(DOCK))]);
}
