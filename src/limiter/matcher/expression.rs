//! `when:` expressions in CEL, the Common Expression Language.

use std::collections::HashMap;
use std::sync::Arc;

use cel::{Context, Env, Program, Value};

/// The longest expression, in bytes.
const MAX_BYTES: usize = 4096;
/// The deepest nesting of brackets: the parser recurses.
const MAX_DEPTH: usize = 64;

/// A compiled expression.
pub struct Expression {
    program: Program,
    env: Arc<Env>,
}

impl std::fmt::Debug for Expression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Expression")
    }
}

impl Expression {
    pub fn compile(source: &str) -> Result<Self, String> {
        if source.len() > MAX_BYTES || depth(source) > MAX_DEPTH {
            return Err(format!("expected a CEL expression of at most {MAX_BYTES} bytes, {MAX_DEPTH} brackets deep"));
        }
        let env = Arc::new(Env::stdlib());
        let program = env.compile(source).map_err(|e| {
            format!("expected a CEL expression: {}", e.to_string().lines().next().unwrap_or("it does not parse"))
        })?;
        let references = program.references();
        let unknown = references.variables().into_iter().find(|v| !["attributes", "domain", "hits"].contains(v));
        if let Some(name) = unknown {
            return Err(format!("expected only the variables attributes, domain and hits, not {name}"));
        }
        Ok(Self { program, env })
    }

    /// True when the expression is; an error in it (a missing attribute, say) or another type counts as false.
    pub fn holds(&self, domain: &str, entries: &[(&str, &str)], hits: u32) -> bool {
        let mut context = Context::with_env(Arc::clone(&self.env));
        let mut attributes: HashMap<String, Value> = HashMap::with_capacity(entries.len());
        for (key, value) in entries {
            attributes.entry((*key).to_owned()).or_insert_with(|| Value::String(Arc::new((*value).to_owned())));
        }
        context.add_variable_from_value("attributes", attributes);
        context.add_variable_from_value("domain", domain.to_owned());
        context.add_variable_from_value("hits", i64::from(hits));
        matches!(self.program.execute(&context), Ok(Value::Bool(true)))
    }
}

fn depth(source: &str) -> usize {
    let (mut now, mut most) = (0usize, 0);
    for c in source.chars() {
        match c {
            '(' | '[' | '{' | '!' | '-' | '?' => now += 1,
            ')' | ']' | '}' => now = now.saturating_sub(1),
            _ => {}
        }
        most = most.max(now);
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_domain_and_hits_are_there() {
        let expression = Expression::compile("domain == 'api' && hits > 2 && attributes.user.startsWith('u')").unwrap();
        assert!(expression.holds("api", &[("user", "u1")], 3));
        assert!(!expression.holds("api", &[("user", "u1")], 2));
        assert!(!expression.holds("api", &[], 3), "a missing attribute is no match");
    }

    #[test]
    fn what_is_no_expression_is_refused_and_nothing_recurses_without_end() {
        let deep = "(".repeat(2000) + "true" + &")".repeat(2000);
        for source in ["1 +", "usr == 'a'", "\"", deep.as_str(), &"!".repeat(3000), &"a.".repeat(5000)] {
            assert!(
                Expression::compile(source).unwrap_err().starts_with("expected"),
                "{}",
                &source[..source.len().min(20)]
            );
        }
    }
}
