//! Who is in, worked out from the set of statements alone: it does not matter in which order they
//! came.
//!
//! A revocation makes void what its node did beyond the cut, and that may be another revocation.
//! So the question which revocations stand is answered as for any rules that contradict each
//! other: what nothing contradicts holds; what is contradicted by what holds does not; and so on.
//! What is left then contradicts itself in circles. Of a circle that nothing outside contradicts,
//! admissions and readmissions fall first, since a revocation wins; and if there are none in it,
//! its revocations all stand: nodes that revoke each other are all out.
//!
//! If nobody is left by that, somebody at one of the machines has to decide: then readmissions count
//! that take back revocations which stand so, whoever of those once admitted made them.

use std::collections::{BTreeMap, BTreeSet};

use super::{Admission, Readmission, Revocation};
use crate::id::{NodeId, StatementId};

/// What is judged: statements whose signatures are good.
#[derive(Default)]
pub(super) struct Case<'a> {
    pub(super) admissions: Vec<(StatementId, &'a Admission)>,
    pub(super) revocations: Vec<(StatementId, &'a Revocation)>,
    pub(super) readmissions: Vec<(StatementId, &'a Readmission)>,
}

/// What comes of it.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Judgement {
    /// Revocations that stand.
    pub(super) standing: BTreeSet<StatementId>,
    /// Admissions that no revocation makes void, of nodes admitted by such.
    pub(super) valid: BTreeSet<StatementId>,
}

/// One readmission of one revocation.
struct Undoing {
    id: StatementId,
    by: NodeId,
    /// Which revocation.
    of: usize,
}

/// What is taken for granted, or found.
#[derive(Clone, PartialEq, Eq, Default)]
struct Found {
    stands: Vec<bool>,
    undoes: Vec<bool>,
    admits: Vec<bool>,
    rooted: BTreeSet<NodeId>,
}

struct Court<'a> {
    case: &'a Case<'a>,
    undoings: Vec<Undoing>,
    /// Which revocations make each of these void, if they stand.
    against_revocation: Vec<Vec<usize>>,
    against_undoing: Vec<Vec<usize>>,
    against_admission: Vec<Vec<usize>>,
    /// Which readmissions take back each revocation.
    undone_by: Vec<Vec<usize>>,
    /// Admissions by whoever signed them.
    admits: BTreeMap<NodeId, Vec<usize>>,
    /// What was decided about circles.
    stands: BTreeSet<usize>,
    falls: BTreeSet<Item>,
}

/// Anything whose fate is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Item {
    Revocation(usize),
    Undoing(usize),
    Admission(usize),
}

/// The judgement.
pub(super) fn judge(case: &Case<'_>) -> Judgement {
    let mut found = Court::new(case, &[]).decide();
    let out = case.revocations.iter().zip(&found.stands).filter(|(_, stands)| **stands);
    let out: BTreeSet<NodeId> = out.map(|((_, it), _)| it.node).collect();
    if !case.readmissions.is_empty() && found.rooted.is_subset(&out) {
        found = Court::new(case, &found.stands).decide();
    }
    let chosen = |flags: &[bool], ids: &mut dyn Iterator<Item = StatementId>| {
        ids.zip(flags).filter(|(_, flag)| **flag).map(|(id, _)| id).collect()
    };
    Judgement {
        standing: chosen(&found.stands, &mut case.revocations.iter().map(|(id, _)| *id)),
        valid: chosen(&found.admits, &mut case.admissions.iter().map(|(id, _)| *id)),
    }
}

