//! The rules that result from a change, checked as a whole.

use std::sync::Arc;

use limiter::rules::{Domain, Limit, Path, Problem, RuleBook, Rules, Step};

use crate::ports::admin::{AdminError, ConfigChange};
use crate::ports::plane::Edit;

/// Says what a change of the rules writes, after it has checked the whole book that results.
///
/// # Errors
/// Every field that is not valid, or that there is nothing to remove.
pub fn edit(book: &RuleBook, change: ConfigChange) -> Result<Edit, AdminError> {
    match change {
        ConfigChange::PutRules(rules) => {
            let rules = Arc::new(rules);
            check(book, Arc::clone(&rules), None)?;
            Ok(Edit::ReplaceRules(rules))
        }
        ConfigChange::PutLimit { domain, limit } => {
            let (rules, place) = with_limit(book.rules(), &domain, &limit);
            check(book, Arc::new(rules), Some(place))?;
            Ok(Edit::PutLimit { domain, limit })
        }
        ConfigChange::RemoveLimit { domain, name } => {
            let rules = without_limit(book.rules(), &domain, &name);
            let rules = rules.ok_or_else(|| AdminError::NotFound(format!("the limit {domain}/{name}")))?;
            check(book, Arc::new(rules), None)?;
            Ok(Edit::RemoveLimit { domain, name })
        }
        _ => Err(AdminError::Internal("expected a change of rules".to_owned())),
    }
}

/// Compiles the rules. The problems of the limit at `place` have paths within that limit.
fn check(book: &RuleBook, rules: Arc<Rules>, place: Option<(usize, usize)>) -> Result<(), AdminError> {
    if let Err(message) = plane::check_bounds(&rules) {
        return Err(AdminError::Invalid(vec![Problem { path: Path::default().field("domains"), message }]));
    }
    let compiled = RuleBook::compile(rules, book.revision);
    compiled.map(drop).map_err(|problems| match place {
        Some(place) => AdminError::Invalid(problems.into_iter().map(|problem| within(problem, place)).collect()),
        None => AdminError::Invalid(problems),
    })
}

/// Cuts `domains[i].limits[j]` off the path of a problem.
fn within(problem: Problem, (domain, limit): (usize, usize)) -> Problem {
    let prefix = Path::default().field("domains").index(domain).field("limits").index(limit);
    let Problem { path, message } = problem;
    match path.0.strip_prefix(prefix.0.as_slice()) {
        Some(rest) => Problem { path: Path(rest.to_vec()), message },
        None => Problem { path, message },
    }
}

/// The rules with a limit put where the one with its name is, else behind the others of its domain.
fn with_limit(rules: &Rules, domain: &str, limit: &Limit) -> (Rules, (usize, usize)) {
    let mut rules = rules.clone();
    let at = rules.domains.iter().position(|known| known.domain == domain).unwrap_or_else(|| {
        rules.domains.push(Domain { domain: domain.to_owned(), ..Domain::default() });
        rules.domains.len() - 1
    });
    let limits = &mut rules.domains[at].limits;
    let place = limits.iter().position(|known| known.name == limit.name).unwrap_or(limits.len());
    match limits.get_mut(place) {
        Some(known) => *known = limit.clone(),
        None => limits.push(limit.clone()),
    }
    (rules, (at, place))
}

fn without_limit(rules: &Rules, domain: &str, name: &str) -> Option<Rules> {
    let mut rules = rules.clone();
    let limits = &mut rules.domains.iter_mut().find(|known| known.domain == domain)?.limits;
    let before = limits.len();
    limits.retain(|limit| limit.name != name);
    (limits.len() < before).then_some(rules)
}

/// Checks a name of a tier or a user: it is the value of an attribute.
///
/// # Errors
/// What was expected.
pub fn check_name(field: &str, name: &str) -> Result<(), AdminError> {
    if (1..=256).contains(&name.len()) && !name.chars().any(char::is_control) {
        return Ok(());
    }
    let message = "expected 1 to 256 bytes without control characters".to_owned();
    Err(AdminError::Invalid(vec![Problem { path: Path(vec![Step::Field(field.into())]), message }]))
}
