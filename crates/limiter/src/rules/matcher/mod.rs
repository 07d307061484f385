//! The compiled `match` of every limit of a domain.

mod condition;
mod expression;
mod index;
mod judge;
mod pattern;
mod possible;
mod route;
mod search_cost;
mod subject;
mod syntax;

pub use condition::{Compiled, address, network};
use condition::{MAX_PATTERN_BYTES, regex_of};
pub use expression::Expression;
use expression::MAX_BYTES as MAX_EXPRESSION_BYTES;
pub use index::Found;
use index::{Index, Token};
use judge::MAX_TRIALS;
pub use judge::{Fact, Facts};
use pattern::Pattern;
pub use pattern::PatternBudget;
use search_cost::USUAL_TEXT;
pub use subject::Subject;

use crate::rules::attribute::Attribute;
use crate::rules::rule::{Condition, Match};
use crate::rules::work::{ATTRIBUTE, MAX_WORK, TRIED};

/// The bytes of the budget that each byte of a `when` expression takes, and each combination of values that is tried to
/// check its types. They stand for the time and the memory of compiling it, up to 5 µs.
const PARSED_BYTES: usize = 64;
/// The further bytes of the budget that each byte beyond [`USUAL_EXPRESSION`] takes: the time grows faster than the
/// length.
const LONG_PARSED_BYTES: usize = 256;
/// The length of usual expressions, in bytes.
const USUAL_EXPRESSION: usize = 128;

/// Checks that a condition compiles, within `budget`. The error says what was expected. Once the budget is spent, no
/// further regular expression is compiled.
pub fn check_condition(condition: &Condition, budget: &mut PatternBudget) -> Result<(), String> {
    match regex_of(condition) {
        Some(_) if budget.is_spent() => Ok(()),
        Some(regex) => match Pattern::compile(&regex, MAX_PATTERN_BYTES) {
            Ok(pattern) => budget.take(pattern.bytes()),
            Err(error) => {
                // The attempt took as long as that to compile the largest one.
                let taken = if error.is_too_large { MAX_PATTERN_BYTES } else { 0 };
                budget.take(taken).and(Err(error.message))
            }
        },
        None => Compiled::new(condition).map(drop),
    }
}

/// Checks that a `when` expression compiles, within `budget`. The error says what was expected. Once the budget is
/// spent, no further expression is compiled.
pub fn check_expression(source: &str, budget: &mut PatternBudget) -> Result<(), String> {
    if budget.is_spent() {
        return Ok(());
    }
    // One that is too long is not compiled.
    if source.len() <= MAX_EXPRESSION_BYTES {
        let beyond = source.len().saturating_sub(USUAL_EXPRESSION);
        budget.take(source.len() * PARSED_BYTES + beyond * LONG_PARSED_BYTES)?;
    }
    match Expression::compile(source) {
        Ok(expression) => budget.take(expression.trials() * PARSED_BYTES + expression.pattern_bytes()),
        // It may have taken as long as any.
        Err(error) => {
            let _ = budget.take(MAX_TRIALS * PARSED_BYTES);
            Err(error)
        }
    }
}

/// One `match`, compiled.
#[derive(Debug)]
pub struct Matcher {
    conditions: Vec<(Attribute, Compiled)>,
    exact_keys: Option<Vec<Attribute>>,
    when: Option<Expression>,
}

impl Matcher {
    pub fn new(matches: &Match) -> Result<Self, String> {
        let compile =
            |(name, condition): (&String, &Condition)| Ok((Attribute::parse(name), Compiled::new(condition)?));
        Ok(Self {
            conditions: matches.conditions.iter().map(compile).collect::<Result<_, String>>()?,
            exact_keys: matches.exact_keys.as_ref().map(|keys| Attribute::in_order(keys.iter().map(String::as_str))),
            when: matches.when.as_deref().map(Expression::compile).transpose()?,
        })
    }

    /// Adds to `work` the steps that searches take for the bytes of their texts. No search begins that would take it
    /// beyond [`MAX_WORK`]: then it is beyond, and the result says nothing.
    #[inline]
    pub fn matches(&self, subject: &Subject<'_>, work: &mut usize) -> bool {
        let descriptor = subject.descriptor;
        let mut holds = |(attribute, condition): &(Attribute, Compiled)| {
            let value = attribute.value(descriptor);
            *work = work.saturating_add(condition.search_steps(value.map_or(0, str::len)));
            *work <= MAX_WORK && condition.holds(value)
        };
        self.conditions.iter().all(&mut holds)
            && self.exact_keys.as_ref().is_none_or(|keys| descriptor.has_exactly(keys))
            && self.when.as_ref().is_none_or(|when| when.is_true(subject, work))
    }

