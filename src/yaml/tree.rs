//! A YAML document as a tree in which every node knows its line and column.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

use limiter::rules::{Path, Step};

/// The most nodes of one document. Aliases count in full, so that a small file cannot unfold into a large one.
const MAX_NODES: usize = 1_000_000;
/// The most bytes of keys and values of one document. Those of aliases count in full, too.
const MAX_TEXT: usize = 32 << 20;
/// The deepest nesting of a document.
const MAX_DEPTH: usize = 64;

/// Line and column, both from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub line: usize,
    pub column: usize,
}

#[derive(Clone, Debug)]
pub struct Node {
    pub place: Place,
    pub value: Value,
}

/// How a scalar is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Not quoted: a number, a boolean or null if it looks like one, else a string.
    Plain,
    /// Quoted: a string.
    Quoted,
    /// From a source without quotes, such as the environment: any type; commas separate the items of a list.
    Untyped,
}

#[derive(Clone, Debug)]
pub enum Value {
    Scalar {
        text: String,
        style: Style,
    },
    List(Vec<Rc<Node>>),
    /// In document order. Keys are unique.
    Map(Vec<(String, Place, Rc<Node>)>),
}

/// A syntax error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyntaxError {
    pub place: Place,
    pub message: String,
}

impl Node {
    /// Parses the one document of `text`. An empty text is an empty map.
    ///
    /// # Errors
    /// The first syntax error.
    pub fn parse(text: &str) -> Result<Rc<Self>, SyntaxError> {
        Self::read(text).map_err(|mut error| {
            let line = text.lines().nth(error.place.line - 1).unwrap_or_default();
            if error.message != MERGE {
                error.message += unquoted(line).unwrap_or_default();
            }
            error
        })
    }

    fn read(text: &str) -> Result<Rc<Self>, SyntaxError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut reader = Reader { parser: Parser::new_from_str(text), anchors: HashMap::new(), size: Size::default() };
        let mut root = None;
        loop {
            let (event, span) = reader.next()?;
            match event {
                Event::StreamEnd => break,
                Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing => {}
                _ if root.is_some() => return Err(error(&span, "expected one document, not several")),
                event => root = Some(reader.node(event, &span, 0)?.0),
            }
        }
        Ok(root.unwrap_or_else(|| Rc::new(Self::empty())))
    }

    /// A map without entries.
    pub const fn empty() -> Self {
        Self { place: Place { line: 1, column: 1 }, value: Value::Map(Vec::new()) }
    }

    /// The tree of a JSON value. It has no places. `None` if it nests deeper than `depth`.
    pub fn from_json(json: &serde_json::Value, depth: usize) -> Option<Self> {
        let place = Place { line: 1, column: 1 };
        let below = |value| Some(Rc::new(Self::from_json(value, depth.checked_sub(1)?)?));
        let scalar = |text: String, style| Value::Scalar { text, style };
        let value = match json {
            serde_json::Value::Null => scalar("null".to_owned(), Style::Plain),
            serde_json::Value::Bool(value) => scalar(value.to_string(), Style::Plain),
            serde_json::Value::Number(value) => scalar(value.to_string(), Style::Plain),
            serde_json::Value::String(text) => scalar(text.clone(), Style::Quoted),
            serde_json::Value::Array(items) => Value::List(items.iter().map(below).collect::<Option<_>>()?),
            serde_json::Value::Object(entries) => {
                let entry = |(key, value): (&String, _)| Some((key.clone(), place, below(value)?));
                Value::Map(entries.iter().map(entry).collect::<Option<_>>()?)
            }
        };
        Some(Self { place, value })
    }

    /// The place of `path`, or of the nearest existing node above it.
    pub fn place_of(&self, path: &Path) -> Place {
        let mut node = self;
        let mut place = self.place;
        for step in &path.0 {
            let next = match (step, &node.value) {
                (Step::Field(name), Value::Map(entries)) => {
                    entries.iter().find(|(k, ..)| k == name).map(|(_, key, n)| (n, n.place_beside(*key)))
                }
                (Step::Index(at), Value::List(items)) => items.get(*at).map(|n| (n, n.place)),
                // A single value may be written instead of a list.
                (Step::Index(0), _) => continue,
                _ => None,
            };
            let Some(next) = next else { break };
            (node, place) = next;
        }
        place
    }

    /// The place of the value if it is beside its key, else that of the key: the value may be far below, or an alias.
    fn place_beside(&self, key: Place) -> Place {
        if self.place.line == key.line && self.place.column > key.column { self.place } else { key }
    }
}

