//! Tests that need no server: the layers of the code, the documents, rule files, and a core with the memory store.

#[path = "../support/api_lines.rs"]
mod api_lines;
mod architecture;
mod core;
mod documents;
#[path = "../../fuzz/entries/mod.rs"]
mod entries;
mod envoy_api;
mod envoy_values;
mod fuzz_corpora;
mod import;
mod revisions;
mod rule_file;
mod rule_schema;
mod rule_warnings;
#[path = "../../crates/limiter/tests/promises/rules.rs"]
mod rules;