impl<'a> Court<'a> {
    /// `open_to_all` are revocations that anybody may take back, for otherwise nobody is in.
    fn new(case: &'a Case<'a>, open_to_all: &[bool]) -> Self {
        let mut undoings = Vec::new();
        let mut undone_by = vec![Vec::new(); case.revocations.len()];
        let numbers: BTreeMap<StatementId, usize> =
            case.revocations.iter().enumerate().map(|(ix, (id, _))| (*id, ix)).collect();
        for (id, readmission) in &case.readmissions {
            for undone in &readmission.undoes {
                let Some(&of) = numbers.get(undone) else { continue };
                if case.revocations[of].1.node == readmission.node {
                    undone_by[of].push(undoings.len());
                    undoings.push(Undoing { id: *id, by: readmission.by, of });
                }
            }
        }
        // By whom they revoke.
        let mut of_node: BTreeMap<NodeId, Vec<(usize, BTreeSet<StatementId>)>> = BTreeMap::new();
        for (ix, (_, it)) in case.revocations.iter().enumerate() {
            of_node.entry(it.node).or_default().push((ix, it.cut.iter().copied().collect()));
        }
        let against = |by: NodeId, id: StatementId| -> Vec<usize> {
            let all = of_node.get(&by).into_iter().flatten();
            all.filter(|(_, cut)| !cut.contains(&id)).map(|(ix, _)| *ix).collect()
        };
        let against_revocation =
            case.revocations.iter().map(|(id, it)| against(it.by, *id)).collect();
        let against_undoing = undoings
            .iter()
            .map(|undoing| {
                if open_to_all.get(undoing.of) == Some(&true) {
                    return Vec::new();
                }
                let undone = case.revocations[undoing.of].1;
                let mut all = against(undoing.by, undoing.id);
                // Whoever takes its own revocation back is not kept from it by a revocation that
                // the one it revoked made in turn: else two that revoked each other, and are all
                // there is, would be out for ever.
                if undone.by == undoing.by {
                    all.retain(|ix| case.revocations[*ix].1.by != undone.node);
                }
                all
            })
            .collect();
        let against_admission = case
            .admissions
            .iter()
            .map(|(id, it)| {
                let mut all = against(it.by, *id);
                if let Some(terms) = it.terms.filter(|terms| terms.by != it.by) {
                    all.extend(against(terms.by, *id));
                }
                all
            })
            .collect();
        let mut admits: BTreeMap<NodeId, Vec<usize>> = BTreeMap::new();
        for (ix, (_, it)) in case.admissions.iter().enumerate() {
            admits.entry(it.by).or_default().push(ix);
        }
        Self {
            case,
            undoings,
            against_revocation,
            against_undoing,
            against_admission,
            undone_by,
            admits,
            stands: BTreeSet::new(),
            falls: BTreeSet::new(),
        }
    }

    /// What holds if the revocations and readmissions of `against` hold: the more hold, the less.
    fn given(&self, against: &Found) -> Found {
        let holds = |flags: &[bool], all: &[usize]| all.iter().any(|ix| flags[*ix]);
        let mut found = Found {
            stands: vec![false; self.case.revocations.len()],
            undoes: vec![false; self.undoings.len()],
            admits: vec![false; self.case.admissions.len()],
            rooted: BTreeSet::new(),
        };
        let good = |ix: usize| {
            !holds(&against.stands, &self.against_admission[ix])
                && !self.falls.contains(&Item::Admission(ix))
        };
        let mut reached: Vec<NodeId> = Vec::new();
        for (ix, (_, it)) in self.case.admissions.iter().enumerate() {
            if it.founds() {
                found.admits[ix] = true;
                reached.push(it.node);
            }
        }
        while let Some(node) = reached.pop() {
            if !found.rooted.insert(node) {
                continue;
            }
            for &ix in self.admits.get(&node).into_iter().flatten() {
                if !found.admits[ix] && good(ix) {
                    found.admits[ix] = true;
                    reached.push(self.case.admissions[ix].1.node);
                }
            }
        }
        for (ix, undoing) in self.undoings.iter().enumerate() {
            found.undoes[ix] = found.rooted.contains(&undoing.by)
                && !holds(&against.stands, &self.against_undoing[ix])
                && !self.falls.contains(&Item::Undoing(ix));
        }
        for (ix, (_, it)) in self.case.revocations.iter().enumerate() {
            let sound = self.stands.contains(&ix)
                || found.rooted.contains(&it.by)
                    && !holds(&against.stands, &self.against_revocation[ix]);
            found.stands[ix] = sound && !holds(&against.undoes, &self.undone_by[ix]);
        }
        found
    }

    fn decide(&mut self) -> Found {
        loop {
            let mut least = Found {
                stands: vec![false; self.case.revocations.len()],
                undoes: vec![false; self.undoings.len()],
                ..Found::default()
            };
            let mut most = self.given(&least);
            loop {
                let next = self.given(&most);
                let settled = next == least;
                least = next;
                if settled {
                    break;
                }
                most = self.given(&least);
            }
            let open = self.open(&least, &most);
            if open.is_empty() {
                return least;
            }
            self.break_circles(&open, &least);
        }
    }