/// A node and all below it: how many nodes, and how many bytes of keys and values.
#[derive(Clone, Copy, Debug, Default)]
struct Size {
    nodes: usize,
    text: usize,
}

impl Size {
    const fn add(&mut self, other: Self) {
        self.nodes += other.nodes;
        self.text = self.text.saturating_add(other.text);
    }
}

type Measured = (Rc<Node>, Size);

struct Reader<'t> {
    parser: Parser<'t, saphyr_parser::StrInput<'t>>,
    anchors: HashMap<usize, Measured>,
    size: Size,
}

impl<'t> Reader<'t> {
    fn next(&mut self) -> Result<(Event<'t>, Span), SyntaxError> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(e)) => {
                Err(SyntaxError { place: place(e.marker()), message: format!("expected YAML: {}", e.info()) })
            }
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    /// Reads the node that begins with `event`. Returns it and its size.
    fn node(&mut self, event: Event<'t>, span: &Span, depth: usize) -> Result<Measured, SyntaxError> {
        if depth > MAX_DEPTH {
            return Err(error(span, "expected a document that nests at most 64 deep"));
        }
        let start = place(&span.start);
        let mut size = Size { nodes: 1, text: 0 };
        // What is below a node counts when it is read.
        let mut own = size;
        let (value, anchor) = match event {
            Event::Alias(anchor) => {
                let known = self.anchors.get(&anchor).cloned();
                let (node, size) = known.ok_or_else(|| error(span, "expected an alias of an anchor before it"))?;
                self.count(size, span)?;
                return Ok((node, size));
            }
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain && tag.is_none();
                let style = if plain { Style::Plain } else { Style::Quoted };
                own.text = text.len();
                (Value::Scalar { text: text.into_owned(), style }, anchor)
            }
            Event::SequenceStart(anchor, _) => {
                let mut items = Vec::new();
                loop {
                    let (event, span) = self.next()?;
                    if event == Event::SequenceEnd {
                        break;
                    }
                    let (node, below) = self.node(event, &span, depth + 1)?;
                    size.add(below);
                    items.push(node);
                }
                (Value::List(items), anchor)
            }
            Event::MappingStart(anchor, _) => {
                let mut entries: Vec<(String, Place, Rc<Node>)> = Vec::new();
                let mut keys = HashSet::new();
                loop {
                    let (event, span) = self.next()?;
                    let key = match event {
                        Event::MappingEnd => break,
                        Event::Scalar(text, ScalarStyle::Plain, ..) if text == "<<" => return Err(error(&span, MERGE)),
                        Event::Scalar(text, ..) => text.into_owned(),
                        _ => return Err(error(&span, "expected a plain key")),
                    };
                    if !keys.insert(key.clone()) {
                        return Err(error(&span, &format!("expected each key once, not {key:?} again")));
                    }
                    let (event, value_span) = self.next()?;
                    let (node, below) = self.node(event, &value_span, depth + 1)?;
                    size.add(below);
                    own.text += key.len();
                    entries.push((key, place(&span.start), node));
                }
                (Value::Map(entries), anchor)
            }
            _ => return Err(error(span, "expected a value")),
        };
        self.count(own, span)?;
        size.text = size.text.saturating_add(own.text);
        let node = Rc::new(Node { place: start, value });
        if anchor > 0 {
            self.anchors.insert(anchor, (Rc::clone(&node), size));
        }
        Ok((node, size))
    }

    fn count(&mut self, size: Size, span: &Span) -> Result<(), SyntaxError> {
        self.size.add(size);
        if self.size.nodes > MAX_NODES {
            return Err(error(span, "expected at most 1000000 nodes, aliases counted in full"));
        }
        if self.size.text > MAX_TEXT {
            return Err(error(span, "expected at most 32 MiB of keys and values, aliases counted in full"));
        }
        Ok(())
    }
}

