//! Route patterns. In `/a/{b}`, `{b}` matches one non-empty segment. In `/a/{*rest}`, `{*rest}` matches one or more
//! segments at the end.

/// The most segments of a pattern. The index of routes is as deep, and it is walked by recursion.
const MAX_SEGMENTS: usize = 100;

/// A compiled route pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    segments: Vec<Segment>,
    /// The pattern ends in `{*name}`.
    rest: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Segment {
    Literal(Box<str>),
    Any,
}

impl Route {
    pub fn parse(pattern: &str) -> Result<Self, String> {
        let path = pattern.strip_prefix('/').ok_or_else(|| "expected a route that begins with /".to_owned())?;
        let mut route = Self { segments: Vec::new(), rest: false };
        for part in path.split('/') {
            if route.rest {
                return Err("expected {*rest} to be the last segment".into());
            }
            if route.segments.len() == MAX_SEGMENTS {
                return Err(format!("expected at most {MAX_SEGMENTS} segments"));
            }
            match part.strip_prefix('{').and_then(|p| p.strip_suffix('}')) {
                Some(name) if name.trim_start_matches('*').is_empty() => {
                    return Err("expected a name between { and }".into());
                }
                Some(name) if name.starts_with('*') => route.rest = true,
                Some(_) => route.segments.push(Segment::Any),
                None if part.contains(['{', '}']) => {
                    return Err(format!("expected {{name}} to be a whole segment, not {part:?}"));
                }
                None => route.segments.push(Segment::Literal(part.into())),
            }
        }
        Ok(route)
    }

    pub fn matches(&self, path: &str) -> bool {
        let Some(path) = path.strip_prefix('/') else { return false };
        let mut parts = path.split('/');
        let fits = self.segments.iter().all(|segment| match (segment, parts.next()) {
            (Segment::Literal(literal), Some(part)) => &**literal == part,
            (Segment::Any, Some(part)) => !part.is_empty(),
            (_, None) => false,
        });
        fits && match parts.next() {
            None => !self.rest,
            Some(part) => self.rest && !(part.is_empty() && parts.next().is_none()),
        }
    }

    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_match_whole_paths() {
        let table = [
            ("/v1/posts/{id}", "/v1/posts/7", true),
            ("/v1/posts/{id}", "/v1/posts/", false),
            ("/v1/posts/{id}", "/v1/posts/7/x", false),
            ("/v1/posts/{id}", "/v1/posts", false),
            ("/files/{*rest}", "/files/a/b", true),
            ("/files/{*rest}", "/files/a", true),
            ("/files/{*rest}", "/files//a", true),
            ("/files/{*rest}", "/files/", false),
            ("/files/{*rest}", "/files", false),
            ("/", "/", true),
            ("/", "/a", false),
            ("/a", "a", false),
        ];
        for (pattern, path, expected) in table {
            assert_eq!(Route::parse(pattern).unwrap().matches(path), expected, "{pattern} {path}");
        }
        assert!(Route::parse("/{*rest}/x").is_err());
        assert!(Route::parse("/a{b}").is_err());
    }
}
