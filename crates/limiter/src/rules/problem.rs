//! Errors of rules: each has its place, and what was expected there.

use std::fmt;

use super::matcher::PatternBudget;
use super::path::Path;

/// One error: its place, and what was expected there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub path: Path,
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// The errors found so far.
#[derive(Default)]
pub(super) struct Problems {
    pub all: Vec<Problem>,
    /// What is left for regular expressions.
    pub patterns: PatternBudget,
}

impl Problems {
    pub fn expect(&mut self, holds: bool, path: &Path, message: &str) {
        if !holds {
            self.all.push(Problem { path: path.clone(), message: message.to_owned() });
        }
    }

    pub fn check(&mut self, result: Result<(), String>, path: &Path) {
        if let Err(message) = result {
            self.all.push(Problem { path: path.clone(), message });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_shown_after_its_place() {
        let path = Path::default().field("domains").index(0).field("limits");
        let problem = Problem { path, message: "expected a limit".to_owned() };
        assert_eq!(problem.to_string(), "domains[0].limits: expected a limit");
    }
}
