//! Draws the rules of a plan, and when they change.

use std::sync::Arc;

use super::draw_books::{draw_book, edit_book};
use super::draw_limits::{draw_escrow, draw_limits, draw_scopes, draw_shared_limit, edit_limit, edit_scope};
use super::draw_plan::Shape;
use super::gossip::draw_weights;
use super::kind::Scenario;
use super::limit_math::is_escrow;
use super::limit_set::LimitSet;
use super::meaning::DomainRules;
use super::plan::{DOMAIN, Edit};
use super::regions::Regions;
use crate::ids::Instant;
use crate::rng::{Rng, Stream};
use limiter::Revision;
use limiter::rules::{Domain, Limit, Problem, RuleBook, Rules};

const MS: u64 = 1000;
/// The longest window of a limit under escrow that edits may change, in milliseconds.
const ESCROW_WINDOW_MS: u64 = 2000;

/// Draws the rules and their edits.
///
/// # Errors
/// Returns the problems of the drawn rules.
pub fn draw_edits(rng: &mut Rng, shape: &Shape, seed: u64, weights: &[u32]) -> Result<Vec<Edit>, Vec<Problem>> {
    let edit = |at, rules: DomainRules, revision| -> Result<Edit, Vec<Problem>> {
        let book = compile(&rules, Revision(revision))?;
        let (weights, next_weights, delays_us) = (weights.to_vec(), None, vec![0; weights.len()]);
        Ok(Edit { at, rules, book, weights, next_weights, delays_us })
    };
    let mut limits = draw_limits(rng, shape.scenario, shape.crowded);
    if shape.scenario.has_regions() {
        draw_scopes(&mut Rng::new(seed, Stream::Scopes), &mut limits);
        if shape.scenario.has_escrow() {
            draw_escrow(&mut Rng::new(seed, Stream::Scopes), shape.scenario, &mut limits);
        }
        if let Some((calendar, limit)) = shape.calendar.zip(limits.iter_mut().find(|limit| is_escrow(limit))) {
            calendar.set(limit);
        }
        if shape.is(Scenario::Rates) {
            draw_shared_limit(&mut Rng::new(seed, Stream::Scopes), &mut limits);
        }
    }
    if shape.is(Scenario::Books) {
        limits.retain(|limit| !is_short(limit));
        return draw_books(&mut Rng::new(seed, Stream::Books), shape, &limits, edit);
    }
    let mut edits = vec![edit(0, DomainRules::of(limits.clone()), 1)?];
    if matches!(shape.scenario, Scenario::Edits | Scenario::Replaced | Scenario::Everything) {
        let mut at = 0;
        for revision in 2..=rng.between(2, 5) {
            at += rng.between(100, shape.heals_at / MS / 4) * MS;
            for limit in limits.iter_mut().filter(|limit| is_short(limit)) {
                edit_limit(rng, limit);
            }
            edits.push(edit(at, DomainRules::of(limits.clone()), revision)?);
        }
    }
    Ok(edits)
}

/// Draws edits of limits, of what regions do during a partition, and of weights. Each region takes an edit at a time of
/// its own.
pub fn draw_edits_of_regions(
    rng: &mut Rng,
    shape: &Shape,
    regions: &Regions,
    edits: &mut Vec<Edit>,
) -> Result<(), Vec<Problem>> {
    let count = if rng.chance(50) { rng.between(1, 3) } else { 0 };
    let mut at = 0;
    for _ in 0..count {
        let Some(last) = edits.last() else { return Ok(()) };
        let (mut limits, mut weights, revision) =
            (last.rules.limits.clone(), last.weights.clone(), last.book.revision.0 + 1);
        at += rng.between(100, shape.heals_at / MS / 4) * MS;
        if at >= shape.heals_at {
            break;
        }
        let longest = rng.pick(50, &[400, 1500]) * MS;
        let longest = longest.min(shape.heals_at.saturating_sub(at));
        let delays_us: Vec<u64> = weights.iter().map(|_| rng.between(0, longest)).collect();
        for limit in limits.iter_mut().filter(|limit| is_short(limit)) {
            if rng.chance(70) {
                edit_limit(rng, limit);
            }
        }
        limits.iter_mut().for_each(|limit| edit_scope(rng, limit));
        // A window of a calendar that has begun does not end, so that the second step would never come.
        let edits_weights = rng.chance(50) && shape.calendar.is_none();
        let rules = DomainRules::of(limits);
        let book = compile(&rules, Revision(revision))?;
        if !shape.scenario.has_escrow() {
            if edits_weights {
                weights = draw_weights(rng, weights.len());
            }
            edits.push(Edit { at, rules, book, weights, next_weights: None, delays_us });
            continue;
        }
        // Under escrow, weights change in two steps. Windows that begin in any region before the first one are over in
        // every region at the second.
        let second_at = at + longest + 50 * MS + ESCROW_WINDOW_MS * MS + regions.clock_spread_us();
        let next_weights =
            (edits_weights && second_at + longest < shape.heals_at).then(|| draw_weights(rng, weights.len()));
        let first = Edit { at, rules, book, weights, next_weights, delays_us };
        let second = first.next_weights.clone().map(|weights| -> Result<Edit, Vec<Problem>> {
            let book = compile(&first.rules, Revision(revision + 1))?;
            Ok(Edit { at: second_at, book, weights, next_weights: None, ..first.clone() })
        });
        edits.push(first);
        if let Some(second) = second {
            at = second_at;
            edits.push(second?);
        }
    }
    Ok(())
}

/// Draws whole rule books.
fn draw_books(
    rng: &mut Rng,
    shape: &Shape,
    others: &[Limit],
    edit: impl Fn(Instant, DomainRules, u64) -> Result<Edit, Vec<Problem>>,
) -> Result<Vec<Edit>, Vec<Problem>> {
    let (mut at, mut rules) = (0, draw_book(rng, others));
    let mut edits = vec![edit(0, rules.clone(), 1)?];
    for revision in 2..=rng.between(1, 5) {
        at += rng.between(100, shape.heals_at / MS / 4) * MS;
        rules = edit_book(rng, &rules);
        edits.push(edit(at, rules.clone(), revision)?);
    }
    Ok(edits)
}

fn is_short(limit: &Limit) -> bool {
    limit.name.starts_with(LimitSet::Short.name())
}

fn compile(rules: &DomainRules, revision: Revision) -> Result<Arc<RuleBook>, Vec<Problem>> {
    let DomainRules { limits, charge, unmatched, .. } = rules.clone();
    let domain = Domain { domain: DOMAIN.to_owned(), charge, default: unmatched, limits, ..Domain::default() };
    RuleBook::compile(Arc::new(Rules { domains: vec![domain] }), revision).map(Arc::new)
}
