//! Which transactions of the database are valid. An invalid one is refused, and later valid ones still apply.

use std::collections::BTreeSet;
use std::sync::Arc;

use limiter::Revision;
use limiter::rules::{RuleBook, Rules};
use plane::{Change, Command, PlaneState, Refused, Snapshot, Transaction, check_setting};

/// The most errors of one refused transaction that are kept.
const MAX_ERRORS: usize = 20;

/// Makes the command that applies `transactions` to `state`. `everything` is all that the database holds after the last
/// of them, if rows are refused that may be valid by now.
///
/// Each transaction is in force as a whole or not at all, apart from its users and keys.
pub fn command(state: &PlaneState, transactions: Vec<Transaction>, everything: Option<&Snapshot>) -> Command {
    let after = state.mark();
    if let Some(whole) = everything.and_then(|all| with_everything(state, &transactions, all)) {
        return Command::Apply { after, transactions: whole, refused: Vec::new() };
    }
    let new = refused_of(state, &transactions);
    let mut refused = still_refused(state.refused(), &transactions, &new);
    refused.extend(new);
    Command::Apply { after, transactions, refused }
}

/// A snapshot in which the invalid rows are as `state` has them, and those rows as refused.
///
/// A snapshot does not say which rows were written together. If the rules are not valid, each domain that is not valid
/// by itself stays as it is in `state`.
pub fn readable(state: &PlaneState, mut snapshot: Snapshot) -> (Snapshot, Vec<Refused>) {
    let revision = snapshot.mark.revision;
    let mut refused = Vec::new();
    let mut refuse = |rows: Vec<String>, mut errors: Vec<String>| {
        errors.truncate(MAX_ERRORS);
        refused.push(Refused { revision, rows, errors });
    };
    let mut kept: BTreeSet<String> = BTreeSet::new();
    snapshot.rows.retain(|row| {
        let errors = own_errors(row);
        if errors.is_empty() {
            return true;
        }
        refuse(vec![row.row()], errors);
        if let Change::UnreadableLimit { domain, .. } = row {
            kept.insert(domain.clone());
        }
        false
    });
    for domain in snapshot.rules().domains {
        let name = domain.domain.clone();
        let problems = RuleBook::compile(Arc::new(Rules { domains: vec![domain] }), revision).err();
        if let Some(problems) = problems {
            refuse(vec![name.clone()], problems.iter().map(ToString::to_string).collect());
            kept.insert(name);
        }
    }
    for name in kept {
        snapshot.rows.retain(|row| !is_of_domain(row, &name));
        snapshot.rows.extend(state.domain_rows(&name));
    }
    (snapshot, refused)
}

fn is_of_domain(row: &Change, name: &str) -> bool {
    match row {
        Change::PutDomain { domain, .. } | Change::PutLimit { domain, .. } => domain == name,
        _ => false,
    }
}

/// The transactions with changes at their end that lead to `everything`, if the rules are valid then.
fn with_everything(
    state: &PlaneState,
    transactions: &[Transaction],
    everything: &Snapshot,
) -> Option<Vec<Transaction>> {
    let last = transactions.last().filter(|last| last.mark == everything.mark)?;
    let readable = everything.rows.iter().all(|row| own_errors(row).is_empty());
    if !readable || !compiles(&everything.rules(), last.mark.revision) {
        return None;
    }
    let mut transactions: Vec<Transaction> = transactions.to_vec();
    for transaction in &mut transactions {
        // What the rows were in between does not count: the end is everything.
        transaction.changes.retain(Change::is_of_identity);
    }
    if let Some(last) = transactions.last_mut() {
        last.changes.extend(state.changes_to(&everything.rows));
    }
    Some(transactions)
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
            let rows = first.changes.iter().filter(|change| !change.is_of_identity()).map(Change::row).collect();
            let new = Refused { revision: first.mark.revision, rows, errors };
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
        readable && (!of_rules || compiles(&state.rules(), state.mark().revision))
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

fn compiles(rules: &Rules, revision: Revision) -> bool {
    RuleBook::compile(Arc::new(rules.clone()), revision).is_ok()
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
        let rules = Arc::new(state.rules());
        let problems = RuleBook::compile(Arc::clone(&rules), transaction.mark.revision).err().unwrap_or_default();
        errors.extend(problems.iter().map(ToString::to_string));
    }
    errors.truncate(MAX_ERRORS);
    errors
}

/// The refused transactions of before that still are: a row that a valid transaction has written since is in force.
fn still_refused(before: &[Refused], transactions: &[Transaction], new: &[Refused]) -> Vec<Refused> {
    let valid = transactions.iter().filter(|t| new.iter().all(|refused| refused.revision != t.mark.revision));
    let written: Vec<String> = valid.flat_map(|t| &t.changes).map(Change::row).collect();
    let mut refused = before.to_vec();
    for entry in &mut refused {
        entry.rows.retain(|row| !written.contains(row));
    }
    refused.retain(|entry| !entry.rows.is_empty());
    refused
}