    /// The steps of [`Self::matches`], without those for the bytes of texts.
    fn steps(&self) -> usize {
        let conditions: usize = self.conditions.iter().map(|(_, condition)| condition.steps()).sum();
        let keys = self.exact_keys.as_ref().map_or(0, Vec::len) * ATTRIBUTE;
        conditions + keys + self.when.as_ref().map_or(0, Expression::steps)
    }

    /// The most steps for the bytes of texts of the usual length.
    fn search_steps(&self) -> usize {
        let conditions = self.conditions.iter().map(|(_, condition)| condition.search_steps(USUAL_TEXT));
        let when = self.when.as_ref().map_or(0, Expression::search_steps);
        conditions.fold(when, usize::saturating_add)
    }
}

/// Many matchers, in order, and the index over them.
#[derive(Debug, Default)]
pub struct MatchTable {
    index: Index,
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    matcher: Matcher,
    /// Attributes that must be present.
    per: Vec<Attribute>,
    /// The steps to try it, without those that depend on the lengths of texts.
    steps: usize,
    /// The most further steps, if each text has the usual length.
    search_steps: usize,
}

impl MatchTable {
    /// `matchers` are those of the limits in book order, each with the `per` attributes that must be present.
    pub fn new(matchers: Vec<(Matcher, Vec<Attribute>)>) -> Self {
        let anchors: Vec<_> = matchers.iter().map(|(matcher, per)| anchors(matcher, per)).collect();
        let index = Index::build(&anchors);
        let entries = matchers.into_iter().map(|(matcher, per)| {
            let steps = TRIED + matcher.steps() + per.len() * ATTRIBUTE;
            let search_steps = matcher.search_steps();
            Entry { matcher, per, steps, search_steps }
        });
        Self { index, entries: entries.collect() }
    }

    /// Sets `out` to the positions of all limits that match, in book order, and adds the steps to `work`. Once they are
    /// beyond [`MAX_WORK`], nothing more is searched, and `out` says nothing.
    pub fn matching(&self, subject: &Subject<'_>, out: &mut Found, work: &mut usize) {
        *work += self.index.candidates(subject.descriptor.entries, out);
        out.retain(|id| self.entries[*id as usize].matches(subject, work));
    }

    /// The first one that matches. It sets `candidates`, and adds the steps to `work` as [`Self::matching`] does.
    pub fn first(&self, subject: &Subject<'_>, candidates: &mut Found, work: &mut usize) -> Option<usize> {
        *work += self.index.candidates(subject.descriptor.entries, candidates);
        let mut in_order = candidates.iter().map(|id| *id as usize);
        in_order.find(|id| self.entries[*id].matches(subject, work))
    }

    /// At least the steps that a descriptor can take whose attributes differ and are of the usual length. `further` are
    /// those that a limit takes if it matches.
    pub fn most_steps(&self, further: impl Fn(usize) -> usize) -> usize {
        let tried = |entry: &Entry| entry.steps.saturating_add(entry.search_steps);
        self.index.most_steps(&|id| tried(&self.entries[id as usize]).saturating_add(further(id as usize)))
    }
}

impl Entry {
    #[inline]
    fn matches(&self, subject: &Subject<'_>, work: &mut usize) -> bool {
        *work += self.steps;
        self.per.iter().all(|attribute| attribute.value(subject.descriptor).is_some())
            && self.matcher.matches(subject, work)
    }
}

/// The tokens under which a limit may be filed in the index. All entries with one key are looked up, so the position of
/// an entry does not matter.
fn anchors<'m>(matcher: &'m Matcher, per: &'m [Attribute]) -> Vec<(&'m str, Vec<Token>)> {
    let conditions =
        matcher.conditions.iter().map(|(attribute, condition)| (&*attribute.key, index::tokens(condition)));
    let keys = matcher.exact_keys.iter().flatten();
    let present = per.iter().chain(keys).map(|attribute| (&*attribute.key, vec![Token::Present]));
    conditions.chain(present).filter(|(_, tokens)| !tokens.is_empty()).collect()
}

#[cfg(test)]
mod tests;