    /// What holds at most, but not at least.
    fn open(&self, least: &Found, most: &Found) -> Vec<Item> {
        let differ = |least: &[bool], most: &[bool]| -> Vec<usize> {
            (0..most.len()).filter(|ix| most[*ix] && !least[*ix]).collect()
        };
        let revocations = differ(&least.stands, &most.stands).into_iter().map(Item::Revocation);
        let undoings = differ(&least.undoes, &most.undoes).into_iter().map(Item::Undoing);
        let admissions = differ(&least.admits, &most.admits).into_iter().map(Item::Admission);
        revocations.chain(undoings).chain(admissions).collect()
    }

    /// Decides every circle that depends on no other.
    fn break_circles(&mut self, open: &[Item], least: &Found) {
        let place: BTreeMap<Item, usize> =
            open.iter().enumerate().map(|(at, item)| (*item, at)).collect();
        let mut supports: BTreeMap<NodeId, Vec<usize>> = BTreeMap::new();
        for (at, item) in open.iter().enumerate() {
            if let Item::Admission(ix) = item {
                supports.entry(self.case.admissions[*ix].1.node).or_default().push(at);
            }
        }
        let needs: Vec<Vec<usize>> = open
            .iter()
            .map(|item| {
                let (by, mut all) = match *item {
                    Item::Revocation(ix) => {
                        let undone = self.undone_by[ix].iter().map(|ix| Item::Undoing(*ix));
                        let against = &self.against_revocation[ix];
                        let against = against.iter().map(|ix| Item::Revocation(*ix));
                        (self.case.revocations[ix].1.by, against.chain(undone).collect::<Vec<_>>())
                    }
                    Item::Undoing(ix) => {
                        let against = self.against_undoing[ix].iter();
                        (self.undoings[ix].by, against.map(|ix| Item::Revocation(*ix)).collect())
                    }
                    Item::Admission(ix) => {
                        let against = self.against_admission[ix].iter();
                        let by = self.case.admissions[ix].1.by;
                        (by, against.map(|ix| Item::Revocation(*ix)).collect())
                    }
                };
                all.sort_unstable();
                let mut needs: Vec<usize> =
                    all.iter().filter_map(|item| place.get(item).copied()).collect();
                if !least.rooted.contains(&by) {
                    needs.extend(supports.get(&by).into_iter().flatten());
                }
                needs
            })
            .collect();
        for circle in sources(&needs) {
            let soft: Vec<Item> = circle
                .iter()
                .map(|at| open[*at])
                .filter(|item| !matches!(item, Item::Revocation(_)))
                .collect();
            if soft.is_empty() {
                self.stands.extend(circle.iter().filter_map(|at| match open[*at] {
                    Item::Revocation(ix) => Some(ix),
                    _ => None,
                }));
            } else {
                self.falls.extend(soft);
            }
        }
    }
}

/// Of a graph in which each needs others: the strongly connected parts that need nothing outside
/// of themselves (Kosaraju's way, without recursion).
fn sources(needs: &[Vec<usize>]) -> Vec<Vec<usize>> {
    let mut needed_by = vec![Vec::new(); needs.len()];
    for (at, all) in needs.iter().enumerate() {
        for &of in all {
            needed_by[of].push(at);
        }
    }
    let mut order = Vec::new();
    let mut seen = vec![false; needs.len()];
    for start in 0..needs.len() {
        let mut path = vec![(start, 0)];
        if std::mem::replace(&mut seen[start], true) {
            continue;
        }
        while let Some((at, turn)) = path.last_mut() {
            match needs[*at].get(*turn) {
                Some(&next) => {
                    *turn += 1;
                    if !std::mem::replace(&mut seen[next], true) {
                        path.push((next, 0));
                    }
                }
                None => {
                    order.push(*at);
                    path.pop();
                }
            }
        }
    }
    let mut part = vec![usize::MAX; needs.len()];
    let mut parts: Vec<Vec<usize>> = Vec::new();
    for &start in order.iter().rev() {
        if part[start] != usize::MAX {
            continue;
        }
        let number = parts.len();
        let mut members = Vec::new();
        let mut waiting = vec![start];
        part[start] = number;
        while let Some(at) = waiting.pop() {
            members.push(at);
            for &next in &needed_by[at] {
                if part[next] == usize::MAX {
                    part[next] = number;
                    waiting.push(next);
                }
            }
        }
        parts.push(members);
    }
    let alone = |(number, members): &(usize, Vec<usize>)| {
        members.iter().flat_map(|at| &needs[*at]).all(|of| part[*of] == *number)
    };
    parts.into_iter().enumerate().filter(alone).map(|(_, members)| members).collect()
}
