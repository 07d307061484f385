//! Which transactions of the database are valid. An invalid one is refused, and later valid ones still apply.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use limiter::Revision;
use limiter::rules::{Path, Problem, RuleBook, Rules, Step};
use plane::{Change, Command, PlaneState, Refused, Snapshot, Transaction, check_bounds, check_setting};

/// The most errors of one refused transaction that are kept.
const MAX_ERRORS: usize = 20;
/// The most refused transactions that are kept. The oldest are forgotten first: their rows stay out of force.
const MAX_REFUSED: usize = 200;
/// The most refused transactions that are tried again at once.
const MAX_TRIES: u32 = 20;
/// The most row names of one refused transaction that are kept.
const MAX_ROWS: usize = 200;

/// Makes the command that applies `transactions` to `state`. `everything` is all that the database holds after the last
/// of them, if rows are refused that may be valid by now.
///
/// Each transaction is in force as a whole or not at all, apart from its users and keys.
pub fn command(state: &PlaneState, mut transactions: Vec<Transaction>, everything: Option<&Snapshot>) -> Command {
    let after = state.mark();
    let new = refused_of(state, &transactions);
    let mut refused = still_refused(state.refused(), &transactions);
    let is_refused = |transaction: &Transaction| new.iter().any(|r| r.revision == transaction.mark.revision);
    // A node does not apply refused changes, so they need not travel.
    for transaction in transactions.iter_mut().filter(|transaction| is_refused(transaction)) {
        transaction.changes.retain(Change::is_of_identity);
    }
    let last = transactions.last().map(|last| last.mark);
    if let Some(everything) = everything.filter(|everything| Some(everything.mark) == last)
        && let Some(carrier) = transactions.iter().rposition(|transaction| !is_refused(transaction))
    {
        let mut reached = state.clone();
        apply(&mut reached, &transactions, &new);
        let changes = mended(&reached, &mut refused, everything);
        transactions[carrier].changes.extend(changes);
    }
    let excess = (refused.len() + new.len()).saturating_sub(MAX_REFUSED).min(refused.len());
    refused.drain(..excess);
    // A node must know which transactions of this command are refused.
    refused.extend(new);
    Command::Apply { after, transactions, refused }
}

/// The changes of refused transactions that are valid by now, each transaction as a whole. Those are taken out of
/// `refused`.
fn mended(reached: &PlaneState, refused: &mut Vec<Refused>, everything: &Snapshot) -> Vec<Change> {
    let rows = retried(by_row(reached.rows()), refused, &by_row(everything.rows.clone()), everything.mark.revision);
    reached.changes_to(&rows.into_values().collect::<Vec<_>>())
}

type Rows = BTreeMap<String, Change>;

fn by_row(rows: Vec<Change>) -> Rows {
    rows.into_iter().map(|row| (row.row(), row)).collect()
}

/// `rows` with those refused transactions that are valid beside them by now, each as a whole, as `wanted` has its rows.
/// Those are taken out of `refused`.
fn retried(mut rows: Rows, refused: &mut Vec<Refused>, wanted: &Rows, revision: Revision) -> Rows {
    let mut tries = 0;
    refused.retain(|entry| {
        tries += 1;
        if tries > MAX_TRIES || entry.rows.len() >= MAX_ROWS {
            return true;
        }
        let mut candidate = rows.clone();
        replace(&mut candidate, &entry.rows, wanted);
        let readable = entry.rows.iter().filter_map(|row| wanted.get(row)).all(|row| own_errors(row).is_empty());
        let snapshot = Snapshot { rows: candidate.values().cloned().collect(), ..Snapshot::default() };
        let valid = readable && compiles(snapshot.rules(), revision);
        if valid {
            rows = candidate;
        }
        !valid
    });
    rows
}

/// Makes the rows with these names as they are in `from`.
fn replace(rows: &mut Rows, names: &[String], from: &Rows) {
    for name in names {
        match from.get(name) {
            Some(row) => rows.insert(name.clone(), row.clone()),
            None => rows.remove(name),
        };
    }
}

