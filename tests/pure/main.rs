//! Tests that need no server: the layers of the code, the documents, rule files, and a core on the memory store.

mod architecture;
mod core;
mod document;
#[path = "../../fuzz/entries/mod.rs"]
mod entries;
mod fuzz_corpora;
mod revisions;
mod rule_file;
mod rules;
