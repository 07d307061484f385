//! The JSON Schema of rule files agrees with the decoder: an editor shows no error for a file that a node takes, and
//! most errors that a node would report.

use boon::{Compiler, SchemaIndex, Schemas};
use limiter::Revision;
use serde_json::{Map, Value as Json, json};
use tidegate::rulefile::decode::compile;
use tidegate::yaml::tree::{Node, Style, Value};

const SCHEMA: &str = include_str!("../../src/rulefile/rules.schema.json");

struct Schema(Schemas, SchemaIndex);

impl Schema {
    fn new() -> Self {
        let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
        compiler.add_resource("rules.json", serde_json::from_str(SCHEMA).unwrap()).unwrap();
        let index = compiler.compile("rules.json", &mut schemas).unwrap();
        Self(schemas, index)
    }

    fn takes(&self, text: &str) -> Result<(), String> {
        let document = Node::parse(text).map(|root| to_json(&root)).map_err(|error| error.message)?;
        self.0.validate(&document, self.1).map_err(|error| error.to_string())
    }
}

/// The document as an editor reads it.
fn to_json(node: &Node) -> Json {
    match &node.value {
        Value::Scalar { text, style: Style::Plain } => serde_json::from_str(text).unwrap_or_else(|_| json!(text)),
        Value::Scalar { text, .. } => json!(text),
        Value::List(items) => items.iter().map(|item| to_json(item)).collect(),
        Value::Map(entries) => {
            Json::Object(entries.iter().map(|(key, _, value)| (key.clone(), to_json(value))).collect::<Map<_, _>>())
        }
    }
}

fn with_limit(limit: &str) -> String {
    format!("version: 1\ndomains:\n  - domain: api\n    limits:\n      - {{ {limit} }}\n")
}

#[test]
fn files_that_a_node_takes_fit_the_schema() {
    let schema = Schema::new();
    let limits = [
        "name: l, per: [], limit: 0, window: 1h 30m",
        "name: l, per: [user, { ip: { v4: 0, v6: 128 } }], limit: unlimited, calendar: week, algorithm: fixed_window",
        "name: l, per: [g#2], exact_keys: [g, g], limit: 1, window: 250ms, match: { g#2: { not: { not: b } } }",
        "name: l, per: [], limit: 1, window: 1s, match: { a: [b, c], b: { cidr: '::/0' }, c: { cidr: [10.0.0.0/8, '::1'] } }",
        "name: l, per: [], limit: 1, window: 1s, match: { a: { present: false }, p: { route: '/a/{b}' }, g: { glob: '*' } }",
        "name: l, per: [], limit: 68719476736, window: 1s, burst: 5, algorithm: token_bucket, consistency: exact",
        "name: l, per: [], limit: 1, window: 1s, algorithm: rolling_window, cells: 20, mode: 'off', scope: region",
        "name: l, per: [], limit: 1, window: 1s, response_headers: { X-Plan: '', content-language: en }",
        "name: l, per: [], limit: 1, window: 1s, when: 'hits > 1', overrides: [{ when: 'hits > 2', limit: unlimited, mode: shadow }]",
        "name: l, per: [], limit: 1, calendar: day, time_zone: Europe/Paris, algorithm: fixed_window, on_store_failure: deny",
    ];
    let wholes = [
        include_str!("../../src/cli/sample.yaml"),
        include_str!("../../fuzz/entries/rules.yaml"),
        "version: 1\ndomains: [{ domain: d, charge: each, default: deny, limits: [] }]",
        "version: 1\ndomains: [{ domain: d, identity: either, on_identity_failure: allow, limits: [] }]",
    ];
    let docs =
        include_str!("../../docs/rules.md").split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let docs = docs.filter(|block| block.starts_with("version: 1\ndomains")).map(str::to_owned);
    let texts = limits.map(with_limit).into_iter().chain(wholes.map(str::to_owned)).chain(docs);
    for text in texts {
        assert_eq!(
            compile("r.yaml", &text, Revision(1)).map(drop).map_err(|errors| errors[0].to_string()),
            Ok(()),
            "{text}"
        );
        assert_eq!(schema.takes(&text), Ok(()), "{text}");
    }
}