/// A snapshot in which each invalid row is as `state` has it, or left out, and those rows as refused.
///
/// Rows of a transaction that was refused before stay as `state` has them, unless the transaction is valid by now. Of
/// other rows, a snapshot does not say which were written together, so each counts by itself.
pub fn readable(state: &PlaneState, mut snapshot: Snapshot) -> (Snapshot, Vec<Refused>) {
    let revision = snapshot.mark.revision;
    let before = by_row(state.rows());
    let mut refused = state.refused().to_vec();
    if !refused.is_empty() {
        let wanted = by_row(std::mem::take(&mut snapshot.rows));
        let mut rows = wanted.clone();
        refused.iter().for_each(|entry| replace(&mut rows, &entry.rows, &before));
        snapshot.rows = retried(rows, &mut refused, &wanted, revision).into_values().collect();
    }
    let mut invalid: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for row in &snapshot.rows {
        let errors = own_errors(row);
        if !errors.is_empty() {
            invalid.insert(row.row(), errors);
        }
    }
    let mut given_up: BTreeSet<String> = BTreeSet::new();
    let mut found: BTreeSet<String> = invalid.keys().cloned().collect();
    let mut blame = |rows: &Snapshot, found: &mut BTreeSet<String>| {
        for (row, error) in problems_by_row(&rows.rules(), revision) {
            invalid.entry(row.clone()).or_default().push(error);
            found.insert(row);
        }
    };
    blame(&snapshot, &mut found);
    while !found.is_empty() {
        let replaced = |row: Change| match before.get(&row.row()) {
            _ if !found.contains(&row.row()) => Some(row),
            // A row of before may not be valid beside the others. It gets one chance.
            Some(kept) if !given_up.contains(&row.row()) => Some(kept.clone()),
            _ => None,
        };
        let rows: Vec<Change> = snapshot.rows.iter().cloned().filter_map(replaced).collect();
        if rows == snapshot.rows {
            // No single row is to blame: everything stays as it is.
            snapshot.rows = state.rows();
            break;
        }
        snapshot.rows = rows;
        given_up.extend(std::mem::take(&mut found));
        blame(&snapshot, &mut found);
    }
    refused.extend(invalid.into_iter().map(|(row, mut errors)| {
        errors.truncate(MAX_ERRORS);
        Refused { revision, rows: vec![row], errors }
    }));
    refused.drain(..refused.len().saturating_sub(MAX_REFUSED));
    (snapshot, refused)
}

/// What is wrong with rules, by the row: a limit, or else its domain.
fn problems_by_row(rules: &Rules, revision: Revision) -> Vec<(String, String)> {
    if let Err(error) = check_bounds(rules) {
        // No single row is to blame.
        return vec![(String::new(), error)];
    }
    let problems = RuleBook::compile(Arc::new(rules.clone()), revision).err().unwrap_or_default();
    problems.iter().map(|problem| (row_of(rules, &problem.path), named(rules, problem))).collect()
}

/// The row that a path leads to: a limit, or else its domain; empty if there is none.
fn row_of(rules: &Rules, path: &Path) -> String {
    let mut indexes = path.0.iter().filter_map(|step| match step {
        Step::Index(index) => Some(*index),
        Step::Field(_) => None,
    });
    let domain = indexes.next().and_then(|at| rules.domains.get(at));
    let limit = domain.and_then(|domain| domain.limits.get(indexes.next()?));
    match (domain, limit) {
        (Some(domain), Some(limit)) => format!("limit {}/{}", domain.domain, limit.name),
        (Some(domain), None) => format!("domain {}", domain.domain),
        (None, _) => String::new(),
    }
}

/// A problem with the name of its row instead of its number: `limit api/search: match.path: expected …`.
fn named(rules: &Rules, problem: &Problem) -> String {
    let row = row_of(rules, &problem.path);
    if row.is_empty() {
        return problem.to_string();
    }
    // `domains[0].limits[3]` are four steps, and `domains[0]` two.
    let named = if row.starts_with("limit ") { 4 } else { 2 };
    let rest = Path(problem.path.0.iter().skip(named).cloned().collect());
    let joint = if rest.0.is_empty() { "" } else { ": " };
    format!("{row}: {rest}{joint}{}", problem.message)
}

