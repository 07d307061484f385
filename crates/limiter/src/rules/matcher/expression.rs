//! `when:` expressions in CEL, the Common Expression Language.

use std::collections::HashMap;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, LazyLock};

use cel::extractors::This;
use cel::{Context, Env, ExecutionError, Program, Value};

use super::judge::{self, Facts};
use super::pattern::Pattern;
use super::search_cost::USUAL_TEXT;
use super::subject::Subject;
use super::syntax::Syntax;
use crate::rules::attribute::Attribute;
use crate::rules::work::MAX_WORK;

/// The longest expression, in bytes.
pub(super) const MAX_BYTES: usize = 4096;

/// The steps of an evaluation, without its parts.
const EVALUATION: usize = 100;
/// The steps of each part.
const NODE: usize = 5;
/// The steps of each value that is copied, beside those of a part: it may be long.
const COPY: usize = 200;

/// The bytes of a text that are copied in one step, and how many times longer it takes to read them, such as for
/// `double`, and to look for another text in them.
const BYTES_PER_STEP: usize = 128;
const READ: usize = 4;
const LOOKED_FOR: usize = 32;

/// The standard functions of CEL. They take as much memory as many expressions, so all share them.
static STANDARD: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));

/// A compiled expression.
pub struct Expression {
    program: Program,
    scope: Scope,
    /// What an evaluation costs.
    steps: usize,
    /// The further steps of searches, if each text has the usual length.
    searched: usize,
    /// How many times texts are walked through. One that is only copied counts once, another one as often as it takes
    /// longer.
    walked: usize,
    /// The attributes whose values may be those texts. `None` stands for all values and names.
    named: Option<Vec<Attribute>>,
    /// How many combinations of values were tried to check its types.
    trials: usize,
}

/// The functions of CEL. `matches` knows the patterns of one expression, which were compiled with it.
#[derive(Clone)]
pub struct Scope {
    env: Arc<Env>,
    patterns: Arc<HashMap<String, Pattern>>,
}

impl Scope {
    pub(super) fn new(patterns: HashMap<String, Pattern>) -> Self {
        Self { env: Arc::clone(&STANDARD), patterns: Arc::new(patterns) }
    }

    /// An empty context. Searches add to `work` as [`super::Matcher::matches`] says.
    pub(super) fn context<'v>(&self, work: &Arc<AtomicUsize>) -> Context<'static, 'v> {
        let mut context = Context::with_env(Arc::clone(&self.env));
        if !self.patterns.is_empty() {
            let (patterns, work) = (Arc::clone(&self.patterns), Arc::clone(work));
            let matches = move |This(text): This<Arc<String>>, pattern: Arc<String>| {
                patterns.get(&*pattern).is_some_and(|pattern| {
                    let steps = pattern.search_steps(text.len());
                    // One thread evaluates an expression. CEL wants functions that several could call.
                    let known = work.load(Relaxed);
                    work.store(known.saturating_add(steps), Relaxed);
                    known.saturating_add(steps) <= MAX_WORK && pattern.is_match(&text)
                })
            };
            // The standard functions have no other of this name: that feature of the library is off.
            let _ = context.add_function("matches", matches);
        }
        context
    }
}

impl std::fmt::Debug for Expression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Expression")
    }
}

impl Expression {
    pub fn compile(source: &str) -> Result<Self, String> {
        if source.len() > MAX_BYTES {
            return Err(format!("expected a CEL expression of at most {MAX_BYTES} bytes"));
        }
        // The parser bounds its own recursion.
        let program = STANDARD.compile(source).map_err(|e| {
            format!("expected a CEL expression: {}", e.to_string().lines().next().unwrap_or("it does not parse"))
        })?;
        // Nothing else may walk the tree before its depth is known.
        let Syntax { bound, patterns, searches, evaluated, copied, looked_for, read, joined, named, .. } =
            Syntax::of(program.expression())?;
        let steps = EVALUATION + NODE * evaluated + COPY * copied + searches.0;
        let scope = Scope::new(patterns);
        let references = program.references();
        let known = |v: &&str| ["attributes", "domain", "hits"].contains(v) || bound.iter().any(|own| own == *v);
        let unknown = references.variables().into_iter().find(|v| !known(v));
        if let Some(name) = unknown {
            return Err(format!("expected only the variables attributes, domain and hits, not {name}"));
        }
        if let Some(name) = references.functions().into_iter().find(|name| !is_declared(&scope.env, name)) {
            return Err(format!("expected a function of CEL, not {name}"));
        }
        let trials = judge::check_types(program.expression(), &scope)?;
        let walks =
            [(copied, 1), (read, READ), (looked_for, LOOKED_FOR)].map(|(times, each)| times.saturating_mul(each));
        let walked = walks.into_iter().fold(0, usize::saturating_add).saturating_mul(joined + 1);
        let named = named.map(|names| names.iter().map(|name| Attribute::parse(name)).collect());
        Ok(Self { program, scope, steps, searched: searches.1, walked, named, trials })
    }