#[test]
fn errors_that_an_editor_can_know_do_not_fit_the_schema() {
    let schema = Schema::new();
    let limits = [
        "per: [], limit: 1, window: 1s",
        "name: Bad Name, per: [], limit: 1, window: 1s",
        "name: l, limit: 1, window: 1s",
        "name: l, per: [], limit: 1",
        "name: l, per: [], limit: 1, window: 1s, calendar: day",
        "name: l, per: [], limit: Unlimited, window: 1s",
        "name: l, per: [], limit: -1, window: 1s",
        "name: l, per: [], limit: \"100\", window: 1s",
        "name: l, per: [], limit: 1, window: 1 fortnight",
        "name: l, per: [], limit: 1, window: 60",
        "name: l, per: user, limit: 1, window: 1s",
        "name: l, per: [{ ip: { v4: 33, v6: 64 } }], limit: 1, window: 1s",
        "name: l, per: [{ ip: { v4: 32 } }], limit: 1, window: 1s",
        "name: l, per: [{ ip: { v4: 32, v6: 129 } }], limit: 1, window: 1s",
        "name: l, per: [{ ip: { v4: 32, v6: 64, v8: 1 } }], limit: 1, window: 1s",
        "name: l, per: [{}], limit: 1, window: 1s",
        "name: l, per: [''], limit: 1, window: 1s",
        "name: l, per: [], exact_keys: [], limit: 1, window: 1s",
        "name: l, per: [], exact_keys: [g#2], limit: 1, window: 1s",
        "name: l, per: [], limit: 1, windw: 1s",
        "name: l, per: [], limit: 1, window: 1s, mode: Enforce",
        "name: l, per: [], limit: 1, window: 1s, algorithm: rolling_window, cells: 21",
        "name: l, per: [], limit: 1, window: 1s, match: { a: 200 }",
        "name: l, per: [], limit: 1, window: 1s, match: { a: [] }",
        "name: l, per: [], limit: 1, window: 1s, match: { a: { perfix: x } }",
        "name: l, per: [], limit: 1, window: 1s, match: { a: { prefix: x, suffix: y } }",
        "name: l, per: [], limit: 1, window: 1s, match: { a: { route: a } }",
        "name: l, per: [], limit: 1, window: 1s, match: { a: { cidr: ten } }",
        "name: l, per: [], limit: 1, window: 1s, match: { a: { present: \"true\" } }",
        "name: l, per: [], limit: 1, window: 1s, overrides: [{ match: { a: b } }]",
        "name: l, per: [], limit: 1, window: 1s, response_headers: { content-length: '5' }",
        "name: l, per: [], limit: 1, window: 1s, response_headers: { x-ratelimit-limit: '5' }",
        "name: l, per: [], limit: 1, window: 1s, response_headers: { 'a b': x }",
        "name: l, per: [], limit: 1, window: 1s, replaces: [L]",
        "name: l, per: [], limit: 1, window: 1s, when: ''",
    ];
    let wholes = [
        "domains: []",
        "version: 2\ndomains: []",
        "version: 1",
        "version: 1\ndomains: [{ domain: '', limits: [] }]",
        "version: 1\ndomains: [{ domain: d }]",
        "version: 1\ndomains: [{ domain: d, limits: [], default: maybe }]",
        "version: 1\ndomains: [{ domain: d, limits: [], charge: none }]",
        "version: 1\ndomains: [{ domain: d, limits: [], identity: nobody }]",
        "version: 1\ndomains: [{ domain: d, limits: [], on_identity_failure: local }]",
        "domain: d\ndescriptors: []",
        "- { namespace: d, max_value: 1 }",
    ];
    for text in limits.map(with_limit).into_iter().chain(wholes.map(str::to_owned)) {
        assert!(compile("r.yaml", &text, Revision(1)).is_err(), "the decoder takes {text}");
        assert!(schema.takes(&text).is_err(), "the schema takes {text}");
    }
}