/// Those of `transactions` that are not valid, in order.
fn refused_of(state: &PlaneState, transactions: &[Transaction]) -> Vec<Refused> {
    let mut refused: Vec<Refused> = Vec::new();
    let mut state = state.clone();
    let mut rest = transactions;
    while !rest.is_empty() {
        // The longest valid beginning, by halves: most often all of it.
        let valid = longest_valid(&state, rest);
        apply(&mut state, &rest[..valid], &[]);
        rest = &rest[valid..];
        if let Some((first, others)) = rest.split_first() {
            let errors = errors(&state, first);
            let rows = first.changes.iter().filter(|change| !change.is_of_identity()).map(Change::row);
            let new = Refused { revision: first.mark.revision, rows: rows.take(MAX_ROWS).collect(), errors };
            apply(&mut state, std::slice::from_ref(first), std::slice::from_ref(&new));
            refused.push(new);
            rest = others;
        }
    }
    refused
}

/// The length of the longest beginning of `transactions` that is valid, if all shorter ones are as well.
fn longest_valid(state: &PlaneState, transactions: &[Transaction]) -> usize {
    let is_valid = |length: usize| {
        let mut state = state.clone();
        let beginning = &transactions[..length];
        let readable = beginning.iter().flat_map(|transaction| &transaction.changes).all(|c| own_errors(c).is_empty());
        let of_rules = beginning.iter().flat_map(|transaction| &transaction.changes).any(Change::is_of_rules);
        apply(&mut state, beginning, &[]);
        readable && (!of_rules || compiles(state.rules(), state.mark().revision))
    };
    let (mut valid, mut invalid) = (0, transactions.len() + 1);
    // All of them first: that is the common case.
    let mut next = transactions.len();
    while valid + 1 < invalid {
        if is_valid(next) {
            valid = next
        } else {
            invalid = next
        }
        next = valid.midpoint(invalid);
    }
    valid
}

fn apply(state: &mut PlaneState, transactions: &[Transaction], refused: &[Refused]) {
    state.apply(Command::Apply { after: state.mark(), transactions: transactions.to_vec(), refused: refused.to_vec() });
}

fn compiles(rules: Rules, revision: Revision) -> bool {
    check_bounds(&rules).is_ok() && RuleBook::compile(Arc::new(rules), revision).is_ok()
}

/// What is wrong with a change by itself.
fn own_errors(change: &Change) -> Vec<String> {
    match change {
        Change::UnreadableLimit { errors, .. } => errors.clone(),
        Change::PutSetting { name, value } => {
            check_setting(name, value).err().iter().map(ToString::to_string).collect()
        }
        _ => Vec::new(),
    }
}

/// What is wrong with a transaction, after those before it.
fn errors(state: &PlaneState, transaction: &Transaction) -> Vec<String> {
    let mut errors: Vec<String> = Vec::new();
    for change in &transaction.changes {
        errors.extend(own_errors(change).into_iter().map(|error| format!("{}: {error}", change.row())));
    }
    if errors.is_empty() {
        let mut state = state.clone();
        apply(&mut state, std::slice::from_ref(transaction), &[]);
        let rules = state.rules();
        match check_bounds(&rules) {
            Ok(()) => {
                let compiled = RuleBook::compile(Arc::new(rules.clone()), transaction.mark.revision);
                errors.extend(compiled.err().unwrap_or_default().iter().map(|problem| named(&rules, problem)));
            }
            Err(error) => errors.push(error),
        }
    }
    errors.truncate(MAX_ERRORS);
    errors
}

/// The refused transactions of before whose rows nobody has written since. A row that was written again is in force, or
/// is refused anew.
fn still_refused(before: &[Refused], transactions: &[Transaction]) -> Vec<Refused> {
    let written: BTreeSet<String> = transactions.iter().flat_map(|t| &t.changes).map(Change::row).collect();
    let mut refused = before.to_vec();
    for entry in &mut refused {
        entry.rows.retain(|row| !written.contains(row));
    }
    refused.retain(|entry| !entry.rows.is_empty());
    refused
}