    /// The memory of its regular expressions, in bytes.
    pub fn pattern_bytes(&self) -> usize {
        self.scope.patterns.values().map(Pattern::bytes).sum()
    }

    /// How many combinations of values were tried to check its types, at most [`judge::MAX_TRIALS`].
    pub const fn trials(&self) -> usize {
        self.trials
    }

    /// What an evaluation costs, in steps.
    pub const fn steps(&self) -> usize {
        self.steps
    }

    /// The most steps for the bytes of texts of the usual length, if no text is put together.
    pub const fn search_steps(&self) -> usize {
        self.searched.saturating_add(self.walk_steps(USUAL_TEXT))
    }

    /// The most steps to walk through texts of this length.
    const fn walk_steps(&self, bytes: usize) -> usize {
        self.walked.saturating_mul(bytes) / BYTES_PER_STEP
    }

    /// True if the expression is true. An error in it, such as a missing attribute, or a value of another type counts
    /// as false. Searches add to `work` as [`super::Matcher::matches`] says.
    pub fn is_true(&self, subject: &Subject<'_>, work: &mut usize) -> bool {
        if self.walked > 0 {
            *work = work.saturating_add(self.walk_steps(subject.longest(self.named.as_deref())));
            if *work > MAX_WORK {
                return false;
            }
        }
        matches!(self.value(subject, work), Ok(Value::Bool(true)))
    }

    /// Why the expression is not true, for people.
    pub fn why_not(&self, subject: &Subject<'_>) -> Option<String> {
        match self.value(subject, &mut 0) {
            Ok(Value::Bool(true)) => None,
            Ok(Value::Bool(false)) => Some("when is false".to_owned()),
            Ok(other) => Some(format!("when is {}, not true or false", other.type_of())),
            Err(error) => Some(format!("when fails: {error}")),
        }
    }

    /// False if the expression is not true in any check of which `facts` hold.
    pub fn can_be_true(&self, facts: &Facts<'_>) -> bool {
        judge::can_be_true(self.program.expression(), &self.scope, facts)
    }

    fn value(&self, subject: &Subject<'_>, work: &mut usize) -> Result<Value, ExecutionError> {
        let searched = Arc::new(AtomicUsize::new(*work));
        let mut context = self.scope.context(&searched);
        context.set_variable_resolver(subject);
        context.add_variable_from_value("domain", subject.domain.to_owned());
        context.add_variable_from_value("hits", i64::from(subject.descriptor.hits));
        let value = self.program.execute(&context);
        *work = searched.load(Relaxed);
        value
    }
}

/// True if CEL has a function or an operator of this name. Without this check, an expression with an unknown function
/// would be false for every check, and its limit would never apply.
fn is_declared(env: &Arc<Env>, name: &str) -> bool {
    let is_operator = !name.starts_with(char::is_alphabetic);
    let undeclared = |call: String| {
        let result = env.compile(&call).map(|program| program.execute(&Context::with_env(Arc::clone(env))));
        matches!(result, Ok(Err(ExecutionError::UndeclaredReference(_))))
    };
    // As a function, and as a method of each type that has methods. A declared one rejects the missing arguments.
    is_operator
        || name == "matches"
        || !["", "''.", "[].", "{}."].iter().all(|receiver| undeclared(format!("{receiver}{name}()")))
}

#[cfg(test)]
mod tests;