const MERGE: &str = "expected a key: merge keys (<<) are not supported. Repeat the fields; an alias (*name) may stand for \
                     a whole value";

/// A hint for a line that has a syntax error, if something in it should have quotes.
fn unquoted(line: &str) -> Option<&'static str> {
    let (mut quote, mut before) = (None, ' ');
    for c in line.chars() {
        let starts_value = before.is_whitespace() || "[{,:".contains(before);
        match (quote, c) {
            (Some(open), _) => quote = quote.filter(|_| c != open),
            (None, '"' | '\'') if starts_value => quote = Some(c),
            (None, '#') if before.is_whitespace() => return None,
            (None, '{') if !starts_value => return Some(". Quote a value that contains braces: \"/a/{id}\""),
            (None, '*') if starts_value => return Some(". Quote a value that begins with *: \"*.png\""),
            _ => {}
        }
        before = c;
    }
    None
}

fn place(marker: &saphyr_parser::Marker) -> Place {
    Place { line: marker.line().max(1), column: marker.col() + 1 }
}

fn error(span: &Span, message: &str) -> SyntaxError {
    SyntaxError { place: place(&span.start), message: message.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_knows_its_place() {
        let root = Node::parse("a:\n  - b: 1\n    c: x\n").unwrap();
        let path = Path::default().field("a").index(0).field("c");
        assert_eq!(root.place_of(&path), Place { line: 3, column: 8 });
        assert_eq!(root.place_of(&path.field("missing")), Place { line: 3, column: 8 });
    }

    #[test]
    fn invalid_documents_are_reported_with_their_place() {
        for (text, line) in [("a: [", 1), ("a: 1\na: 2", 2), ("a: 1\n--- \nb: 2", 3), ("a: *x", 1), ("? [a]\n: 1", 1)] {
            let error = Node::parse(text).unwrap_err();
            assert!(error.place.line >= line && error.message.starts_with("expected"), "{text:?} {error:?}");
        }
    }

    #[test]
    fn values_that_should_have_quotes_are_named() {
        let table = [
            ("a: { path: { route: /a/{id} } }", "contains braces"),
            ("a: { path: { route: /a/{*rest} } }", "contains braces"),
            ("a: [/a/{id}, b]", "contains braces"),
            ("a:\n  b: *.png", "begins with *"),
            ("a: { b: *.png }", "begins with *"),
            ("a: &x { b: 1 }\nc:\n  <<: *x", "merge keys"),
            ("a: &x { b: 1 }\nc: { <<: *x }", "merge keys"),
        ];
        for (text, hint) in table {
            let error = Node::parse(text).unwrap_err();
            assert!(error.message.starts_with("expected ") && error.message.contains(hint), "{text:?} {error:?}");
        }
        for text in ["a: { b: \"/a/{id}\", c: 'x' }", "a: /a/{id}", "a: { \"<<\": b }", "a: &x [1]\nb: *x"] {
            assert!(Node::parse(text).is_ok(), "{text}");
        }
        assert!(!Node::parse("a: [").unwrap_err().message.contains("Quote"));
    }

    #[test]
    fn an_alias_bomb_is_rejected() {
        let mut text = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
        for at in 1..9 {
            let list = vec![format!("*a{}", at - 1); 10].join(",");
            text += &format!("a{at}: &a{at} [{list}]\n");
        }
        assert!(Node::parse(&text).unwrap_err().message.contains("1000000"));
        assert!(Node::parse(&"[".repeat(5000)).is_err());
        let long = |count: usize| format!("a: &a {}\nb: [{}]", "x".repeat(1 << 20), vec!["*a"; count].join(","));
        assert!(Node::parse(&long(30)).is_ok());
        assert!(Node::parse(&long(32)).unwrap_err().message.contains("32 MiB"));
    }
}
